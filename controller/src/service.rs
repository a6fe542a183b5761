//! What the front ends ask of the controller. See [`Controller`].

use crate::error::Error;
use crate::ports::{OutputStream, Processes, Rootfs, Sandboxes, Signal, Streams};
use crate::record::{CreateRequest, ExitStatus, Handle, ProcessId, ProcessSpec, Properties, StopMode, WindowSize};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The numbers that an operator can set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Containers at most.
    pub max_containers: usize,
    /// Grace time of a container that names none. `None`: none.
    pub default_grace_time: Option<Duration>,
    /// Blank places kept ready, of each kind that is in use.
    pub pool_size: usize,
    /// How long stdin stays open after the last client has gone.
    pub detach_grace: Duration,
    /// How long a stream id can be fetched after its process connection has ended.
    pub stream_linger: Duration,
    /// How long the record of an ended process is kept once somebody has seen how it ended.
    pub process_retention: Duration,
    /// How often the sweeper looks at the real state.
    pub sweep_interval: Duration,
    /// How long a stop waits between TERM and KILL.
    pub stop_grace: Duration,
    /// How long a create may take in all.
    pub create_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_containers: 250,
            default_grace_time: None,
            pool_size: 4,
            detach_grace: Duration::from_secs(60),
            stream_linger: Duration::from_secs(60),
            process_retention: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(10),
            stop_grace: Duration::from_secs(10),
            create_deadline: Duration::from_secs(120),
        }
    }
}

/// The node's ports, as the composition root hands them over.
#[derive(Clone)]
pub struct Node {
    /// Places.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Files.
    pub rootfs: Arc<dyn Rootfs>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// Their streams.
    pub streams: Arc<dyn Streams>,
}

/// What is known of a container, for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its processes were stopped on request.
    pub stopped: bool,
    /// What happened to it, oldest first.
    pub events: Vec<String>,
    /// Its folder on the host (the place's).
    pub path: String,
    /// Ids of the processes that run.
    pub process_ids: Vec<String>,
    /// Its properties.
    pub properties: Properties,
}

/// How a process's story ended, for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended.
    Exited(ExitStatus),
    /// It is not known how it ended, or its container is gone.
    Failed(String),
}

/// The controller. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Controller {
    // to be designed by its author
}

impl Controller {
    /// A container as asked for, Ready, its record saying so. When the returned future is dropped
    /// before it resolved (the client went away), the container is undone.
    pub async fn create(&self, request: CreateRequest) -> Result<Handle, Error> {
        let _ = request;
        todo!()
    }

    /// Returns once every process and mount of it is gone; the rest is swept.
    pub async fn destroy(&self, handle: &str) -> Result<(), Error> {
        let _ = handle;
        todo!()
    }

    /// Returns once every process but init is gone. A `Kill` takes effect at once, also while a
    /// `Terminate` of somebody else is waiting.
    pub async fn stop(&self, handle: &str, mode: StopMode) -> Result<(), Error> {
        let _ = (handle, mode);
        todo!()
    }

    /// Handles of the containers that have all these properties; without `unfinished` only those
    /// whose create has been answered.
    pub fn list(&self, filter: &Properties, unfinished: bool) -> Vec<Handle> {
        let _ = (filter, unfinished);
        todo!()
    }

    /// What is known of one.
    pub fn info(&self, handle: &str) -> Result<Info, Error> {
        let _ = handle;
        todo!()
    }

    /// All its properties.
    pub fn properties(&self, handle: &str) -> Result<Properties, Error> {
        let _ = handle;
        todo!()
    }

    /// One property. `PropertyNotFound` where it is not set.
    pub fn property(&self, handle: &str, key: &str) -> Result<String, Error> {
        let _ = (handle, key);
        todo!()
    }

    /// Sets one.
    pub async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<(), Error> {
        let _ = (handle, key, value);
        todo!()
    }

    /// Removes one; one that is not set is no error.
    pub async fn remove_property(&self, handle: &str, key: &str) -> Result<(), Error> {
        let _ = (handle, key);
        todo!()
    }

    /// Sets the grace time and restarts its count. Zero ends it.
    pub async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<(), Error> {
        let _ = (handle, grace_time);
        todo!()
    }

    /// Starts a process and attaches to it.
    pub async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Attachment, Error> {
        let _ = (handle, spec);
        todo!()
    }

    /// Attaches to a process whose record is kept, running or ended.
    pub async fn attach(&self, handle: &str, process: &str) -> Result<Attachment, Error> {
        let _ = (handle, process);
        todo!()
    }

    /// Moves one output of an attachment into a connected socket, to its end. An unknown stream
    /// id closes the socket at once; an unknown container or process is an error, before.
    pub fn output(&self, handle: &str, process: &str, stream_id: &str, stream: OutputStream) -> Result<Output, Error> {
        let _ = (handle, process, stream_id, stream);
        todo!()
    }

    /// `Err` says what is unhealthy.
    pub async fn ping(&self) -> Result<(), Error> {
        todo!()
    }

    /// The limit of containers in force.
    pub fn max_containers(&self) -> usize {
        todo!()
    }

    /// Stops taking requests, lets the running ones finish for a bounded time, detaches streams.
    /// Containers and processes go on.
    pub async fn shutdown(&self) {
        todo!()
    }
}

/// One client's hold on a process. Dropping it detaches: the process goes on, its stdin is closed
/// after [`Options::detach_grace`] unless somebody attaches meanwhile, and its stream id can be
/// fetched for [`Options::stream_linger`] more.
pub struct Attachment {
    // to be designed by its author
}

impl Attachment {
    /// The process's id.
    pub fn process_id(&self) -> &ProcessId {
        todo!()
    }

    /// What the client names when it fetches stdout and stderr. Safe in a URL.
    pub fn stream_id(&self) -> &str {
        todo!()
    }

    /// Waits until the process has ended and that is in the ledger, or can never be known. Can be
    /// called again, and concurrently with everything else.
    pub async fn outcome(&self) -> Outcome {
        todo!()
    }

    /// Writes to stdin; waits while the pipe is full. After its end: discarded.
    pub async fn write_stdin(&self, data: &[u8]) {
        let _ = data;
        todo!()
    }

    /// Ends stdin (a pipe's; a terminal's stays open).
    pub async fn close_stdin(&self) {
        todo!()
    }

    /// Gives the terminal a new size.
    pub async fn resize(&self, size: WindowSize) {
        let _ = size;
        todo!()
    }

    /// Signals the process. One that has ended is no error.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let _ = signal;
        todo!()
    }
}

/// One output of an attachment, ready to flow.
pub struct Output {
    // to be designed by its author
}

impl Output {
    /// Moves the output into a connected non-blocking socket until the end of either, then closes
    /// the socket with FIN.
    pub async fn send_to(self, socket: OwnedFd) {
        let _ = socket;
        todo!()
    }
}
