//! The listener of those who watch.
//!
//! - `/livez`: 200 as long as anything is answered.
//! - `/readyz`: 200, or 503 with a line for each check; `?verbose` has the lines in both cases.
//! - `/metrics`: all figures, in Prometheus's text or, where that is preferred, OpenMetrics.

use super::{Checks, Extra, Format, Metrics, Readiness, Snapshot};
use crate::net::{Arrival, Listener, Listeners};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gardend_controller::{Counts, Health};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

/// Connections at once. Who watches has one or two.
const MAX_CONNECTIONS: usize = 64;
/// How long the head of a request may take, and an idle connection may stay.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a request may take, whatever it asks.
const DEADLINE: Duration = Duration::from_secs(15);
/// Before the next accept, where one failed for want of something.
const PAUSE: Duration = Duration::from_millis(200);

/// What is watched over.
#[async_trait]
pub trait Subject: Checks {
    /// How much there is of everything.
    fn counts(&self) -> Counts;

    /// What is known beside.
    async fn extra(&self) -> Extra;
}

/// What is served.
#[derive(Clone)]
pub struct Watched(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    subject: OnceLock<Arc<dyn Subject>>,
}

impl Watched {
    /// Figures of a gardend that starts: alive, and not ready.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { metrics, subject: OnceLock::new() }))
    }

    /// It has started.
    pub fn started(&self, subject: impl Subject) {
        // It starts once.
        let _ = self.0.subject.set(Arc::new(subject));
    }

    async fn readiness(&self) -> Readiness {
        match self.0.subject.get() {
            Some(subject) => Readiness(subject.check().await),
            None => Readiness(vec![Health { name: "start", result: Err("gardend is starting".to_owned()) }]),
        }
    }
}

/// Serves until the returned future is dropped.
pub async fn serve(listener: Listener, watched: Watched) {
    let router = Router::new()
        .route("/livez", get(async || text("ok\n")))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(watched);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listeners = Listeners::from(vec![listener]);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listeners.accept().await {
            Ok(Arrival::Trusted(stream)) => stream,
            // Nobody listens by TLS here.
            Ok(Arrival::Unproven(_)) => continue,
            Err(error) => {
                tracing::debug!(%error, "a connection to --metrics-listen was not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let router = router.clone();
                async move {
                    let answer = timeout(DEADLINE, router.oneshot(request.map(Body::new))).await;
                    answer.unwrap_or_else(|_| Ok(StatusCode::GATEWAY_TIMEOUT.into_response()))
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection to --metrics-listen ended");
            }
            drop(place);
        });
    }
}

async fn readyz(State(watched): State<Watched>, RawQuery(query): RawQuery) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let readiness = watched.readiness().await;
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text(readiness.page(verbose))).into_response()
}

async fn metrics(State(watched): State<Watched>, headers: HeaderMap) -> Response {
    if let Some(subject) = watched.0.subject.get() {
        let (health, extra) = tokio::join!(subject.check(), subject.extra());
        watched.0.metrics.set(Snapshot { counts: Some(subject.counts()), health, extra });
    }
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let format = match accepted.contains("application/openmetrics-text") {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    };
    match watched.0.metrics.text(format) {
        Ok(page) => ([(CONTENT_TYPE, format.content_type())], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, text(format!("{error}\n"))).into_response(),
    }
}

fn text(page: impl Into<String>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")], page.into())
}
