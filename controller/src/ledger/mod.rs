//! The records on disk: SQLite in WAL mode, one writer, group commit.
//!
//! Owns the file, its lock (`<file>.lock`) and a small reserve of disk space (`<file>.reserve`).
//!
//! Promises
//! - Changes are applied in the order in which they were submitted, each batch wholly or not.
//! - [`Durable::Reboot`] is on the disk when it is answered; [`Durable::Crash`] survives any death
//!   of gardend (the page cache does), and a loss of power takes only the newest of them.
//! - A ledger that cannot be used stops the start with an error that names the file and the
//!   remedy ([`LedgerError`]); it is never silently made anew.
//! - A full disk refuses what would add records; what ends or removes them still finds room, in
//!   the reserve, and everything works again when there is space.
//!
//! Leaves to others: what the records mean. Nobody reads here after the start; the state in
//! memory is the same.

mod open;
mod peek;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use crate::drain::Drain;
use crate::observe::Observing;
use crate::record::{ContainerRecord, ContainerUid, ProcessRecord, ProcessState, ProcessUid, SandboxId, SandboxRecord};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use store::Store;
use writer::{Reply, Writer};

/// Why a ledger cannot be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LedgerError {
    #[error(
        "the ledger {path} cannot be opened: {reason}; check that the folder exists, is writable for gardend and has room, or name another with --state-dir"
    )]
    CannotOpen { path: PathBuf, reason: String },
    #[error(
        "the ledger {path} is in use by another gardend{holder}; stop that one, or give this one a --state-dir of its own"
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "the ledger {path} is not one of gardend's: {reason}; move it away (gardend then starts without any record and removes what it finds of its own on the node), or put a backup in its place"
    )]
    NotALedger { path: PathBuf, reason: String },
    #[error(
        "the ledger {path} is damaged: {reason}; put a backup in its place, or move it away (gardend then starts without any record and removes what it finds of its own on the node)"
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "the ledger {path} has version {found} of its layout, and this gardend knows up to {known}; start the gardend that wrote it, or a newer one"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{reason}")]
    Write { reason: String, full: bool },
}

/// What a change must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durable {
    /// Any death of gardend.
    Crash,
    /// A loss of power too.
    Reboot,
}

/// One change of the records.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Change {
    InsertContainer(Box<ContainerRecord>),
    UpdateContainer(Box<ContainerRecord>),
    /// The container's row and those of its processes.
    DeleteContainer(ContainerUid),
    /// The environment is left out: nothing reads it again, and it may hold secrets.
    InsertProcess(Box<ProcessRecord>),
    UpdateProcess {
        uid: ProcessUid,
        state: ProcessState,
        seen: bool,
        ended_at: Option<SystemTime>,
    },
    DeleteProcess(ProcessUid),
    PutSandbox(SandboxRecord),
    DeleteSandbox(SandboxId),
    BootId(String),
    /// How the node is being drained; `None`: it is not.
    Drain(Option<Drain>),
    /// Something that changes nothing, to see whether new records can be written.
    Probe,
}

impl Change {
    /// Whether it adds something that was not there, and so may be refused on a full disk.
    fn adds(&self) -> bool {
        matches!(self, Self::InsertContainer(_) | Self::InsertProcess(_) | Self::PutSandbox(_) | Self::Probe)
    }
}

/// All that a ledger holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Containers, wanted and not yet swept.
    pub containers: Vec<ContainerRecord>,
    /// Their processes.
    pub processes: Vec<ProcessRecord>,
    /// Places.
    pub sandboxes: Vec<SandboxRecord>,
    /// The boot in which it was last opened.
    pub boot_id: Option<String>,
    /// How the node is being drained; `None`: it is not.
    pub drain: Option<Drain>,
}

/// The ledger. Cheap to clone; all clones are one. The file is closed with the last of them.
#[derive(Clone)]
pub struct Ledger {
    backend: Arc<Backend>,
}

struct Backend {
    way: Way,
    failing: Arc<AtomicBool>,
    observing: Arc<OnceLock<Observing>>,
}

enum Way {
    Thread(Writer),
    /// Every batch at once, by whoever submits it: for tests, whose clock must not run on while
    /// another thread works.
    Inline(Box<Mutex<Store>>),
}

