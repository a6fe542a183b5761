//! How processes end: told by their inits or lost, recorded, published, acknowledged, kept until
//! seen and a while longer, forgotten.

use super::{alive, drop_from_memory, update};
use crate::ledger::{Change, Durable};
use crate::news::{Incident, IncidentKind};
use crate::observe::{Observation, ProcessEnd};
use crate::oom;
use crate::places;
use crate::plan::Wanted;
use crate::ports::{NodeErrorKind, ProcessEvent};
use crate::queue::backoff;
use crate::record::{ContainerUid, ExitStatus, ProcessState, ProcessUid, SandboxId};
use crate::service::Outcome;
use crate::shared::{Key, Shared};
use crate::state::{State, outcome};
use crate::timers::Timer;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Ended processes whose end was seen, kept at most for a container.
pub const MAX_SEEN: usize = 4_096;
/// Ended processes kept at most for a container.
pub const MAX_ENDED: usize = 16_384;
/// How often an init is told that an end is safe, before that is left to the next connection.
const ACKNOWLEDGE_TRIES: u32 = 5;

/// Reads what inits tell, until the end.
pub async fn listen(shared: Arc<Shared>, mut events: mpsc::Receiver<ProcessEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            ProcessEvent::Exited { sandbox, process, status } => exited(&shared, &sandbox, &process, status),
            ProcessEvent::Emptied { sandbox } => emptied(&shared, &sandbox),
            ProcessEvent::InitGone { sandbox, reason } => places::init_gone(&shared, &sandbox, &reason),
        }
    }
}

/// A stop may wait for it.
fn emptied(shared: &Shared, id: &SandboxId) {
    let mut state = shared.state();
    let mut containers = state.containers.values_mut();
    if let Some(container) = containers.find(|container| container.record.sandbox.as_ref() == Some(id))
        && container.record.stop.is_some()
    {
        container.occupied = None;
        let uid = container.record.uid.clone();
        drop(state);
        shared.wake(Key::Container(uid));
    }
}

/// A process has ended; told any number of times.
pub fn exited(shared: &Arc<Shared>, sandbox: &SandboxId, uid: &ProcessUid, status: ExitStatus) {
    let mut state = shared.state();
    let (shared_, sandbox_, uid_) = (Arc::clone(shared), sandbox.clone(), uid.clone());
    match state.processes.get_mut(uid) {
        // Recorded before, or nobody's: its init may forget it.
        process if process.as_ref().is_none_or(|process| process.settled) => {
            drop(state);
            shared.spawn(async move { acknowledge(&shared_, &sandbox_, &uid_).await });
        }
        None => {}
        Some(process) if process.ending || !process.alive() => {}
        Some(process) => {
            process.ending = true;
            drop(state);
            shared.spawn(async move { settle(&shared_, &sandbox_, &uid_, status).await });
        }
    }
}

/// Recorded, then published, then acknowledged.
async fn settle(shared: &Arc<Shared>, sandbox: &SandboxId, uid: &ProcessUid, status: ExitStatus) {
    let ended_at = Some(SystemTime::now());
    if may_be_oom(shared, uid, status) {
        oom::look_at_end(shared, sandbox, uid, status).await;
    }
    let mut failures = 0;
    loop {
        let Some(seen) = shared.state().processes.get(uid).map(|process| process.record.seen) else { return };
        let change = Change::UpdateProcess { uid: uid.clone(), state: ProcessState::Exited(status), seen, ended_at };
        let written = shared.ledger.commit(vec![change], Durable::Crash).await;
        // Where the ledger fails, its init keeps the status until it can be written.
        publish(shared, uid, ProcessState::Exited(status), ended_at);
        match written {
            Ok(()) => break,
            Err(error) => {
                failures += 1;
                tracing::warn!(process = %uid, %error, "how a process ended is not recorded; it is tried again");
                tokio::time::sleep(backoff(failures, 1.0)).await;
            }
        }
    }
    acknowledge(shared, sandbox, uid).await;
    settled(shared, uid);
}

