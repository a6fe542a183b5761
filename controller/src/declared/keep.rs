//! Looks after the declared processes of one container that is ready: [`super::restart`] decides, one
//! process after the other. Called by the loop, which has one worker for a container, so that nothing
//! is started in a place that is being given up.

use super::restart::{Act, Declared, Known, next};
use crate::attachment::Attachment;
use crate::error::Error;
use crate::grace::Busy;
use crate::ledger::Durable;
use crate::news::{Incident, IncidentKind};
use crate::ports::{Signal, SpawnError};
use crate::processes;
use crate::queue::Verdict;
use crate::record::{ContainerUid, Declaration, ProcessId, ProcessSpec, ProcessState, ProcessUid, Run, RunEnd};
use crate::shared::Shared;
use crate::state::{Container, Process, State};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How soon a process that was killed is looked at again, should its end not be told.
const KILLED: Duration = Duration::from_secs(1);
/// Steps in a row for one process.
const MAX_STEPS: usize = 8;

/// What is known of a declared process in memory alone. Times are monotonic.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Since when it is known to run.
    alive_since: Option<Instant>,
    /// Since when it is known to have ended.
    ended_since: Option<Instant>,
    /// When it was first told to end.
    told_to_end: Option<Instant>,
    /// When it is started again.
    pub(super) next_start: Option<SystemTime>,
    /// It has ended for good.
    pub(super) done: bool,
}

/// Looks at all of a container's declared processes; says when to look again.
pub async fn keep(shared: &Arc<Shared>, uid: &ContainerUid) -> Verdict {
    let ids: BTreeSet<ProcessId> = {
        let state = shared.state();
        let ready = state.containers.get(uid).filter(|container| container.ready_place().is_ok());
        let Some(declaration) = ready.and_then(|container| container.record.origin.declaration()) else {
            return Verdict::Rest;
        };
        declaration.processes.iter().map(|process| process.id.clone()).chain(declaration.runs.keys().cloned()).collect()
    };
    let mut soonest: Option<Duration> = None;
    let mut failed = false;
    for id in ids {
        match keep_one(shared, uid, &id).await {
            Ok(None) => {}
            Ok(Some(wait)) => soonest = Some(soonest.map_or(wait, |before| before.min(wait))),
            Err(error) => {
                tracing::warn!(%uid, process = %id, %error, "a declared process is not as declared; it is tried again");
                failed = true;
            }
        }
    }
    match (failed, soonest) {
        (true, _) => Verdict::Failed,
        (false, Some(wait)) => Verdict::After(wait),
        (false, None) => Verdict::Rest,
    }
}

/// Until it rests, or waits: how long.
async fn keep_one(shared: &Arc<Shared>, uid: &ContainerUid, id: &ProcessId) -> Result<Option<Duration>, Error> {
    for _ in 0..MAX_STEPS {
        let Some(look) = look(shared, uid, id) else { return Ok(None) };
        if let Some(end) = look.unrecorded_end {
            let id = id.clone();
            edit(shared, uid, move |declaration| {
                if let Some(run) = declaration.runs.get_mut(&id) {
                    run.ended = Some(end.clone());
                }
            })
            .await?;
            continue;
        }
        let act = next(look.declared, look.known, &shared.options.restarts);
        note(shared, uid, id, act);
        match act {
            Act::Rest => return Ok(None),
            Act::Wait(wait) => return Ok(Some(wait)),
            Act::Stop => return stop(shared, uid, id, look.process.as_ref()).await,
            Act::Forget => {
                let gone = id.clone();
                edit(shared, uid, move |declaration| drop(declaration.runs.remove(&gone))).await?;
                if let Some(process) = look.process {
                    processes::forget(shared, &process);
                }
                return Ok(None);
            }
            Act::Start { quick } => start(shared, uid, id, quick, look.process).await?,
        }
    }
    Ok(Some(Duration::ZERO))
}

/// What there is of one id.
struct Look {
    declared: Option<Declared>,
    known: Known,
    /// Its record, whoever's it is.
    process: Option<ProcessUid>,
    /// It has ended, and its run does not say so yet.
    unrecorded_end: Option<RunEnd>,
}

