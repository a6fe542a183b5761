//! [`Controller::destroy`]: recorded, then killed by the loop, then answered; the rest is swept.

use crate::error::Error;
use crate::grace;
use crate::ledger::Durable;
use crate::observe::Operation;
use crate::ports::{NodeError, NodeErrorKind};
use crate::record::{ContainerRecord, ContainerUid, DeclaredBy, Desired, Handle, Phase};
use crate::service::Controller;
use crate::shared::{Key, Shared};
use std::sync::Arc;
use tokio::time::Instant;

impl Controller {
    /// Returns once every process and mount of it is gone; the rest is swept.
    ///
    /// # Errors
    /// [`Error::Stuck`] where it does not die in time: it is retried until it does.
    /// [`Error::AlreadyDestroying`] while somebody else waits for the same. [`Error::Declared`] for
    /// one that is not a client's.
    pub async fn destroy(&self, handle: &str) -> Result<(), Error> {
        self.destroy_for(handle, &Asking::Client).await
    }

    pub(crate) async fn destroy_for(&self, handle: &str, asking: &Asking<'_>) -> Result<(), Error> {
        let following = self.shared.options.observing.follow(Operation::Destroy);
        let destroyed = self.destroy_followed(handle, asking).await;
        following.ended(&destroyed);
        destroyed
    }

    async fn destroy_followed(&self, handle: &str, asking: &Asking<'_>) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let deadline = Instant::now() + self.shared.options.destroy_deadline;
        let destroying = Destroying::begin(&self.shared, handle, asking)?;
        let uid = &destroying.uid;
        let _asked = self.shared.ask_for(uid);
        if destroying.to_record {
            let recorded = self.shared.edit(uid, Durable::Reboot, Vec::new(), |record| {
                record.desired = Desired::Absent;
                record.generation += 1;
                record.status.phase = Phase::Destroying;
            });
            recorded.await?;
        }
        tracing::info!(handle = %destroying.handle, %uid, "container is being destroyed");
        self.shared.wake(Key::Container(uid.clone()));
        let dead = self.shared.watch(uid, |container| match &container.stuck {
            _ if container.freed => Some(Ok(())),
            Some(source) => Some(Err(source.clone())),
            None => None,
        });
        let source = match tokio::time::timeout_at(deadline, dead).await {
            // Out of memory means dead and swept.
            Ok(None | Some(Ok(()))) => return Ok(()),
            Ok(Some(Err(source))) => source,
            Err(_) => self.why_not_dead(uid),
        };
        Err(Error::Stuck { handle: destroying.handle.clone(), source })
    }

    fn why_not_dead(&self, uid: &ContainerUid) -> NodeError {
        let state = self.shared.state();
        let last = state.containers.get(uid).and_then(|container| container.last_failure.clone());
        last.map_or_else(
            || {
                let waited = self.shared.options.destroy_deadline.as_secs();
                NodeError::new(NodeErrorKind::Stuck, format!("it was not dead within {waited} s"))
            },
            |(_, error)| error,
        )
    }
}

/// Who wants a container to end.
pub(crate) enum Asking<'a> {
    /// A Garden client.
    Client,
    /// Whoever declares this.
    Declarer(&'a DeclaredBy),
}

impl Asking<'_> {
    fn check(&self, record: &ContainerRecord) -> Result<(), Error> {
        match (self, record.origin.declaration().map(|declaration| &declaration.by)) {
            (Self::Client, None) => Ok(()),
            (Self::Client, Some(by)) => Err(Error::Declared { handle: record.handle.clone(), by: by.clone() }),
            (Self::Declarer(asking), Some(by)) if *asking == by => Ok(()),
            (Self::Declarer(_), _) => Err(Error::ContainerNotFound(record.handle.to_string())),
        }
    }
}

/// The one request that waits for a container's end.
struct Destroying {
    shared: Arc<Shared>,
    uid: ContainerUid,
    handle: Handle,
    to_record: bool,
}

impl Destroying {
    fn begin(shared: &Arc<Shared>, handle: &str, asking: &Asking<'_>) -> Result<Self, Error> {
        let mut state = shared.state();
        let uid = state.holder(handle)?.record.uid.clone();
        let container = state.containers.get_mut(&uid).ok_or_else(|| Error::ContainerNotFound(handle.to_owned()))?;
        asking.check(&container.record)?;
        if container.being_destroyed {
            return Err(Error::AlreadyDestroying(container.record.handle.clone()));
        }
        container.being_destroyed = true;
        container.stuck = None;
        let (handle, to_record) = (container.record.handle.clone(), container.record.desired == Desired::Present);
        Ok(Self { shared: Arc::clone(shared), uid, handle, to_record })
    }
}

impl Drop for Destroying {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(container) = state.containers.get_mut(&self.uid) {
            container.being_destroyed = false;
        }
        grace::arm(&self.shared, &mut state, &self.uid);
    }
}
