//! The life of processes: started at most once, and how each ended told to whoever asks.
//!
//! ```text
//!   (recorded) Pending ──spawned──▶ Running ──▶ Exited: recorded ▶ published ▶ acknowledged
//!        │ not started: record removed │
//!        └──────── init gone, or does not know it ─▶ Lost
//! ```
//!
//! Promises: nothing is spawned whose record is not written; an end is acknowledged to its init
//! only once it is in the ledger; where the ledger fails it is published from memory and written
//! later. The record of an ended process is kept until somebody has seen how it ended and a while
//! longer, [`MAX_SEEN`] of them a container, or [`MAX_ENDED`] seen or not.

use crate::attachment::Attachment;
use crate::error::Error;
use crate::grace::Busy;
use crate::ledger::{Change, Durable};
use crate::places;
use crate::plan::Wanted;
use crate::ports::{NodeErrorKind, ProcessEvent, ProcessSeen, Signal, SpawnError};
use crate::queue::backoff;
use crate::record::{
    ContainerUid, ExitStatus, ProcessId, ProcessRecord, ProcessSpec, ProcessState, ProcessUid, SandboxId,
};
use crate::service::Outcome;
use crate::shared::{Key, Shared};
use crate::state::{Process, State, outcome};
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

/// Starts a process and attaches to it. Once begun it goes on to the end, also when nobody waits.
pub async fn run(shared: &Arc<Shared>, busy: Busy, spec: ProcessSpec) -> Result<Attachment, Error> {
    let (uid, id) = (ProcessUid::generate(), spec.id.clone().unwrap_or_else(ProcessId::generate));
    let (sandbox, env) = {
        let mut state = shared.state();
        let gone = || Error::ContainerNotFound(busy.uid().to_string());
        let container = state.containers.get_mut(busy.uid()).ok_or_else(gone)?;
        let sandbox = container.ready_place()?.clone();
        let env = container.record.spec.env.clone();
        if container.processes.contains_key(&id) {
            return Err(Error::ProcessIdInUse(id));
        }
        container.processes.insert(id.clone(), uid.clone());
        state.processes.insert(
            uid.clone(),
            Process::new(record(&uid, &id, busy.uid(), ProcessSpec { tty: spec.tty, ..ProcessSpec::default() })),
        );
        (sandbox, env)
    };
    let start = Start { shared: Arc::clone(shared), busy, uid, id, sandbox };
    let task = tokio::spawn(start.start(env, spec));
    task.await.unwrap_or_else(|error| Err(Error::Spawn(SpawnError::Other(error.to_string()))))
}

fn record(uid: &ProcessUid, id: &ProcessId, container: &ContainerUid, spec: ProcessSpec) -> ProcessRecord {
    ProcessRecord {
        uid: uid.clone(),
        id: id.clone(),
        container: container.clone(),
        spec,
        state: ProcessState::Pending,
        seen: false,
        ended_at: None,
    }
}

struct Start {
    shared: Arc<Shared>,
    busy: Busy,
    uid: ProcessUid,
    id: ProcessId,
    sandbox: SandboxId,
}

impl Start {
    async fn start(self, env: Vec<String>, spec: ProcessSpec) -> Result<Attachment, Error> {
        let (shared, uid) = (&self.shared, &self.uid);
        let row = record(uid, &self.id, self.busy.uid(), spec.clone());
        if let Err(error) = shared.ledger.commit(vec![Change::InsertProcess(Box::new(row))], Durable::Crash).await {
            drop_from_memory(&mut shared.state(), uid);
            return Err(error.into());
        }
        match shared.node.processes.spawn(&self.sandbox, uid, &env, &spec).await {
            Ok(pid) => self.runs(pid),
            Err(SpawnError::InitGone { reason }) => self.find_out(reason).await?,
            Err(error) => {
                drop_from_memory(&mut shared.state(), uid);
                shared.ledger.submit(vec![Change::DeleteProcess(uid.clone())], Durable::Crash).in_background();
                return Err(error.into());
            }
        }
        Attachment::open(&self.shared, self.busy, self.uid, self.id)
    }

    fn runs(&self, pid: u32) {
        let mut state = self.shared.state();
        let Some(process) = state.processes.get_mut(&self.uid) else { return };
        // It may have ended before its start was answered.
        if process.ending || !process.alive() {
            return;
        }
        process.record.state = ProcessState::Running { pid };
        self.shared.ledger.submit(vec![update(&process.record)], Durable::Crash).in_background();
    }

    /// Its init did not answer: whether it runs is asked of the init itself, once.
    async fn find_out(&self, reason: String) -> Result<(), Error> {
        let (shared, uid) = (&self.shared, &self.uid);
        let seen = shared.node.processes.connect(&self.sandbox).await;
        if let Some(seen) = seen.iter().flatten().find(|seen| seen.uid == *uid) {
            self.runs(seen.pid);
            if let Some(status) = seen.exit {
                exited(shared, &self.sandbox, uid, status);
            }
            return Ok(());
        }
        match &seen {
            Err(error) if matches!(error.kind, NodeErrorKind::NotFound | NodeErrorKind::Failed) => {
                places::init_gone(shared, &self.sandbox, &error.message);
            }
            // Should it be started yet, it is ended: it is lost, and nobody would know of it.
            _ => drop(shared.node.processes.signal(&self.sandbox, uid, Signal::Kill).await),
        }
        lose(shared, uid, &format!("whether it started is not known: {reason}"));
        Err(SpawnError::InitGone { reason }.into())
    }
}

