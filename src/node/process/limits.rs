//! Where a process is held to limits: its container's, or its own.
//!
//! The groups themselves are [`crate::node::cgroup::own`]'s. Here it is known which of them are
//! still wanted: one from before its process is asked for until how it ended is recorded. What a
//! process leaves behind keeps its group until it has ended too; it is looked at again whenever
//! another process of the place ends, and with the place everything goes.

use super::adopt::Inner;
use crate::node::cgroup::{Groups, own};
use crate::node::place::Folders;
use gardend_controller::ports::SpawnError;
use gardend_controller::record::{ProcessLimits, ProcessUid, SandboxId};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// The groups of all places' processes.
pub struct Limits {
    groups: Groups,
    folders: Folders,
    known: Mutex<Known>,
    /// Groups are removed, and what was killed in them is added up, by one at a time.
    tidying: Mutex<()>,
    runtime: Handle,
}

#[derive(Default)]
struct Known {
    /// Processes that are being started.
    starting: HashSet<ProcessUid>,
    /// Places with groups of processes. Only these are looked at.
    places: HashSet<SandboxId>,
}

/// The groups that a process is to join. Dropped once its start is decided: from then on it is known
/// by itself, or not at all.
pub struct Room {
    limits: Arc<Limits>,
    to_join: Vec<PathBuf>,
    own: Option<(SandboxId, ProcessUid)>,
}

impl Room {
    /// Folders of groups.
    pub fn to_join(&self) -> &[PathBuf] {
        &self.to_join
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some((sandbox, uid)) = self.own.take() else { return };
        self.limits.known().starting.remove(&uid);
        let limits = Arc::clone(&self.limits);
        // Where it did not start the group is empty; where it did it is not.
        let runtime = self.limits.runtime.clone();
        runtime.spawn_blocking(move || limits.remove(&sandbox, |other| *other != uid));
    }
}

impl Limits {
    /// Within the runtime that everything will run on.
    pub fn new(groups: Groups, folders: Folders) -> Self {
        Self { groups, folders, known: Mutex::default(), tidying: Mutex::default(), runtime: Handle::current() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a process has to join, which is made where it has limits of its own.
    pub async fn room(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        uid: &ProcessUid,
        asked: &ProcessLimits,
    ) -> Result<Room, SpawnError> {
        let place = self.groups.place(sandbox);
        if !asked.any() {
            return Ok(Room { limits: Arc::clone(self), to_join: place.to_join(), own: None });
        }
        {
            let mut known = self.known();
            known.starting.insert(uid.clone());
            known.places.insert(sandbox.clone());
        }
        let own = Some((sandbox.clone(), uid.clone()));
        let mut room = Room { limits: Arc::clone(self), to_join: Vec::new(), own };
        let (limits, sandbox, uid, asked) = (Arc::clone(self), sandbox.clone(), uid.clone(), *asked);
        let made = tokio::task::spawn_blocking(move || own::make(&limits.groups.place(&sandbox), &uid, &asked)).await;
        let made = made.unwrap_or_else(|_| Err(std::io::Error::other("gardend is shutting down")));
        room.to_join = made.map_err(|error| SpawnError::Other(format!("limits of a process's own: {error}")))?;
        Ok(room)
    }

    /// A place that an earlier gardend may have started processes in.
    pub async fn take_over(self: &Arc<Self>, inner: &Arc<Inner>, sandbox: &SandboxId) {
        if self.groups.place(sandbox).processes().is_ok_and(|processes| processes.is_empty()) {
            return;
        }
        self.known().places.insert(sandbox.clone());
        self.tidy(inner, sandbox).await;
    }

    /// Removes the groups in a place that are not wanted any more.
    pub async fn tidy(self: &Arc<Self>, inner: &Arc<Inner>, sandbox: &SandboxId) {
        if !self.known().places.contains(sandbox) {
            return;
        }
        let (limits, inner, sandbox) = (Arc::clone(self), Arc::clone(inner), sandbox.clone());
        let tidied = tokio::task::spawn_blocking(move || limits.remove(&sandbox, |uid| inner.is_kept(uid)));
        // An error is a runtime that is going down; the next start tidies up.
        let _ = tidied.await;
    }

    /// The place goes, with all that is in it.
    pub fn drop_place(&self, sandbox: &SandboxId) {
        self.known().places.remove(sandbox);
    }

    fn remove(&self, sandbox: &SandboxId, is_kept: impl Fn(&ProcessUid) -> bool) {
        let _tidying = self.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.groups.place(sandbox);
        let kept = |uid: &ProcessUid| self.known().starting.contains(uid) || is_kept(uid);
        match own::remove_ended(&place, &self.tally(sandbox), kept) {
            Ok(true) => {}
            Ok(false) => {
                let mut known = self.known();
                // Another may have been made since.
                if known.starting.is_empty() {
                    known.places.remove(sandbox);
                }
            }
            Err(error) => {
                tracing::warn!(%sandbox, %error, "a process's group is not removed; it is tried again with the next end");
            }
        }
    }

    fn tally(&self, sandbox: &SandboxId) -> PathBuf {
        self.folders.oom_kills(sandbox)
    }
}
