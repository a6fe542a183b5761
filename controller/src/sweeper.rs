//! The periodic look at what is really there. Events make things fast; this makes them right.
//!
//! ```text
//!   place on the node    record       what is done
//!   there                none         removed
//!   there, not running   container's  its init is asked; dead: lost, and made again
//!   there, not running   pool's       removed, another is made
//!   none                 any          as not running
//!   layers               none         released
//! ```
//!
//! Promises: never waits on one container; judges only places that were recorded as made before
//! it looked; touches nothing that the ports do not call ours.

use crate::images;
use crate::observe::{Leak, Observation};
use crate::oom;
use crate::plan::Place;
use crate::ports::{NodeError, NodeErrorKind, SandboxSeen};
use crate::processes;
use crate::record::{ContainerUid, SandboxId};
use crate::shared::{Key, Shared};
use crate::state::{Role, Sandbox};
use crate::{places, record::SandboxKind};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How soon it looks again while containerd is away.
const AWAY: Duration = Duration::from_secs(1);

/// Looks now, and then every while.
pub async fn run(shared: Arc<Shared>) {
    loop {
        sweep(&shared).await;
        let away = shared.state().unavailable.is_some();
        let pause = if away { AWAY.min(shared.options.sweep_interval) } else { shared.options.sweep_interval };
        tokio::select! {
            // Cancel-safe: it starts anew each time.
            () = tokio::time::sleep(pause) => {}
            // Cancel-safe: a notification that comes meanwhile is kept.
            () = shared.sweep_soon.notified(), if !away => {}
        }
    }
}

/// One look.
pub async fn sweep(shared: &Arc<Shared>) {
    let began = Instant::now();
    let before = live_places(shared);
    let places = shared.node.sandboxes.list().await;
    shared.heard(&places);
    let mut failed = places.is_err();
    match places {
        Ok(seen) => compare_places(shared, &before, &seen),
        Err(error) => tracing::warn!(%error, "the node's places could not be listed"),
    }
    match shared.node.rootfs.list().await {
        Ok(seen) => compare_layers(shared, seen),
        Err(error) => {
            tracing::warn!(%error, "the containers' files could not be listed");
            failed = true;
        }
    }
    look_at_everything(shared);
    // It has layers to remove, perhaps, and no look waits for that.
    shared.spawn(images::collect_surplus(Arc::clone(shared)));
    look_for_exits(shared, before);
    oom::look_at_all(shared);
    shared.state().swept = Some(Instant::now());
    shared.options.observing.tell(Observation::Sweep { failed, took: began.elapsed() });
}

/// Places that ought to be running, and whose they are.
fn live_places(shared: &Shared) -> HashMap<SandboxId, Role> {
    let state = shared.state();
    let live = |(id, sandbox): (&SandboxId, &Sandbox)| {
        let live = match &sandbox.role {
            Role::Pooled => true,
            Role::Of(uid) => state.containers.get(uid).is_some_and(|container| {
                container.record.sandbox.as_ref() == Some(id)
                    && matches!(container.place, Place::Furnished | Place::Connected)
            }),
            Role::Making | Role::Discarded => false,
        };
        live.then(|| (id.clone(), sandbox.role.clone()))
    };
    state.sandboxes.iter().filter_map(live).collect()
}

fn compare_places(shared: &Arc<Shared>, before: &HashMap<SandboxId, Role>, seen: &[SandboxSeen]) {
    let mut state = shared.state();
    for place in seen {
        // Recorded before it was made: one that is not known now never was, or is removed.
        state.sandboxes.entry(place.id.clone()).or_insert_with(|| {
            tracing::info!(sandbox = %place.id, "a place without a record is removed");
            shared.options.observing.tell(Observation::Leak(Leak::Place));
            Sandbox { kind: SandboxKind::Unprivileged, role: Role::Discarded }
        });
    }
    let discarded = state.sandboxes.iter().filter(|(_, place)| place.role == Role::Discarded);
    let discarded: Vec<_> = discarded.map(|(id, _)| id.clone()).collect();
    drop(state);
    for id in discarded {
        shared.nudge(Key::Discarded(id));
    }
    let running: HashSet<_> = seen.iter().filter(|place| place.running).map(|place| &place.id).collect();
    for id in before.keys().filter(|id| !running.contains(id)) {
        let (shared_, id) = (Arc::clone(shared), id.clone());
        shared.spawn(async move { ask_init(&shared_, &id).await });
    }
}

/// A place is not among the running. Its init is the one to know.
async fn ask_init(shared: &Arc<Shared>, id: &SandboxId) {
    match shared.node.processes.connect(id).await {
        Ok(_) => tracing::warn!(sandbox = %id, "a place is not listed as running, but its init answers; it stays"),
        Err(NodeError { message, .. }) => places::init_gone(shared, id, &message),
    }
}

fn compare_layers(shared: &Shared, seen: Vec<ContainerUid>) {
    let unknown: Vec<_> = {
        let state = shared.state();
        seen.into_iter().filter(|uid| !state.containers.contains_key(uid)).collect()
    };
    for uid in unknown {
        shared.options.observing.tell(Observation::Leak(Leak::Files));
        shared.nudge(Key::Layers(uid));
    }
}

/// Nothing depends on a wake having come.
fn look_at_everything(shared: &Shared) {
    let (containers, kinds) = {
        let state = shared.state();
        (state.containers.keys().cloned().collect::<Vec<_>>(), state.kinds.clone())
    };
    for uid in containers {
        shared.nudge(Key::Container(uid));
    }
    for kind in kinds {
        shared.nudge(Key::Pool(kind));
    }
}

/// Nothing depends on an exit having been told.
fn look_for_exits(shared: &Arc<Shared>, places: HashMap<SandboxId, Role>) {
    for (id, role) in places {
        let Role::Of(uid) = role else { continue };
        let busy = {
            let state = shared.state();
            state.containers.get(&uid).is_some_and(|container| {
                let alive = |process| state.processes.get(process).is_some_and(crate::state::Process::alive);
                container.place == Place::Connected && container.processes.values().any(alive)
            })
        };
        if busy {
            let shared_ = Arc::clone(shared);
            shared.spawn(async move {
                match shared_.node.processes.connect(&id).await {
                    Ok(seen) => {
                        for seen in seen {
                            if let Some(status) = seen.exit {
                                processes::exited(&shared_, &id, &seen.uid, status);
                            }
                        }
                    }
                    Err(error) if error.kind == NodeErrorKind::NotFound => {
                        places::init_gone(&shared_, &id, &error.message);
                    }
                    Err(error) => tracing::warn!(sandbox = %id, %error, "an init does not answer"),
                }
            });
        }
    }
}
