//! Draining, in gardend's own calls. Nothing of these shapes is Garden's.

use gardend_controller::{Drain, DrainView, Remaining};
use serde::{Deserialize, Serialize};

/// The body of a drain.
#[derive(Debug, Deserialize)]
pub(crate) struct DrainAsked {
    /// `refuse`, `destroy` or `uninstall`.
    pub(crate) drain: Drain,
}

/// How far it is.
#[derive(Debug, Serialize)]
pub(crate) struct DrainStand {
    /// Null where the node is not being drained.
    drain: Option<Drain>,
    drained: bool,
    containers: Vec<Left>,
    places: usize,
}

#[derive(Debug, Serialize)]
struct Left {
    handle: String,
    going: bool,
    stuck: Option<String>,
}

impl From<DrainView> for DrainStand {
    fn from(view: DrainView) -> Self {
        let drained = view.drained();
        let left = |Remaining { handle, going, stuck }| Left { handle: handle.to_string(), going, stuck };
        let containers = view.containers.into_iter().map(left).collect();
        Self { drain: view.drain, drained, containers, places: view.places }
    }
}
