//! What happens, told to whoever measures: one call an event, of plain values.
//!
//! The controller counts nothing itself and knows no metrics. An [`Observer`] is called where the
//! event happens, also under way of a request, so that it must be quick and never wait. What is
//! there at one moment, rather than happens, is told by [`Controller::counts`](crate::Controller::counts).
//!
//! Promises: every operation that was begun is told once, however it ended, also where nobody
//! waited for it any more.

use crate::error::Error;
use crate::plan::Step;
use crate::ports::NodeErrorKind;
use crate::record::{ExitStatus, Stage};
use crate::shared::Key;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Told of what happens. Called on the way of requests: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, event: Observation);
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A client's operation has come to its end.
    Operation {
        /// Which.
        operation: Operation,
        /// How.
        end: End,
        /// How long it took.
        took: Duration,
    },
    /// The loop has taken one step for a container.
    Step {
        /// Which.
        step: Step,
        /// It did not succeed, and is tried again or given up.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// The loop has looked at something, and did what there was to do.
    Pass {
        /// At what.
        subject: Subject,
        /// It is tried again, later.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// The sweeper has looked at the whole node.
    Sweep {
        /// Not all of the node could be looked at.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// Something without a record was found on the node, and is removed.
    Leak(Leak),
    /// The ledger has written what waited, in one transaction.
    Commit {
        /// Batches of changes in it.
        batches: usize,
        /// Nothing of it was written, or not all.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// A container was given a place.
    PlaceTaken {
        /// A blank one, out of the pool.
        pooled: bool,
    },
    /// A place was waited for: so many were being made.
    PlaceWaited(Duration),
    /// An image was asked for.
    Pull {
        /// Bytes that came over the network; 0 for one that was there.
        bytes: u64,
        /// It was not had.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// The node's network was looked at, and made what it shall be.
    Network {
        /// It is not.
        failed: bool,
        /// How long it took.
        took: Duration,
    },
    /// A process has ended.
    ProcessEnded(ProcessEnd),
    /// The kernel killed for want of memory.
    OutOfMemory {
        /// How often.
        kills: u64,
    },
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Create,
    Run,
    Destroy,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// As it was asked for.
    Done,
    /// Before anything was done.
    Refused,
    /// It was begun, and failed in this stage.
    Failed(Option<Stage>),
    /// Its client went away before.
    Abandoned,
}

/// What the loop looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Subject {
    Container,
    Place,
    Files,
    Pool,
}

/// What was found without a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Leak {
    Place,
    Files,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ProcessEnd {
    Succeeded,
    Failed,
    Killed,
    Lost,
}

impl From<ExitStatus> for ProcessEnd {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Code(0) => Self::Succeeded,
            ExitStatus::Code(_) => Self::Failed,
            ExitStatus::Signal(_) => Self::Killed,
        }
    }
}

impl From<&Key> for Subject {
    fn from(key: &Key) -> Self {
        match key {
            Key::Container(_) => Self::Container,
            Key::Discarded(_) => Self::Place,
            Key::Layers(_) => Self::Files,
            Key::Pool(_) => Self::Pool,
        }
    }
}

impl End {
    fn of_error(error: &Error) -> Self {
        match error {
            Error::CreateFailed { stage, .. } => Self::Failed(Some(*stage)),
            Error::Stuck { .. } => Self::Failed(Some(Stage::Kill)),
            Error::Node(error) if error.kind == NodeErrorKind::Invalid => Self::Refused,
            Error::Spawn(_) | Error::Ledger(_) | Error::Node(_) => Self::Failed(None),
            _ => Self::Refused,
        }
    }
}

/// Whoever is told; by default nobody is.
#[derive(Clone)]
pub struct Observing(Arc<dyn Observer>);

impl Observing {
    /// Tells this one.
    pub fn by(observer: Arc<dyn Observer>) -> Self {
        Self(observer)
    }

    pub(crate) fn tell(&self, event: Observation) {
        self.0.observe(event);
    }

    /// Follows an operation to its end.
    pub(crate) fn follow(&self, operation: Operation) -> Following {
        Following { observing: self.clone(), operation, began: Instant::now(), end: End::Abandoned }
    }
}

impl Default for Observing {
    fn default() -> Self {
        Self(Arc::new(Nobody))
    }
}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observing")
    }
}

struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: Observation) {}
}

/// An operation that is going on. Dropped before its end, it was abandoned.
pub(crate) struct Following {
    observing: Observing,
    operation: Operation,
    began: Instant,
    end: End,
}

impl Following {
    /// It has come to its end.
    pub fn ended<T>(mut self, result: &Result<T, Error>) {
        self.end = match result {
            Ok(_) => End::Done,
            Err(error) => End::of_error(error),
        };
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let (operation, end, took) = (self.operation, self.end, self.began.elapsed());
        self.observing.tell(Observation::Operation { operation, end, took });
    }
}
