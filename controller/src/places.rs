//! Places that are no container's: the pool of blank ones, and the dead ones that are removed.
//!
//! Promises: a blank place is handed out once, and is marked taken in the ledger before anything
//! is done to it; making places for the pool yields to creates that wait; what is discarded is
//! removed, however often that has to be tried, a few at a time.

use crate::drain;
use crate::ledger::{Change, Durable};
use crate::plan::{Place, Wanted};
use crate::ports::NodeError;
use crate::processes;
use crate::queue::Verdict;
use crate::record::{ContainerUid, Handle, SandboxId, SandboxKind, SandboxRecord};
use crate::shared::{Key, Shared};
use crate::state::{Role, Sandbox};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long the pool waits for its turn when creates need all there is.
const YIELD: Duration = Duration::from_millis(20);
/// How often writing a label is tried. It is for people; nothing depends on it.
const LABEL_TRIES: u32 = 5;

/// Makes one blank place, if one is missing.
pub async fn refill(shared: &Arc<Shared>, kind: SandboxKind) -> Verdict {
    let id = {
        let mut state = shared.state();
        if state.pooled(kind) >= state.pool_target(shared.options.pool_size) {
            return Verdict::Rest;
        }
        let id = SandboxId::generate();
        state.sandboxes.insert(id.clone(), Sandbox { kind, role: Role::Making });
        id
    };
    // Creates wait for a permit; the pool takes one only where one is left over.
    let Ok(permit) = Arc::clone(&shared.limits.makes).try_acquire_owned() else {
        shared.state().sandboxes.remove(&id);
        return Verdict::After(YIELD);
    };
    let row = SandboxRecord { id: id.clone(), kind, container: None };
    if let Err(error) = shared.ledger.commit(vec![Change::PutSandbox(row)], Durable::Crash).await {
        tracing::warn!(%error, "a place for the pool was not recorded");
        shared.state().sandboxes.remove(&id);
        return Verdict::Failed;
    }
    let made = make(shared, &id, kind).await;
    drop(permit);
    let mut state = shared.state();
    let draining = state.drain.is_some();
    let Some(sandbox) = state.sandboxes.get_mut(&id) else { return Verdict::After(Duration::ZERO) };
    match made {
        Ok(()) if sandbox.role == Role::Making && !draining => {
            sandbox.role = Role::Pooled;
            Verdict::After(Duration::ZERO)
        }
        made => {
            sandbox.role = Role::Discarded;
            drop(state);
            if let Err(error) = made {
                tracing::warn!(sandbox = %id, %error, "a place for the pool was not made");
            }
            shared.wake(Key::Discarded(id));
            Verdict::Failed
        }
    }
}

async fn make(shared: &Shared, id: &SandboxId, kind: SandboxKind) -> Result<(), NodeError> {
    let made = shared.node.sandboxes.ensure(id, kind).await;
    shared.heard(&made);
    made?;
    // So that whoever takes it finds the connection made.
    shared.node.processes.connect(id).await.map(drop)
}

/// Takes a place of an earlier gardend's pool over, if it still is a blank one with a life in it, and
/// as this one would make it.
pub async fn adopt_pooled(shared: &Arc<Shared>, id: &SandboxId) {
    let Some(kind) = shared.state().sandboxes.get(id).map(|sandbox| sandbox.kind) else { return };
    let blank = match shared.node.processes.connect(id).await {
        Ok(seen) => seen.is_empty() && shared.node.sandboxes.is_current(id, kind).await,
        Err(_) => false,
    };
    let mut state = shared.state();
    let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
    sandbox.role = Role::Discarded;
    if blank && state.pooled(kind) < state.pool_target(shared.options.pool_size) {
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.role = Role::Pooled;
        }
    } else {
        drop(state);
        shared.wake(Key::Discarded(id.clone()));
    }
}

