//! The node's network as it shall be: what is told to the node when it asks, and the look at the
//! whole of it, at the start, then every while, and soon after others may have changed it.
//!
//! A container's network is made with its place (`reconcile::ready`) and taken away after it
//! (`reconcile::gone`). What is wanted is answered out of memory at the moment when the node asks
//! (`ports::Network`), so a look with an older list cannot take from a container what it just got,
//! nor can a late change give back what was taken from one that is gone.

mod change;
mod reserve;

use crate::addresses::{Asked, Pools};
use crate::error::Error;
use crate::ledger::Durable;
use crate::observe::Observation;
use crate::plan::{Place, Wanted};
use crate::ports::{AttachWanted, NetworkWanted, NodeError};
use crate::record::{Addresses, ContainerRecord, ContainerUid, SandboxId};
use crate::shared::Shared;
use crate::state::{Container, State};
pub use change::{MAX_PORTS_IN, MAX_RULES_OUT, check_ports, check_rules, ensure, remove_port};
pub use reserve::Reserved;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two looks, at least: a program that changes rules without end shall not keep us busy.
const PAUSE: Duration = Duration::from_millis(500);
/// How soon it is tried again where not all could be made.
const AGAIN: Duration = Duration::from_secs(1);

/// What is wanted of one container's network, in whichever place it is.
pub fn wanted(shared: &Shared, uid: &ContainerUid) -> Option<NetworkWanted> {
    let state = shared.state();
    of(&state, state.containers.get(uid)?)
}

/// The same, as long as it is in this place.
pub fn wanted_at(shared: &Shared, uid: &ContainerUid, sandbox: &SandboxId) -> Option<NetworkWanted> {
    wanted(shared, uid).filter(|wanted| wanted.sandbox == *sandbox)
}

fn of(state: &State, container: &Container) -> Option<NetworkWanted> {
    let there = matches!(container.place, Place::Made | Place::Furnished | Place::Connected);
    let wanted = there && state.pools.is_some() && container.wanted() == Wanted::Present;
    let record = Some(&container.record).filter(|_| wanted)?;
    NetworkWanted::of(record)
}

/// What is wanted where the node's network gives addresses itself, as long as a container is in this
/// place.
fn attach_wanted(shared: &Shared, uid: &ContainerUid, sandbox: &SandboxId) -> Option<AttachWanted> {
    let state = shared.state();
    let container = state.containers.get(uid)?;
    let given = container.networked && state.pools.as_ref().is_some_and(Pools::given_by_node);
    let here = container.place == Place::Made && container.record.sandbox.as_ref() == Some(sandbox);
    let record = Some(&container.record).filter(|_| given && here && container.wanted() == Wanted::Present)?;
    Some(AttachWanted {
        container: record.uid.clone(),
        handle: record.handle.clone(),
        sandbox: sandbox.clone(),
        // It was understood when it was admitted.
        asked: Asked::parse(record.spec.network.as_deref()).unwrap_or(Asked::OfThePool),
        ports_in: record.ports_in.clone(),
        bandwidth_rate: record.spec.limits.bandwidth_rate,
        bandwidth_burst: record.spec.limits.bandwidth_burst,
    })
}

/// Has a place given its addresses, where that is the node's to do, and records them.
pub async fn attach(shared: &Arc<Shared>, uid: &ContainerUid, sandbox: &SandboxId) -> Result<(), AttachError> {
    let wanted = || attach_wanted(shared, uid, sandbox);
    if wanted().is_none() {
        return Ok(());
    }
    let found = |addresses: Addresses| {
        if let Some(container) = shared.state().containers.get_mut(uid) {
            container.record.addresses = Some(addresses);
        }
    };
    let addresses = shared.node.network.attach(&wanted, &found).await.map_err(AttachError::Node)?;
    let edit = move |record: &mut ContainerRecord| record.addresses = Some(addresses.clone());
    shared.edit(uid, Durable::Crash, Vec::new(), edit).await.map_err(AttachError::Ledger)
}

/// Why a place has no addresses.
pub enum AttachError {
    Node(NodeError),
    Ledger(Error),
}

/// Makes the whole node's network what it shall be; whether all of it is.
pub async fn restore(shared: &Shared) -> bool {
    let all = || {
        let state = shared.state();
        state.containers.values().filter_map(|container| of(&state, container)).collect()
    };
    let began = Instant::now();
    let restored = shared.node.network.restore(&all).await;
    shared.state().network_fault = restored.clone().err();
    shared.options.observing.tell(Observation::Network { failed: restored.is_err(), took: began.elapsed() });
    if let Err(error) = &restored {
        tracing::warn!(%error, "the node's network is not in order; it is tried again");
    }
    restored.is_ok()
}

/// The first look, before anybody is served. Creates that an earlier gardend did not answer have
/// no network any more after it, so that who asks for theirs again can have it.
pub async fn restore_at_start(shared: &Shared) {
    if !restore(shared).await {
        shared.network_soon.notify_one();
        return;
    }
    let mut state = shared.state();
    let unanswered = state.containers.values_mut().filter(|container| !container.record.answered);
    let unanswered: Vec<ContainerUid> = unanswered
        .map(|container| {
            container.networked = false;
            container.record.uid.clone()
        })
        .collect();
    for uid in unanswered {
        state.give_back_addresses(&uid);
    }
}

/// Looks every while, and when there is reason to.
pub async fn keep(shared: Arc<Shared>, mut disturbed: mpsc::Receiver<()>) {
    let mut pause = shared.options.sweep_interval;
    loop {
        tokio::select! {
            // Cancel-safe: it starts anew each time.
            () = tokio::time::sleep(pause) => {}
            // Cancel-safe: a notification that comes meanwhile is kept.
            () = shared.network_soon.notified() => {}
            // Cancel-safe: a message is received or stays.
            Some(()) = disturbed.recv() => tracing::info!("others may have changed the node's network; it is looked at"),
        }
        // Several disturbances are one reason.
        while disturbed.try_recv().is_ok() {}
        let restored = restore(&shared).await;
        pause = if restored { shared.options.sweep_interval } else { AGAIN.min(shared.options.sweep_interval) };
        tokio::time::sleep(PAUSE.min(pause)).await;
    }
}
