//! Traces: spans of requests, of what the reconciler does for them and of the start of processes, to
//! a collector of OTLP over gRPC. Nothing of this is there unless a collector is named.
//!
//! ```text
//!   span ends ──try──▶ queue (bounded) ──▶ one task: batches, each with a deadline ──▶ collector
//!                 └─▶ full: dropped, counted
//! ```
//! A collector that is slow or away costs spans and never time: whoever ends a span does not wait.
//! `traceparent` of a request makes its sender's span the parent. The variables of OpenTelemetry for
//! headers, resource attributes and sampling are the libraries' and count.

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span as SdkSpan, SpanData, SpanExporter, SpanProcessor, Tracer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Spans that may wait for a collector.
const QUEUE: usize = 4096;
/// Spans in one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch, further attempts included.
const EXPORT: Duration = Duration::from_secs(10);
/// How long the last spans may take at the end.
const LAST: Duration = Duration::from_millis(800);

/// Set once traces are on.
static PROPAGATOR: OnceLock<TraceContextPropagator> = OnceLock::new();

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What became of spans. All clones are one.
#[derive(Clone, Debug)]
pub struct SpanCounts(Family<Outcome, Counter>);

impl Default for SpanCounts {
    fn default() -> Self {
        let counts = Self(Family::default());
        for outcome in ["exported", "dropped", "failed"] {
            counts.add(outcome, 0);
        }
        counts
    }
}

impl SpanCounts {
    /// Makes the figures known by their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "trace_spans",
            "Spans that were sent to the collector of traces, dropped since it was too slow, or not taken by it",
            self.0.clone(),
        );
    }

    fn add(&self, outcome: &'static str, spans: usize) {
        self.0.get_or_create(&Outcome { outcome }).inc_by(spans as u64);
    }
}

/// Ends traces: what waits is sent, for a moment.
pub struct Traces {
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Traces {
    /// Sends what waits, as far as a moment allows.
    pub async fn finish(self) {
        // The task may have ended by itself.
        let _ = self.end.send(());
        if timeout(LAST, self.task).await.is_err() {
            tracing::debug!("the last spans did not reach the collector of traces in time");
        }
    }
}

/// Begins to send spans to `endpoint`. Whether it is there shows with the first of them.
pub(super) fn begin(endpoint: &str, counts: SpanCounts) -> Result<(Tracer, Traces), String> {
    let exporter = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT);
    let exporter = exporter.build().map_err(|error| error.to_string())?;
    Ok(begin_with(exporter, counts))
}

fn begin_with(mut exporter: impl SpanExporter + 'static, counts: SpanCounts) -> (Tracer, Traces) {
    let resource =
        Resource::builder().with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource.build(),
        None => resource.with_service_name("gardend").build(),
    };
    exporter.set_resource(&resource);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (end, ended) = oneshot::channel();
    let queue = Queue { sender, counts: counts.clone() };
    let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue).build();
    let tracer = provider.tracer("gardend");
    // Traces begin once.
    let _ = PROPAGATOR.set(TraceContextPropagator::new());
    let task = tokio::spawn(async move {
        export(exporter, receiver, ended, &counts).await;
        // Spans that end later find nobody.
        drop(provider);
    });
    (tracer, Traces { end, task })
}

/// Takes the spans that have ended.
#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<SpanData>,
    counts: SpanCounts,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut SdkSpan, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.counts.add("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

async fn export(
    exporter: impl SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    mut end: oneshot::Receiver<()>,
    counts: &SpanCounts,
) {
    let mut ending = false;
    let mut failing = false;
    let mut batch = Vec::with_capacity(BATCH);
    while !ending {
        let due = Instant::now() + GATHER;
        // Until the first one comes there is nothing to wait for.
        while batch.len() < BATCH && !ending {
            let most = BATCH - batch.len();
            tokio::select! {
                // Cancel-safe: what was received is in the batch.
                received = spans.recv_many(&mut batch, most) => ending = received == 0,
                // Cancel-safe: it starts anew each time.
                () = sleep_until(due), if !batch.is_empty() => break,
                // Cancel-safe: it resolves once.
                _ = &mut end => ending = true,
            }
        }
        loop {
            while batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            let many = batch.len();
            let sent = timeout(EXPORT, exporter.export(std::mem::take(&mut batch))).await;
            let failure = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("it did not answer within {} s", EXPORT.as_secs())),
            };
            counts.add(if failure.is_some() { "failed" } else { "exported" }, many);
            match &failure {
                Some(error) if !failing => {
                    tracing::warn!(
                        error,
                        "spans did not reach the collector of traces; further failures are only counted"
                    );
                }
                None if failing => tracing::info!("spans reach the collector of traces again"),
                _ => {}
            }
            failing = failure.is_some();
            if !ending {
                break;
            }
        }
    }
}

/// Makes the sender of a request the parent of its span, where traces are on.
pub fn take_up_trace(span: &Span, headers: &HeaderMap, method: &str, route: &str) {
    let Some(propagator) = PROPAGATOR.get() else { return };
    span.record("otel.kind", "server");
    span.record("otel.name", format!("{method} {route}"));
    let parent = propagator.extract(&Headers(headers));
    // Of a span that the filter has left out there is nothing to set.
    let _ = span.set_parent(parent);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
