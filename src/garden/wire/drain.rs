//! Draining, in gardend's own calls. Nothing of these shapes is Garden's.

use super::Unacceptable;
use gardend_controller::{Drain, DrainView, Remaining};
use serde::{Deserialize, Serialize};

/// The body of a drain.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DrainAsked {
    drain: String,
}

impl DrainAsked {
    pub(crate) fn drain(&self) -> Result<Drain, Unacceptable> {
        match self.drain.as_str() {
            "refuse" => Ok(Drain::Refuse),
            "destroy" => Ok(Drain::Destroy),
            "uninstall" => Ok(Drain::Uninstall),
            other => Err(Unacceptable::field("drain", format!("is {other:?}; say refuse, destroy or uninstall"))),
        }
    }
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
