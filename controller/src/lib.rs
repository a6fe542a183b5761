//! gardend's heart: records of what is wanted, and the loop that converges a node onto them.
//!
//! Pure: no HTTP, no containerd, no Kubernetes, no Linux calls; the node is reached through
//! [`ports`].

pub mod error;
pub mod ports;
pub mod record;
pub mod service;

pub use error::Error;
pub use service::{Attachment, Controller, Info, Node, Options, Outcome, Output};
