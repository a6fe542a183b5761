//! Images: how clients name them, what a name was resolved to, and what proves a right to them.

mod reference;

pub use reference::{ImageLocation, ImageReference, ImageVersion, InvalidReference};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The digest of a manifest, a configuration, a layer: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

/// What is no digest that gardend can check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// By another algorithm.
    #[error("digest {0:?} is not by sha256, the one that gardend checks")]
    Algorithm(String),
    /// Of sha256, and not one.
    #[error("digest {0:?} is not sha256: and 64 hexadecimal digits in small letters")]
    Digits(String),
}

impl ImageDigest {
    const PREFIX: &str = "sha256:";

    /// Reads one.
    ///
    /// # Errors
    /// [`InvalidDigest`].
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidDigest> {
        let text = text.into();
        let Some(hex) = text.strip_prefix(Self::PREFIX) else { return Err(InvalidDigest::Algorithm(text)) };
        let digits = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits { Ok(Self(text)) } else { Err(InvalidDigest::Digits(text)) }
    }

    /// With the algorithm before it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::new(text)
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> String {
        digest.0
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image as a client asked for it, and what that was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As it was asked for.
    pub reference: ImageReference,
    /// What it was then; a tag may mean another image by now. `None` until it was pulled.
    pub resolved: Option<ResolvedImage>,
}

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// Of its manifest.
    pub digest: ImageDigest,
    /// Of all its layers, one above the other (OCI's chain id): the name of its files on the node.
    pub chain: ImageDigest,
    /// `K=V`, below the container's own.
    pub env: Vec<String>,
    /// What its files take on the disk, in bytes.
    pub bytes: u64,
    /// And in inodes.
    pub inodes: u64,
}

/// What a registry wants to see. It serves one pull and is written nowhere: it cannot be
/// serialised, and does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageCredentials {
    /// Who.
    pub username: String,
    /// A password, or a token that stands for one.
    pub password: String,
}

impl fmt::Debug for ImageCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageCredentials(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha256_in_small_letters_and_nothing_else() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(ImageDigest::new(good.clone()).unwrap().hex(), "0a".repeat(32));
        for (text, words) in [
            (format!("sha512:{}", "0a".repeat(64)), "not by sha256"),
            (String::new(), "not by sha256"),
            (format!("sha256:{}", "0A".repeat(32)), "small letters"),
            ("sha256:0a".to_owned(), "64 hexadecimal digits"),
            (format!("{good}/../x"), "64 hexadecimal digits"),
        ] {
            let error = ImageDigest::new(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn credentials_do_not_show_themselves() {
        let credentials = ImageCredentials { username: "alice".into(), password: "hunter2".into() };
        let shown = format!("{credentials:?} {:?}", Some(&credentials));
        assert!(!shown.contains("hunter2") && !shown.contains("alice"), "{shown}");
    }
}
