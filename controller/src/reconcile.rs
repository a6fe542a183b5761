//! The loop: takes keys off the queue, does what [`crate::plan`] says, until each rests.
//!
//! Promises: one worker a key; a step that fails is tried again with backoff, and a create whose
//! step cannot succeed fails, with the stage and the cause; the loop itself never ends by an error.
//! A worker that panics counts as failed.
//!
//! Leaves to others: what is decided (`plan`), places that are nobody's (`places`), processes
//! (`processes`), what nobody woke (`sweeper`).

use crate::error::Error;
use crate::ledger::{Change, Durable};
use crate::plan::{Observed, Place, Step, Wanted, next_step};
use crate::ports::{NodeError, NodeErrorKind, Signal};
use crate::queue::Verdict;
use crate::record::{
    ContainerSpec, ContainerUid, Desired, Handle, Phase, ProcessUid, SandboxId, SandboxKind, SandboxRecord, Stage,
    StopMode,
};
use crate::shared::{Key, Shared};
use crate::state::{Container, Failure, Role, State, add_event};
use crate::{places, processes};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Places that may fail for one create before it fails itself.
const MAX_SPOILT_PLACES: u32 = 3;
/// How often a stop looks whether anything still runs, beside being told.
const STOP_LOOK: Duration = Duration::from_millis(500);
/// Steps in a row for one key, before others get their turn.
const MAX_STEPS: usize = 32;

