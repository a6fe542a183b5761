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

mod adopt;
mod ends;

use crate::attachment::Attachment;
use crate::error::Error;
use crate::grace::Busy;
use crate::images;
use crate::ledger::{Change, Durable};
use crate::ports::{NodeErrorKind, Signal, SpawnError};
use crate::record::{ContainerUid, ProcessId, ProcessRecord, ProcessSpec, ProcessState, ProcessUid, SandboxId, Stage};
use crate::shared::Shared;
use crate::state::{Arguments, Process, State};
use crate::{oom, places};
pub use adopt::adopt;
use ends::lose;
pub use ends::{MAX_ENDED, MAX_SEEN, end_all, exited, forget, listen, lose_all, retention_is_over, seen};
use std::sync::Arc;
use std::time::SystemTime;
use tracing::Instrument;

/// Starts a process and attaches to it. Once begun it goes on to the end, also when nobody waits.
pub async fn run(shared: &Arc<Shared>, busy: Busy, spec: ProcessSpec) -> Result<Attachment, Error> {
    let (uid, id) = (ProcessUid::generate(), spec.id.clone().unwrap_or_else(ProcessId::generate));
    let (sandbox, env) = {
        let mut state = shared.state();
        let gone = || Error::ContainerNotFound(busy.uid().to_string());
        let container = state.containers.get_mut(busy.uid()).ok_or_else(gone)?;
        let sandbox = container.ready_place()?.clone();
        let env = container.record.spec.base_env();
        if container.processes.contains_key(&id) {
            return Err(Error::ProcessIdInUse(id));
        }
        container.processes.insert(id.clone(), uid.clone());
        // Without what only its start needs.
        let (tty, mut image, limits) = (spec.tty, spec.image.clone(), spec.limits);
        image.iter_mut().for_each(|image| image.credentials = None);
        let args = if shared.arguments() == Arguments::Keep { spec.args.clone() } else { Vec::new() };
        let (path, user) = (spec.path.clone(), spec.user.clone());
        let kept = ProcessSpec { path, args, user, tty, image, limits, ..ProcessSpec::default() };
        let process = Process::new(record(&uid, &id, busy.uid(), kept), shared.arguments());
        state.processes.insert(uid.clone(), process);
        state.process_changed(&uid);
        (sandbox, env)
    };
    let start = Start { shared: Arc::clone(shared), busy, uid, id, sandbox };
    let task = tokio::spawn(start.start(env, spec).in_current_span());
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
        created_at: Some(SystemTime::now()),
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
    async fn start(self, env: Vec<String>, mut spec: ProcessSpec) -> Result<Attachment, Error> {
        let (shared, uid) = (&self.shared, &self.uid);
        if let Err(error) = images::bring_for_process(shared, uid, &mut spec).await {
            drop_from_memory(&mut shared.state(), uid);
            return Err(SpawnError::Other(format!("{} failed: {error}", Stage::Image)).into());
        }
        // One with an image of its own begins with that one's, and not with its container's.
        let of_image = spec.image.as_ref().and_then(|image| image.rootfs.resolved());
        let env = of_image.map_or(env, |image| image.env.clone());
        let row = record(uid, &self.id, self.busy.uid(), spec.clone());
        if let Err(error) = shared.ledger.commit(vec![Change::InsertProcess(Box::new(row))], Durable::Crash).await {
            drop_from_memory(&mut shared.state(), uid);
            return Err(error.into());
        }
        let span = tracing::info_span!("spawn", process = %self.id);
        match shared.node.processes.spawn(&self.sandbox, uid, &env, &spec).instrument(span).await {
            Ok(pid) => {
                self.runs(pid);
                if spec.limits.memory_bytes > 0 {
                    // From now on the node tells of its want.
                    oom::look_at(shared, &self.sandbox);
                }
            }
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
        state.process_changed(&self.uid);
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
    state.process_changed(uid);
    let Some(process) = state.processes.remove(uid) else { return };
    if let Some(container) = state.containers.get_mut(&process.record.container) {
        container.processes.remove(&process.record.id);
    }
}

/// Those that may still do something, and whose end nobody is recording yet.
fn alive(state: &State, container: &ContainerUid) -> Vec<ProcessUid> {
    let Some(container) = state.containers.get(container) else { return Vec::new() };
    let alive = |uid: &&ProcessUid| state.processes.get(*uid).is_some_and(|process| process.alive() && !process.ending);
    container.processes.values().filter(alive).cloned().collect()
}
