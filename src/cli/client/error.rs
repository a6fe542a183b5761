//! What can go wrong between a client and a server. The texts are shown to people.

use super::Target;
use std::io;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot reach gardend at {target}: {}{}", io_reason(source), unreachable_remedy(source))]
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        source: io::Error,
    },
    /// Garden refused or failed, in its own words.
    #[error(transparent)]
    Garden(#[from] GardenError),
    /// The server did not answer in time.
    #[error("gardend at {target} did not answer {what} within {} s; what it logs may say why", after.as_secs())]
    TimedOut {
        /// Where.
        target: Target,
        /// Which request.
        what: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke in the middle of a call.
    #[error(
        "the connection to gardend at {target} was lost during {what}: {}{}",
        io_reason(source),
        lost_remedy(target)
    )]
    Lost {
        /// Where.
        target: Target,
        /// Which request.
        what: String,
        /// What was seen.
        source: io::Error,
    },
    /// What answered does not speak Garden.
    #[error("the answer of {target} to {what} is not Garden's: {why}; is it a gardend? name another with --target")]
    Protocol {
        /// Where.
        target: Target,
        /// Which request.
        what: String,
        /// What was seen.
        why: String,
    },
    /// What was to be sent cannot be read here.
    #[error("{source}")]
    Stream {
        /// Why.
        source: io::Error,
    },
    /// The server told that a process's end cannot be known.
    #[error("process '{process}': {message}")]
    Process {
        /// Which.
        process: String,
        /// In the server's words.
        message: String,
    },
}

impl ClientError {
    pub(super) fn protocol(target: &Target, what: &str, why: impl Into<String>) -> Self {
        Self::Protocol { target: target.clone(), what: what.to_owned(), why: why.into() }
    }

    pub(super) fn lost(target: &Target, what: &str, source: io::Error) -> Self {
        Self::Lost { target: target.clone(), what: what.to_owned(), source }
    }

    /// Garden's own error, where that is what it is.
    pub fn garden(&self) -> Option<&GardenError> {
        match self {
            Self::Garden(error) => Some(error),
            _ => None,
        }
    }

    /// Of which kind Garden's own error is.
    pub fn kind(&self) -> Option<GardenErrorKind> {
        self.garden().map(|error| error.kind)
    }

    /// The server may be back soon: asking again can help.
    pub fn is_disconnection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. } | Self::TimedOut { .. })
    }
}

/// An error that Garden answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GardenError {
    /// Of which type.
    pub kind: GardenErrorKind,
    /// In the server's words.
    pub message: String,
    /// The container that is not there, for that kind.
    pub handle: Option<String>,
    /// The process that is not there, for that kind.
    pub process_id: Option<String>,
}

/// The error types that Garden has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GardenErrorKind {
    /// `UnrecoverableError`.
    Unrecoverable,
    /// `ServiceUnavailableError`.
    ServiceUnavailable,
    /// `ContainerNotFoundError`.
    ContainerNotFound,
    /// `ProcessNotFoundError`.
    ProcessNotFound,
    /// `ExecutableNotFoundError`.
    ExecutableNotFound,
    /// Any other: words alone.
    Other,
}

impl GardenErrorKind {
    /// From the type's name on the wire.
    pub fn from_wire(name: &str) -> Self {
        match name {
            "UnrecoverableError" => Self::Unrecoverable,
            "ServiceUnavailableError" => Self::ServiceUnavailable,
            "ContainerNotFoundError" => Self::ContainerNotFound,
            "ProcessNotFoundError" => Self::ProcessNotFound,
            "ExecutableNotFoundError" => Self::ExecutableNotFound,
            _ => Self::Other,
        }
    }
}

/// The plain words of an I/O error, without Rust's "(os error N)".
pub(crate) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error ").next().unwrap_or(&text);
    // As every other tool on the system has it: lower case inside a sentence.
    let mut letters = plain.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn unreachable_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; use an account that may open it, or name another with --target",
        // TLS's.
        io::ErrorKind::InvalidData => {
            "; name whom it is signed by with --ca-file, and the server as its certificate does"
        }
        // A file's that was to be shown.
        io::ErrorKind::Other => "",
        _ => "; is `gardend serve` running? name another with --target or GARDEND_TARGET",
    }
}

/// A server that wants a certificate says so in a way that TLS lets get lost.
fn lost_remedy(target: &Target) -> &'static str {
    match target {
        Target::Tls { credentials, .. } if credentials.certificate.is_none() => {
            "; a server that wants a certificate closes like this: show one with --cert-file and --key-file"
        }
        Target::Tls { .. } => "; a server that does not trust the certificate of --cert-file closes like this",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_server_is_named_with_the_reason_and_what_to_do() {
        let error = ClientError::Unreachable { target: Target::default(), source: io::Error::from_raw_os_error(111) };
        assert_eq!(
            error.to_string(),
            "cannot reach gardend at 127.0.0.1:7777: connection refused; is `gardend serve` running? \
             name another with --target or GARDEND_TARGET"
        );
    }
}
