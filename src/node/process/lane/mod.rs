//! A lane: one output of one process, from its pipe to whoever reads it, by splice and sendfile.
//!
//! Owns the pipe, the spool and the readers' sockets, and one task that does all the moving,
//! driven by readiness. Promises that a byte is delivered to a single reader once and in order,
//! over any number of readers in turn and over a SIGKILL at any instruction ([`core`] and
//! [`spool`] say why); that a process which nobody reads never blocks; that memory is constant.
//! Leaves to others when a process has ended ([`Lane::exit`]), and when all of it goes
//! ([`Lane::close`]).
//!
//! Descriptors: the pipe, and the spool's file once something was spooled; with a terminal also
//! its master and the relay's writing end; a socket for each reader.

pub mod core;
mod reader;
mod ready;
pub mod source;
pub mod spool;

pub use core::Limits;
pub use source::Source;
pub use spool::Spool;

use core::Core;
use gardend_controller::ports::ReaderId;
use reader::Reader;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One output of one process.
pub struct Lane {
    core: Mutex<Core>,
    /// Called when no output comes any more and all of it is in the spool or with readers.
    moved: Box<dyn Fn() + Send + Sync>,
    runtime: Handle,
}

impl Lane {
    /// A lane that does not move yet.
    pub fn new(core: Core, runtime: Handle, moved: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { core: Mutex::new(core), moved: Box::new(moved), runtime })
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that somebody works on what there is to do now.
    pub fn start(self: &Arc<Self>) {
        let mut core = self.core();
        if core.running {
            if let Some(waker) = core.wake() {
                drop(core);
                waker.wake();
            }
        } else {
            core.running = true;
            drop(core);
            self.runtime.spawn(work(Arc::clone(self)));
        }
    }

    /// Keeps a place for whoever attaches first. Before [`Self::start`].
    pub fn expect_first(&self) {
        self.core().expect_first();
    }

    /// Takes a place as of now.
    pub fn attach(self: &Arc<Self>, id: ReaderId) {
        self.core().attach(id);
        self.start();
    }

    /// Gives up a place that nobody has connected for.
    pub fn detach(self: &Arc<Self>, id: ReaderId) {
        self.core().detach(id);
        self.start();
    }

    /// The process has ended: what is in the pipe now still comes, then the end.
    pub fn exit(self: &Arc<Self>) {
        self.core().exit();
        self.start();
    }

    /// Everything ends now.
    pub fn close(self: &Arc<Self>) {
        self.core().close();
        self.start();
    }

    /// No output comes any more.
    pub fn moved(&self) -> bool {
        self.core().moved()
    }

    /// Bytes that nobody has read and nobody will.
    pub fn dropped(&self) -> u64 {
        self.core().dropped()
    }

    /// Moves output into a socket from the reader's place on, to the end of either; then closes
    /// it. Cancel-safe: the reader leaves at the place that it has reached.
    pub async fn read(self: &Arc<Self>, id: ReaderId, socket: OwnedFd) {
        let (done, over) = oneshot::channel();
        let Ok(reader) = Reader::new(socket, done) else { return };
        if let Err(reader) = self.core().claim(id, reader) {
            reader.finish();
            return;
        }
        let leave = Leave { lane: self, id };
        self.start();
        // An error is a reader that was dropped, and so over too.
        let _ = over.await;
        drop(leave);
    }
}

/// Ends a socket for which there is nothing to read.
pub fn refuse(socket: OwnedFd) {
    reader::finish_unread(socket);
}

struct Leave<'a> {
    lane: &'a Arc<Lane>,
    id: ReaderId,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.lane.core().abandon(self.id);
        self.lane.start();
    }
}

async fn work(lane: Arc<Lane>) {
    let mut timer = pin!(tokio::time::sleep_until(Instant::now()));
    let mut told = false;
    poll_fn(|context: &mut Context<'_>| {
        let turn = {
            let mut core = lane.core();
            let turn = core.turn(context);
            // Under the lock: whoever brings something new finds either the task or its absence.
            core.running = !turn.idle;
            turn
        };
        if turn.moved && !told {
            told = true;
            (lane.moved)();
        }
        if turn.idle {
            return Poll::Ready(());
        }
        if turn.again {
            context.waker().wake_by_ref();
        } else if let Some(deadline) = turn.deadline {
            timer.as_mut().reset(deadline);
            if timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
}
