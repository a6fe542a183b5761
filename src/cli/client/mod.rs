//! A Garden client: what the commands, and our own tests, speak to a server with.
//!
//! One connection a request, as the Go client has it. A process has up to three: its own (stdin,
//! signals and window sizes up, the exit status down) and one each for stdout and stderr, raw.
//! Every call has a deadline; only a process's story has none. Errors are typed
//! ([`ClientError`]) and say what to do.
//!
//! It sends what it is given: which handles and specs are legal is for the server to say.

mod drain;
mod error;
mod files;
mod images;
mod process;
mod target;
mod transport;
pub mod wire;

pub use crate::net::secure::Credentials;
pub use drain::{Drain, DrainStand, Left};
pub(crate) use error::io_reason;
pub use error::{ClientError, GardenError, GardenErrorKind};
pub use files::{Pieces, TarStream};
pub use images::{Image, PruneMode, PruneScope, Pull, PullNews, PullProgress, PullRequest, PulledImage};
pub use process::{Finished, Output, Outputs, Process, ProcessInput, ProcessOutcome};
pub use target::{Target, TargetError};
pub(super) use transport::dial;
pub use wire::{BindMount, ContainerInfo, ContainerSpec, ImageRef, ProcessSpec, ResourceLimits, TtySpec};

use gardend_controller::ports::Signal;
use gardend_controller::record::{Properties, StopMode};
use http::Method;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;
use transport::Request;

/// For calls that the server answers from what it has in memory, or writes one record for.
const QUICK: Duration = Duration::from_secs(30);
/// A create may pull and make; the server's own deadline is 120 s.
const CREATE: Duration = Duration::from_secs(150);
/// A stop waits 10 s between TERM and KILL, and a destroy 15 s for what will not die.
const ENDING: Duration = Duration::from_secs(60);
/// Handles asked for in one bulk request, in bytes: request lines are limited by servers.
const BULK_BYTES: usize = 4096;

/// A client of one server. Holds no connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
}

impl Client {
    /// A client of the server at `target`. Nothing is dialled yet.
    pub fn new(target: Target) -> Self {
        Self { target }
    }

    /// Where the server is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Asks whether the server is well.
    ///
    /// # Errors
    /// The server says what is unhealthy, or is not there.
    pub async fn ping(&self) -> Result<(), ClientError> {
        self.done(Request::new(Method::GET, "/ping", QUICK)).await
    }

    /// What the server's machine has, and its limit of containers.
    pub async fn capacity(&self) -> Result<wire::Capacity, ClientError> {
        self.answer(Request::new(Method::GET, "/capacity", QUICK)).await
    }

