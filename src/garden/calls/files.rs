//! Tar streams in and out. The bodies flow between HTTP and a pipe; what is in them is looked at
//! by nobody here.
//!
//! In: an answer is given once all is unpacked, or as soon as it cannot be; the connection then
//! takes what is left of the body within bounds, so that the client reads the answer.
//! Out: what is wrong before the first byte is an ordinary answer. After it the connection is cut,
//! so that no client takes a part for the whole.

use crate::garden::Garden;
use crate::garden::answer::{Answer, DONE, Refusal};
use crate::garden::names::{Names, Query};
use crate::garden::wire::GardenError;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use gardend_controller::{Error, Transfer};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tracing::{info, warn};

/// How long a client may send nothing.
const CLIENT_PAUSE: Duration = Duration::from_secs(600);
/// How long a container may neither take nor give a byte: a disk that is busy may take long.
const CONTAINER_PAUSE: Duration = Duration::from_secs(120);
/// Read at once.
const CHUNK: usize = 256 * 1024;

/// How far a body got.
enum Fed {
    /// All of it is in the pipe.
    Whole,
    /// Nobody takes more of it: the outcome says why.
    Refused,
    /// The client did not send all of it.
    Broken(String),
    /// Nobody takes more of it, and nobody says so.
    Stalled,
}

pub(crate) async fn stream_in(State(garden): State<Garden>, names: Names, query: Query, body: Body) -> Answer {
    let (user, destination) = user_and(query, "destination");
    let (pipe, mut transfer) = garden.controller.stream_in(&names.handle, &user, &destination).await?;
    let fed = feed(pipe, body, &mut transfer).await?;
    let stalled = || format!("error streaming in: the container took nothing for {CONTAINER_PAUSE:?}");
    // The pipe is closed by now. What the client did not send cannot be had either way; what was
    // unpacked of it is waited for, as the container is in use until then.
    let outcome = match fed {
        Fed::Stalled => return Err(GardenError::unavailable(stalled()).into()),
        Fed::Whole | Fed::Refused | Fed::Broken(_) => transfer.outcome().await,
    };
    match (fed, outcome) {
        (Fed::Whole, Ok(())) => Ok(DONE),
        (Fed::Broken(reason), _) => {
            info!("a client did not send its stream to the end");
            let message = format!("error streaming in: the request's body ended early or is not well-formed: {reason}");
            Err(Refusal::bad_request(message))
        }
        (_, Err(error)) => Err(error.into()),
        (_, Ok(())) => {
            Err(GardenError::plain("error streaming in: the container took only a part of the stream").into())
        }
    }
}

/// Moves a body into the pipe, and closes it.
async fn feed(pipe: OwnedFd, mut body: Body, transfer: &mut Transfer) -> Result<Fed, Refusal> {
    let mut pipe = pipe::Sender::from_owned_fd_unchecked(pipe).map_err(unwatched)?;
    loop {
        // Both are cancel-safe: a transfer remembers its end, and a frame is given whole or stays.
        let next = tokio::select! {
            biased;
            // It has failed, or was killed, while the client sends nothing.
            () = transfer.ended() => return Ok(Fed::Refused),
            next = timeout(CLIENT_PAUSE, body.frame()) => next,
        };
        let mut data = match next {
            Err(_) => return Ok(Fed::Broken(format!("nothing came for {CLIENT_PAUSE:?}"))),
            Ok(None) => return Ok(Fed::Whole),
            Ok(Some(Err(error))) => return Ok(Fed::Broken(error.to_string())),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        while !data.is_empty() {
            match timeout(CONTAINER_PAUSE, pipe.write_buf(&mut data)).await {
                Err(_) => return Ok(Fed::Stalled),
                Ok(Err(_)) => return Ok(Fed::Refused),
                Ok(Ok(_)) => {}
            }
        }
    }
}

pub(crate) async fn stream_out(State(garden): State<Garden>, names: Names, query: Query) -> Result<Response, Refusal> {
    let (user, source) = user_and(query, "source");
    let (pipe, transfer) = garden.controller.stream_out(&names.handle, &user, &source).await?;
    let pipe = pipe::Receiver::from_owned_fd_unchecked(pipe).map_err(unwatched)?;
    let flow = Flow { pipe, transfer, buffer: BytesMut::new() };
    let mut response = Body::from_stream(try_unfold(flow, Flow::next)).into_response();
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

/// A stream on its way out.
struct Flow {
    pipe: pipe::Receiver,
    transfer: Transfer,
    buffer: BytesMut,
}

impl Flow {
    /// An error here cuts the connection: HTTP has no other way to say that a body is not whole.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        self.buffer.reserve(CHUNK);
        let read = timeout(CONTAINER_PAUSE, self.pipe.read_buf(&mut self.buffer)).await;
        match read {
            Ok(Ok(0)) => {}
            Ok(Ok(_)) => return Ok(Some((self.buffer.split().freeze(), self))),
            Ok(Err(error)) => return Err(cut(&error.to_string())),
            Err(_) => return Err(cut("the container gave nothing for too long")),
        }
        match self.transfer.outcome().await {
            Ok(()) => Ok(None),
            Err(error) => Err(cut(&error.to_string())),
        }
    }
}

fn cut(reason: &str) -> io::Error {
    warn!(reason, "a stream out of a container is cut: the client shall not take it for whole");
    io::Error::other(reason.to_owned())
}

fn unwatched(error: io::Error) -> Refusal {
    Error::Invalid(format!("the stream's pipe cannot be watched: {error}")).into()
}

fn user_and(query: Query, path: &str) -> (String, String) {
    let mut values = query.into_first_values();
    (values.remove("user").unwrap_or_default(), values.remove(path).unwrap_or_default())
}
