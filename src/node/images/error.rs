//! Why an image is not to be had, in the port's terms.

use super::registry::RegistryError;
use crate::node::containerd::CallError;
use gardend_controller::ports::{NodeError, NodeErrorKind};
use std::error::Error;
use std::fmt::Write;

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// Its registry, or the way there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// containerd, which keeps it.
    #[error(transparent)]
    Containerd(#[from] CallError),
    /// What is there is no image for us.
    #[error("{0}")]
    Unfit(String),
    /// Something of the node's.
    #[error("{0}")]
    Node(String),
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    GivenUp,
}

impl ImageError {
    /// Of the image that is named so.
    pub(crate) fn of(&self, image: impl std::fmt::Display) -> NodeError {
        let kind = match self {
            Self::Registry(error) if error.is_transient() => NodeErrorKind::Unavailable,
            Self::Registry(_) | Self::Unfit(_) => NodeErrorKind::Invalid,
            Self::Containerd(error) => NodeError::from(error.clone()).kind,
            Self::Node(_) => NodeErrorKind::Failed,
            Self::GivenUp => NodeErrorKind::Unavailable,
        };
        // What containerd does not find is not what was asked for.
        let kind = if kind == NodeErrorKind::NotFound { NodeErrorKind::Failed } else { kind };
        NodeError::new(kind, format!("{image}: {self}"))
    }
}

/// An error with all that caused it, each said once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}
