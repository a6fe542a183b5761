//! An image in a folder of the host, in OCI's image layout (opencontainers/image-spec,
//! `image-layout.md`).
//!
//! Only files are read, of names that are made here of digests; what they hold is compared with
//! those digests by whoever stores it.

use super::error::ImageError;
use super::manifest::{Descriptor, digest_of};
use super::registry::MAX_DOCUMENT;
use gardend_controller::record::{ImageDigest, ImageVersion};
use serde::Deserialize;
use std::io::{self, ErrorKind, SeekFrom};
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// What a tag is written under.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A folder that may be a layout.
pub(crate) struct Layout(PathBuf);

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

impl Layout {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The digest of the manifest or index that is meant.
    pub(crate) async fn resolve(&self, version: &ImageVersion) -> Result<ImageDigest, ImageError> {
        let bytes = self.document(&self.0.join("index.json")).await?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| self.unfit(format!("its index.json cannot be read: {error}")))?;
        let tag = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        let found = match version {
            // It may be in an index below: whether it is there is seen when it is read.
            ImageVersion::Digest(digest) => return Ok(digest.clone()),
            ImageVersion::Tag(wanted) => index.manifests.iter().find(|entry| tag(entry).as_ref() == Some(wanted)),
            ImageVersion::Only => match &index.manifests[..] {
                [one] => Some(one),
                several => several.iter().find(|entry| tag(entry).as_deref() == Some("latest")),
            },
        };
        found.map(|entry| entry.digest.clone()).ok_or_else(|| {
            let mut tags: Vec<_> = index.manifests.iter().filter_map(tag).collect();
            tags.sort();
            tags.dedup();
            let tags = if tags.is_empty() { "no tags at all".into() } else { tags.join(", ") };
            let wanted = match version {
                ImageVersion::Tag(tag) => format!("no image of the tag {tag:?}"),
                _ => "not one image alone, and none of the tag \"latest\"".into(),
            };
            self.unfit(format!("it has {wanted}; it has {tags}"))
        })
    }

    /// A manifest, an index or a configuration.
    pub(crate) async fn small_blob(&self, digest: &ImageDigest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&self.path(digest)).await?;
        let seen = digest_of(&bytes);
        if seen != *digest {
            return Err(self.unfit(format!("its blob {digest} has the digest {seen}")));
        }
        Ok(bytes)
    }

    /// A blob from a place in it on.
    pub(crate) async fn blob(&self, digest: &ImageDigest, offset: u64) -> Result<File, ImageError> {
        let path = self.path(digest);
        let open = async {
            let mut file = File::open(&path).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            io::Result::Ok(file)
        };
        open.await.map_err(|error| self.wrong(&path, &error))
    }

    async fn document(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let read = async {
            let mut bytes = Vec::new();
            File::open(path).await?.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes).await?;
            io::Result::Ok(bytes)
        };
        let bytes = read.await.map_err(|error| self.wrong(path, &error))?;
        if bytes.len() > MAX_DOCUMENT {
            return Err(self.unfit(format!("{} is larger than {MAX_DOCUMENT} bytes", path.display())));
        }
        Ok(bytes)
    }

    fn path(&self, digest: &ImageDigest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn unfit(&self, said: String) -> ImageError {
        ImageError::Unfit(format!("the OCI layout {}: {said}", self.0.display()))
    }

    fn wrong(&self, path: &Path, error: &io::Error) -> ImageError {
        let shown = path.strip_prefix(&self.0).unwrap_or(path).display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                self.unfit(format!("there is no {shown}; is the folder an OCI layout, and whole?"))
            }
            _ => ImageError::Node(format!("reading {}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(index: &str) -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let layout = Layout::new(folder.path());
        (folder, layout)
    }

    fn entry(digit: &str, tag: Option<&str>) -> String {
        let tag = tag.map_or(String::new(), |tag| format!(r#","annotations":{{"{REF_NAME}":"{tag}"}}"#));
        format!(r#"{{"mediaType":"m","digest":"sha256:{}","size":1{tag}}}"#, digit.repeat(64))
    }

    #[tokio::test]
    async fn an_image_is_found_by_its_tag_or_because_it_is_alone() {
        let tag = |tag: &str| ImageVersion::Tag(tag.into());
        let (_folder, two) =
            layout(&format!(r#"{{"manifests":[{},{}]}}"#, entry("a", Some("1")), entry("b", Some("2"))));
        assert_eq!(two.resolve(&tag("2")).await.unwrap().hex(), "b".repeat(64));
        let error = two.resolve(&tag("3")).await.unwrap_err().to_string();
        assert!(error.contains("no image of the tag \"3\"; it has 1, 2"), "{error}");
        assert!(two.resolve(&ImageVersion::Only).await.unwrap_err().to_string().contains("not one image alone"));
        let (_folder, one) = layout(&format!(r#"{{"manifests":[{}]}}"#, entry("c", None)));
        assert_eq!(one.resolve(&ImageVersion::Only).await.unwrap().hex(), "c".repeat(64));
        let (_folder, latest) =
            layout(&format!(r#"{{"manifests":[{},{}]}}"#, entry("a", None), entry("d", Some("latest"))));
        assert_eq!(latest.resolve(&ImageVersion::Only).await.unwrap().hex(), "d".repeat(64));
    }

    #[tokio::test]
    async fn a_blob_that_is_not_what_it_is_called_is_refused_and_a_missing_one_is_named() {
        let (folder, layout) = layout("{}");
        let digest = digest_of(b"hello");
        assert!(layout.small_blob(&digest).await.unwrap_err().to_string().contains(digest.hex()));
        let path = folder.path().join("blobs/sha256").join(digest.hex());
        std::fs::write(&path, "hello").unwrap();
        assert_eq!(layout.small_blob(&digest).await.unwrap(), b"hello");
        std::fs::write(&path, "jello").unwrap();
        assert!(layout.small_blob(&digest).await.unwrap_err().to_string().contains("has the digest"));
    }
}
