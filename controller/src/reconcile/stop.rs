//! The steps of a stop.

use super::ready::refused_by_ledger;
use super::{Done, Subject, know};
use crate::ledger::Durable;
use crate::places;
use crate::ports::{NodeError, NodeErrorKind, Signal};
use crate::queue::Verdict;
use crate::record::{Phase, StopMode};
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a stop looks whether anything still runs, beside being told.
const STOP_LOOK: Duration = Duration::from_millis(500);

pub(super) async fn signal(shared: &Arc<Shared>, subject: &Subject, mode: StopMode) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    let signal = match mode {
        StopMode::Terminate => Signal::Terminate,
        StopMode::Kill => Signal::Kill,
    };
    if let Err(error) = shared.node.processes.signal_all(id, signal).await {
        return cannot_reach(shared, subject, error);
    }
    know(shared, &subject.uid, |container| {
        let since = container.stop_sent.map_or_else(Instant::now, |(_, since)| since);
        container.stop_sent = Some((mode, since));
        container.occupied = None;
    });
    Done::Next
}

pub(super) async fn look_for_processes(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    match shared.node.processes.occupied(id).await {
        Ok(occupied) => {
            know(shared, &subject.uid, |container| container.occupied = Some(occupied));
            Done::Next
        }
        Err(error) => cannot_reach(shared, subject, error),
    }
}

/// The place does not do what a stop asks of it. One that is gone is told about otherwise too.
pub(super) fn cannot_reach(shared: &Arc<Shared>, subject: &Subject, error: NodeError) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "a stop does not get through");
    if let (NodeErrorKind::NotFound, Some(id)) = (error.kind, &subject.sandbox) {
        places::init_gone(shared, id, &error.message);
    }
    Done::Verdict(Verdict::Failed)
}

pub(super) fn wait_for_empty(shared: &Shared, subject: &Subject) -> Done {
    let mut wait = STOP_LOOK;
    know(shared, &subject.uid, |container| {
        container.occupied = None;
        match container.stop_sent {
            Some((StopMode::Terminate, since)) => {
                let left = (since + shared.options.stop_grace).saturating_duration_since(Instant::now());
                wait = wait.min(left);
            }
            // What was forked while the others died gets its own.
            Some((StopMode::Kill, since)) => container.stop_sent = Some((StopMode::Terminate, since)),
            None => {}
        }
    });
    Done::Verdict(Verdict::After(wait))
}

pub(super) async fn finish_stop(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let finished = shared.edit(&subject.uid, Durable::Crash, Vec::new(), |record| {
        record.stop = None;
        record.status.stopped = true;
        record.status.phase = Phase::Stopped;
        record.status.observed_generation = record.generation;
    });
    if let Err(error) = finished.await {
        return refused_by_ledger(shared, subject, error);
    }
    tracing::info!(handle = %subject.handle, uid = %subject.uid, "container is stopped");
    know(shared, &subject.uid, |container| {
        container.stops_finished += 1;
        container.stop_sent = None;
        container.occupied = None;
    });
    Done::Next
}
