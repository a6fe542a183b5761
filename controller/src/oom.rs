//! What the kernel killed for want of memory, told once for each kill.
//!
//! The node counts kills for as long as a place lives; a container's status holds how many of them
//! have been told. Events of the node, ends of processes, starts of gardend and the sweeper only
//! make us compare the two, so that none is missed and none told twice, whatever came in between.

use crate::ledger::Durable;
use crate::news::{Incident, IncidentKind};
use crate::observe::Observation;
use crate::plan::Place;
use crate::record::{
    ContainerRecord, ContainerUid, ExitStatus, OutOfMemory, ProcessRecord, ProcessState, ProcessUid, SandboxId,
};
use crate::service::MESSAGE_PROPERTY;
use crate::shared::Shared;
use crate::state::{Role, State, keep_event};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// The event, once for each kill.
pub const OUT_OF_MEMORY: &str = "Out of memory";
/// The node tells of want before it has chosen whom to kill: looks after that.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];
/// How long the end of a process waits for a look, so that whoever hears of the end finds the event.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads what the node tells, until the end.
pub async fn listen(shared: Arc<Shared>, mut events: mpsc::Receiver<SandboxId>) {
    while let Some(id) = events.recv().await {
        let shared_ = Arc::clone(&shared);
        shared.spawn(async move {
            for (number, pause) in LOOKS.into_iter().enumerate() {
                tokio::time::sleep(pause).await;
                // Who it was may show by an end that is just being told.
                let nameless = if number + 1 < LOOKS.len() { Nameless::Leave } else { Nameless::Tell };
                if look(&shared_, &id, None, nameless).await {
                    return;
                }
            }
        });
    }
}

/// A process has ended.
pub async fn look_at_end(shared: &Arc<Shared>, id: &SandboxId, process: &ProcessUid, status: ExitStatus) {
    let ended = match shared.state().processes.get(process).map(|process| &process.record) {
        Some(ProcessRecord { id, state, spec, .. }) if status == ExitStatus::Signal(9) => Some(Ended {
            who: match state {
                ProcessState::Running { pid: pid @ 1.. } => {
                    format!("process '{id}' (pid {pid} on the node) was killed")
                }
                _ => format!("process '{id}' was killed"),
            },
            own_limit: spec.limits.memory_bytes,
        }),
        _ => None,
    };
    // Late is better than never, and the sweeper comes by.
    let _ = tokio::time::timeout(PATIENCE, look(shared, id, ended, Nameless::Tell)).await;
}

/// A process that was killed just now, whoever by.
struct Ended {
    who: String,
    /// 0 where it has none.
    own_limit: u64,
}

/// Compares for one container.
pub fn look_at(shared: &Arc<Shared>, id: &SandboxId) {
    let (shared_, id) = (Arc::clone(shared), id.clone());
    shared.spawn(async move {
        look(&shared_, &id, None, Nameless::Tell).await;
    });
}

/// Compares for every container; each by itself.
pub fn look_at_all(shared: &Arc<Shared>) {
    let ids: Vec<SandboxId> = {
        let state = shared.state();
        let live = state.containers.values().filter(|container| container.place == Place::Connected);
        live.filter_map(|container| container.record.sandbox.clone()).collect()
    };
    let shared_ = Arc::clone(shared);
    shared.spawn(async move {
        for id in ids {
            look(&shared_, &id, None, Nameless::Tell).await;
        }
    });
}

/// What is done of a kill of which it is not known who was killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nameless {
    Tell,
    Leave,
}

/// Compares for one place, and tells what has not been told. Whether there was any.
async fn look(shared: &Arc<Shared>, id: &SandboxId, ended: Option<Ended>, nameless: Nameless) -> bool {
    let seen = match shared.node.resources.oom(id).await {
        Ok(seen) => seen,
        Err(error) => {
            tracing::debug!(sandbox = %id, %error, "whether something was killed for want of memory is not known");
            return false;
        }
    };
    let Some(Told { uid, kills: told, words: before, limit }) = told(&shared.state(), id) else { return false };
    if seen.kills <= told {
        return false;
    }
    // The node does not name everyone: a name that was told is somebody else's.
    let last = seen.last.filter(|last| !before.contains(last.as_str()));
    if last.is_none() && ended.is_none() && nameless == Nameless::Leave {
        return false;
    }
    tracing::warn!(%uid, kills = seen.kills - told, last = last.as_deref().or(ended.as_ref().map(|ended| ended.who.as_str())).unwrap_or("-"), "out of memory");
    shared.options.observing.tell(Observation::OutOfMemory { kills: seen.kills - told });
    let (id, kills) = (id.clone(), seen.kills);
    let words = words(kills, last, ended, limit);
    let (message, at) = (words.clone(), SystemTime::now());
    let tell = move |record: &mut ContainerRecord| {
        let new = kills.saturating_sub(record.status.oom_kills);
        if new == 0 || record.sandbox.as_ref() != Some(&id) {
            return;
        }
        record.status.oom_kills = kills;
        record.status.last_oom = Some(OutOfMemory { what: words.clone(), at, limit });
        for _ in 0..new.min(u64::from(u8::MAX)) {
            keep_event(record, OUT_OF_MEMORY.to_owned());
        }
        record.properties.insert(MESSAGE_PROPERTY.to_owned(), words.clone());
    };
    match shared.edit(&uid, Durable::Crash, Vec::new(), tell).await {
        Ok(()) => tell_followers(shared, &uid, message, at),
        Err(error) => {
            tracing::warn!(%uid, %error, "what was killed for want of memory is not recorded; the next look tells it");
        }
    }
    true
}

fn tell_followers(shared: &Shared, uid: &ContainerUid, message: String, at: SystemTime) {
    let state = shared.state();
    let Some(container) = state.containers.get(uid) else { return };
    let handle = container.record.handle.clone();
    let kind = IncidentKind::OutOfMemory;
    let declared_by = state.declared_by(uid);
    state.followers.tell(&Incident { container: uid.clone(), declared_by, handle, kind, message, at });
}

/// What has been told of a place.
struct Told {
    uid: ContainerUid,
    kills: u64,
    words: String,
    limit: u64,
}

fn told(state: &State, id: &SandboxId) -> Option<Told> {
    let Role::Of(uid) = &state.sandboxes.get(id)?.role else { return None };
    let record = &state.containers.get(uid)?.record;
    (record.sandbox.as_ref() == Some(id)).then(|| Told {
        uid: uid.clone(),
        kills: record.status.oom_kills,
        words: record.properties.get(MESSAGE_PROPERTY).cloned().unwrap_or_default(),
        limit: record.spec.limits.memory_bytes,
    })
}

fn words(kills: u64, last: Option<String>, ended: Option<Ended>, limit: u64) -> String {
    let last = last.unwrap_or_else(|| {
        let (who, own) = ended.map_or(("a process was killed".into(), 0), |ended| (ended.who, ended.own_limit));
        match limit {
            _ if own > 0 => format!("{who}; its own memory limit is {own} bytes"),
            0 => format!("{who}: the node had no memory left"),
            limit => format!("{who}; the container's memory limit is {limit} bytes"),
        }
    });
    let in_all = if kills == 1 { String::new() } else { format!(" ({kills} kills in all)") };
    format!("{OUT_OF_MEMORY}: {last}{in_all}")
}
