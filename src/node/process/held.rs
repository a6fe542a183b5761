//! A process that waits in its init until it is where its limits are.
//!
//! ```text
//!   SpawnHeld ─▶ Held (pidfd) ─▶ joins its groups ─▶ Release ─▶ Spawned
//!                   └─ cannot join, or its caller gives up: killed; it has never run
//! ```
//! gardend's death in between leaves it held, and the next Hello ends it.

use super::link::Link;
use super::pid;
use super::spec::KILLED_HELD;
use crate::node::cgroup;
use garden_init::wire::{ProcessKey, Request};
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who is told of the held process, and what then makes it join these groups and go on. Where there
/// is nothing to join, nobody and nothing.
pub fn join_when_held(
    link: &Arc<Link>,
    key: ProcessKey,
    to_join: Vec<PathBuf>,
) -> (Option<oneshot::Sender<OwnedFd>>, impl Future<Output = Result<(), String>>) {
    let (tell, told) = oneshot::channel();
    let tell = (!to_join.is_empty()).then_some(tell);
    let link = Arc::clone(link);
    let joining = async move {
        let mut unless_released = KillUnlessReleased { link: Some(link), key };
        // Dropped unsent: it was refused, which the answer tells, or is not to be held at all.
        let Ok(pidfd) = told.await else {
            unless_released.link = None;
            return Ok(());
        };
        let joined = tokio::task::spawn_blocking(move || join(&pidfd, &to_join)).await;
        joined.unwrap_or_else(|_| Err("gardend is shutting down".into()))?;
        if let Some(link) = unless_released.link.take() {
            // A connection that is gone is told of by the answer, too.
            let _ = link.send(&Request::Release { key }, &[]).await;
        }
        Ok(())
    };
    (tell, joining)
}

fn join(pidfd: &OwnedFd, to_join: &[PathBuf]) -> Result<(), String> {
    let pid = || pid::of_pidfd(pidfd.as_fd()).filter(|pid| *pid > 0);
    let number = pid().ok_or("it ended before it could be held to the container's limits")?;
    cgroup::join(number, to_join).map_err(|error| format!("cannot be held to the container's limits: {error}"))?;
    // Had it ended meanwhile, the number could have been another's.
    pid().filter(|seen| *seen == number).map(drop).ok_or_else(|| format!("it {KILLED_HELD}"))
}

/// What was not released must not run.
struct KillUnlessReleased {
    link: Option<Arc<Link>>,
    key: ProcessKey,
}

impl Drop for KillUnlessReleased {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            let kill = Request::Signal { key: self.key, signal: libc::SIGKILL };
            link.give_up_spawn(self.key);
            tokio::spawn(async move { link.send(&kill, &[]).await });
        }
    }
}