fn update(record: &ProcessRecord) -> Change {
    Change::UpdateProcess {
        uid: record.uid.clone(),
        state: record.state.clone(),
        seen: record.seen,
        ended_at: record.ended_at,
    }
}

fn drop_from_memory(state: &mut State, uid: &ProcessUid) {
    let Some(process) = state.processes.remove(uid) else { return };
    if let Some(container) = state.containers.get_mut(&process.record.container) {
        container.processes.remove(&process.record.id);
    }
}

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
        None => {
            drop(state);
            shared.spawn(async move { acknowledge(&shared_, &sandbox_, &uid_).await });
        }
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

async fn acknowledge(shared: &Shared, sandbox: &SandboxId, uid: &ProcessUid) {
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
    process.outcome.send_replace(outcome(&ended));
    process.record.state = ended;
    if let Some(container) = state.containers.get_mut(&process.record.container) {
        container.ended.push_back(uid.clone());
    }
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
    drop(state);
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
    if process.attached > 0 {
        let at = Instant::now() + shared.options.process_retention;
        shared.add_timer(&mut state, at, Timer::Retention(uid.clone()));
        return;
    }
    drop(state);
    forget(shared, uid);
}

/// Removes the record of an ended process.
fn forget(shared: &Arc<Shared>, uid: &ProcessUid) {
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
fn lose(shared: &Shared, uid: &ProcessUid, why: &str) {
    let at = Some(SystemTime::now());
    publish(shared, uid, ProcessState::Lost { why: why.to_owned() }, at);
    let mut state = shared.state();
    let Some(process) = state.processes.get_mut(uid) else { return };
    process.ending = true;
    process.settled = true;
    shared.ledger.submit(vec![update(&process.record)], Durable::Crash).in_background();
}

/// As [`lose`], for all that run in a container.
pub fn lose_all(shared: &Shared, container: &ContainerUid, why: &str) {
    let alive = alive(&shared.state(), container);
    for uid in alive {
        lose(shared, &uid, why);
    }
}

/// Those that may still do something, and whose end nobody is recording yet.
fn alive(state: &State, container: &ContainerUid) -> Vec<ProcessUid> {
    let Some(container) = state.containers.get(container) else { return Vec::new() };
    let alive = |uid: &&ProcessUid| state.processes.get(*uid).is_some_and(|process| process.alive() && !process.ending);
    container.processes.values().filter(alive).cloned().collect()
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
            }
        }
    }
}

/// Compares what an init knows with the records, after a connection to it was made. Nothing is
/// being started there meanwhile: the container is not ready.
pub fn adopt(shared: &Arc<Shared>, container: &ContainerUid, sandbox: &SandboxId, seen: Vec<ProcessSeen>) {
    let known = alive(&shared.state(), container);
    for uid in known.iter().filter(|uid| !seen.iter().any(|seen| seen.uid == **uid)) {
        lose(shared, uid, "its init does not know it; whether it ran is not known");
    }
    for seen in seen {
        let mut state = shared.state();
        let Some(process) = state.processes.get_mut(&seen.uid) else {
            drop(state);
            end_unknown(shared, sandbox, seen);
            continue;
        };
        if process.alive() && !process.ending && seen.exit.is_none() {
            process.record.state = ProcessState::Running { pid: seen.pid };
        }
        // Recorded before, and its init was not told.
        let told = !process.alive();
        drop(state);
        match seen.exit {
            Some(_) if told => {
                let (shared_, sandbox) = (Arc::clone(shared), sandbox.clone());
                shared.spawn(async move { acknowledge(&shared_, &sandbox, &seen.uid).await });
            }
            Some(status) => exited(shared, sandbox, &seen.uid, status),
            None => {}
        }
    }
}

/// A process without a record: it was never answered for.
fn end_unknown(shared: &Arc<Shared>, sandbox: &SandboxId, seen: ProcessSeen) {
    tracing::info!(process = %seen.uid, sandbox = %sandbox, "a process without a record is ended");
    let (shared_, sandbox) = (Arc::clone(shared), sandbox.clone());
    shared.spawn(async move {
        if seen.exit.is_none() {
            // Its end comes as an event, and is acknowledged then.
            if let Err(error) = shared_.node.processes.signal(&sandbox, &seen.uid, Signal::Kill).await {
                tracing::warn!(process = %seen.uid, %error, "a process without a record was not ended");
            }
        } else {
            acknowledge(&shared_, &sandbox, &seen.uid).await;
        }
        shared_.node.streams.forget(&seen.uid).await;
    });
}
