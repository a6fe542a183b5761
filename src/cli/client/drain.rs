//! Draining the node: gardend's own calls, below `/gardend/v1`. Other Garden servers have none.

use super::error::ClientError;
use super::transport::Request;
use super::{Client, QUICK};
use http::Method;
use serde::{Deserialize, Serialize};

const PATH: &str = "/gardend/v1/drain";

/// How far a drain goes; each further than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Nothing new is taken.
    Refuse,
    /// And all that there is is destroyed.
    Destroy,
    /// And gardend leaves no records either once it is stopped.
    Uninstall,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainStand {
    /// `None` where the node is not being drained.
    pub drain: Option<Drain>,
    /// It is, and nothing is left.
    pub drained: bool,
    /// Containers that are left.
    pub containers: Vec<Left>,
    /// Places that are left, blank ones among them.
    pub places: usize,
}

/// A container that is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// Which.
    pub handle: String,
    /// It is being destroyed, or swept.
    pub going: bool,
    /// Why it does not go.
    pub stuck: Option<String>,
}

#[derive(Serialize)]
struct Asked {
    drain: Drain,
}

impl Client {
    /// Drains the node, or drains it further; answers how far it is.
    pub async fn drain(&self, drain: Drain) -> Result<DrainStand, ClientError> {
        self.answer(Request::new(Method::POST, PATH, QUICK).json(&Asked { drain })).await
    }

    /// Lets the node take containers again.
    pub async fn undrain(&self) -> Result<DrainStand, ClientError> {
        self.answer(Request::new(Method::DELETE, PATH, QUICK)).await
    }

    /// How far it is.
    pub async fn drain_stand(&self) -> Result<DrainStand, ClientError> {
        self.answer(Request::new(Method::GET, PATH, QUICK)).await
    }
}
