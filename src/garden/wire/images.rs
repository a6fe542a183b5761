//! Images, in gardend's own calls: Garden has none for them. Nothing of these shapes is Garden's.

use super::container::ImageRef;
use super::{GardenError, Unacceptable};
use gardend_controller::KnownImage;
use gardend_controller::ports::{Collect, ImageSeen, PullProgress, Pulled};
use gardend_controller::record::{ImageCredentials, ImageReference, InvalidReference};
use serde::{Deserialize, Serialize};

/// Images of the node's.
#[derive(Debug, Serialize)]
pub(crate) struct Images {
    images: Vec<Image>,
}

#[derive(Debug, Serialize)]
struct Image {
    names: Vec<String>,
    digest: String,
    bytes: u64,
    /// RFC 3339.
    last_used: String,
    in_use: bool,
    used_by: Vec<String>,
}

impl FromIterator<KnownImage> for Images {
    fn from_iter<T: IntoIterator<Item = KnownImage>>(known: T) -> Self {
        let image = |KnownImage { seen, users }| {
            let ImageSeen { names, digest, bytes, last_used, in_use } = seen;
            let last_used = humantime::format_rfc3339_seconds(last_used).to_string();
            Image { names, digest: digest.to_string(), bytes, last_used, in_use, used_by: users }
        };
        Self { images: known.into_iter().map(image).collect() }
    }
}

impl FromIterator<ImageSeen> for Images {
    fn from_iter<T: IntoIterator<Item = ImageSeen>>(seen: T) -> Self {
        seen.into_iter().map(|seen| KnownImage { seen, users: Vec::new() }).collect()
    }
}

/// The body of a prune.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Prune {
    all: bool,
    pub(crate) dry_run: bool,
}

impl Prune {
    pub(crate) fn which(&self) -> Collect {
        if self.all { Collect::Unused } else { Collect::Surplus }
    }
}

/// The body of a pull: which image, and what its registry shall be shown.
pub(crate) fn pull(image: &ImageRef) -> Result<(ImageReference, Option<ImageCredentials>), Unacceptable> {
    let wrong = |error: InvalidReference| Unacceptable::field("uri", error.to_string());
    Ok((image.uri.parse().map_err(wrong)?, image.credentials()))
}

/// A line of a pull's answer. The last is not `progress`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PullLine {
    /// How far it is; nothing is known before its manifest is.
    Progress(Option<PullStand>),
    Pulled(PulledImage),
    Error(GardenError),
}

#[derive(Debug, Serialize)]
pub(crate) struct PullStand {
    bytes: u64,
    total: u64,
    layers: u64,
    unpacked: u64,
}

impl From<PullProgress> for PullStand {
    fn from(progress: PullProgress) -> Self {
        let PullProgress { bytes, total, layers, unpacked } = progress;
        Self { bytes, total, layers, unpacked }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PulledImage {
    name: String,
    digest: String,
    bytes: u64,
    /// 0 where all of it was there.
    fetched: u64,
}

impl PulledImage {
    pub(crate) fn new(reference: &ImageReference, pulled: &Pulled) -> Self {
        let (digest, bytes) = (pulled.image.digest.to_string(), pulled.image.bytes);
        Self { name: reference.name(), digest, bytes, fetched: pulled.bytes }
    }
}
