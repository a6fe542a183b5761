//! Request bodies, bounded in size and in time.

use super::wire::json;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The largest JSON body that is taken. The values of all properties of a container travel in
/// bodies, so this also bounds a property.
pub const MAX_JSON_BODY: usize = 10 * 1024 * 1024;
/// How long a client may pause within a body.
const PAUSE: Duration = Duration::from_secs(30);
/// How long it may take for all of it.
const TOTAL: Duration = Duration::from_secs(300);

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the request's body is larger than {MAX_JSON_BODY} bytes, which is the limit for this call")]
    TooLarge,
    #[error("the request's body did not arrive in time")]
    TooSlow,
    #[error("the request's body ended early or is not well-formed: {0}")]
    Broken(axum::Error),
}

impl BodyError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The whole body, where it is small enough.
pub(super) async fn read(mut body: Body) -> Result<Bytes, BodyError> {
    let announced = HttpBody::size_hint(&body).lower();
    if announced > MAX_JSON_BODY as u64 {
        return Err(BodyError::TooLarge);
    }
    let collected = async {
        let mut whole = BytesMut::new();
        loop {
            let frame = match timeout(PAUSE, body.frame()).await {
                Err(_) => return Err(BodyError::TooSlow),
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(frame)) => frame.map_err(BodyError::Broken)?,
            };
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > MAX_JSON_BODY {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
    };
    timeout_at(Instant::now() + TOTAL, collected).await.unwrap_or(Err(BodyError::TooSlow))
}

/// The body as a value. `expected` says in words what the call takes.
pub(super) async fn read_json<T: DeserializeOwned>(
    body: Body,
    expected: &'static str,
) -> Result<T, super::answer::Refusal> {
    let bytes = read(body).await?;
    Ok(json::parse(&bytes, expected)?)
}