/// Takes keys until the end.
pub async fn run(shared: Arc<Shared>) {
    loop {
        while let Some(key) = shared.take_key() {
            let worker = Worker { shared: Arc::clone(&shared), key, verdict: Verdict::Failed };
            shared.spawn(worker.work());
        }
        let due = shared.next_key_due();
        tokio::select! {
            // Cancel-safe: a notification that comes meanwhile is kept.
            () = shared.queue_changed.notified() => {}
            // Cancel-safe: it is computed anew each time.
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// One look at one key. The queue is told how it ended however it ends.
struct Worker {
    shared: Arc<Shared>,
    key: Key,
    verdict: Verdict,
}

impl Worker {
    async fn work(mut self) {
        self.verdict = match &self.key {
            Key::Container(uid) => container(&self.shared, uid).await,
            Key::Discarded(id) => places::remove(&self.shared, id).await,
            Key::Layers(uid) => places::release_layers(&self.shared, uid).await,
            Key::Pool(kind) => places::refill(&self.shared, *kind).await,
        };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.finish_key(&self.key, self.verdict);
    }
}

/// What a step came to.
enum Done {
    /// Look again.
    Next,
    /// As far as it goes for now.
    Verdict(Verdict),
}

/// A container as a step needs it.
struct Subject {
    uid: ContainerUid,
    handle: Handle,
    spec: Arc<ContainerSpec>,
    sandbox: Option<SandboxId>,
    /// Its create was answered.
    answered: bool,
    wanted: Wanted,
}

async fn container(shared: &Arc<Shared>, uid: &ContainerUid) -> Verdict {
    for _ in 0..MAX_STEPS {
        let Some((subject, observed)) = look(shared, uid) else { return Verdict::Rest };
        let step = next_step(subject.wanted, &observed);
        tracing::debug!(handle = %subject.handle, %uid, ?step, "next step");
        match take(shared, &subject, step).await {
            Done::Next => {}
            Done::Verdict(verdict) => return verdict,
        }
    }
    Verdict::After(Duration::ZERO)
}

fn look(shared: &Shared, uid: &ContainerUid) -> Option<(Subject, Observed)> {
    let state = shared.state();
    let container = state.containers.get(uid)?;
    let subject = Subject {
        uid: uid.clone(),
        handle: container.record.handle.clone(),
        spec: Arc::new(container.record.spec.clone()),
        sandbox: container.record.sandbox.clone(),
        answered: container.record.answered,
        wanted: container.wanted(),
    };
    Some((subject, container.observed(Instant::now(), shared.options.stop_grace)))
}

async fn take(shared: &Arc<Shared>, subject: &Subject, step: Step) -> Done {
    match step {
        Step::Rest => Done::Verdict(Verdict::Rest),
        Step::Wait => wait_for_empty(shared, subject),
        Step::TakePlace => take_place(shared, subject).await,
        Step::MakePlace => make_place(shared, subject).await,
        Step::Furnish => furnish(shared, subject).await,
        Step::Connect => connect(shared, subject).await,
        Step::Confirm => confirm(shared, subject).await,
        Step::Signal(mode) => signal(shared, subject, mode).await,
        Step::Look => look_for_processes(shared, subject).await,
        Step::FinishStop => finish_stop(shared, subject).await,
        Step::RecordAbsence => record_absence(shared, subject).await,
        Step::Kill => kill(shared, subject).await,
        Step::Free => free(shared, subject).await,
        Step::Release => release(shared, subject).await,
        Step::Forget => forget(shared, subject).await,
    }
}

/// Changes what is known of the container in memory.
fn know(shared: &Shared, uid: &ContainerUid, change: impl FnOnce(&mut Container)) {
    if let Some(container) = shared.state().containers.get_mut(uid) {
        change(container);
        container.changed.send_replace(());
    }
}

// Towards ready.

async fn take_place(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some((id, kind, place)) = shared.state().assign_place(&subject.uid) else {
        return Done::Verdict(Verdict::Rest);
    };
    let row = SandboxRecord { id: id.clone(), kind, container: Some(subject.uid.clone()) };
    let mine = id.clone();
    let recorded = shared.edit(&subject.uid, Durable::Crash, vec![Change::PutSandbox(row)], move |record| {
        record.sandbox = Some(mine.clone());
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

async fn make_place(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    // The semaphore is never closed.
    let permit = shared.limits.makes.acquire().await;
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
            let again = error.kind == NodeErrorKind::Unavailable;
            failed(shared, subject, Stage::Sandbox, error, again)
        }
    }
}

async fn furnish(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else { return Done::Verdict(Verdict::Rest) };
    let permit = shared.limits.furnishings.acquire().await;
    let result = shared.node.rootfs.furnish(id, &subject.uid, &subject.handle, &subject.spec).await;
    drop(permit);
    match result {
        Ok(()) => {
            place_is(shared, subject, Place::Made, Place::Furnished);
            Done::Next
        }
        Err(error) => failed(shared, subject, Stage::Rootfs, error, false),
    }
}

async fn connect(shared: &Arc<Shared>, subject: &Subject) -> Done {
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
            failed(shared, subject, Stage::Connect, error, may_live && confirmed)
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

async fn confirm(shared: &Arc<Shared>, subject: &Subject) -> Done {
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

/// A step towards ready did not succeed.
fn failed(shared: &Shared, subject: &Subject, stage: Stage, error: NodeError, same_place_again: bool) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %stage, %error, "a step failed");
    let mut verdict = Verdict::Failed;
    know(shared, &subject.uid, |container| {
        let hopeless = error.kind == NodeErrorKind::Invalid;
        if !same_place_again {
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

fn refused_by_ledger(shared: &Shared, subject: &Subject, error: Error) -> Done {
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

// Towards stopped.

async fn signal(shared: &Arc<Shared>, subject: &Subject, mode: StopMode) -> Done {
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

async fn look_for_processes(shared: &Arc<Shared>, subject: &Subject) -> Done {
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
fn cannot_reach(shared: &Arc<Shared>, subject: &Subject, error: NodeError) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "a stop does not get through");
    if let (NodeErrorKind::NotFound, Some(id)) = (error.kind, &subject.sandbox) {
        places::init_gone(shared, id, &error.message);
    }
    Done::Verdict(Verdict::Failed)
}

fn wait_for_empty(shared: &Shared, subject: &Subject) -> Done {
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

async fn finish_stop(shared: &Arc<Shared>, subject: &Subject) -> Done {
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

// Towards gone.

async fn record_absence(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let recorded = shared.edit(&subject.uid, Durable::Reboot, Vec::new(), |record| {
        record.desired = Desired::Absent;
        record.generation += 1;
        record.status.phase = Phase::Destroying;
    });
    match recorded.await {
        Ok(()) => Done::Next,
        Err(error) => refused_by_ledger(shared, subject, error),
    }
}

async fn kill(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else {
        know(shared, &subject.uid, |container| container.place = Place::Nothing);
        return Done::Next;
    };
    processes::end_all(shared, &subject.uid, subject.wanted);
    if let Err(error) = shared.node.sandboxes.kill(id).await {
        return does_not_die(shared, subject, error);
    }
    shared.node.processes.disconnect(id).await;
    let mut state = shared.state();
    if let Some(sandbox) = state.sandboxes.get_mut(id) {
        sandbox.role = Role::Discarded;
    }
    if let Some(container) = state.containers.get_mut(&subject.uid) {
        // Written with the next step; a crash before only kills the dead once more.
        container.place = Place::Nothing;
        container.record.sandbox = None;
        container.record.status.furnished = false;
        container.stuck = None;
        if subject.wanted == Wanted::Present {
            container.record.status.phase = Phase::Creating;
            if let Some(why) = container.why_spoilt.take().filter(|_| subject.answered) {
                add_event(&mut container.record, format!("made again: {why}"));
            }
        }
    }
    drop(state);
    shared.wake(Key::Discarded(id.clone()));
    Done::Next
}

fn does_not_die(shared: &Shared, subject: &Subject, error: NodeError) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "container does not die; it is tried again");
    know(shared, &subject.uid, |container| {
        add_event(&mut container.record, format!("Stuck: {error}"));
        container.record.status.stage = Some(Stage::Kill);
        container.record.status.failures += 1;
        container.record.status.message = Some(error.message.clone());
        container.last_failure = Some((Stage::Kill, error.clone()));
        if error.kind == NodeErrorKind::Stuck {
            container.stuck = Some(error);
        }
    });
    Done::Verdict(Verdict::Failed)
}

async fn free(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let freed = shared.edit(&subject.uid, Durable::Crash, Vec::new(), |record| {
        record.desired = Desired::Absent;
        record.sandbox = None;
        record.status.phase = Phase::Gone;
    });
    if let Err(error) = freed.await {
        // It is dead; after a restart it is only found dead once more.
        tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "the end was not recorded");
    }
    tracing::info!(handle = %subject.handle, uid = %subject.uid, "container is gone");
    let mut state = shared.state();
    state.free(&subject.uid);
    if let Some(container) = state.containers.get(&subject.uid) {
        container.changed.send_replace(());
    }
    Done::Next
}

async fn release(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let permit = shared.limits.removals.acquire().await;
    let released = shared.node.rootfs.release(&subject.uid).await;
    drop(permit);
    match released {
        Ok(()) => {
            know(shared, &subject.uid, |container| container.released = true);
            Done::Next
        }
        Err(error) => {
            tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "its files are not released; it is tried again");
            Done::Verdict(Verdict::Failed)
        }
    }
}

async fn forget(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let deleted = shared.ledger.commit(vec![Change::DeleteContainer(subject.uid.clone())], Durable::Crash).await;
    if let Err(error) = deleted {
        tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "its rows are not deleted; it is tried again");
        return Done::Verdict(Verdict::Failed);
    }
    let processes: Vec<ProcessUid> = shared.state().forget(&subject.uid);
    for process in processes {
        shared.node.streams.forget(&process).await;
    }
    Done::Verdict(Verdict::Rest)
}
