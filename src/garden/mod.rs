//! The HTTP front end: Garden's API, as its Go client speaks it.
//!
//! [`serve`] takes listeners, the controller and a shutdown from outside. Every call is
//! checked here, put into the controller's words, and answered in Garden's; errors always have
//! Garden's shape, whoever refused (HTTP itself, the JSON, the controller).
//!
//! Owns: connections, and nothing that a restart would miss. `connection` speaks HTTP until a
//! handler takes the connection over (`takeover`), then `stream` speaks messages or hands the bare
//! socket to the controller. `wire` has the JSON shapes, `calls` the handlers, `router` the table.
//!
//! Promises: bounds in size and time on all that a client sends; an error is read as one, never as
//! a reset; a client that leaves undoes a create and nothing else; passwords, environments,
//! arguments and property values are in no log.
//!
//! Leaves to others: what a container or a process is (the controller and its ports).

mod answer;
mod body;
mod calls;
mod capacity;
mod connection;
mod io;
mod linger;
mod names;
mod router;
mod server;
mod socket;
mod stream;
mod takeover;
mod who;
mod wire;

pub use body::MAX_JSON_BODY;
pub use capacity::{FactSource, Facts, Machine};
pub use server::serve;

use crate::net::secure::Secure;
use gardend_controller::Controller;
use std::sync::Arc;

/// Connections at most, where nobody says otherwise. A process takes up to three.
pub const DEFAULT_MAX_CONNECTIONS: usize = 8192;

/// What [`serve`] serves.
#[derive(Clone)]
pub struct Garden {
    controller: Controller,
    facts: Arc<dyn FactSource>,
    max_connections: usize,
    secure: Option<Secure>,
}

impl Garden {
    /// `facts` answers the capacity call.
    pub fn new(controller: Controller, facts: impl FactSource) -> Self {
        Self { controller, facts: Arc::new(facts), max_connections: DEFAULT_MAX_CONNECTIONS, secure: None }
    }

    /// Allows so many connections at once; further ones are told so and closed.
    #[must_use]
    pub fn with_max_connections(self, max_connections: usize) -> Self {
        Self { max_connections, ..self }
    }

    /// Lets clients in at `tls://` addresses, where they prove who they are. Without it nobody comes in there.
    #[must_use]
    pub fn with_secure(self, secure: Secure) -> Self {
        Self { secure: Some(secure), ..self }
    }
}
