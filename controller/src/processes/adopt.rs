//! What an init knows, compared with the records, after a connection to it was made.

use super::alive;
use super::ends::{acknowledge, exited, lose};
use crate::ports::{ProcessSeen, Signal};
use crate::record::{ContainerUid, ProcessState, SandboxId};
use crate::shared::Shared;
use std::sync::Arc;

/// Known and recorded: taken over. Recorded and not known: lost. Known and not recorded: ended.
/// Nothing is being started there meanwhile: the container is not ready.
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
        // Clients were told that it is lost, when its place seemed to be.
        let told_lost = !process.alive();
        state.process_changed(&seen.uid);
        drop(state);
        match seen.exit {
            Some(status) => exited(shared, sandbox, &seen.uid, status),
            None if told_lost => end_unknown(shared, sandbox, seen),
            None => {}
        }
    }
}

/// A process that has no record, or is lost by its record: nobody counts on it.
fn end_unknown(shared: &Arc<Shared>, sandbox: &SandboxId, seen: ProcessSeen) {
    tracing::info!(process = %seen.uid, sandbox = %sandbox, "a process that nobody counts on is ended");
    let (shared_, sandbox) = (Arc::clone(shared), sandbox.clone());
    shared.spawn(async move {
        if seen.exit.is_none() {
            // Its end comes as an event, and is acknowledged then.
            if let Err(error) = shared_.node.processes.signal(&sandbox, &seen.uid, Signal::Kill).await {
                tracing::warn!(process = %seen.uid, %error, "a process that nobody counts on was not ended");
            }
        } else {
            acknowledge(&shared_, &sandbox, &seen.uid).await;
        }
        let recorded = shared_.state().processes.contains_key(&seen.uid);
        if !recorded {
            shared_.node.streams.forget(&seen.uid).await;
        }
    });
}
