//! How the mirror does, in numbers, for whoever serves metrics.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Counted from the start. Everything is read at once by [`Gauges::read`].
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) objects_written: AtomicU64,
    pub(super) statuses_written: AtomicU64,
    pub(super) objects_deleted: AtomicU64,
    pub(super) events_written: AtomicU64,
    pub(super) events_dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) objects: AtomicU64,
    pub(super) away: AtomicBool,
    pub(super) lease_failed: AtomicU64,
    /// When the next object is due, or was.
    next_due: Mutex<Option<Instant>>,
}

/// What [`Gauges`] stand at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Objects created or changed.
    pub objects_written: u64,
    /// Statuses written.
    pub statuses_written: u64,
    /// Objects deleted.
    pub objects_deleted: u64,
    /// Events written.
    pub events_written: u64,
    /// Events that were too many, or could not be written.
    pub events_dropped: u64,
    /// Writes that the API server refused.
    pub refused: u64,
    /// Writes that it did not answer, or could not serve.
    pub failed: u64,
    /// Objects that wait for their write at present.
    pub waiting: u64,
    /// Objects of this node that the API server has.
    pub objects: u64,
    /// The API server does not answer at present.
    pub away: bool,
    /// Renewals of the node's Lease that failed.
    pub lease_failed: u64,
    /// For how long the object that waits longest has been due.
    pub lag: Duration,
}

impl Gauges {
    /// What they stand at.
    pub fn read(&self) -> Figures {
        Figures {
            objects_written: self.objects_written.load(Relaxed),
            statuses_written: self.statuses_written.load(Relaxed),
            objects_deleted: self.objects_deleted.load(Relaxed),
            events_written: self.events_written.load(Relaxed),
            events_dropped: self.events_dropped.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            objects: self.objects.load(Relaxed),
            away: self.away.load(Relaxed),
            lease_failed: self.lease_failed.load(Relaxed),
            lag: self.lag(),
        }
    }

    fn lag(&self) -> Duration {
        let due = *self.next_due.lock().unwrap_or_else(PoisonError::into_inner);
        due.map_or(Duration::ZERO, |due| Instant::now().saturating_duration_since(due))
    }

    /// What waits, and since when or until when.
    pub(super) fn set_waiting(&self, many: usize, next_due: Option<Instant>) {
        set(&self.waiting, many);
        *self.next_due.lock().unwrap_or_else(PoisonError::into_inner) = next_due;
    }

    /// Shows them among the metrics. They are 0 where nothing is mirrored.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Collected(Arc::clone(self))));
    }
}

#[derive(Debug)]
struct Collected(Arc<Gauges>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let figures = self.0.read();
        counters(
            &mut encoder,
            "kube_writes",
            "Writes of the mirror that the API server took",
            &[
                ("kind", "object", figures.objects_written),
                ("kind", "status", figures.statuses_written),
                ("kind", "delete", figures.objects_deleted),
            ],
        )?;
        counters(
            &mut encoder,
            "kube_failures",
            "Requests of the mirror that the API server refused, or did not answer or could not serve",
            &[("reason", "refused", figures.refused), ("reason", "unanswered", figures.failed)],
        )?;
        counters(
            &mut encoder,
            "kube_events",
            "Events of the cluster that were written, or were too many or could not be written",
            &[("outcome", "written", figures.events_written), ("outcome", "dropped", figures.events_dropped)],
        )?;
        let family = encoder.encode_descriptor(
            "kube_lease_failures",
            "Renewals of the node's Lease that failed",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(figures.lease_failed).encode(family)?;
        let gauges = [
            ("kube_objects", "Objects of this node's containers that the API server has", figures.objects as f64),
            ("kube_objects_waiting", "Objects that wait to be compared and written", figures.waiting as f64),
            ("kube_lag_seconds", "For how long the object that waits longest has been due", figures.lag.as_secs_f64()),
            ("kube_api_away", "1 while the API server does not answer the mirror", f64::from(u8::from(figures.away))),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// A family of counters: a label, its value, and what it stands at.
fn counters(encoder: &mut DescriptorEncoder, name: &str, help: &str, series: &[(&str, &str, u64)]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (label, value, figure) in series {
        ConstCounter::new(*figure).encode(family.encode_family(&[(*label, *value)])?)?;
    }
    Ok(())
}

/// One more.
pub(super) fn count(gauge: &AtomicU64) {
    gauge.fetch_add(1, Relaxed);
}

/// As many as there are.
pub(super) fn set(gauge: &AtomicU64, many: usize) {
    gauge.store(many as u64, Relaxed);
}
