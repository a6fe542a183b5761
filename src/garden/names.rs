//! The names in a request's path and query.

use super::answer::Refusal;
use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

/// The parameters of a route, each percent-decoded once after the route was found on the path as
/// it was sent: a `/` that is encoded stays within its name.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) handle: String,
    pub(super) process: String,
    pub(super) stream: String,
    pub(super) key: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Names {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::bad_request(format!("the path cannot be understood: {error}")))?;
        let mut names = Self::default();
        // Decoded by now; where one is not UTF-8 the above has said so.
        for (name, value) in &params {
            let place = match name {
                "handle" => &mut names.handle,
                "process" => &mut names.process,
                "stream" => &mut names.stream,
                _ => &mut names.key,
            };
            value.clone_into(place);
        }
        Ok(names)
    }
}

/// The query, in its order. Of several values of a key Garden's server looks at the first.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// The first value of every key.
    pub(super) fn into_first_values(self) -> std::collections::BTreeMap<String, String> {
        let mut first = std::collections::BTreeMap::new();
        for (key, value) in self.0 {
            first.entry(key).or_insert(value);
        }
        first
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let pairs = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|error| Refusal::bad_request(format!("the query cannot be understood: {error}")))?;
        Ok(Self(pairs.0))
    }
}
