//! An error as Garden's clients read it: they match on `Type`, and Concourse on some messages.

use gardend_controller::Error;
use gardend_controller::ports::{FilesError, NodeErrorKind, SpawnError};
use serde::Serialize;

/// Garden's own sorts of errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) enum ErrorType {
    /// Any other.
    #[default]
    #[serde(rename = "")]
    Plain,
    #[serde(rename = "ServiceUnavailableError")]
    ServiceUnavailable,
    #[serde(rename = "ContainerNotFoundError")]
    ContainerNotFound,
    #[serde(rename = "ProcessNotFoundError")]
    ProcessNotFound,
    #[serde(rename = "ExecutableNotFoundError")]
    ExecutableNotFound,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GardenError {
    #[serde(rename = "Type")]
    pub(crate) kind: ErrorType,
    pub(crate) message: String,
    pub(crate) handle: String,
    #[serde(rename = "ProcessID")]
    pub(crate) process_id: String,
    pub(crate) binary: String,
}

impl GardenError {
    /// One that clients only show.
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// One that asking again later may cure.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { kind: ErrorType::ServiceUnavailable, message: message.into(), ..Self::default() }
    }

    /// Whether the thing that was asked about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.kind, ErrorType::ContainerNotFound | ErrorType::ProcessNotFound)
    }
}

impl From<&Error> for GardenError {
    fn from(error: &Error) -> Self {
        let mut answer = Self::plain(error.to_string());
        answer.kind = match error {
            Error::ContainerNotFound(handle) => {
                answer.handle.clone_from(handle);
                ErrorType::ContainerNotFound
            }
            Error::ProcessNotFound(process) => {
                answer.process_id.clone_from(process);
                ErrorType::ProcessNotFound
            }
            Error::Spawn(SpawnError::ExecutableNotFound { program }) => {
                answer.binary.clone_from(program);
                ErrorType::ExecutableNotFound
            }
            Error::CreateFailed { source, .. } | Error::Node(source) if source.kind == NodeErrorKind::Unavailable => {
                ErrorType::ServiceUnavailable
            }
            Error::StreamIn(FilesError::NoAnswer { .. }) | Error::StreamOut(FilesError::NoAnswer { .. }) => {
                ErrorType::ServiceUnavailable
            }
            Error::NotReady { .. } | Error::ShuttingDown | Error::Draining | Error::Pressure(_) => {
                ErrorType::ServiceUnavailable
            }
            _ => ErrorType::Plain,
        };
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::ports::NodeError;

    #[test]
    fn each_sort_has_the_type_that_clients_match_on() {
        let unavailable = NodeError::new(NodeErrorKind::Unavailable, "containerd does not answer");
        let failed = NodeError::new(NodeErrorKind::Failed, "broken");
        let cases = [
            (Error::ContainerNotFound("h".into()), ErrorType::ContainerNotFound),
            (Error::ProcessNotFound("p".into()), ErrorType::ProcessNotFound),
            (Error::Spawn(SpawnError::ExecutableNotFound { program: "x".into() }), ErrorType::ExecutableNotFound),
            (Error::Node(unavailable), ErrorType::ServiceUnavailable),
            (Error::Node(failed), ErrorType::Plain),
            (Error::ShuttingDown, ErrorType::ServiceUnavailable),
            (Error::Draining, ErrorType::ServiceUnavailable),
            (Error::Invalid("no".into()), ErrorType::Plain),
        ];
        for (error, kind) in cases {
            assert_eq!(GardenError::from(&error).kind, kind, "{error}");
        }
    }

    #[test]
    fn the_json_is_what_go_decodes() {
        let text = serde_json::to_string(&GardenError::from(&Error::ContainerNotFound("h".into()))).unwrap();
        assert_eq!(
            text,
            r#"{"Type":"ContainerNotFoundError","Message":"unknown handle: h","Handle":"h","ProcessID":"","Binary":""}"#
        );
        assert!(serde_json::to_string(&GardenError::plain("m")).unwrap().starts_with(r#"{"Type":"","Message":"m""#));
    }
}
