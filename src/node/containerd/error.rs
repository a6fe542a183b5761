//! What containerd answers when it cannot, in our words.

use gardend_controller::ports::{NodeError, NodeErrorKind};
use std::error::Error as _;
use std::path::Path;

/// A call to containerd that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("containerd could not {attempt}: {reason}")]
pub struct CallError {
    /// Of which sort.
    pub kind: CallErrorKind,
    /// What was attempted on what: "delete task 0123".
    pub attempt: String,
    /// What it said.
    pub reason: String,
}

/// What can be done about a [`CallError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallErrorKind {
    /// What was asked about is not there.
    NotFound,
    /// What was to be made is there.
    AlreadyExists,
    /// Not in this state (a task that runs cannot be deleted).
    Precondition,
    /// It, or a shim of its, does not answer; asking again may help.
    Unavailable,
    /// Anything else.
    Failed,
}

impl CallError {
    /// An answer of containerd's, or of the transport to it.
    pub fn from_status(attempt: String, socket: &Path, status: &tonic::Status) -> Self {
        let kind = classify(status);
        let reason = match kind {
            CallErrorKind::Unavailable if of_transport(status) => {
                format!("no connection to {}: {}; is containerd running?", socket.display(), root_cause(status))
            }
            _ => status.message().to_owned(),
        };
        Self { kind, attempt, reason }
    }

    /// No answer within the deadline.
    pub fn deadline(attempt: String, deadline: std::time::Duration) -> Self {
        let reason = format!("no answer within {} s; containerd or a shim hangs", deadline.as_secs());
        Self { kind: CallErrorKind::Unavailable, attempt, reason }
    }

    /// Whether a shim hung up while it was asked: most often one whose last task has just gone, and
    /// which goes after it. What it did of what was asked is not known; asking again tells.
    pub fn is_of_a_shim_that_hung_up(&self) -> bool {
        self.kind == CallErrorKind::Unavailable && self.reason.contains(HUNG_UP)
    }

    /// Whether what was asked about is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == CallErrorKind::NotFound
    }
}

impl From<CallError> for NodeError {
    fn from(error: CallError) -> Self {
        let kind = match error.kind {
            CallErrorKind::NotFound => NodeErrorKind::NotFound,
            CallErrorKind::Unavailable => NodeErrorKind::Unavailable,
            CallErrorKind::AlreadyExists | CallErrorKind::Precondition | CallErrorKind::Failed => NodeErrorKind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

fn classify(status: &tonic::Status) -> CallErrorKind {
    use tonic::Code;
    match status.code() {
        Code::NotFound => CallErrorKind::NotFound,
        Code::AlreadyExists => CallErrorKind::AlreadyExists,
        Code::FailedPrecondition => CallErrorKind::Precondition,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => CallErrorKind::Unavailable,
        _ if of_transport(status) || of_a_lost_shim(status.message()) => CallErrorKind::Unavailable,
        _ => CallErrorKind::Failed,
    }
}

/// What containerd says of a shim that closed its socket.
const HUNG_UP: &str = "ttrpc: closed";

/// containerd 1.6 passes a shim's death on as an unknown error with these words.
fn of_a_lost_shim(message: &str) -> bool {
    [HUNG_UP, "context deadline exceeded", "shim exited", "connection refused"]
        .iter()
        .any(|words| message.contains(words))
}

fn of_transport(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() || error.is::<hyper::Error>() || error.is::<std::io::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn root_cause(status: &tonic::Status) -> String {
    let mut cause = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &tonic::Status) -> CallError {
        CallError::from_status("delete task x".into(), Path::new("/run/c.sock"), status)
    }

    #[test]
    fn a_shim_that_died_is_worth_another_try_whatever_the_code() {
        assert_eq!(of(&tonic::Status::unknown("ttrpc: closed: unknown")).kind, CallErrorKind::Unavailable);
        assert_eq!(of(&tonic::Status::unavailable("ttrpc: closed")).kind, CallErrorKind::Unavailable);
        assert!(of(&tonic::Status::unknown("failed to delete task: ttrpc: closed")).is_of_a_shim_that_hung_up());
        assert!(!of(&tonic::Status::unknown("connection refused")).is_of_a_shim_that_hung_up());
        assert_eq!(of(&tonic::Status::unknown("OCI runtime create failed")).kind, CallErrorKind::Failed);
    }

    #[test]
    fn a_lost_connection_names_the_socket_and_the_cause() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = of(&tonic::Status::from_error(Box::new(io)));
        assert_eq!(error.kind, CallErrorKind::Unavailable);
        let text = NodeError::from(error).to_string();
        assert!(text.contains("delete task x") && text.contains("/run/c.sock") && text.contains("refused"), "{text}");
    }
}