/// Whether want of memory may have to do with an end: its own, or one of a child's that it survived.
fn may_be_oom(shared: &Shared, uid: &ProcessUid, status: ExitStatus) -> bool {
    let killed = matches!(status, ExitStatus::Signal(9) | ExitStatus::Code(137));
    let state = shared.state();
    let Some(process) = state.processes.get(uid).map(|process| &process.record) else { return killed };
    let container = state.containers.get(&process.container);
    let limited = container.is_some_and(|container| container.record.spec.limits.memory_bytes > 0);
    killed || limited || process.spec.limits.memory_bytes > 0
}

pub async fn acknowledge(shared: &Shared, sandbox: &SandboxId, uid: &ProcessUid) {
    for attempt in 1..=ACKNOWLEDGE_TRIES {
        match shared.node.processes.acknowledge(sandbox, uid).await {
            Ok(()) => return,
            Err(error) if error.kind == NodeErrorKind::NotFound => return,
            Err(error) => {
                tracing::debug!(process = %uid, %error, "an end was not acknowledged");
                tokio::time::sleep(backoff(attempt, 1.0)).await;
            }
        }
    }
}

/// Tells whoever waits, and counts it among the ended.
fn publish(shared: &Shared, uid: &ProcessUid, ended: ProcessState, at: Option<SystemTime>) {
    let mut state = shared.state();
    let state = &mut *state;
    let Some(process) = state.processes.get_mut(uid).filter(|process| process.alive()) else { return };
    process.record.ended_at = at;
    let end = match &ended {
        ProcessState::Exited(status) => (*status).into(),
        _ => ProcessEnd::Lost,
    };
    shared.options.observing.tell(Observation::ProcessEnded(end));
    process.outcome.send_replace(outcome(&ended));
    process.record.state = ended;
    if let Some(container) = state.containers.get_mut(&process.record.container) {
        container.ended.push_back(uid.clone());
    }
    state.process_changed(uid);
}

fn settled(shared: &Arc<Shared>, uid: &ProcessUid) {
    let mut state = shared.state();
    let Some(process) = state.processes.get_mut(uid) else { return };
    process.settled = true;
    let container = process.record.container.clone();
    if process.record.seen {
        let at = Instant::now() + shared.options.process_retention;
        shared.add_timer(&mut state, at, Timer::Retention(uid.clone()));
    }
    let surplus = surplus(&state, &container);
    let kept = state.declared_by(&container).is_some();
    drop(state);
    if kept {
        // It may have to be started again.
        shared.wake(Key::Container(container));
    }
    if let Some(surplus) = surplus {
        forget(shared, &surplus);
    }
}

/// The ended process that has to go, where too many are kept.
fn surplus(state: &State, container: &ContainerUid) -> Option<ProcessUid> {
    let ended = &state.containers.get(container)?.ended;
    let unused = |uid: &&ProcessUid| state.processes.get(*uid).is_some_and(|process| process.attached == 0);
    let seen = |uid: &&ProcessUid| state.processes.get(*uid).is_some_and(|process| process.record.seen);
    if ended.len() > MAX_ENDED {
        return ended.iter().find(unused).cloned();
    }
    let oldest = (ended.len() > MAX_SEEN).then(|| ended.iter().find(|uid| unused(uid) && seen(uid)));
    oldest.flatten().cloned()
}

/// Somebody was told how a process ended.
pub fn seen(shared: &Shared, uid: &ProcessUid) {
    let mut state = shared.state();
    let Some(process) = state.processes.get_mut(uid).filter(|process| !process.record.seen && !process.alive()) else {
        return;
    };
    process.record.seen = true;
    if !process.settled {
        return;
    }
    // Lost on the way it is only kept longer.
    shared.ledger.submit(vec![update(&process.record)], Durable::Crash).in_background();
    let at = Instant::now() + shared.options.process_retention;
    shared.add_timer(&mut state, at, Timer::Retention(uid.clone()));
}

