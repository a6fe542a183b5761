//! The shapes of Garden's JSON: the Go client's types under the names that they have there, and
//! their way into the controller's words and back. Nothing here knows HTTP.

mod answers;
mod container;
mod drain;
mod error;
mod images;
pub(crate) mod json;
mod limits;
mod metrics;
mod network;
mod payload;
mod process;

pub(crate) use answers::*;
pub(crate) use container::{ContainerSpec, ImageRef, grace_time};
pub(crate) use drain::{DrainAsked, DrainStand};
pub(crate) use error::GardenError;
pub(crate) use images::{Images, Prune, PullLine, PulledImage, pull};
pub(crate) use limits::{BandwidthLimits, CpuLimits, DiskLimits, MemoryLimits};
pub(crate) use metrics::{Metrics, MetricsEntry};
pub(crate) use network::{Mapped, NetIn, NetOutRule};
pub(crate) use payload::{Message, Payload, TtySpec};
pub(crate) use process::ProcessSpec;

use std::path::PathBuf;

/// A request that is well-formed but asks for what cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unacceptable {
    /// A field's value cannot be used.
    #[error("{field}: {reason}")]
    Field {
        /// Which, as in `bind_mounts[0].mode`.
        field: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A name that no client could carry in a URL.
    #[error(transparent)]
    Name(#[from] gardend_controller::record::InvalidName),
}

impl Unacceptable {
    fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }
}

/// An empty string is Go's way to say nothing.
fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The kernel ends strings at a zero byte: one within would silently cut the rest.
fn without_nul(field: impl FnOnce() -> String, text: &str) -> Result<(), Unacceptable> {
    if text.contains('\0') {
        return Err(Unacceptable::field(field(), "holds a zero byte, which no path, argument or variable can"));
    }
    Ok(())
}

fn absolute_path(field: impl Fn() -> String, text: &str) -> Result<PathBuf, Unacceptable> {
    without_nul(&field, text)?;
    if !text.starts_with('/') {
        let reason = if text.is_empty() { "is missing" } else { "must be an absolute path" };
        return Err(Unacceptable::field(field(), reason));
    }
    Ok(PathBuf::from(text))
}

fn check_env(env: &[String]) -> Result<(), Unacceptable> {
    for (index, variable) in env.iter().enumerate() {
        let field = || format!("env[{index}]");
        without_nul(field, variable)?;
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Unacceptable::field(field(), "has no name; write NAME=value"));
        }
    }
    Ok(())
}
