//! A process's stdin: chunks are written whole and in the order that they came in, by one task
//! that there is from the first chunk on. Who writes waits while the pipe is full.
//!
//! init holds a copy of the pipe's writing end, so that stdin stays open over a death of gardend;
//! the end of stdin is therefore a message to it as well as a close here.

use super::link::Link;
use super::sys;
use garden_init::wire::{ProcessKey, Request};
use rustix::io::{Errno, write};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Where stdin goes.
#[derive(Debug)]
pub enum Outlet {
    /// A pipe's writing end, non-blocking.
    Pipe(AsyncFd<OwnedFd>),
    /// A terminal's master, non-blocking. It is watched for reading; a copy is watched for writing
    /// only while it is full, or each byte of output would wake somebody.
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

impl Outlet {
    /// A pipe's writing end.
    ///
    /// # Errors
    /// Where the runtime cannot watch it.
    pub fn pipe(writing: OwnedFd) -> io::Result<Self> {
        sys::watch(writing, Interest::WRITABLE).map(Self::Pipe)
    }

    /// Writes what it takes now, once it takes something.
    async fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            // Cancel-safe: bytes are written, or none are.
            Self::Pipe(pipe) => pipe.async_io(Interest::WRITABLE, |pipe| Ok(write(pipe, data)?)).await,
            Self::Terminal(master) => loop {
                match write(master.get_ref(), data) {
                    Err(Errno::AGAIN) => {}
                    other => return Ok(other?),
                }
                let copy = sys::watch(master.get_ref().try_clone()?, Interest::WRITABLE)?;
                drop(copy.writable().await?);
            },
        }
    }
}

enum Order {
    Write(Vec<u8>, oneshot::Sender<()>),
    Close(oneshot::Sender<()>, Weak<Link>),
}

enum State {
    Idle(Outlet),
    Running(mpsc::Sender<Order>),
    Closed,
}

/// One process's stdin.
pub struct Stdin {
    state: Mutex<State>,
    ended: CancellationToken,
    /// A client has ended it.
    closed: Arc<AtomicBool>,
    key: ProcessKey,
}

impl Stdin {
    /// `None`: it has been closed before.
    pub fn new(key: ProcessKey, outlet: Option<Outlet>) -> Self {
        let state = Mutex::new(outlet.map_or(State::Closed, State::Idle));
        Self { state, ended: CancellationToken::new(), closed: Arc::default(), key }
    }

    /// Writes a chunk. Discards it after stdin's end. Cancel-safe: a chunk that was taken is
    /// written whole.
    pub async fn write(&self, data: &[u8]) {
        let Some(orders) = self.orders() else { return };
        let (done, written) = oneshot::channel();
        if !data.is_empty() && orders.send(Order::Write(data.to_vec(), done)).await.is_ok() {
            // An error is a stdin that ended meanwhile.
            let _ = written.await;
        }
    }

    /// Ends a pipe, after what was written before; leaves a terminal open.
    pub async fn close(&self, link: Weak<Link>) {
        if matches!(*self.state(), State::Idle(Outlet::Terminal(_))) {
            return;
        }
        let Some(orders) = self.orders() else { return };
        let (done, closed) = oneshot::channel();
        if orders.send(Order::Close(done, link)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// The process has ended: whatever is still to be written is discarded.
    pub fn end(&self) {
        self.ended.cancel();
        *self.state() = State::Closed;
    }

    /// A client has ended it: an init that still keeps it open was not told.
    pub fn was_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orders(&self) -> Option<mpsc::Sender<Order>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Closed) {
            State::Idle(outlet) => {
                let (orders, queue) = mpsc::channel(1);
                let closed = Arc::clone(&self.closed);
                tokio::spawn(work(outlet, queue, self.key, closed, self.ended.clone()));
                *state = State::Running(orders.clone());
                Some(orders)
            }
            State::Running(orders) => {
                *state = State::Running(orders.clone());
                Some(orders)
            }
            State::Closed => None,
        }
    }
}

async fn work(
    outlet: Outlet,
    mut orders: mpsc::Receiver<Order>,
    key: ProcessKey,
    closed: Arc<AtomicBool>,
    ended: CancellationToken,
) {
    let terminal = matches!(outlet, Outlet::Terminal(_));
    loop {
        let order = tokio::select! {
            // Cancel-safe: a token stays cancelled.
            () = ended.cancelled() => return,
            // Cancel-safe: an order that was not received stays in the queue.
            order = orders.recv() => order,
        };
        match order {
            Some(Order::Write(data, done)) => {
                tokio::select! {
                    // Cancel-safe: as above; the rest of the chunk is not wanted any more.
                    () = ended.cancelled() => return,
                    // Only cancelled together with everything else.
                    () = write_all(&outlet, &data) => {}
                }
                let _ = done.send(());
            }
            Some(Order::Close(done, _)) if terminal => drop(done),
            Some(Order::Close(done, link)) => {
                closed.store(true, Ordering::SeqCst);
                drop(outlet);
                // An init that is gone has closed its copy too.
                if let Some(link) = link.upgrade()
                    && let Err(reason) = link.send(&Request::CloseStdin { key }, &[]).await
                {
                    tracing::debug!(%reason, "stdin's end did not reach the init");
                }
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}

/// Writes everything, or as much as the other side takes before it closes.
async fn write_all(outlet: &Outlet, mut data: &[u8]) {
    while !data.is_empty() {
        match outlet.write(data).await {
            Ok(bytes) => data = data.get(bytes..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // EPIPE: nobody reads stdin. EIO: nobody has the terminal open.
            Err(_) => return,
        }
    }
}
