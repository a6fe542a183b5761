//! The calls, by what they are about. Each checks what came, asks the controller and answers.

pub(super) mod containers;
pub(super) mod drain;
pub(super) mod files;
pub(super) mod images;
pub(super) mod limits;
pub(super) mod metrics;
pub(super) mod network;
pub(super) mod processes;
pub(super) mod properties;
pub(super) mod server;

use super::takeover::Exchange;

/// The connection that a request came over.
type Connection = axum::Extension<Exchange>;
