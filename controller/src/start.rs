//! Starting on a ledger that an earlier gardend may have left at any instant.
//!
//! There is no separate recovery: what was recorded is taken into memory, every init that may
//! still live is asked once (1 s, all at the same time), the node's network is made what it shall
//! be, and the loop does the rest. A create that was not answered is unwanted. After a reboot
//! nothing runs: places are dropped, processes are lost, and what is wanted is made again.

use crate::addresses::Pools;
use crate::grace;
use crate::ledger::{Change, Contents, Durable, Ledger, LedgerError};
use crate::options::{Node, Options};
use crate::plan::Place;
use crate::record::{ContainerRecord, ContainerUid, Desired, Phase, ProcessState, ProcessUid, SandboxId, SandboxKind};
use crate::service::Controller;
use crate::shared::{Key, Shared};
use crate::state::{Container, Process, Role, Sandbox, State, add_event};
use crate::timers::{self, Timer};
use crate::{attachment, drain, network, oom, places, pressure, processes, reconcile, sweeper};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long an init has to answer before the start goes on without it.
const ADOPTION: Duration = Duration::from_secs(1);

/// Why the controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Controller {
    /// Takes over what an earlier gardend left, and goes on with it. When this returns, every
    /// process whose init answered within a second can be attached to.
    /// `boot_id` tells one run of the kernel from the next (/proc/sys/kernel/random/boot_id).
    ///
    /// # Errors
    /// [`StartError`]: nothing was touched.
    pub async fn start(options: Options, ledger: Ledger, node: Node, boot_id: &str) -> Result<Self, StartError> {
        ledger.observe(options.observing.clone());
        let mut contents = ledger.load().await?;
        let changes = changes_of_boot(&mut contents, boot_id);
        if !changes.is_empty() {
            ledger.commit(changes, Durable::Reboot).await?;
        }
        let shared = Shared::new(options, node, ledger);
        let events = shared.node.processes.events();
        fill(&shared, contents);
        shared.spawn(processes::listen(Arc::clone(&shared), events));
        tokio::join!(adopt(&shared), network_first(&shared), pressure::look(&shared));
        let kept: Vec<ProcessUid> = shared.state().processes.keys().cloned().collect();
        shared.node.streams.retain(&kept).await;
        begin(&shared);
        Ok(Self::of(shared))
    }
}

/// What the ledger has to say of a boot that is not the one it knew.
fn changes_of_boot(contents: &mut Contents, boot_id: &str) -> Vec<Change> {
    if contents.boot_id.as_deref() == Some(boot_id) {
        return Vec::new();
    }
    let mut changes = vec![Change::BootId(boot_id.to_owned())];
    for record in contents.containers.iter_mut().filter(|record| record.sandbox.is_some()) {
        record.sandbox = None;
        record.status.furnished = false;
        if record.desired == Desired::Present {
            record.status.phase = Phase::Creating;
            add_event(record, "made again: the node was rebooted".into());
        }
        changes.push(Change::UpdateContainer(Box::new(record.clone())));
    }
    let ran = |state: &ProcessState| matches!(state, ProcessState::Pending | ProcessState::Running { .. });
    for process in contents.processes.iter_mut().filter(|process| ran(&process.state)) {
        process.state = ProcessState::Lost { why: "the node was rebooted".into() };
        process.ended_at = Some(SystemTime::now());
        let (uid, state) = (process.uid.clone(), process.state.clone());
        changes.push(Change::UpdateProcess { uid, state, seen: process.seen, ended_at: process.ended_at });
    }
    for sandbox in &mut contents.sandboxes {
        // Its containerd objects may still be there; a blank one is not to be looked for.
        sandbox.container.get_or_insert_with(ContainerUid::generate);
    }
    changes
}

/// Nobody is served before what containers may reach, and who reaches them, is in force.
async fn network_first(shared: &Shared) {
    if shared.options.network.is_some() {
        network::restore_at_start(shared).await;
    }
}

/// Takes the records into memory.
fn fill(shared: &Shared, mut contents: Contents) {
    let mut state = shared.state();
    let now = Instant::now();
    // Of two that say that they have the same, the older was given up; and who begins behind the
    // youngest goes on where the gardend before ended.
    contents.containers.sort_by_key(|record| {
        let wanted = record.answered && record.desired == Desired::Present;
        std::cmp::Reverse((wanted, record.created_at))
    });
    if let Some(pools) = &mut state.pools {
        contents.containers.iter().for_each(|record| pools.take_up(record));
    }
    if shared.options.pool_size > 0 {
        state.add_kind(SandboxKind::Unprivileged);
    }
    for row in contents.sandboxes {
        let role = if row.container.is_some() { Role::Discarded } else { Role::Making };
        if role == Role::Making {
            state.add_kind(row.kind);
        }
        state.sandboxes.insert(row.id, Sandbox { kind: row.kind, role });
    }
    for record in contents.containers {
        take_in(&mut state, record, now);
    }
    state.drain = contents.drain;
    drain::go_on(&mut state);
    for record in contents.processes {
        let Some(container) = state.containers.get_mut(&record.container) else { continue };
        container.processes.insert(record.id.clone(), record.uid.clone());
        let process = Process::new(record, shared.arguments());
        let uid = process.record.uid.clone();
        if !process.alive() {
            container.ended.push_back(uid.clone());
        }
        if process.record.seen {
            shared.add_timer(&mut state, now + shared.options.process_retention, Timer::Retention(uid.clone()));
        } else if let Some(timer) = attachment::close_stdin_later(&process) {
            shared.add_timer(&mut state, now + shared.options.detach_grace, timer);
        }
        state.processes.insert(uid, process);
    }
}

