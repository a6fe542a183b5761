//! Who asks: the token of a client that has not proven itself otherwise.

use super::answer::Refusal;
use super::takeover::Exchange;
use crate::net::secure::{Identity, Verdict};
use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

/// Lets a request through whose client is known, and says so in its span.
pub(super) async fn known(Extension(exchange): Extension<Exchange>, request: Request, next: Next) -> Response {
    let Identity::Unproven(verifier) = exchange.identity() else { return next.run(request).await };
    let Some(token) = bearer(request.headers()) else {
        return unauthorized(
            &exchange,
            "this address wants a token: send `Authorization: Bearer TOKEN`, or show a certificate",
        );
    };
    match verifier.verify(token).await {
        Ok(Verdict::Known(name)) => {
            tracing::Span::current().record("client", &*name);
            next.run(request).await
        }
        Ok(Verdict::Unknown(why)) => {
            tracing::warn!(why = why.as_deref(), "a client's token is not known");
            let message = "the token is not one that lets clients in here";
            match why {
                Some(why) => unauthorized(&exchange, &format!("{message}: {why}")),
                None => unauthorized(&exchange, message),
            }
        }
        Ok(Verdict::Forbidden(why)) => {
            tracing::warn!(%why, "a client may not come in");
            exchange.refuse(Refusal::http(StatusCode::FORBIDDEN, &*why))
        }
        Err(error) => {
            tracing::warn!(%error, "a client's token cannot be verified");
            exchange.refuse(Refusal::http(StatusCode::SERVICE_UNAVAILABLE, error))
        }
    }
}

fn unauthorized(exchange: &Exchange, message: &str) -> Response {
    let mut response = exchange.refuse(Refusal::http(StatusCode::UNAUTHORIZED, message));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gardend\""));
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
