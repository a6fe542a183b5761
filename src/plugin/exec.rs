//! gardend's command line, run in its pod by pods/exec.

use super::args::Line;
use super::channel::{ChannelError, Outputs, carry};
use super::cluster::Cluster;
use super::kubeconfig;
use super::nodes::{CONTAINER, GardendPod};
use super::status::Ended;
use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::client::UpgradeConnectionError;
use kube::{Error, Resource};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error as WebsocketError, Message};

/// How long the way to a command may take: API server, kubelet, runtime.
const OPEN: Duration = Duration::from_secs(30);
/// Output that is kept.
const MOST: usize = 32 << 20;

/// What of this side a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// Stdin, with its end.
    pub(super) stdin: bool,
    /// A stdin that ends with this side, and on which nothing comes.
    pub(super) lifeline: bool,
    /// A terminal.
    pub(super) tty: bool,
}

impl Mode {
    /// Outputs alone.
    pub(super) const OUTPUT: Self = Self { stdin: false, lifeline: false, tty: false };
    /// Outputs, for as long as this side is there.
    pub(super) const LIFELINE: Self = Self { stdin: false, lifeline: true, tty: false };
}

/// Why a command in a pod came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecError {
    /// It may not be run.
    #[error("{0}; `kubectl garden` needs the verbs get and create on pods/exec there")]
    Forbidden(String),
    /// There is no way to it at present.
    #[error("{0}")]
    Unreachable(String),
    /// It was not run.
    #[error("gardend's command line cannot be run in pod '{pod}': {why}")]
    Failed {
        /// Where.
        pod: String,
        /// Why.
        why: String,
    },
    /// The connection ended before it did.
    #[error("the connection to pod '{pod}' was cut: {why}; what was begun there may go on")]
    Cut {
        /// Where.
        pod: String,
        /// Why.
        why: String,
    },
    /// What it wrote cannot be written here.
    #[error("{0}")]
    Output(#[source] io::Error),
}

/// What a command said.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) status: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Captured {
    /// What it complained of, on one line.
    pub(super) fn complaint(&self) -> String {
        let said = String::from_utf8_lossy(&self.stderr);
        let lines: Vec<&str> = said.lines().map(|line| line.trim_start_matches("error: ")).collect();
        match lines.join(" ").trim() {
            "" => format!("status {}", self.status),
            words => words.to_owned(),
        }
    }
}

/// A websocket of a command's streams.
pub(super) trait Websocket:
    futures_util::Stream<Item = Result<Message, WebsocketError>> + futures_util::Sink<Message, Error = WebsocketError>
{
}
impl<S> Websocket for S where
    S: futures_util::Stream<Item = Result<Message, WebsocketError>>
        + futures_util::Sink<Message, Error = WebsocketError>
{
}

impl Cluster {
    /// Begins a command in a pod.
    pub(super) async fn open(
        &self,
        pod: &GardendPod,
        line: &Line,
        mode: Mode,
    ) -> Result<impl Websocket + use<>, ExecError> {
        let opened = timeout(OPEN, self.client.connect(self.request(pod, line, mode)?)).await;
        match opened {
            Ok(Ok(connection)) if connection.supports_stream_close() => Ok(connection.into_stream()),
            Ok(Ok(_)) => Err(ExecError::Failed {
                pod: pod.name.clone(),
                why: "the API server does not speak v5.channel.k8s.io, by which stdin ends".to_owned(),
            }),
            Ok(Err(Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)))) => {
                Err(self.refusal(pod, line, mode, status).await)
            }
            Ok(Err(error)) => Err(ExecError::Unreachable(kubeconfig::words(&error))),
            Err(_) => Err(ExecError::Unreachable(format!(
                "pod '{}' cannot be entered: no answer within {} s",
                pod.name,
                OPEN.as_secs()
            ))),
        }
    }

    /// Runs a command to its end and keeps what it says.
    pub(super) async fn capture(&self, pod: &GardendPod, line: &Line) -> Result<Captured, ExecError> {
        let websocket = self.open(pod, line, Mode::OUTPUT).await?;
        let mut outputs = Outputs::Kept { stdout: Vec::new(), stderr: Vec::new(), most: MOST };
        // Nothing is sent; while the sender is there, no end of it is either.
        let (_inputs, received) = mpsc::channel(1);
        let status = concluded(pod, carry(websocket, received, &mut outputs).await)?;
        let (stdout, stderr) = match outputs {
            Outputs::Kept { stdout, stderr, .. } => (stdout, stderr),
            Outputs::Own { .. } => (Vec::new(), Vec::new()),
        };
        Ok(Captured { status, stdout, stderr })
    }

    fn request(&self, pod: &GardendPod, line: &Line, mode: Mode) -> Result<Request<Vec<u8>>, ExecError> {
        let params = AttachParams::default()
            .container(CONTAINER)
            .stdin(mode.stdin || mode.lifeline)
            .stdout(true)
            // A terminal carries both outputs as one.
            .stderr(!mode.tty)
            .tty(mode.tty);
        let pods = kube::core::Request::new(Pod::url_path(&(), Some(&self.namespace)));
        pods.exec(&pod.name, line.in_pod(self.target.as_deref()), &params)
            .map_err(|error| ExecError::Failed { pod: pod.name.clone(), why: error.to_string() })
    }

    /// A websocket that is refused says no more than a number: asked in plain HTTP, the server says why.
    async fn refusal(&self, pod: &GardendPod, line: &Line, mode: Mode, refused: StatusCode) -> ExecError {
        let why = match self.request(pod, line, mode) {
            Ok(request) => timeout(OPEN, self.client.request_text(request)).await,
            Err(error) => return error,
        };
        let said = match why {
            Ok(Err(Error::Api(status))) if status.code == refused.as_u16() => Some(status.message.clone()),
            _ => None,
        };
        refusal(pod, &self.namespace, refused, said)
    }
}

