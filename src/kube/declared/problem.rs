//! Why a container is not as it is declared.

use crate::kube::client::Trouble;
use gardend_controller::Error;
use gardend_controller::ports::NodeErrorKind;

/// Shown in the object's conditions; nothing is made of it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// In one word, for programs.
    pub reason: &'static str,
    /// In words. None of a secret's.
    pub message: String,
}

impl Problem {
    /// What is declared cannot be, whatever the node has.
    pub(super) fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self { reason: "InvalidSpec", message: format!("spec.{field}: {why}") }
    }

    /// It may be over with the next change of the node.
    pub(super) fn is_the_nodes(&self) -> bool {
        matches!(self.reason, "Draining" | "HandleTaken" | "NodeFull" | "Pressure" | "NotReady")
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let reason = match error {
            Error::HandleInUse(_) => "HandleTaken",
            Error::Draining => "Draining",
            Error::Pressure(_) => "Pressure",
            Error::LimitReached { .. } => "NodeFull",
            Error::Invalid(_) | Error::InvalidName(_) => "InvalidSpec",
            Error::Node(error) if error.kind == NodeErrorKind::Invalid => "InvalidSpec",
            Error::Address(_) => "AddressUnavailable",
            Error::CreateFailed { .. } => "CreateFailed",
            Error::Stuck { .. } | Error::AlreadyDestroying(_) => "DoesNotGo",
            Error::NotReady { .. } | Error::ShuttingDown => "NotReady",
            _ => "Failed",
        };
        Self { reason, message: error.to_string() }
    }
}

/// Why a piece of work came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is the declaration's, or the node's.
    Problem(Problem),
    /// It is the API server's: nothing is known to be wrong with what is declared.
    Trouble(Trouble),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Problem(Problem::from(&error))
    }
}