fn take_in(state: &mut State, record: ContainerRecord, now: Instant) {
    let uid = record.uid.clone();
    let mut container = Container::new(record, now);
    let record = &container.record;
    state.add_kind(SandboxKind::of(&record.spec));
    container.place = match &record.sandbox {
        None => Place::Nothing,
        Some(_) if record.status.furnished => Place::Furnished,
        // How far it came is not known.
        Some(_) => Place::Spoilt,
    };
    if let Some(id) = &record.sandbox {
        let kind = SandboxKind::of(&record.spec);
        state.sandboxes.insert(id.clone(), Sandbox { kind, role: Role::Of(uid.clone()) });
    }
    let handle = record.handle.as_str().to_owned();
    let wanted = record.answered && record.desired == Desired::Present;
    // One that was answered has its addresses recorded, whoever gave them.
    let has_network = |pools: &Pools| record.addresses.is_some() || (pools.given_by_node() && !record.answered);
    container.networked = state.pools.as_ref().is_some_and(has_network);
    container.unwanted = !record.answered;
    // Nobody was told of one that was not answered: its client asks again, with the same handle.
    container.freed = record.status.phase == Phase::Gone || !record.answered;
    // Its predecessor's remains may not be swept yet; the handle is the one's that is wanted.
    if !container.freed && (wanted || !state.handles.contains_key(&handle)) {
        state.handles.insert(handle, uid.clone());
    }
    state.containers.insert(uid, container);
}

/// Asks every init that may live, all at once.
async fn adopt(shared: &Arc<Shared>) {
    let (furnished, blank) = {
        let state = shared.state();
        let furnished = state.containers.iter().filter_map(|(uid, container)| {
            let id = container.record.sandbox.clone()?;
            let live = container.place == Place::Furnished && container.wanted() == crate::plan::Wanted::Present;
            live.then(|| (uid.clone(), id))
        });
        let furnished: Vec<(ContainerUid, SandboxId)> = furnished.collect();
        let blank = state.sandboxes.iter().filter(|(_, sandbox)| sandbox.role == Role::Making);
        (furnished, blank.map(|(id, _)| id.clone()).collect::<Vec<_>>())
    };
    let mut asked = JoinSet::new();
    for (uid, id) in furnished {
        let shared = Arc::clone(shared);
        asked.spawn(async move {
            let answer = tokio::time::timeout(ADOPTION, shared.node.processes.connect(&id)).await;
            let Ok(Ok(seen)) = answer else { return };
            processes::adopt(&shared, &uid, &id, seen);
            if let Some(container) = shared.state().containers.get_mut(&uid)
                && container.place == Place::Furnished
            {
                container.place = Place::Connected;
            }
        });
    }
    for id in blank {
        let shared = Arc::clone(shared);
        asked.spawn(async move {
            if tokio::time::timeout(ADOPTION, places::adopt_pooled(&shared, &id)).await.is_err()
                && let Some(sandbox) = shared.state().sandboxes.get_mut(&id)
            {
                sandbox.role = Role::Discarded;
            }
        });
    }
    while asked.join_next().await.is_some() {}
}

/// Sets everything going.
fn begin(shared: &Arc<Shared>) {
    let keys: Vec<Key> = {
        let mut state = shared.state();
        let uids: Vec<ContainerUid> = state.containers.keys().cloned().collect();
        for uid in &uids {
            grace::arm(shared, &mut state, uid);
        }
        let discarded = state.sandboxes.iter().filter(|(_, sandbox)| sandbox.role == Role::Discarded);
        let discarded = discarded.map(|(id, _)| Key::Discarded(id.clone()));
        let pools = state.kinds.iter().map(|kind| Key::Pool(*kind));
        uids.into_iter().map(Key::Container).chain(discarded).chain(pools).collect()
    };
    for key in keys {
        shared.wake(key);
    }
    if shared.options.network.is_some() {
        shared.spawn(network::keep(Arc::clone(shared), shared.node.network.disturbed()));
    }
    shared.spawn(oom::listen(Arc::clone(shared), shared.node.resources.oom_events()));
    shared.spawn(reconcile::run(Arc::clone(shared)));
    shared.spawn(sweeper::run(Arc::clone(shared)));
    shared.spawn(pressure::run(Arc::clone(shared)));
    shared.spawn(timers::run(Arc::clone(shared)));
}
