//! The steps from nothing to ready.

use super::{Done, Subject, know};
use crate::error::Error;
use crate::ledger::{Change, Durable};
use crate::network::AttachError;
use crate::observe::Observation;
use crate::plan::{Place, Wanted};
use crate::ports::{NodeError, NodeErrorKind};
use crate::queue::Verdict;
use crate::record::{Limits, Phase, SandboxId, SandboxKind, SandboxRecord, Stage};
use crate::shared::{Key, Shared};
use crate::state::{Container, Failure, Role, State};
use crate::{network, places, processes};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// Places that may fail for one create before it fails itself.
const MAX_SPOILT_PLACES: u32 = 3;

pub(super) async fn take_place(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some((id, kind, place)) = shared.state().assign_place(&subject.uid) else {
        return Done::Verdict(Verdict::Rest);
    };
    let row = SandboxRecord { id: id.clone(), kind, container: Some(subject.uid.clone()) };
    let mine = id.clone();
    let recorded = shared.edit(&subject.uid, Durable::Crash, vec![Change::PutSandbox(row)], move |record| {
        record.sandbox = Some(mine.clone());
        record.status.oom_kills = 0;
        record.status.furnished = false;
        record.status.phase = Phase::Creating;
        record.status.stage = Some(Stage::Sandbox);
    });
    if let Err(error) = recorded.await {
        give_back(&mut shared.state(), &id, place);
        return refused_by_ledger(shared, subject, error);
    }
    know(shared, &subject.uid, |container| {
        container.place = place;
        container.stop_sent = None;
        container.occupied = None;
    });
    shared.options.observing.tell(Observation::PlaceTaken { pooled: place == Place::Made });
    if place == Place::Made {
        shared.wake(Key::Pool(kind));
    }
    Done::Next
}

/// Undoes [`State::assign_place`] where the ledger did not take it.
pub fn give_back(state: &mut State, id: &SandboxId, place: Place) {
    match place {
        Place::Made => {
            if let Some(sandbox) = state.sandboxes.get_mut(id) {
                sandbox.role = Role::Pooled;
            }
        }
        _ => {
            state.sandboxes.remove(id);
        }
    }
}

pub(super) async fn make_place(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    let asked = Instant::now();
    // The semaphore is never closed.
    let permit = shared.limits.makes.acquire().await;
    shared.options.observing.tell(Observation::PlaceWaited(asked.elapsed()));
    let result = shared.node.sandboxes.ensure(id, SandboxKind::of(&subject.spec)).await;
    drop(permit);
    shared.heard(&result);
    match result {
        Ok(()) => {
            place_is(shared, subject, Place::Recorded, Place::Made);
            Done::Next
        }
        Err(error) => {
            // Whether anything of it is there is not known, but the same call can be made again.
            let place = if error.kind == NodeErrorKind::Unavailable { Next::SamePlace } else { Next::AnotherPlace };
            failed(shared, subject, Stage::Sandbox, error, place)
        }
    }
}

pub(super) async fn furnish(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    let permit = shared.limits.furnishings.acquire().await;
    match network::attach(shared, &subject.uid, id).await {
        Ok(()) => {}
        Err(AttachError::Node(error)) => return failed(shared, subject, Stage::Network, error, Next::AnotherPlace),
        Err(AttachError::Ledger(error)) => return refused_by_ledger(shared, subject, error),
    }
    let wanted = network::wanted(shared, &subject.uid);
    let files = shared.node.rootfs.furnish(id, &subject.uid, &subject.handle, &subject.spec, wanted.as_ref());
    let connected = async {
        match &wanted {
            Some(_) => shared.node.network.ensure(&|| network::wanted_at(shared, &subject.uid, id)).await,
            None => Ok(()),
        }
    };
    // Beside each other: they have nothing in common. A place that did not get all is replaced.
    let (furnished, limited, connected) = tokio::join!(
        files.instrument(part("rootfs")),
        limit(shared, id, subject).instrument(part("limits")),
        connected.instrument(part("network")),
    );
    drop(permit);
    match (furnished, limited, connected) {
        (Ok(()), Ok(()), Ok(())) => {
            place_is(shared, subject, Place::Made, Place::Furnished);
            Done::Next
        }
        (Err(error), _, _) => failed(shared, subject, Stage::Rootfs, error, Next::AnotherPlace),
        (_, Err(error), _) => failed(shared, subject, Stage::Limits, error, Next::AnotherPlace),
        (_, _, Err(error)) => failed(shared, subject, Stage::Network, error, Next::AnotherPlace),
    }
}

