//! What gardend tells those who watch over it: `/metrics`, `/livez` and `/readyz`, on a listener of
//! their own.
//!
//! Owns the registry, the figures of the controller's events ([`Events`]) and of its state, and the
//! server. What the front end and the node count they own themselves, and are registered here by the
//! composition root. docs/metrics.md lists all of it; a test compares the two.
//!
//! Promises: no label holds what a client chose (a handle, an id, a path), so that the number of
//! series is bounded by what gardend is and never by what it is used for; what is counted costs no
//! lock that a request waits for; a scrape asks nothing without a deadline.
//!
//! Leaves to others: what a figure means for whoever watches, and who may read it: see
//! `--metrics-listen`.

mod events;
mod health;
mod process;
mod server;
mod state;

pub use events::Events;
pub use health::{Checks, Readiness};
pub use server::{Subject, Watched, serve};
pub use state::{Extra, Snapshot};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The prefix of all names that are gardend's own.
pub const PREFIX: &str = "gardend";

/// Bounds of histograms of times, in seconds: from what is in memory to what waits for a deadline.
pub const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// All figures, and the way to write them.
pub struct Metrics {
    registry: Registry,
    events: Arc<Events>,
    snapshot: Arc<Mutex<Snapshot>>,
}

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own text.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What it is called in a `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// With the figures of this process, and of a controller's events and state.
    pub fn new(version: &'static str, commit: &'static str) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let info = Info::new([("version", version), ("commit", commit)]);
        registry.register("build", "What this gardend was built from", info);
        let events = Arc::new(Events::default());
        events.register(&mut registry);
        let snapshot = Arc::<Mutex<Snapshot>>::default();
        registry.register_collector(Box::new(state::Collected(Arc::clone(&snapshot))));
        Self { registry, events, snapshot }
    }

    /// For others' figures: their names begin with [`PREFIX`].
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// To be told of what happens in the controller.
    pub fn events(&self) -> Arc<Events> {
        Arc::clone(&self.events)
    }

    /// What there is from now on.
    pub fn set(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// All of it as text.
    ///
    /// # Errors
    /// Never, in truth: it is written to memory.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut page = String::new();
        // Its names have no prefix: Prometheus's own dashboards know them.
        let mut process = Registry::default();
        process.register_collector(Box::new(process::ThisProcess));
        match format {
            Format::Prometheus => {
                prometheus_text::encode(&mut page, &self.registry)?;
                prometheus_text::encode(&mut page, &process)?;
            }
            Format::OpenMetrics => {
                text::encode_registry(&mut page, &self.registry)?;
                text::encode_registry(&mut page, &process)?;
                text::encode_eof(&mut page)?;
            }
        }
        Ok(page)
    }
}

/// A family of histograms of times.
pub fn times<L>() -> Times<L>
where
    L: Clone + std::hash::Hash + Eq,
{
    Family::new_with_constructor(seconds as fn() -> prometheus_client::metrics::histogram::Histogram)
}

/// See [`times`].
pub type Times<L> = Family<
    L,
    prometheus_client::metrics::histogram::Histogram,
    fn() -> prometheus_client::metrics::histogram::Histogram,
>;

/// A histogram of times.
pub fn seconds() -> prometheus_client::metrics::histogram::Histogram {
    prometheus_client::metrics::histogram::Histogram::new(SECONDS)
}
