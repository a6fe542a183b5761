//! Every call of Garden's API, and those of gardend's own (`/gardend/v1`), and where it is answered.
//!
//! Routes are found on the path as it was sent, still encoded. Go's client puts names into paths
//! as they are, so a property's key may bring slashes of its own: it is all that is left.

use super::Garden;
use super::answer::Refusal;
use super::calls::{containers, drain, files, images, limits, metrics, network, processes, properties, server};
use super::names::Names;
use super::requests::{REQUEST_ID, Requests, given_id, new_id};
use super::takeover::Exchange;
use super::who::known;
use crate::telemetry::take_up_trace;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::{HeaderValue, Method, StatusCode, Uri};
use tracing::Instrument;

pub(super) fn router(garden: Garden) -> Router {
    // A GET route answers HEAD too, where that is not said otherwise; there is no taking over a
    // connection whose client wants a head alone.
    let attach = get(processes::attach).head(wrong_method);
    let stdout = get(processes::stdout).head(wrong_method);
    let stderr = get(processes::stderr).head(wrong_method);
    let stream_out = get(files::stream_out).head(wrong_method);
    Router::new()
        .route("/ping", get(server::ping))
        .route("/capacity", get(server::capacity))
        .route("/containers", get(containers::list).post(containers::create))
        // These two names are also handles that a container may have.
        .route("/containers/bulk_info", get(containers::bulk_info).delete(containers::destroy_bulk_info))
        .route("/containers/bulk_metrics", get(metrics::bulk_metrics).delete(containers::destroy_bulk_metrics))
        .route("/containers/{handle}", delete(containers::destroy))
        .route("/containers/{handle}/info", get(containers::info))
        .route("/containers/{handle}/stop", put(containers::stop))
        .route("/containers/{handle}/grace_time", put(containers::set_grace_time))
        .route("/containers/{handle}/files", put(files::stream_in).merge(stream_out))
        .route("/containers/{handle}/limits/bandwidth", get(limits::bandwidth))
        .route("/containers/{handle}/limits/cpu", get(limits::cpu))
        .route("/containers/{handle}/limits/disk", get(limits::disk))
        .route("/containers/{handle}/limits/memory", get(limits::memory))
        .route("/containers/{handle}/net/in", post(network::net_in))
        .route("/containers/{handle}/net/out", post(network::net_out))
        .route("/containers/{handle}/net/out/bulk", post(network::bulk_net_out))
        .route("/containers/{handle}/processes", post(processes::run))
        .route("/containers/{handle}/processes/{process}", attach)
        .route("/containers/{handle}/processes/{process}/attaches/{stream}/stdout", stdout)
        .route("/containers/{handle}/processes/{process}/attaches/{stream}/stderr", stderr)
        .route("/containers/{handle}/properties", get(properties::all))
        .route(
            "/containers/{handle}/properties/{*key}",
            get(properties::one).put(properties::set).delete(properties::remove),
        )
        .route("/containers/{handle}/metrics", get(metrics::metrics))
        // Ours, and not Garden's.
        .route("/gardend/v1/drain", get(drain::view).post(drain::begin).delete(drain::end))
        .route("/gardend/v1/images", get(images::list))
        .route("/gardend/v1/images/pull", post(images::pull))
        .route("/gardend/v1/images/prune", post(images::prune))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        // The one that was added last is asked first.
        .layer(from_fn(known))
        .layer(from_fn_with_state(garden.requests.clone(), traced))
        .with_state(garden)
}

async fn unknown_path(method: Method, uri: Uri) -> Refusal {
    let message = format!("there is no call {method} {} in Garden's API", uri.path());
    Refusal::http(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("the path {} does not take {method}", uri.path());
    Refusal::http(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

/// Everything that is logged of a request carries its id, its route and its container, and so does
/// what the reconciler does for it. Bodies and queries are never logged.
async fn traced(
    State(requests): State<Requests>,
    names: Result<Names, Refusal>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let exchange = request.extensions().get::<Exchange>().cloned();
    let given = given_id(request.headers()).map(str::to_owned);
    if let Some(exchange) = &exchange {
        exchange.call_request(given.as_deref());
    }
    let id = given.unwrap_or_else(new_id);
    let route = route.as_ref().map(MatchedPath::as_str);
    let span = tracing::info_span!(
        "request",
        request_id = id,
        method = %request.method(),
        route = route.unwrap_or("-"),
        handle = names.map(|names| names.handle).unwrap_or_default(),
        client = tracing::field::Empty,
        otel.kind = tracing::field::Empty,
        otel.name = tracing::field::Empty,
    );
    take_up_trace(&span, request.headers(), request.method().as_str(), route.unwrap_or("-"));
    let following = requests.follow(request.method(), route, exchange);
    async {
        let started = std::time::Instant::now();
        let mut response = next.run(request).await;
        following.answered(response.status());
        tracing::debug!(status = response.status().as_u16(), elapsed = ?started.elapsed(), "answered");
        if let Ok(id) = HeaderValue::try_from(id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
    .instrument(span)
    .await
}
