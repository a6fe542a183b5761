//! What is due later: one heap for all of it, one task that sleeps until the earliest.
//!
//! A timer is never cancelled. When it is due, whoever handles it looks whether it is still meant.

use crate::record::{ContainerUid, ProcessUid};
use crate::shared::Shared;
use crate::{attachment, grace, processes};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use tokio::time::Instant;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A container may have been without a client for its grace time.
    Grace(ContainerUid),
    /// A process may have been without a client since this attach.
    Stdin(ProcessUid, u64),
    /// A stream id's time is over.
    Stream(ProcessUid, String),
    /// The record of an ended process may go.
    Retention(ProcessUid),
}

/// The heap.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Adds one; whether it is the earliest now.
    pub fn add(&mut self, at: Instant, timer: Timer) -> bool {
        let earliest = self.next_due().is_none_or(|due| at < due);
        self.heap.push(Reverse((at, timer)));
        earliest
    }

    /// When the earliest is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The earliest, if it is due.
    pub fn take(&mut self, now: Instant) -> Option<Timer> {
        self.next_due().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

/// Handles timers as they come due, until the end.
pub async fn run(shared: Arc<Shared>) {
    loop {
        let (timer, due) = {
            let mut state = shared.state();
            (state.timers.take(Instant::now()), state.timers.next_due())
        };
        match timer {
            Some(Timer::Grace(uid)) => grace::look(&shared, &uid),
            Some(Timer::Stdin(uid, attaches)) => attachment::stdin_is_due(&shared, &uid, attaches),
            Some(Timer::Stream(uid, stream_id)) => attachment::stream_is_due(&shared, &uid, &stream_id),
            Some(Timer::Retention(uid)) => processes::retention_is_over(&shared, &uid),
            None => tokio::select! {
                // Cancel-safe: a notification that comes meanwhile is kept.
                () = shared.timers_changed.notified() => {}
                // Cancel-safe: it is computed anew each time.
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn timers_come_when_they_are_due_and_in_that_order() {
        let now = Instant::now();
        let timer = |attach| Timer::Stdin(ProcessUid::generate(), attach);
        let (first, second) = (timer(1), timer(2));
        let mut timers = Timers::default();
        assert!(timers.add(now + Duration::from_secs(2), second.clone()));
        assert!(timers.add(now + Duration::from_secs(1), first.clone()));
        assert_eq!(timers.take(now), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(timers.take(later), Some(first));
        assert_eq!(timers.take(later), Some(second));
        assert_eq!(timers.take(later), None);
    }
}