/// A part of furnishing, where a request waits for it.
fn part(name: &'static str) -> Span {
    if Span::current().is_none() { Span::none() } else { tracing::info_span!("part", otel.name = name) }
}

async fn limit(shared: &Shared, id: &SandboxId, subject: &Subject) -> Result<(), NodeError> {
    if subject.spec.limits == Limits::default() {
        return Ok(());
    }
    shared.node.resources.limit(id, &subject.spec).await
}

pub(super) async fn connect(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    match shared.node.processes.connect(id).await {
        Ok(seen) => {
            processes::adopt(shared, &subject.uid, id, seen);
            place_is(shared, subject, Place::Furnished, Place::Connected);
            Done::Next
        }
        Err(error) => {
            // What runs in a place that was confirmed before is given up only when it is known to
            // be dead.
            let may_live = matches!(error.kind, NodeErrorKind::Unavailable | NodeErrorKind::Stuck);
            let confirmed = shared.state().containers.get(&subject.uid).is_some_and(Container::confirmed);
            let place = if may_live && confirmed { Next::SamePlace } else { Next::AnotherPlace };
            failed(shared, subject, Stage::Connect, error, place)
        }
    }
}

/// The place has come from one stage to another, unless its init has gone meanwhile.
fn place_is(shared: &Shared, subject: &Subject, from: Place, to: Place) {
    know(shared, &subject.uid, |container| {
        if container.place == from {
            container.place = to;
        }
    });
}

pub(super) async fn confirm(shared: &Arc<Shared>, subject: &Subject) -> Done {
    // What a client is told must outlive a reboot; what was only made again need not.
    let durable = if subject.answered { Durable::Crash } else { Durable::Reboot };
    let confirmed = shared.edit(&subject.uid, durable, Vec::new(), |record| {
        record.answered = true;
        record.status.phase = if record.status.stopped { Phase::Stopped } else { Phase::Ready };
        record.status.stage = None;
        record.status.furnished = true;
        record.status.failures = 0;
        record.status.message = None;
        record.status.observed_generation = record.generation;
    });
    if let Err(error) = confirmed.await {
        return refused_by_ledger(shared, subject, error);
    }
    tracing::info!(handle = %subject.handle, uid = %subject.uid, again = subject.answered, "container is ready");
    know(shared, &subject.uid, |container| {
        container.last_failure = None;
        container.spoilt_places = 0;
    });
    if let Some(id) = subject.sandbox.clone() {
        shared.spawn(places::label(Arc::clone(shared), id, subject.uid.clone(), subject.handle.clone()));
    }
    Done::Next
}

/// With which place it is tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    SamePlace,
    AnotherPlace,
}

/// A step towards ready did not succeed.
fn failed(shared: &Shared, subject: &Subject, stage: Stage, error: NodeError, next: Next) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %stage, %error, "a step failed");
    let mut verdict = Verdict::Failed;
    know(shared, &subject.uid, |container| {
        let hopeless = error.kind == NodeErrorKind::Invalid;
        if next == Next::AnotherPlace {
            container.place = Place::Spoilt;
            container.why_spoilt = Some(format!("{stage} failed: {error}"));
            container.spoilt_places += 1;
        }
        container.record.status.stage = Some(stage);
        container.record.status.failures += 1;
        container.record.status.message = Some(error.message.clone());
        container.last_failure = Some((stage, error.clone()));
        let given_up = hopeless || container.spoilt_places >= MAX_SPOILT_PLACES;
        if !subject.answered && given_up {
            container.failure.get_or_insert(Failure::Node(stage, error));
            container.unwanted = true;
            verdict = Verdict::After(Duration::ZERO);
        }
    });
    Done::Verdict(verdict)
}

pub(super) fn refused_by_ledger(shared: &Shared, subject: &Subject, error: Error) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "a step was not recorded");
    if subject.answered || subject.wanted == Wanted::Absent {
        return Done::Verdict(Verdict::Failed);
    }
    know(shared, &subject.uid, |container| {
        let reason = match error {
            Error::Ledger(reason) => reason,
            other => other.to_string(),
        };
        container.failure.get_or_insert(Failure::Ledger(reason));
        container.unwanted = true;
    });
    Done::Next
}
