//! How the API server is reached, and what its answers mean for who asked.

use super::names::NodeName;
use crate::own;
use crate::words::causes;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// What a pod is told of itself and of the API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where nothing else says so.
const DEFAULT_NAMESPACE: &str = "gardend";

/// Who writes, as the API server notes it beside each field.
pub(super) const FIELD_MANAGER: &str = "gardend";

/// Where this gardend's objects are, and by whom it is written.
#[derive(Clone)]
pub struct Place {
    /// The API server.
    pub client: Client,
    /// Of containers, leases and events.
    pub namespace: String,
    /// Of this node.
    pub node: NodeName,
}

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig that cannot be used.
    #[error("--kubeconfig '{path}' cannot be used: {source}")]
    Kubeconfig {
        /// Which.
        path: String,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod.
    #[error(
        "no API server is known: gardend is in no pod that has a service account ({what}: {why}); name a file by \
         --kubeconfig"
    )]
    NotInPod {
        /// What there is none of.
        what: String,
        /// Why.
        why: String,
    },
    /// What is said of it makes no client.
    #[error("no client for the API server can be made: {0}")]
    Client(kube::Error),
}

/// Prepares the way to an API server; whether it answers is not asked. Without a kubeconfig it is
/// that of the pod's service account.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    kubeconfig: Option<&Path>,
    namespace: Option<&str>,
    node: NodeName,
) -> Result<Place, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ConnectError::Kubeconfig { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => in_pod()?,
    };
    config.connect_timeout = Some(CONNECT);
    // Tries are ours to count.
    config.default_retry = false;
    let own = || {
        let file = of_pod("namespace").ok()?;
        std::fs::read_to_string(file).ok().map(|name| name.trim().to_owned())
    };
    let namespace = match (namespace, kubeconfig) {
        (Some(name), _) => name.to_owned(),
        (None, Some(_)) => DEFAULT_NAMESPACE.to_owned(),
        (None, None) => own().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
    };
    let client = Client::try_from(config).map_err(ConnectError::Client)?;
    Ok(Place { client, namespace, node })
}

/// By what kubelet gives to every container of a pod that has a service account. The files are the
/// pod's, wherever this thread works.
fn in_pod() -> Result<Config, ConnectError> {
    let variable = |name: &str| {
        std::env::var(name).map_err(|error| ConnectError::NotInPod { what: name.to_owned(), why: error.to_string() })
    };
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let server = format!("https://{host}:{port}");
    let refused = |why: String| ConnectError::NotInPod { what: server.clone(), why };
    let mut config = Config::new(server.parse().map_err(|error: http::uri::InvalidUri| refused(error.to_string()))?);
    // Both files change while gardend runs, and are read again.
    config.root_cert_file = Some(of_pod("ca.crt")?);
    config.auth_info.token_file = Some(of_pod("token")?.to_string_lossy().into_owned());
    Ok(config)
}

fn of_pod(name: &str) -> Result<PathBuf, ConnectError> {
    let path = Path::new(SERVICE_ACCOUNT).join(name);
    let found = own::file(&path).and_then(|found| found.metadata().map(|_| found));
    found.map_err(|error| ConnectError::NotInPod { what: path.display().to_string(), why: error.to_string() })
}

/// Why a request came to nothing, as far as it matters to who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Nobody is served at present: everything waits.
    #[error("{why}")]
    Away { why: String, retry_after: Option<Duration> },
    /// What was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// This request, and no other, is not accepted.
    #[error("{0}")]
    Refused(String),
}

/// One request, with its deadline.
pub(super) async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        Err(_) => Err(away(format!("the API server did not answer within {} s", DEADLINE.as_secs()))),
    }
}

fn away(why: String) -> Trouble {
    Trouble::Away { why, retry_after: None }
}

pub(super) fn trouble(error: &kube::Error) -> Trouble {
    let kube::Error::Api(status) = error else { return away(causes(error)) };
    let message = format!("{} (status {})", status.message, status.code);
    match status.code {
        404 => Trouble::NotFound(message),
        409 => Trouble::Conflict(message),
        429 | 500.. => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            let retry_after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds).min(60)));
            Trouble::Away { why: message, retry_after }
        }
        // A token that has just run out is read anew with the next request.
        401 => away(message),
        _ => Trouble::Refused(message),
    }
}