/// The time of an ended process's record is over.
pub fn retention_is_over(shared: &Arc<Shared>, uid: &ProcessUid) {
    let mut state = shared.state();
    let Some(process) = state.processes.get(uid) else { return };
    if process.attached > 0 || state.is_kept(process) {
        let at = Instant::now() + shared.options.process_retention;
        shared.add_timer(&mut state, at, Timer::Retention(uid.clone()));
        return;
    }
    drop(state);
    forget(shared, uid);
}

/// Removes the record of an ended process.
pub fn forget(shared: &Arc<Shared>, uid: &ProcessUid) {
    let mut state = shared.state();
    let Some(process) = state.processes.get(uid).filter(|process| process.settled) else { return };
    let container = process.record.container.clone();
    if let Some(container) = state.containers.get_mut(&container) {
        // Near the front, most often.
        if let Some(at) = container.ended.iter().position(|ended| ended == uid) {
            container.ended.remove(at);
        }
    }
    drop_from_memory(&mut state, uid);
    drop(state);
    let commit = shared.ledger.submit(vec![Change::DeleteProcess(uid.clone())], Durable::Crash);
    let (shared_, uid) = (Arc::clone(shared), uid.clone());
    shared.spawn(async move {
        shared_.node.streams.forget(&uid).await;
        if let Err(error) = commit.written().await {
            tracing::warn!(process = %uid, %error, "the row of a process stays until the next start");
        }
    });
}

/// Nobody can say any more how a process ends.
pub fn lose(shared: &Shared, uid: &ProcessUid, why: &str) {
    let at = Some(SystemTime::now());
    publish(shared, uid, ProcessState::Lost { why: why.to_owned() }, at);
    let mut state = shared.state();
    let Some(process) = state.processes.get_mut(uid) else { return };
    process.ending = true;
    process.settled = true;
    shared.ledger.submit(vec![update(&process.record)], Durable::Crash).in_background();
    tell_of_loss(&state, uid, why);
    let container = process_container(&state, uid).filter(|container| state.declared_by(container).is_some());
    drop(state);
    if let Some(container) = container {
        shared.wake(Key::Container(container));
    }
}

fn process_container(state: &State, uid: &ProcessUid) -> Option<ContainerUid> {
    state.processes.get(uid).map(|process| process.record.container.clone())
}

fn tell_of_loss(state: &State, uid: &ProcessUid, why: &str) {
    let Some(process) = state.processes.get(uid).map(|process| &process.record) else { return };
    let Some(container) = state.containers.get(&process.container).filter(|one| one.wanted() == Wanted::Present) else {
        return;
    };
    state.followers.tell(&Incident {
        container: process.container.clone(),
        declared_by: state.declared_by(&process.container),
        handle: container.record.handle.clone(),
        kind: IncidentKind::ProcessLost,
        message: format!("how process '{}' ended is not known: {why}", process.id),
        at: SystemTime::now(),
    });
}

/// As [`lose`], for all that run in a container.
pub fn lose_all(shared: &Shared, container: &ContainerUid, why: &str) {
    let alive = alive(&shared.state(), container);
    for uid in alive {
        lose(shared, &uid, why);
    }
}

/// A container's place is about to be killed.
pub fn end_all(shared: &Shared, container: &ContainerUid, wanted: Wanted) {
    match wanted {
        Wanted::Present => lose_all(shared, container, "the container's place was made again"),
        // The rows go with the container.
        Wanted::Absent => {
            let mut state = shared.state();
            for uid in alive(&state, container) {
                if let Some(process) = state.processes.get_mut(&uid) {
                    process.ending = true;
                    process.outcome.send_replace(Some(Outcome::Failed("the container was destroyed".into())));
                    process.record.state = ProcessState::Lost { why: "the container was destroyed".into() };
                }
                state.process_changed(&uid);
            }
        }
    }
}