/// `None` where the container is not ready, or something takes care of the process already.
fn look(shared: &Shared, uid: &ContainerUid, id: &ProcessId) -> Option<Look> {
    let mut state = shared.state();
    let state = &mut *state;
    let container = state.containers.get_mut(uid).filter(|container| container.ready_place().is_ok())?;
    let process = container.processes.get(id).and_then(|uid| state.processes.get(uid));
    let now = Instant::now();
    let kept = container.kept.entry(id.clone()).or_default();
    let declaration = container.record.origin.declaration()?;
    let wanted = declaration.processes.iter().find(|process| process.id == *id);
    let declared = wanted.map(|process| Declared { policy: process.restart, revision: process.revision });
    let run = declaration.runs.get(id);
    let mut unrecorded_end = None;
    let known = match process {
        Some(process) if process.alive() => {
            kept.alive_since.get_or_insert(now);
            kept.ended_since = None;
            Known::Runs { revision: run.filter(|run| run.ended.is_none()).map(|run| run.revision) }
        }
        // Its end is being recorded; that wakes us.
        Some(process) if !process.settled => return None,
        _ => {
            let since = *kept.ended_since.get_or_insert(now);
            let end = match (process, run) {
                (Some(process), Some(Run { ended: None, .. })) => {
                    let end = end_of(process, kept.alive_since.map(|since| now.duration_since(since)));
                    unrecorded_end = Some(end.clone());
                    Some(end)
                }
                (_, Some(Run { ended: Some(end), .. })) => Some(end.clone()),
                (Some(process), None) => Some(end_of(process, None)),
                (None, _) => None,
            };
            match end {
                None => Known::Nothing,
                Some(end) => Known::Ended {
                    revision: run.map(|run| run.revision),
                    succeeded: end.succeeded(),
                    ran: Duration::from_millis(end.ran_ms),
                    ago: now.duration_since(since),
                    quick: run.map_or(0, |run| run.quick),
                },
            }
        }
    };
    Some(Look { declared, known, process: process.map(|process| process.record.uid.clone()), unrecorded_end })
}

/// How a process ended. `seen`: for how long it was seen to run.
fn end_of(process: &Process, seen: Option<Duration>) -> RunEnd {
    let record = &process.record;
    let (status, why) = match &record.state {
        ProcessState::Exited(status) => (Some(*status), None),
        ProcessState::Lost { why } => (None, Some(why.clone())),
        ProcessState::Pending | ProcessState::Running { .. } => (None, None),
    };
    let at = record.ended_at.unwrap_or_else(SystemTime::now);
    // A clock that was set back says nothing.
    let by_clock = record.created_at.and_then(|created| at.duration_since(created).ok()).unwrap_or_default();
    let ran = by_clock.max(seen.unwrap_or_default());
    RunEnd { status, why, at, ran_ms: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX) }
}

/// For whoever looks at the container.
fn note(shared: &Shared, uid: &ContainerUid, id: &ProcessId, act: Act) {
    let mut state = shared.state();
    let Some(container) = state.containers.get_mut(uid) else { return };
    let runs = container.processes.contains_key(id) && container.kept.get(id).is_some_and(|k| k.ended_since.is_none());
    let Some(kept) = container.kept.get_mut(id) else { return };
    let before = (kept.next_start, kept.done);
    match act {
        Act::Wait(wait) => {
            kept.next_start.get_or_insert_with(|| SystemTime::now() + wait);
        }
        _ => kept.next_start = None,
    }
    kept.done = act == Act::Rest && !runs;
    if act == Act::Forget {
        container.kept.remove(id);
        state.followers.changed(uid);
    } else if before != (kept.next_start, kept.done) {
        state.followers.changed(uid);
    }
}

/// Ends what runs: TERM, and KILL after the time that a stop has.
async fn stop(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    id: &ProcessId,
    process: Option<&ProcessUid>,
) -> Result<Option<Duration>, Error> {
    let now = Instant::now();
    let (sandbox, told) = {
        let mut state = shared.state();
        let Some(container) = state.containers.get_mut(uid) else { return Ok(None) };
        let sandbox = container.ready_place()?.clone();
        let kept = container.kept.entry(id.clone()).or_default();
        (sandbox, kept.told_to_end.replace(kept.told_to_end.unwrap_or(now)))
    };
    let Some(process) = process else { return Ok(None) };
    let left = told
        .map_or(shared.options.stop_grace, |told| (told + shared.options.stop_grace).saturating_duration_since(now));
    let signal = match told {
        None => Signal::Terminate,
        Some(_) if left.is_zero() => Signal::Kill,
        Some(_) => return Ok(Some(left)),
    };
    shared.node.processes.signal(&sandbox, process, signal).await?;
    Ok(Some(if signal == Signal::Kill { KILLED } else { left }))
}

