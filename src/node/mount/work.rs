//! Mount work runs on threads of its own: each ends when its work is done and is never used for
//! anything else, since it has left the namespaces, the working folder and the file owner that
//! the rest of gardend lives with.
//!
//! Promises: whoever waits gets an answer within the deadline. A thread that a dead file system
//! holds in the kernel is left behind, counted, and no work starts while too many of them hang.
//! Work on one container never overlaps with other work on it.

use super::error::{Result, failed};
use gardend_controller::ports::{NodeError, NodeErrorKind};
use gardend_controller::record::ContainerUid;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Threads that hang before new work is refused.
const MAX_HANGING: usize = 64;
/// Mount work is not deep; removing files bounds its own depth.
const STACK: usize = 512 * 1024;

/// Set once nobody waits for the work any more.
#[derive(Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// Ends work that nobody waits for. Called between steps.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) { Err(failed("nobody waits for this any more")) } else { Ok(()) }
    }
}

/// Starts work and keeps count of it. Clones share the count.
#[derive(Clone, Default)]
pub(super) struct Workers {
    hanging: Arc<AtomicUsize>,
    busy: Arc<Mutex<HashMap<ContainerUid, watch::Receiver<()>>>>,
}

impl Workers {
    /// Runs `work` on a thread of its own.
    ///
    /// # Errors
    /// Those of the work, or `Unavailable` where it cannot start or does not end in time.
    pub(super) async fn run<T, W>(&self, what: &str, deadline: Duration, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Cancelled) -> Result<T> + Send + 'static,
    {
        let hanging = self.hanging.load(Ordering::Relaxed);
        if hanging >= MAX_HANGING {
            return Err(NodeError::new(
                NodeErrorKind::Unavailable,
                format!(
                    "{what}: {hanging} earlier attempts still hang in the kernel; look for a file system that does not answer (NFS?)"
                ),
            ));
        }
        let (answer, waiting) = oneshot::channel();
        let cancelled = Cancelled::default();
        let seen = cancelled.clone();
        // Counted as hanging from the moment that nobody waits until the thread's end.
        let mut watch = Watch { cancelled, hanging: Arc::clone(&self.hanging), left: Arc::default(), armed: true };
        let left = Arc::clone(&watch.left);
        let count = Arc::clone(&self.hanging);
        let thread = move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&seen)))
                .unwrap_or_else(|_| Err(failed("mount work ended in a panic; see the log")));
            // The one who waits may be gone.
            let _ = answer.send(result);
            if left.swap(true, Ordering::AcqRel) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("mount".into()).stack_size(STACK).spawn(thread).map_err(|error| {
            watch.armed = false;
            NodeError::new(NodeErrorKind::Unavailable, format!("{what}: cannot start a thread: {error}"))
        })?;
        match tokio::time::timeout(deadline, waiting).await {
            Ok(result) => {
                watch.armed = false;
                result.unwrap_or_else(|_| Err(failed(format!("{what}: its thread is gone"))))
            }
            Err(_) => Err(NodeError::new(
                NodeErrorKind::Unavailable,
                format!("{what} did not end within {deadline:?}; look for a file system that does not answer (NFS?)"),
            )),
        }
    }

    /// Marks a container as being worked on until the guard goes, which the work takes along.
    /// Waits for work that was left behind.
    ///
    /// # Errors
    /// `Stuck` where earlier work on it does not end within the deadline.
    pub(super) async fn claim(&self, container: &ContainerUid, deadline: Duration) -> Result<Claim> {
        let claimed = async {
            loop {
                let mut earlier = {
                    let mut busy = lock(&self.busy);
                    match busy.get(container) {
                        Some(earlier) => earlier.clone(),
                        None => {
                            let (_end, watcher) = watch::channel(());
                            busy.insert(container.clone(), watcher);
                            return Claim { _end, busy: Arc::clone(&self.busy), container: container.clone() };
                        }
                    }
                };
                // Nothing is ever sent: this resolves when the claim is dropped.
                let _ = earlier.changed().await;
            }
        };
        tokio::time::timeout(deadline, claimed).await.map_err(|_| {
            NodeError::new(
                NodeErrorKind::Stuck,
                format!("earlier mount work for container {container} still hangs; look for a file system that does not answer (NFS?)"),
            )
        })
    }
}

/// A container that is being worked on.
pub(super) struct Claim {
    busy: Arc<Mutex<HashMap<ContainerUid, watch::Receiver<()>>>>,
    container: ContainerUid,
    _end: watch::Sender<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.busy).remove(&self.container);
        // `_end` goes after this and wakes who waits.
    }
}

/// Cancels and counts work that is no longer waited for: past its deadline, or its future dropped.
struct Watch {
    cancelled: Cancelled,
    hanging: Arc<AtomicUsize>,
    /// Set by whichever of the two leaves first: the thread, or the one who waits.
    left: Arc<AtomicBool>,
    armed: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.armed {
            self.cancelled.0.store(true, Ordering::Release);
            self.hanging.fetch_add(1, Ordering::Relaxed);
            if self.left.swap(true, Ordering::AcqRel) {
                self.hanging.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// What is behind our locks is whole at any instant, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_left_behind_and_counted_until_it_ends() {
        let workers = Workers::default();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let (told, tells) = oneshot::channel();
        let work = move |cancelled: &Cancelled| {
            let _ = blocked.recv();
            let _ = told.send(cancelled.check().is_err());
            Ok(())
        };
        let error = workers.run("testing", Duration::from_millis(20), work).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unavailable);
        assert_eq!(workers.hanging.load(Ordering::Relaxed), 1);
        drop(release);
        assert!(tells.await.unwrap(), "the work learns that nobody waits");
        while workers.hanging.load(Ordering::Relaxed) != 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run("testing", Duration::from_secs(5), |_| Ok(7)).await.unwrap(), 7);
        assert_eq!(workers.hanging.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_nothing_more() {
        let result: Result<()> = Workers::default().run("testing", Duration::from_secs(5), |_| panic!("no")).await;
        assert_eq!(result.unwrap_err().kind, NodeErrorKind::Failed);
    }

    #[tokio::test]
    async fn a_container_is_worked_on_by_one_at_a_time() {
        let workers = Workers::default();
        let container = ContainerUid::generate();
        let first = workers.claim(&container, Duration::from_secs(1)).await.unwrap();
        let error = workers.claim(&container, Duration::from_millis(20)).await.err().unwrap();
        assert_eq!(error.kind, NodeErrorKind::Stuck);
        let others = workers.claim(&ContainerUid::generate(), Duration::from_millis(20)).await;
        assert!(others.is_ok());
        let second = workers.clone();
        let waiting = tokio::spawn(async move { second.claim(&container, Duration::from_secs(5)).await.is_ok() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
    }
}
