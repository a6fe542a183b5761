//! Images: gardend's own calls, below `/gardend/v1`. Other Garden servers have none.

use super::error::ClientError;
use super::transport::{Answer, Request, receive_stream};
use super::wire::ErrorBody;
use super::{Client, QUICK};
use bytes::BytesMut;
use http::Method;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;

/// Removing images frees their space before it is answered.
const PRUNES: Duration = Duration::from_secs(600);
/// A pull tells how far it is twice a second.
const SILENCE: Duration = Duration::from_secs(60);
/// A line is small.
const MAX_LINE: usize = 1 << 20;

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Image {
    /// As containerd's tools show them; none where its name was taken away while it is in use.
    pub names: Vec<String>,
    /// Of its manifest.
    pub digest: String,
    /// Unpacked, with what it shares with others.
    pub bytes: u64,
    /// RFC 3339.
    pub last_used: String,
    /// Whether something uses it.
    pub in_use: bool,
    /// Containers, and processes as `container/process`.
    pub used_by: Vec<String>,
}

/// What is pulled, and what its registry is shown.
#[derive(Clone, Default, Serialize)]
pub struct PullRequest {
    /// As a container's.
    pub uri: String,
    /// Empty for none.
    pub username: String,
    /// Empty for none.
    pub password: String,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PullProgress {
    /// That are there, packed.
    pub bytes: u64,
    /// In all.
    pub total: u64,
    /// In all.
    pub layers: u64,
    /// That are unpacked.
    pub unpacked: u64,
}

/// An image that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PulledImage {
    /// As containerd's tools show it.
    pub name: String,
    /// Of its manifest.
    pub digest: String,
    /// Unpacked.
    pub bytes: u64,
    /// What had to be fetched; 0 where all of it was there.
    pub fetched: u64,
}

/// What a pull tells.
#[derive(Debug)]
pub enum PullNews {
    /// How far it is, where that is known.
    Progress(Option<PullProgress>),
    /// It is there.
    Pulled(PulledImage),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Progress(Option<PullProgress>),
    Pulled(PulledImage),
    Error(ErrorBody),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Images {
    images: Vec<Image>,
}

#[derive(Serialize)]
struct Prune {
    all: bool,
    dry_run: bool,
}

/// Which images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// Those that are too old or too much.
    Surplus,
    /// All that nothing uses.
    Unused,
}

/// Whether they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneMode {
    /// They are.
    Remove,
    /// It is told which would be.
    Tell,
}

impl Client {
    /// The images on the node, the one used last first.
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        let request = Request::new(Method::GET, "/gardend/v1/images", QUICK);
        self.answer::<Images>(request).await.map(|answer| answer.images)
    }

    /// Removes images; answers which.
    pub async fn prune_images(&self, scope: PruneScope, mode: PruneMode) -> Result<Vec<Image>, ClientError> {
        let body = Prune { all: scope == PruneScope::Unused, dry_run: mode == PruneMode::Tell };
        let request = Request::new(Method::POST, "/gardend/v1/images/prune", PRUNES).json(&body);
        self.answer::<Images>(request).await.map(|answer| answer.images)
    }

    /// Sees to it that an image is on the node. Dropped, the pull is given up.
    pub async fn pull_image(&self, pull: &PullRequest) -> Result<Pull, ClientError> {
        let request = Request::new(Method::POST, "/gardend/v1/images/pull", SILENCE).json(pull);
        let what = request.what();
        let answer = receive_stream(&self.target, request).await?;
        Ok(Pull { client: self.clone(), what, answer, read: BytesMut::new() })
    }
}

/// A pull that is under way.
pub struct Pull {
    client: Client,
    what: String,
    answer: Answer,
    read: BytesMut,
}

impl Pull {
    /// What it tells next.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn next(&mut self) -> Result<PullNews, ClientError> {
        let wrong = |why: &str| ClientError::protocol(&self.client.target, &self.what, why);
        let line = loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                break self.read.split_to(end + 1);
            }
            if self.read.len() > MAX_LINE {
                return Err(wrong("a line of it does not end"));
            }
            match timeout(SILENCE, self.answer.next()).await {
                Err(_) => return Err(self.answer.timed_out(SILENCE)),
                Ok(piece) => match piece? {
                    Some(piece) => self.read.extend_from_slice(&piece),
                    None => return Err(wrong("it ended before the pull did")),
                },
            }
        };
        match serde_json::from_slice(&line) {
            Ok(Line::Progress(progress)) => Ok(PullNews::Progress(progress)),
            Ok(Line::Pulled(image)) => Ok(PullNews::Pulled(image)),
            Ok(Line::Error(error)) => Err(ClientError::Garden(error.into())),
            Err(error) => Err(wrong(&format!("a line of it makes no sense: {error}"))),
        }
    }
}