/// Recorded, then started. One that cannot be started has ended.
async fn start(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    id: &ProcessId,
    quick: u32,
    before: Option<ProcessUid>,
) -> Result<(), Error> {
    let Some(start) = starting(&mut shared.state(), uid, id, quick) else { return Ok(()) };
    let (key, run) = (id.clone(), start.run);
    edit(shared, uid, move |declaration| drop(declaration.runs.insert(key.clone(), run.clone()))).await?;
    if let Some(before) = before {
        processes::forget(shared, &before);
    }
    if let Some(incident) = start.incident {
        tracing::info!(%uid, process = %id, "{}", incident.message);
        shared.state().followers.tell(&incident);
    }
    match processes::run(shared, Busy::on_uid(shared, uid), start.spec).await {
        Ok(attachment) => {
            // Nobody writes to it.
            Attachment::close_stdin(&attachment).await;
            Ok(())
        }
        Err(Error::Spawn(error)) if !matches!(error, SpawnError::InitGone { .. }) => {
            let why = format!("it could not be started: {error}");
            tracing::warn!(%uid, process = %id, %error, "a declared process could not be started");
            let end = RunEnd { status: None, why: Some(why), at: SystemTime::now(), ran_ms: 0 };
            let key = id.clone();
            edit(shared, uid, move |declaration| {
                if let Some(run) = declaration.runs.get_mut(&key) {
                    run.ended = Some(end.clone());
                }
            })
            .await
        }
        Err(error) => Err(error),
    }
}

/// What a start needs.
struct Starting {
    spec: ProcessSpec,
    run: Run,
    incident: Option<Incident>,
}

fn starting(state: &mut State, uid: &ContainerUid, id: &ProcessId, quick: u32) -> Option<Starting> {
    let container: &mut Container = state.containers.get_mut(uid)?;
    let declaration = container.record.origin.declaration()?;
    let declared = declaration.processes.iter().find(|process| process.id == *id)?;
    let same = declaration.runs.get(id).filter(|run| run.revision == declared.revision);
    let (run, again) = match same {
        // It was about to be started.
        Some(run) if run.ended.is_none() => (run.clone(), None),
        Some(run) => {
            let restarts = run.restarts.saturating_add(1);
            let run = Run { restarts, quick, ended: None, before: run.ended.clone(), ..run.clone() };
            (run.clone(), run.before.map(|end| (restarts, end)))
        }
        None => (Run { revision: declared.revision, ..Run::default() }, None),
    };
    let incident = again.map(|(restarts, end)| Incident {
        container: uid.clone(),
        declared_by: Some(declaration.by.clone()),
        handle: container.record.handle.clone(),
        kind: IncidentKind::ProcessRestarted,
        message: format!("process '{id}' {} and is started again (restart {restarts})", in_words(&end)),
        at: SystemTime::now(),
    });
    let spec = ProcessSpec { id: Some(id.clone()), ..declared.spec.clone() };
    container.kept.insert(id.clone(), Kept { alive_since: Some(Instant::now()), ..Kept::default() });
    Some(Starting { spec, run, incident })
}

fn in_words(end: &RunEnd) -> String {
    match (end.status, &end.why) {
        (Some(status), _) => format!("ended with status {}", status.as_garden()),
        (None, Some(why)) => format!("does not run ({why})"),
        (None, None) => "ended".to_owned(),
    }
}

async fn edit(
    shared: &Arc<Shared>,
    uid: &ContainerUid,
    change: impl Fn(&mut Declaration) + Send + 'static,
) -> Result<(), Error> {
    let edited = shared.edit(uid, Durable::Crash, Vec::new(), move |record| {
        if let Some(declaration) = record.origin.declaration_mut() {
            change(declaration);
        }
    });
    edited.await
}