    /// Creates a container; answers its handle.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, ClientError> {
        let request = Request::new(Method::POST, "/containers", CREATE).json(spec);
        self.answer::<wire::Created>(request).await.map(|created| created.handle)
    }

    /// Handles of the containers that have all these properties.
    pub async fn list(&self, filter: &Properties) -> Result<Vec<String>, ClientError> {
        let mut request = Request::new(Method::GET, "/containers", QUICK);
        for (key, value) in filter {
            request = request.query(key, value);
        }
        self.answer::<wire::Handles>(request).await.map(|list| list.handles)
    }

    /// What is known of one container.
    pub async fn info(&self, handle: &str) -> Result<ContainerInfo, ClientError> {
        self.answer(container(Method::GET, handle, "/info", QUICK)).await
    }

    /// What is known of several; each has an answer or an error of its own.
    pub async fn bulk_info(
        &self,
        handles: &[String],
    ) -> Result<BTreeMap<String, Result<ContainerInfo, GardenError>>, ClientError> {
        let mut all = BTreeMap::new();
        for batch in batches(handles) {
            let request = Request::new(Method::GET, "/containers/bulk_info", QUICK).query("handles", &batch.join(","));
            let entries: BTreeMap<String, wire::InfoEntry> = self.answer(request).await?;
            all.extend(entries.into_iter().map(|(handle, entry)| (handle, entry.into_result())));
        }
        Ok(all)
    }

    /// What a container uses.
    pub async fn metrics(&self, handle: &str) -> Result<wire::Metrics, ClientError> {
        self.answer(container(Method::GET, handle, "/metrics", QUICK)).await
    }

    /// What several use; each has an answer or an error of its own.
    pub async fn bulk_metrics(
        &self,
        handles: &[String],
    ) -> Result<BTreeMap<String, Result<wire::Metrics, GardenError>>, ClientError> {
        let mut all = BTreeMap::new();
        for batch in batches(handles) {
            let request =
                Request::new(Method::GET, "/containers/bulk_metrics", QUICK).query("handles", &batch.join(","));
            let entries: BTreeMap<String, wire::MetricsEntry> = self.answer(request).await?;
            all.extend(entries.into_iter().map(|(handle, entry)| (handle, entry.into_result())));
        }
        Ok(all)
    }

    /// The limits in force on a container.
    pub async fn limits(&self, handle: &str) -> Result<wire::Limits, ClientError> {
        let limit = |kind: &str| container(Method::GET, handle, &format!("/limits/{kind}"), QUICK);
        let (memory, cpu, disk, bandwidth) = tokio::try_join!(
            self.answer(limit("memory")),
            self.answer(limit("cpu")),
            self.answer(limit("disk")),
            self.answer(limit("bandwidth")),
        )?;
        Ok(wire::Limits { memory, cpu, disk, bandwidth })
    }

    /// The limit of a container's memory.
    pub async fn memory_limit(&self, handle: &str) -> Result<wire::MemoryLimits, ClientError> {
        self.answer(container(Method::GET, handle, "/limits/memory", QUICK)).await
    }

    /// Opens a port of the node that leads to one of a container. 0 for the node's: the server chooses
    /// one; 0 for the container's: the same as the node's.
    pub async fn net_in(&self, handle: &str, ports: wire::NetIn) -> Result<wire::NetIn, ClientError> {
        let ports = wire::NetInRequest { handle, ports };
        self.answer(container(Method::POST, handle, "/net/in", QUICK).json(&ports)).await
    }

    /// Lets a container reach what a rule names.
    pub async fn net_out(&self, handle: &str, rule: &wire::NetOutRule) -> Result<(), ClientError> {
        self.done(container(Method::POST, handle, "/net/out", QUICK).json(rule)).await
    }

    /// Destroys a container.
    pub async fn destroy(&self, handle: &str) -> Result<(), ClientError> {
        self.done(container(Method::DELETE, handle, "", ENDING)).await
    }

    /// Ends all processes of a container.
    pub async fn stop(&self, handle: &str, mode: StopMode) -> Result<(), ClientError> {
        let body = wire::Stop { kill: mode == StopMode::Kill };
        self.done(container(Method::PUT, handle, "/stop", ENDING).json(&body)).await
    }

    /// All properties of a container.
    pub async fn properties(&self, handle: &str) -> Result<Properties, ClientError> {
        self.answer(container(Method::GET, handle, "/properties", QUICK)).await
    }

    /// One property.
    pub async fn property(&self, handle: &str, key: &str) -> Result<String, ClientError> {
        self.answer::<wire::Value>(property(Method::GET, handle, key)).await.map(|value| value.value)
    }

    /// Sets a property.
    pub async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<(), ClientError> {
        let body = wire::Value { value: value.to_owned() };
        self.done(property(Method::PUT, handle, key).json(&body)).await
    }

    /// Removes a property; one that is not set is no error.
    pub async fn remove_property(&self, handle: &str, key: &str) -> Result<(), ClientError> {
        self.done(property(Method::DELETE, handle, key)).await
    }

    /// Sets how long a container may go without a client.
    pub async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<(), ClientError> {
        let body = wire::nanoseconds(grace_time);
        self.done(container(Method::PUT, handle, "/grace_time", QUICK).json(&body)).await
    }

    /// Starts a process and attaches to it.
    pub async fn run(&self, handle: &str, spec: &ProcessSpec, outputs: Outputs) -> Result<Process, ClientError> {
        let request = container(Method::POST, handle, "/processes", CREATE).json(spec);
        Process::open(&self.target, handle, request, outputs).await
    }

    /// Attaches to a process.
    pub async fn attach(&self, handle: &str, process: &str, outputs: Outputs) -> Result<Process, ClientError> {
        let request = container(Method::GET, handle, &format!("/processes/{}", transport::segment(process)), QUICK);
        Process::open(&self.target, handle, request, outputs).await
    }

    /// Signals a process on a connection of its own, so that nothing which waits on another
    /// connection (stdin that the process does not read) is in the way.
    pub async fn signal(&self, handle: &str, process: &str, signal: Signal) -> Result<(), ClientError> {
        self.attach(handle, process, Outputs::None).await?.input.signal(signal).await
    }

    async fn answer<T: DeserializeOwned>(&self, request: Request) -> Result<T, ClientError> {
        let what = request.what();
        let body = transport::call(&self.target, request).await?;
        serde_json::from_slice(&body).map_err(|error| {
            ClientError::protocol(&self.target, &what, format!("its body is not what Garden answers: {error}"))
        })
    }

    async fn done(&self, request: Request) -> Result<(), ClientError> {
        transport::call(&self.target, request).await.map(drop)
    }
}

fn container(method: Method, handle: &str, rest: &str, deadline: Duration) -> Request {
    Request::new(method, format!("/containers/{}{rest}", transport::segment(handle)), deadline)
}

fn property(method: Method, handle: &str, key: &str) -> Request {
    container(method, handle, &format!("/properties/{}", transport::segment(key)), QUICK)
}

/// Splits handles so that each batch fits a request line. None at all is one empty batch.
fn batches(handles: &[String]) -> Vec<&[String]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, handle) in handles.iter().enumerate() {
        // Every byte may be escaped as three.
        let cost = handle.len() * 3 + 1;
        if bytes + cost > BULK_BYTES && index > start {
            batches.push(&handles[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += cost;
    }
    batches.push(&handles[start..]);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_requests_are_split_and_keep_every_handle_in_order() {
        let handles: Vec<String> = (0..1000).map(|n| format!("{n:036}")).collect();
        let split = batches(&handles);
        assert!(split.len() > 1);
        assert!(split.iter().all(|batch| batch.iter().map(|h| h.len() * 3 + 1).sum::<usize>() <= BULK_BYTES));
        assert_eq!(split.concat(), handles);
        let long = vec!["x".repeat(BULK_BYTES); 2];
        assert_eq!(batches(&long).len(), 2);
        assert_eq!(batches(&[]).len(), 1);
    }
}
