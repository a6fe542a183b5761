//! What images, leases and snapshots of ours are called in containerd, and what is written on
//! them.

use crate::node::containerd::OwnerMark;
use crate::node::containerd::labels::{OWNER, hex};
use gardend_controller::record::ImageDigest;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The manifest that was chosen for this machine.
pub(super) const MANIFEST: &str = "gardend.dev/manifest";
/// The snapshot of all its layers.
pub(super) const CHAIN: &str = "gardend.dev/chain";
/// What they take, unpacked.
const BYTES: &str = "gardend.dev/bytes";
/// When something was last made of it: seconds since 1970.
pub(super) const LAST_USED: &str = "gardend.dev/last-used";
/// Set where it was pulled without a password.
const ANONYMOUS: &str = "gardend.dev/anonymous";
/// `<owner>`: what a lease of ours is for is in its name.
pub(crate) const LEASE: &str = "gardend.dev/lease";

/// containerd's own: what keeps what.
pub(super) const REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// The same, of snapshots.
pub(super) const REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.overlayfs";
/// What a layer is, unpacked.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Where a blob came from.
pub(super) const SOURCE: &str = "containerd.io/distribution.source";

/// The names that begin with one gardend's mark.
#[derive(Clone)]
pub(crate) struct Names(OwnerMark);

impl Names {
    pub(crate) fn of(owner: OwnerMark) -> Self {
        Self(owner)
    }

    /// The mark itself.
    pub(super) fn owner(&self) -> &str {
        self.0.as_str()
    }

    /// A lease for one pull.
    pub(super) fn pull(&self) -> String {
        format!("{}{}", self.pulls(), random())
    }

    /// What all of those begin with.
    pub(super) fn pulls(&self) -> String {
        format!("gardend-{}-pull-", self.0)
    }

    /// The lease, and the view, that keep a chain of layers while it is used.
    pub(super) fn hold(&self, chain: &ImageDigest) -> String {
        format!("{}{}", self.holds(), chain.hex())
    }

    fn holds(&self) -> String {
        format!("gardend-{}-use-", self.0)
    }

    /// The chain that a lease of this name keeps.
    pub(crate) fn held(&self, lease: &str) -> Option<ImageDigest> {
        ImageDigest::new(format!("sha256:{}", lease.strip_prefix(&self.holds())?)).ok()
    }

    /// Whether a lease, or a snapshot, of this name is one of ours.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        name.strip_prefix("gardend-")
            .and_then(|rest| rest.strip_prefix(self.owner()))
            .is_some_and(|rest| rest.starts_with('-'))
    }

    /// The chain of layers of an image of ours that has these labels.
    pub(crate) fn chain(&self, labels: &HashMap<String, String>) -> Option<ImageDigest> {
        self.read(labels).map(|written| written.chain)
    }

    /// A snapshot that is being filled.
    pub(super) fn unpacking(&self) -> String {
        format!("gardend-{}-unpack-{}", self.0, random())
    }

    /// A blob that is being written: the same for the next gardend, which goes on with it.
    pub(super) fn writing(&self, digest: &ImageDigest) -> String {
        format!("gardend-{}-{digest}", self.0)
    }

    /// What all of our leases have written on them.
    pub(super) fn lease_labels(&self) -> HashMap<String, String> {
        [(LEASE.to_owned(), self.owner().to_owned())].into()
    }

    /// What an image has written on it, and the lease that holds it.
    pub(super) fn image_labels(
        &self,
        manifest: &ImageDigest,
        chain: &ImageDigest,
        bytes: u64,
        anonymous: bool,
    ) -> HashMap<String, String> {
        let mut labels: HashMap<String, String> = [
            (OWNER, self.owner().to_owned()),
            (MANIFEST, manifest.to_string()),
            (CHAIN, chain.to_string()),
            (BYTES, bytes.to_string()),
            (LAST_USED, seconds(SystemTime::now())),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), "true".to_owned());
        }
        labels
    }

    /// What is written on an image, or on the lease that holds one, where it is ours.
    pub(super) fn read(&self, labels: &HashMap<String, String>) -> Option<Written> {
        let label = |key: &str| labels.get(key).map(String::as_str);
        (label(OWNER) == Some(self.owner())).then_some(())?;
        let last_used = label(LAST_USED).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Written {
            manifest: ImageDigest::new(label(MANIFEST)?).ok()?,
            chain: ImageDigest::new(label(CHAIN)?).ok()?,
            bytes: label(BYTES).and_then(|text| text.parse().ok()).unwrap_or(0),
            last_used: UNIX_EPOCH + Duration::from_secs(last_used),
            anonymous: label(ANONYMOUS) == Some("true"),
        })
    }
}

/// See [`Names::image_labels`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) manifest: ImageDigest,
    pub(super) chain: ImageDigest,
    pub(super) bytes: u64,
    pub(super) last_used: SystemTime,
    pub(super) anonymous: bool,
}

/// As it is written.
pub(super) fn seconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string()
}

fn random() -> String {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => hex(&bytes),
        // Two at the same instant would meet at containerd, and one of them fail.
        Err(_) => format!("{:?}", std::time::Instant::now()).replace(|c: char| !c.is_ascii_alphanumeric(), ""),
    }
}
