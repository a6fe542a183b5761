//! How the mirror does, in numbers, for whoever serves metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

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
        }
    }
}

/// One more.
pub(super) fn count(gauge: &AtomicU64) {
    gauge.fetch_add(1, Relaxed);
}

/// As many as there are.
pub(super) fn set(gauge: &AtomicU64, many: usize) {
    gauge.store(many as u64, Relaxed);
}