impl Ledger {
    /// Opens the ledger at `path`, or makes one where there is no file.
    ///
    /// # Errors
    /// Every refusal of [`LedgerError`]; the file is left as it was.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let store = open::open(path)?;
        let failing = store.failing();
        let observing = Arc::default();
        let way = Way::Thread(Writer::start(store, Arc::clone(&observing)));
        Ok(Self { backend: Arc::new(Backend { way, failing, observing }) })
    }

    /// Like [`Self::open`], without a thread of its own: a submit writes before it returns.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_inline(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self::inline(open::open(path)?))
    }

    /// A ledger that lives as long as this value and its clones, for tests.
    ///
    /// # Panics
    /// Where SQLite cannot make a database in memory.
    pub fn in_memory() -> Self {
        Self::inline(open::in_memory())
    }

    fn inline(store: Store) -> Self {
        let failing = store.failing();
        let way = Way::Inline(Box::new(Mutex::new(store)));
        Self { backend: Arc::new(Backend { way, failing, observing: Arc::default() }) }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] for a row that is not understood.
    pub async fn load(&self) -> Result<Contents, LedgerError> {
        match &self.backend.way {
            Way::Thread(writer) => writer.load().await,
            Way::Inline(store) => lock(store).load(),
        }
    }

    /// Reads all that the ledger at `path` holds, also while a gardend uses it; nothing where there
    /// is none. Nothing is changed. Blocks.
    ///
    /// # Errors
    /// [`LedgerError`] says what cannot be read.
    pub fn peek(path: &Path) -> Result<Contents, LedgerError> {
        peek::peek(path)
    }

    /// Hands a batch over. What is submitted first is written first.
    pub fn submit(&self, changes: Vec<Change>, durable: Durable) -> Commit {
        match &self.backend.way {
            Way::Thread(writer) => Commit { reply: writer.submit(changes, durable) },
            Way::Inline(store) => {
                let result = lock(store).apply(&[(&changes, durable)]);
                Commit { reply: Reply::Ready(result) }
            }
        }
    }

    /// Hands a batch over and waits until it is written.
    ///
    /// # Errors
    /// [`LedgerError::Write`]: nothing of the batch is in the ledger.
    pub async fn commit(&self, changes: Vec<Change>, durable: Durable) -> Result<(), LedgerError> {
        self.submit(changes, durable).written().await
    }

    /// Tells this one of every commit from now on; the first that is named stays.
    pub(crate) fn observe(&self, observing: Observing) {
        let _ = self.backend.observing.set(observing);
    }

    /// Writes something that changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Write`], as new records would get it.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        self.commit(vec![Change::Probe], Durable::Crash).await
    }

    /// `Err` says why nothing can be written. Costs nothing while the last write succeeded.
    ///
    /// # Errors
    /// [`LedgerError::Write`], as new records would get it.
    pub async fn health(&self) -> Result<(), LedgerError> {
        let failing = self.backend.failing.load(Ordering::Relaxed);
        if failing { self.probe().await } else { Ok(()) }
    }

    /// Makes writes fail as on a full disk (`true`), or work again, for tests.
    #[cfg(any(test, feature = "fakes"))]
    pub fn pretend_full(&self, full: bool) {
        match &self.backend.way {
            Way::Thread(writer) => writer.pretend_full(full),
            Way::Inline(store) => lock(store).pretend_full(full),
        }
    }
}

/// A batch on its way.
#[must_use = "a batch is on its way; whether it was written is told by `written`"]
pub struct Commit {
    reply: Reply,
}

impl Commit {
    /// Waits until it is written.
    ///
    /// # Errors
    /// [`LedgerError::Write`]: nothing of the batch is in the ledger.
    pub async fn written(self) -> Result<(), LedgerError> {
        match self.reply {
            Reply::Ready(result) => result,
            Reply::Coming(reply) => reply.await.unwrap_or_else(|_| {
                Err(LedgerError::Write { reason: "the ledger's writer is gone".into(), full: false })
            }),
        }
    }

    /// Lets it be written without waiting; a failure shows in [`Ledger::health`].
    pub fn in_background(self) {}
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