/// Removes a place that is nobody's any more.
pub async fn remove(shared: &Arc<Shared>, id: &SandboxId) -> Verdict {
    if shared.state().sandboxes.get(id).is_none_or(|sandbox| sandbox.role != Role::Discarded) {
        return Verdict::Rest;
    }
    // Dead already where it was a container's; that is found out at once.
    if let Err(error) = shared.node.sandboxes.kill(id).await {
        tracing::warn!(sandbox = %id, %error, "a place does not die; it is tried again");
        return Verdict::Failed;
    }
    shared.node.processes.disconnect(id).await;
    let permit = shared.limits.removals.acquire().await;
    let removed = shared.node.sandboxes.remove(id).await;
    drop(permit);
    shared.heard(&removed);
    if let Err(error) = removed {
        tracing::warn!(sandbox = %id, %error, "a place is not removed; it is tried again");
        return Verdict::Failed;
    }
    if let Err(error) = shared.ledger.commit(vec![Change::DeleteSandbox(id.clone())], Durable::Crash).await {
        tracing::warn!(sandbox = %id, %error, "the row of a place is not deleted; it is tried again");
        return Verdict::Failed;
    }
    shared.state().sandboxes.remove(id);
    drain::tell(shared);
    Verdict::Rest
}

/// Releases what a container without a record left on the host.
pub async fn release_layers(shared: &Arc<Shared>, uid: &ContainerUid) -> Verdict {
    if shared.state().containers.contains_key(uid) {
        return Verdict::Rest;
    }
    let permit = shared.limits.removals.acquire().await;
    let released = shared.node.rootfs.release(uid).await;
    drop(permit);
    match released {
        Ok(()) => Verdict::Rest,
        Err(error) => {
            tracing::warn!(%uid, %error, "files without a record are not released; it is tried again");
            Verdict::Failed
        }
    }
}

/// An init is gone. Whoever had its place gets another; what ran there is lost.
pub fn init_gone(shared: &Arc<Shared>, id: &SandboxId, reason: &str) {
    let mut state = shared.state();
    let Some(sandbox) = state.sandboxes.get_mut(id) else { return };
    let key = match sandbox.role.clone() {
        Role::Discarded | Role::Making => return,
        Role::Pooled => {
            sandbox.role = Role::Discarded;
            let kind = sandbox.kind;
            drop(state);
            shared.wake(Key::Pool(kind));
            Key::Discarded(id.clone())
        }
        Role::Of(uid) => {
            let Some(container) = state.containers.get_mut(&uid) else { return };
            if container.record.sandbox.as_ref() != Some(id) || container.place < Place::Made {
                return;
            }
            let handle = &container.record.handle;
            match container.wanted() {
                Wanted::Present => tracing::warn!(%handle, %uid, reason, "the container's init is gone"),
                Wanted::Absent => tracing::debug!(%handle, %uid, reason, "the container's init is gone, as wanted"),
            }
            container.place = Place::Spoilt;
            container.why_spoilt = Some(format!("its init is gone: {reason}"));
            state.followers.changed(&uid);
            drop(state);
            processes::lose_all(shared, &uid, &format!("the container's init is gone: {reason}"));
            Key::Container(uid)
        }
    };
    shared.wake(key);
}

/// Writes on a place whose it is, some time.
pub async fn label(shared: Arc<Shared>, id: SandboxId, uid: ContainerUid, handle: Handle) {
    for attempt in 1..=LABEL_TRIES {
        let result = {
            let _permit = semaphore(&shared.limits.labels).await;
            let still = shared.state().sandboxes.get(&id).is_some_and(|sandbox| sandbox.role == Role::Of(uid.clone()));
            if !still {
                return;
            }
            shared.node.sandboxes.label(&id, &uid, &handle).await
        };
        match result {
            Ok(()) => return,
            Err(error) => tracing::debug!(%handle, %uid, %error, "a place was not labelled"),
        }
        tokio::time::sleep(crate::queue::backoff(attempt * 3, 1.0)).await;
    }
}

async fn semaphore(semaphore: &Semaphore) -> Option<tokio::sync::SemaphorePermit<'_>> {
    // Never closed, so that there always is a permit in the end.
    semaphore.acquire().await.ok()
}
