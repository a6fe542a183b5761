//! Answers: JSON with a newline at its end, and errors in Garden's shape.

use super::body::BodyError;
use super::wire::json::WrongJson;
use super::wire::{GardenError, Nothing, Unacceptable};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use gardend_controller::Error;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// A 200 with a JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The answer to a call that has nothing to tell: `{}`.
pub(super) const DONE: Json<Nothing> = Json(Nothing {});

/// What a handler answers.
pub(super) type Answer<T = Nothing> = Result<Json<T>, Refusal>;

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json_response(StatusCode::OK, &self.0)
    }
}

/// A request that was refused or failed.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: GardenError,
}

impl Refusal {
    /// An answer of HTTP's own sort, in Garden's shape.
    pub(super) fn http(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, error: GardenError::plain(message) }
    }

    /// A request that cannot be understood.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::http(StatusCode::BAD_REQUEST, message)
    }

    /// The whole answer as it goes over the wire, for connections that HTTP has given up on. It
    /// does not say that the connection closes: a client that asked for a stream would lose it.
    pub(super) fn as_bytes(&self) -> Vec<u8> {
        let body = json_line(&self.error);
        let mut answer = format!(
            "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.status,
            body.len()
        )
        .into_bytes();
        answer.extend(body);
        answer
    }
}

impl From<GardenError> for Refusal {
    fn from(error: GardenError) -> Self {
        let status = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
        Self { status, error }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        GardenError::from(&error).into()
    }
}

impl From<Unacceptable> for Refusal {
    fn from(error: Unacceptable) -> Self {
        GardenError::plain(error.to_string()).into()
    }
}

impl From<WrongJson> for Refusal {
    fn from(error: WrongJson) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::http(error.status(), error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // The text may hold what the client sent; it goes back to it, and not to our logs.
        tracing::debug!(status = self.status.as_u16(), kind = ?self.error.kind, "refused");
        json_response(self.status, &self.error)
    }
}

fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(json_line(value)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn json_line(value: &impl Serialize) -> Vec<u8> {
    // What we answer is structs, strings, numbers and maps with string keys: it always has a form.
    let mut line = serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec());
    line.push(b'\n');
    line
}