fn refusal(pod: &GardendPod, namespace: &str, status: StatusCode, said: Option<String>) -> ExecError {
    match (status, said) {
        (StatusCode::FORBIDDEN, Some(said)) => ExecError::Forbidden(format!("the API server refuses: {said}")),
        (StatusCode::FORBIDDEN, None) => ExecError::Forbidden(format!(
            "the API server refuses: you cannot create resource \"pods/exec\" in the namespace \"{namespace}\""
        )),
        (status, said) => {
            let said = said.map(|said| format!(": {said}")).unwrap_or_default();
            ExecError::Unreachable(format!("pod '{}' cannot be entered{said} (status {})", pod.name, status.as_u16()))
        }
    }
}

/// The status of a command that was carried.
pub(super) fn concluded(pod: &GardendPod, ended: Result<Ended, ChannelError>) -> Result<i32, ExecError> {
    let pod = || pod.name.clone();
    match ended {
        Ok(Ended::Exited(status)) => Ok(status),
        Ok(Ended::Failed(why)) => Err(ExecError::Failed { pod: pod(), why }),
        Err(ChannelError::Cut(why)) => Err(ExecError::Cut { pod: pod(), why }),
        Err(ChannelError::Output(error)) => Err(ExecError::Output(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::State;
    use super::*;

    fn pod() -> GardendPod {
        GardendPod { name: "p".to_owned(), node: "n".to_owned(), state: State::Ready }
    }

    #[test]
    fn a_refusal_names_the_verb_and_the_resource_whether_or_not_the_server_does() {
        let said = "pods \"p\" is forbidden: User \"u\" cannot get resource \"pods/exec\"".to_owned();
        let words = refusal(&pod(), "ns", StatusCode::FORBIDDEN, Some(said)).to_string();
        assert!(words.contains("User \"u\" cannot get resource \"pods/exec\""), "{words}");
        let words = refusal(&pod(), "ns", StatusCode::FORBIDDEN, None).to_string();
        assert!(words.contains("create resource \"pods/exec\" in the namespace \"ns\""), "{words}");
        let words = refusal(&pod(), "ns", StatusCode::NOT_FOUND, Some("pods \"p\" not found".to_owned())).to_string();
        assert!(words.contains("'p' cannot be entered: pods \"p\" not found (status 404)"), "{words}");
    }

    #[test]
    fn each_end_is_told_apart() {
        assert_eq!(concluded(&pod(), Ok(Ended::Exited(42))).unwrap(), 42);
        let cut = concluded(&pod(), Err(ChannelError::Cut("x".to_owned()))).unwrap_err();
        assert!(matches!(&cut, ExecError::Cut { .. }) && cut.to_string().contains("was cut: x"));
        let failed = concluded(&pod(), Ok(Ended::Failed("no such program".to_owned()))).unwrap_err();
        assert!(failed.to_string().ends_with("in pod 'p': no such program"));
    }
}
