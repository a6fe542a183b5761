//! The one writer: a thread that owns the store and writes whatever has queued up in one
//! transaction. A batch that fails along with others is tried alone, so that none fails for
//! another's sake.

use super::store::Store;
use super::{Change, Contents, Durable, LedgerError, lock};
use crate::observe::{Observation, Observing};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// After so long without work the log is moved into the database.
const IDLE: Duration = Duration::from_millis(200);

/// Where the answer to a batch comes from.
pub enum Reply {
    Ready(Result<(), LedgerError>),
    Coming(oneshot::Receiver<Result<(), LedgerError>>),
}

enum Job {
    Write {
        changes: Vec<Change>,
        durable: Durable,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Load(oneshot::Sender<Result<Contents, LedgerError>>),
    #[cfg(any(test, feature = "fakes"))]
    PretendFull(bool),
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(Vec<Job>, bool)>,
    filled: Condvar,
}

/// The writer's handle. Dropping it lets what was submitted be written, then closes the file.
pub struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `observing` is filled in once there is somebody to tell.
    pub fn start(store: Store, observing: Arc<OnceLock<Observing>>) -> Self {
        let queue = Arc::<Queue>::default();
        let theirs = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || work(store, &theirs, &observing))
            .expect("the process may start a thread");
        Self { queue, thread: Some(thread) }
    }

    fn push(&self, job: Job) {
        lock(&self.queue.jobs).0.push(job);
        self.queue.filled.notify_one();
    }

    pub fn submit(&self, changes: Vec<Change>, durable: Durable) -> Reply {
        let (reply, coming) = oneshot::channel();
        self.push(Job::Write { changes, durable, reply });
        Reply::Coming(coming)
    }

    pub async fn load(&self) -> Result<Contents, LedgerError> {
        let (reply, coming) = oneshot::channel();
        self.push(Job::Load(reply));
        let gone = || LedgerError::Write { reason: "the ledger's writer is gone".into(), full: false };
        coming.await.unwrap_or_else(|_| Err(gone()))
    }

    #[cfg(any(test, feature = "fakes"))]
    pub fn pretend_full(&self, full: bool) {
        self.push(Job::PretendFull(full));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.queue.jobs).1 = true;
        self.queue.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// Everything that waits; `None` once closed and empty. Calls `idle` when nothing comes.
    fn take(&self, mut idle: impl FnMut()) -> Option<Vec<Job>> {
        let mut jobs = lock(&self.jobs);
        let mut idled = false;
        loop {
            if !jobs.0.is_empty() {
                return Some(std::mem::take(&mut jobs.0));
            }
            if jobs.1 {
                return None;
            }
            if idled {
                jobs = self.filled.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (guard, waited) = self.filled.wait_timeout(jobs, IDLE).unwrap_or_else(PoisonError::into_inner);
            jobs = guard;
            if waited.timed_out() && jobs.0.is_empty() && !jobs.1 {
                drop(jobs);
                idle();
                idled = true;
                jobs = lock(&self.jobs);
            }
        }
    }
}

fn work(mut store: Store, queue: &Queue, observing: &OnceLock<Observing>) {
    let mut written = false;
    while let Some(jobs) = queue.take(|| {
        if std::mem::take(&mut written) {
            store.checkpoint();
        }
    }) {
        let mut group = Vec::new();
        for job in jobs {
            match job {
                Job::Write { changes, durable, reply } => group.push((changes, durable, reply)),
                // What was submitted before is seen by it.
                Job::Load(reply) => {
                    write_group(&mut store, std::mem::take(&mut group), observing);
                    let _ = reply.send(store.load());
                }
                #[cfg(any(test, feature = "fakes"))]
                Job::PretendFull(full) => {
                    write_group(&mut store, std::mem::take(&mut group), observing);
                    store.pretend_full(full);
                }
            }
        }
        written |= !group.is_empty();
        write_group(&mut store, group, observing);
    }
}

type Waiting = (Vec<Change>, Durable, oneshot::Sender<Result<(), LedgerError>>);

fn write_group(store: &mut Store, group: Vec<Waiting>, observing: &OnceLock<Observing>) {
    if group.is_empty() {
        return;
    }
    let mut batches = Vec::with_capacity(group.len());
    let mut replies = Vec::with_capacity(group.len());
    for (changes, durable, reply) in group {
        batches.push((changes, durable));
        replies.push(reply);
    }
    let began = Instant::now();
    let together = store.apply(&batches);
    if let Some(observing) = observing.get() {
        let (batches, failed) = (batches.len(), together.is_err());
        observing.tell(Observation::Commit { batches, failed, took: began.elapsed() });
    }
    if together.is_ok() || batches.len() == 1 {
        for reply in replies {
            // Who does not wait any more does not need the answer.
            let _ = reply.send(together.clone());
        }
        return;
    }
    for (batch, reply) in batches.into_iter().zip(replies) {
        let alone = store.apply(&[batch]);
        let _ = reply.send(alone);
    }
}
