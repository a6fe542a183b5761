//! Draining: the node takes no new containers, and those that it has go, by themselves or not.
//!
//! ```text
//!   Refuse     nothing new; what there is is used as ever, until its clients destroy it
//!   Destroy    and all of it is destroyed, whoever asked for it
//!   Uninstall  and once nothing is left, gardend's records are not wanted either
//! ```
//!
//! Promises: recorded before it is so, and in force until it is ended, over any restart; blank
//! places go as well. A drain that is asked for again never becomes less. Leaves to others: who may
//! ask, images, and what a gardend that ends removes of itself.

use crate::error::Error;
use crate::ledger::{Change, Durable};
use crate::plan::Wanted;
use crate::record::{ContainerUid, Handle};
use crate::service::Controller;
use crate::shared::{Key, Shared};
use crate::state::{Role, State};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How far a drain goes; each further than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Nothing new.
    Refuse,
    /// And what there is is destroyed.
    Destroy,
    /// And the records are not wanted afterwards.
    Uninstall,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainView {
    /// How the node is being drained; `None`: it is not.
    pub drain: Option<Drain>,
    /// Containers that are left, by their handles.
    pub containers: Vec<Remaining>,
    /// Places that are left, blank ones and those that are being removed among them.
    pub places: usize,
}

impl DrainView {
    /// It is being drained, and nothing is left.
    pub fn drained(&self) -> bool {
        self.drain.is_some() && self.containers.is_empty() && self.places == 0
    }
}

/// A container that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// What its client calls it.
    pub handle: Handle,
    /// It is being destroyed, or swept.
    pub going: bool,
    /// Why it does not go, where that was tried.
    pub stuck: Option<String>,
}

impl Controller {
    /// Drains the node, or drains it further. Answered once that is recorded and in force; what
    /// goes, goes by itself.
    ///
    /// # Errors
    /// [`Error::Ledger`], and nothing has changed.
    pub async fn drain(&self, drain: Drain) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let _one_at_a_time = self.shared.draining.lock().await;
        let before = self.shared.state().drain;
        let drain = before.map_or(drain, |before| before.max(drain));
        if before == Some(drain) {
            return Ok(());
        }
        self.shared.ledger.commit(vec![Change::Drain(Some(drain))], Durable::Reboot).await?;
        let woken = {
            let mut state = self.shared.state();
            state.drain = Some(drain);
            state.followers.node_changed();
            go_on(&mut state)
        };
        tracing::info!(?drain, "the node is being drained: new containers are refused");
        woken.into_iter().for_each(|key| self.shared.wake(key));
        Ok(())
    }

    /// Takes containers again. What a drain has begun to destroy goes nevertheless.
    ///
    /// # Errors
    /// [`Error::Ledger`], and nothing has changed.
    pub async fn undrain(&self) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let _one_at_a_time = self.shared.draining.lock().await;
        if self.shared.state().drain.is_none() {
            return Ok(());
        }
        self.shared.ledger.commit(vec![Change::Drain(None)], Durable::Reboot).await?;
        let kinds = {
            let mut state = self.shared.state();
            state.drain = None;
            state.followers.node_changed();
            state.kinds.clone()
        };
        tracing::info!("the node is not drained any more: new containers are taken");
        kinds.into_iter().for_each(|kind| self.shared.wake(Key::Pool(kind)));
        Ok(())
    }

    /// Whether the node is being drained: nothing new is made on it.
    pub fn draining(&self) -> bool {
        self.shared.state().drain.is_some()
    }

    /// How far it is.
    pub fn drain_view(&self) -> DrainView {
        let state = self.shared.state();
        let remaining = |container: &crate::state::Container| Remaining {
            handle: container.record.handle.clone(),
            going: container.freed || container.wanted() == Wanted::Absent,
            stuck: container.stuck.as_ref().map(ToString::to_string),
        };
        let mut containers: Vec<_> = state.containers.values().map(remaining).collect();
        containers.sort_by(|one, other| one.handle.as_str().cmp(other.handle.as_str()));
        DrainView { drain: state.drain, containers, places: state.sandboxes.len() }
    }
}

/// Whether it is being drained and nothing is left.
pub fn drained(state: &State) -> bool {
    state.drain.is_some() && state.containers.is_empty() && state.sandboxes.is_empty()
}

/// What a drain does to what there is; answers what has to be looked at for that. A place that is
/// being made for the pool is discarded by its maker.
pub fn go_on(state: &mut State) -> Vec<Key> {
    let Some(drain) = state.drain else { return Vec::new() };
    let mut keys = Vec::new();
    for (id, sandbox) in &mut state.sandboxes {
        if sandbox.role == Role::Pooled {
            sandbox.role = Role::Discarded;
            keys.push(Key::Discarded(id.clone()));
        }
    }
    if drain >= Drain::Destroy {
        let mut unwanted: Vec<ContainerUid> = Vec::new();
        for (uid, container) in &mut state.containers {
            container.unwanted = true;
            container.changed.send_replace(());
            unwanted.push(uid.clone());
        }
        unwanted.iter().for_each(|uid| state.followers.changed(uid));
        keys.extend(unwanted.into_iter().map(Key::Container));
    }
    keys
}

/// Tells once that nothing is left.
pub fn tell(shared: &Arc<Shared>) {
    let mut state = shared.state();
    let drained = drained(&state);
    if drained && !state.told_drained {
        tracing::info!("the node is drained: nothing is left of its containers");
        state.followers.node_changed();
    }
    state.told_drained = drained;
}
