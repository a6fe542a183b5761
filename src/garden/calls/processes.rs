//! Calls about processes. All of them take their connection over.

use super::Connection;
use crate::garden::Garden;
use crate::garden::answer::Refusal;
use crate::garden::body;
use crate::garden::names::Names;
use crate::garden::takeover::Takeover;
use crate::garden::wire::ProcessSpec;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use gardend_controller::ports::OutputStream;
use http::StatusCode;

pub(crate) async fn run(
    State(garden): State<Garden>,
    Extension(exchange): Connection,
    names: Names,
    body: Body,
) -> Response {
    match start(&garden, &names, body).await {
        Ok(takeover) => exchange.take_over(takeover).await,
        Err(refusal) => exchange.refuse(refusal),
    }
}

async fn start(garden: &Garden, names: &Names, body: Body) -> Result<Takeover, Refusal> {
    let spec: ProcessSpec = body::read_json(body, "a process spec, as in {\"path\":\"sh\"}").await?;
    let attachment = garden.controller.run(&names.handle, spec.into_spec()?).await?;
    Ok(Takeover::Process { status: StatusCode::CREATED, attachment })
}

pub(crate) async fn attach(
    State(garden): State<Garden>,
    Extension(exchange): Connection,
    names: Names,
    body: Body,
) -> Response {
    // What follows the request is the client's messages, so the request must be read to its end.
    if let Err(error) = body::read(body).await {
        return exchange.refuse(error);
    }
    match garden.controller.attach(&names.handle, &names.process).await {
        Ok(attachment) => exchange.take_over(Takeover::Process { status: StatusCode::OK, attachment }).await,
        Err(error) => exchange.refuse(error),
    }
}

pub(crate) async fn stdout(state: State<Garden>, connection: Connection, names: Names, body: Body) -> Response {
    output(state, connection, names, body, OutputStream::Stdout).await
}

pub(crate) async fn stderr(state: State<Garden>, connection: Connection, names: Names, body: Body) -> Response {
    output(state, connection, names, body, OutputStream::Stderr).await
}

async fn output(
    State(garden): State<Garden>,
    Extension(exchange): Connection,
    names: Names,
    body: Body,
    stream: OutputStream,
) -> Response {
    if let Err(error) = body::read(body).await {
        return exchange.refuse(error);
    }
    match garden.controller.output(&names.handle, &names.process, &names.stream, stream) {
        Ok(output) => exchange.take_over(Takeover::Output(output)).await,
        Err(error) => exchange.refuse(error),
    }
}
