//! What the controller answers when it cannot do what a client asked.

use crate::addresses::AddressError;
use crate::ports::{FilesError, NodeError, SpawnError};
use crate::pressure::Shortage;
use crate::record::{DeclaredBy, Handle, InvalidName, ProcessId, Stage};

/// Why a request was refused or failed. Its text is shown to clients.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No container of that handle is wanted.
    #[error("unknown handle: {0}")]
    ContainerNotFound(String),
    /// No record of that process is kept.
    #[error("unknown process: {0}")]
    ProcessNotFound(String),
    /// Another container has the handle.
    #[error("Handle '{0}' already in use")]
    HandleInUse(Handle),
    /// Another process of the container has the id.
    #[error("process id '{0}' already in use")]
    ProcessIdInUse(ProcessId),
    /// The node is full.
    #[error("this node runs its limit of {limit} containers; destroy one or raise --max-containers")]
    LimitReached {
        /// The limit in force.
        limit: usize,
    },
    /// The node is being drained.
    #[error(
        "this node is being drained and takes no new containers; create it on another node, or let this one take containers again by `gardend drain --undo`"
    )]
    Draining,
    /// The node has too little left of something.
    #[error("this node takes no new containers for now: {0}; create it on another node, or try again later")]
    Pressure(Shortage),
    /// Another destroy of the container runs.
    #[error("container already being destroyed: {0}")]
    AlreadyDestroying(Handle),
    /// What is declared is its declarer's alone to end.
    #[error(
        "container '{handle}' is declared in Kubernetes and is destroyed there: kubectl --namespace {} delete gctr {}",
        by.namespace, by.name
    )]
    Declared {
        /// Which.
        handle: Handle,
        /// By which object.
        by: DeclaredBy,
    },
    /// The container is not ready (its create still runs, or its place is being made again).
    #[error("container '{handle}' is not ready: {reason}")]
    NotReady {
        /// Which.
        handle: Handle,
        /// What it waits for.
        reason: String,
    },
    /// A property that is not set.
    #[error("property does not exist: {0}")]
    PropertyNotFound(String),
    /// What was asked for cannot be had; nothing was done.
    #[error("{0}")]
    Invalid(String),
    /// A name that clients could not carry.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// An address or a port that cannot be had; nothing was done.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A stage of a create failed; the container is being undone.
    #[error("container '{handle}' could not be made: {stage} failed: {source}")]
    CreateFailed {
        /// Which.
        handle: Handle,
        /// What failed.
        stage: Stage,
        /// Why.
        source: NodeError,
    },
    /// The container would not die within the deadline. It is retried.
    #[error("container '{handle}' is stuck: {source}; it stays in the list and is retried until it is gone")]
    Stuck {
        /// Which.
        handle: Handle,
        /// What did not die.
        source: NodeError,
    },
    /// A process did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Files did not get into a container, or not all of them.
    #[error("error streaming in: {0}")]
    StreamIn(FilesError),
    /// Files did not get out of a container.
    #[error("error streaming out: {0}")]
    StreamOut(FilesError),
    /// The node failed at something else.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The ledger did not take a record: a full disk, most often. Nothing was done.
    #[error("the ledger cannot be written: {0}; nothing was done (is the disk full?)")]
    Ledger(String),
    /// gardend is going down; another one will take over.
    #[error("gardend is shutting down; ask again when it is back")]
    ShuttingDown,
}
