//! How long a container goes without a client.
//!
//! Whoever holds a [`Busy`] on a container is a client: a request while it runs, a stream while it
//! flows. The count starts when the last one is dropped; at its end the container is destroyed by
//! the loop, like any other. Time is monotonic; a restart counts from the beginning. Who is declared
//! has none: it stays until its declaration goes.

use crate::error::Error;
use crate::plan::Wanted;
use crate::record::ContainerUid;
use crate::shared::{Key, Shared};
use crate::state::{Container, State};
use crate::timers::Timer;
use std::sync::Arc;
use tokio::time::Instant;

/// A client on a container. Dropping it locks the state.
pub struct Busy {
    shared: Arc<Shared>,
    uid: ContainerUid,
}

impl Busy {
    /// On the container that holds this handle.
    pub fn on(shared: &Arc<Shared>, handle: &str) -> Result<Self, Error> {
        let uid = shared.state().holder(handle)?.record.uid.clone();
        Ok(Self::on_uid(shared, &uid))
    }

    /// On this container, which may be gone.
    pub fn on_uid(shared: &Arc<Shared>, uid: &ContainerUid) -> Self {
        if let Some(container) = shared.state().containers.get_mut(uid) {
            container.busy += 1;
        }
        Self { shared: Arc::clone(shared), uid: uid.clone() }
    }

    /// Which.
    pub fn uid(&self) -> &ContainerUid {
        &self.uid
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(container) = state.containers.get_mut(&self.uid) else { return };
        container.busy = container.busy.saturating_sub(1);
        if container.busy == 0 {
            container.idle_since = Instant::now();
            arm(&self.shared, &mut state, &self.uid);
        }
    }
}

/// Sees to it that the end of a container's grace time is noticed.
pub fn arm(shared: &Shared, state: &mut State, uid: &ContainerUid) {
    let Some(container) = state.containers.get_mut(uid) else { return };
    let Some(due) = due(container) else { return };
    if container.grace_armed.is_none_or(|armed| due < armed) {
        container.grace_armed = Some(due);
        shared.add_timer(state, due, Timer::Grace(uid.clone()));
    }
}

/// When its grace time is over, as things are.
fn due(container: &Container) -> Option<Instant> {
    let declared = container.record.origin.declaration().is_some();
    let counts = container.busy == 0 && container.record.answered && container.wanted() == Wanted::Present && !declared;
    container.record.grace_time.filter(|_| counts).and_then(|grace| container.idle_since.checked_add(grace))
}

/// A timer of [`arm`]'s has come.
pub fn look(shared: &Shared, uid: &ContainerUid) {
    let mut state = shared.state();
    let now = Instant::now();
    let Some(container) = state.containers.get_mut(uid) else { return };
    if container.grace_armed.is_some_and(|armed| armed <= now) {
        container.grace_armed = None;
    }
    if due(container).is_some_and(|due| due <= now) {
        tracing::info!(handle = %container.record.handle, %uid, "nobody came within its grace time; it is destroyed");
        container.unwanted = true;
        drop(state);
        shared.wake(Key::Container(uid.clone()));
    } else {
        arm(shared, &mut state, uid);
    }
}
