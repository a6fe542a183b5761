//! `gardend serve`, as those who watch see it: what is counted where, and what is asked at a scrape.
//!
//! The listener is there from early in the start on, alive and not ready, so that a start that takes
//! its time is not taken for one that hangs. It goes with [`Watching`].

use anyhow::{Context, Result};
use async_trait::async_trait;
use gardend::config::ServeConfig;
use gardend::garden::Requests;
use gardend::kube::Gauges;
use gardend::metrics::{self, Checks, Events, Extra, Metrics, Subject, Watched};
use gardend::net::{Access, Claim};
use gardend::node::containerd::{Calls, Containerd};
use gardend::telemetry::SpanCounts;
use gardend_controller::{Controller, Counts, Health};
use prometheus_client::metrics::counter::Counter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long containerd may take to show that it is there.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is good for what the images are.
const IMAGES: Duration = Duration::from_secs(60);

/// Where each part counts.
pub struct Counted {
    pub events: Arc<Events>,
    pub requests: Requests,
    pub calls: Calls,
    pub table_restores: Counter,
    pub kube: Arc<Gauges>,
}

/// The listener of those who watch. Dropped, it is gone.
pub struct Watching {
    watched: Watched,
    server: Option<JoinHandle<()>>,
}

impl Watching {
    /// Listens, where that is asked for.
    pub fn begin(config: &ServeConfig, access: Access, spans: &SpanCounts) -> Result<(Self, Counted)> {
        let commit = env!("GARDEND_COMMIT").split(' ').next().filter(|commit| !commit.is_empty()).unwrap_or("unknown");
        let mut metrics = Metrics::new(env!("CARGO_PKG_VERSION"), commit);
        let counted = Counted {
            events: metrics.events(),
            requests: Requests::default(),
            calls: Calls::default(),
            table_restores: Counter::default(),
            kube: Arc::default(),
        };
        let registry = metrics.registry();
        counted.requests.register(registry);
        counted.calls.register(registry);
        counted.kube.register(registry);
        spans.register(registry);
        registry.register(
            "network_table_restores",
            "How often the table of nftables was put back, after others had changed or removed it",
            counted.table_restores.clone(),
        );
        let watched = Watched::new(metrics);
        let server = match &config.metrics_listen {
            None => None,
            Some(address) => {
                let listener = Claim::new(address).and_then(|claim| claim.listen(access));
                let listener = listener.with_context(|| format!("cannot serve --metrics-listen {address}"))?;
                tracing::info!(address = %listener.address(), "figures are served");
                Some(tokio::spawn(metrics::serve(listener, watched.clone())))
            }
        };
        Ok((Self { watched, server }, counted))
    }

    /// gardend has started.
    pub fn started(&self, controller: Controller, containerd: Option<Arc<Containerd>>) {
        self.watched.started(Node { controller, containerd, images: Mutex::default() });
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// What is watched over.
struct Node {
    controller: Controller,
    /// Not there with containers that are plain processes.
    containerd: Option<Arc<Containerd>>,
    /// When they were last looked at, how many they are and what they take.
    images: Mutex<Option<(Instant, usize, u64)>>,
}

#[async_trait]
impl Checks for Node {
    async fn check(&self) -> Vec<Health> {
        let Some(containerd) = &self.containerd else { return self.controller.health().await };
        let (mut all, answers) = tokio::join!(self.controller.health(), answers(containerd));
        all.insert(1, Health { name: "containerd", result: answers });
        all
    }
}

#[async_trait]
impl Subject for Node {
    fn counts(&self) -> Counts {
        self.controller.counts()
    }

    async fn extra(&self) -> Extra {
        Extra {
            shims: self.containerd.as_ref().map_or(0, |containerd| containerd.shims()),
            images: self.images().await,
        }
    }
}

impl Node {
    /// Looked at now and then: containerd is asked about each of them.
    async fn images(&self) -> Option<(usize, u64)> {
        let known = *self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((looked, number, bytes)) = known
            && looked.elapsed() < IMAGES
        {
            return Some((number, bytes));
        }
        let found = timeout(PATIENCE, self.controller.images()).await;
        let Ok(Ok(found)) = found else { return known.map(|(_, number, bytes)| (number, bytes)) };
        let (number, bytes) = (found.len(), found.iter().map(|image| image.seen.bytes).sum());
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), number, bytes));
        Some((number, bytes))
    }
}

async fn answers(containerd: &Containerd) -> Result<(), String> {
    match timeout(PATIENCE, containerd.connection().version()).await {
        Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("containerd did not answer within {} s", PATIENCE.as_secs())),
    }
}
