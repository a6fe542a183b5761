//! Errors of mount work, in the port's terms.

use gardend_controller::ports::{NodeError, NodeErrorKind};
use std::fmt::Display;

pub(super) type Result<T> = std::result::Result<T, NodeError>;

/// The client asked for what cannot be had.
pub(super) fn invalid(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Invalid, message)
}

/// Something on the node did not work.
pub(super) fn failed(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Failed, message)
}

/// For `map_err`: what was attempted, and what the kernel said.
pub(super) fn attempting<E: Display>(what: impl Display) -> impl FnOnce(E) -> NodeError {
    move |error| failed(format!("{what}: {error}"))
}
