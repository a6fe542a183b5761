//! What the kernel killed for want of memory, told once for each kill.
//!
//! The node counts kills for as long as a place lives; a container's status holds how many of them
//! have been told. Events of the node, ends of processes, starts of gardend and the sweeper only
//! make us compare the two, so that none is missed and none told twice, whatever came in between.

use crate::ledger::Durable;
use crate::plan::Place;
use crate::record::{ContainerRecord, ContainerUid, SandboxId};
use crate::service::MESSAGE_PROPERTY;
use crate::shared::Shared;
use crate::state::{Role, State, keep_event};
use std::sync::Arc;
use std::time::Duration;
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
            for pause in LOOKS {
                tokio::time::sleep(pause).await;
                if look(&shared_, &id).await {
                    return;
                }
            }
        });
    }
}

/// A process has ended.
pub async fn look_at_end(shared: &Arc<Shared>, id: &SandboxId) {
    // Late is better than never, and the sweeper comes by.
    let _ = tokio::time::timeout(PATIENCE, look(shared, id)).await;
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
            look(&shared_, &id).await;
        }
    });
}

/// Compares for one place, and tells what has not been told. Whether there was any.
async fn look(shared: &Arc<Shared>, id: &SandboxId) -> bool {
    let seen = match shared.node.resources.oom(id).await {
        Ok(seen) => seen,
        Err(error) => {
            tracing::debug!(sandbox = %id, %error, "whether something was killed for want of memory is not known");
            return false;
        }
    };
    let Some((uid, told, limit)) = told(&shared.state(), id) else { return false };
    if seen.kills <= told {
        return false;
    }
    tracing::warn!(%uid, kills = seen.kills - told, last = seen.last.as_deref().unwrap_or("-"), "out of memory");
    let (id, kills) = (id.clone(), seen.kills);
    let words = words(kills, seen.last, limit);
    let tell = move |record: &mut ContainerRecord| {
        let new = kills.saturating_sub(record.status.oom_kills);
        if new == 0 || record.sandbox.as_ref() != Some(&id) {
            return;
        }
        record.status.oom_kills = kills;
        for _ in 0..new.min(u64::from(u8::MAX)) {
            keep_event(record, OUT_OF_MEMORY.to_owned());
        }
        record.properties.insert(MESSAGE_PROPERTY.to_owned(), words.clone());
    };
    if let Err(error) = shared.edit(&uid, Durable::Crash, Vec::new(), tell).await {
        tracing::warn!(%uid, %error, "what was killed for want of memory is not recorded; the next look tells it");
    }
    true
}

/// Whose place it is, how many kills have been told, and the container's limit.
fn told(state: &State, id: &SandboxId) -> Option<(ContainerUid, u64, u64)> {
    let Role::Of(uid) = &state.sandboxes.get(id)?.role else { return None };
    let record = &state.containers.get(uid)?.record;
    (record.sandbox.as_ref() == Some(id))
        .then(|| (uid.clone(), record.status.oom_kills, record.spec.limits.memory_bytes))
}

fn words(kills: u64, last: Option<String>, limit: u64) -> String {
    let last = last.unwrap_or_else(|| match limit {
        0 => "a process was killed: the node had no memory left".into(),
        limit => format!("a process was killed; the container's memory limit is {limit} bytes"),
    });
    let in_all = if kills == 1 { String::new() } else { format!(" ({kills} kills in all)") };
    format!("{OUT_OF_MEMORY}: {last}{in_all}")
}
