//! How commands end: exit statuses and failures.

use super::client::{ClientError, GardenErrorKind, io_reason};
use super::output::report_error;
use std::io;
use std::process::ExitCode;

/// A command's exit status, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It failed.
    Failed,
    /// Its arguments make no sense.
    Usage,
    /// The connection was cut before a command ended.
    Lost,
    /// gardend or this client failed, where the status would else be a process's.
    ClientFailed,
    /// The program cannot be executed.
    NotExecutable,
    /// The program is not there.
    NotFound,
    /// A signal ended this client, or would have.
    Signal(i32),
    /// A process's own, as Garden reports it.
    Process(i32),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        // What does not fit is no success.
        let fit = |code: i32| u8::try_from(code).unwrap_or(u8::MAX);
        Self::from(match status {
            Status::Failed => 1,
            Status::Usage => 2,
            Status::Lost => 124,
            Status::ClientFailed => 125,
            Status::NotExecutable => 126,
            Status::NotFound => 127,
            Status::Signal(signal) => fit(128 + signal),
            Status::Process(code) => fit(code),
        })
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server, or the way to it.
    Client(ClientError),
    /// Arguments that parse and make no sense.
    Usage(String),
    /// Anything else, in words.
    Words(String),
    /// It has been told already; this is the status.
    Told(Status),
    /// A failure of a command whose status would else be its process's.
    OfProcess(Box<Failure>),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// Output that cannot be written. A reader that went away is nothing to tell anybody.
    pub(crate) fn writing(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Told(Status::Signal(libc::SIGPIPE)),
            _ => Self::Words(format!("cannot write to stdout: {}", io_reason(error))),
        }
    }

    pub(crate) fn of_a_process(self) -> Self {
        Self::OfProcess(Box::new(self))
    }

    /// Tells it on stderr; answers the status to exit with.
    pub(crate) fn report(self) -> ExitCode {
        let status = self.status();
        if let Some(words) = self.words() {
            report_error(&words);
        }
        status.into()
    }

    /// What there is to tell.
    pub(crate) fn words(&self) -> Option<String> {
        match self {
            Self::Client(error) => Some(error.to_string()),
            Self::Usage(words) | Self::Words(words) => Some(words.clone()),
            Self::Told(_) => None,
            Self::OfProcess(inner) => inner.words(),
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Client(_) | Self::Words(_) => Status::Failed,
            Self::Usage(_) => Status::Usage,
            Self::Told(status) => *status,
            Self::OfProcess(inner) => match &**inner {
                Self::Client(error) => start_status(error),
                Self::Told(status) => *status,
                _ => Status::ClientFailed,
            },
        }
    }
}

/// The status for a process that did not start, as shells and docker have it.
fn start_status(error: &ClientError) -> Status {
    match error.garden() {
        Some(error) if error.kind == GardenErrorKind::ExecutableNotFound => Status::NotFound,
        // Garden has no type for a program that is there and cannot be executed, only these words.
        Some(error) if error.message.contains("exec: \"") => Status::NotExecutable,
        _ => Status::ClientFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::{GardenError, Target};
    use super::*;

    fn garden(kind: GardenErrorKind, message: &str) -> Failure {
        Failure::Client(GardenError { kind, message: message.to_owned(), handle: None, process_id: None }.into())
    }

    #[test]
    fn a_process_that_did_not_start_gives_the_status_that_docker_gives() {
        let missing = garden(GardenErrorKind::ExecutableNotFound, "exec: \"x\": executable file not found in $PATH");
        assert_eq!(missing.of_a_process().status(), Status::NotFound);
        let refused = garden(GardenErrorKind::Other, "exec: \"/etc/passwd\": permission denied");
        assert_eq!(refused.of_a_process().status(), Status::NotExecutable);
        let unknown = garden(GardenErrorKind::ContainerNotFound, "unknown handle: h");
        assert_eq!(unknown.of_a_process().status(), Status::ClientFailed);
        let away = ClientError::Unreachable { target: Target::default(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(Failure::from(away).of_a_process().status(), Status::ClientFailed);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        assert!(Failure::writing(&io::ErrorKind::BrokenPipe.into()).words().is_none());
        assert!(Failure::writing(&io::ErrorKind::StorageFull.into()).words().unwrap().starts_with("cannot write"));
    }
}
