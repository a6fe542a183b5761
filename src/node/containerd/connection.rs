//! The connection to containerd: one lazy HTTP/2 channel over its unix socket.
//!
//! It is made at the first call and made again at the first call after it broke, so a restarted
//! containerd is found without our restart. Every call has a deadline, and an error that says
//! what was attempted on what.

use super::calls::{Calls, Metered};
use super::error::CallError;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;

/// For calls that read or write containerd's own database.
pub const QUICK: Duration = Duration::from_secs(10);
/// For calls that a shim and a runtime take part in.
pub const SLOW: Duration = Duration::from_secs(20);
/// An answer may be this large: a list of containers holds their specs.
pub const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A connection to one containerd, and the namespace that all calls are made in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Metered,
    socket: Arc<Path>,
    namespace: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
}

impl Connection {
    /// A connection that will be made when it is needed.
    pub fn lazy(socket: &Path, namespace: &'static str) -> Self {
        Self::counted(socket, namespace, Calls::default())
    }

    /// The same, with every call counted.
    pub fn counted(socket: &Path, namespace: &'static str, calls: Calls) -> Self {
        let path: PathBuf = socket.to_owned();
        // The address is never looked at: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://containerd.invalid").connect_timeout(QUICK);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        }));
        let namespace = tonic::metadata::MetadataValue::from_static(namespace);
        Self { channel: Metered::new(channel, calls), socket: socket.into(), namespace }
    }

    /// Where containerd listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// For the generated clients.
    pub(super) fn channel(&self) -> Metered {
        self.channel.clone()
    }

    /// A request in our namespace that containerd, too, gives up on after `deadline`.
    pub(super) fn request<T>(&self, message: T, deadline: Duration) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request.set_timeout(deadline);
        request
    }

    /// A request whose results a lease holds.
    pub(super) fn leased<T>(&self, lease: &str, message: T, deadline: Duration) -> tonic::Request<T> {
        let mut request = self.leased_without_end(lease, message);
        request.set_timeout(deadline);
        request
    }

    /// The same for a stream, whose messages have deadlines of their own.
    pub(super) fn leased_without_end<T>(&self, lease: &str, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        // Our leases' names are plain.
        if let Ok(lease) = lease.parse() {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Runs a call. Dropped half-way, containerd is told and stops what it can.
    pub(super) async fn call<T>(
        &self,
        deadline: Duration,
        attempt: impl FnOnce() -> String,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == tonic::Code::DeadlineExceeded => {
                Err(CallError::deadline(attempt(), deadline))
            }
            Ok(Err(status)) => Err(CallError::from_status(attempt(), &self.socket, &status)),
            Err(_) => Err(CallError::deadline(attempt(), deadline)),
        }
    }
}
