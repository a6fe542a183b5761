//! Where an image comes from: a registry, or a layout. The same questions for both.

use super::error::ImageError;
use super::layout::Layout;
use super::registry::{BlobStream, Registries, RegistryError, Repository};
use bytes::Bytes;
use gardend_controller::record::{ImageCredentials, ImageDigest, ImageLocation, ImageReference, ImageVersion};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// Bytes that are read of a file at once.
const CHUNK: usize = 1024 * 1024;

/// One repository or folder.
pub(crate) enum Source {
    Registry {
        repository: Repository,
        /// For containerd's labels.
        host: String,
        name: String,
    },
    Layout(Layout),
}

/// A blob that flows.
pub(crate) enum Flow {
    Registry(BlobStream),
    File(File, u64),
}

impl Source {
    /// Of a reference, as whoever has these credentials sees it.
    pub(crate) fn of(
        reference: &ImageReference,
        credentials: Option<&ImageCredentials>,
        registries: &Registries,
    ) -> Result<Self, ImageError> {
        match reference.location() {
            ImageLocation::Registry { host, name } => {
                let repository = registries.repository(host, name, credentials).map_err(ImageError::Node)?;
                Ok(Self::Registry { repository, host: host.clone(), name: name.clone() })
            }
            ImageLocation::Layout(folder) => Ok(Self::Layout(Layout::new(folder))),
        }
    }

    /// Whether anybody may have what comes from it.
    pub(crate) fn is_anonymous(&self) -> bool {
        match self {
            Self::Registry { repository, .. } => repository.is_anonymous(),
            Self::Layout(_) => true,
        }
    }

    /// The digest that is meant now.
    pub(crate) async fn resolve(&self, version: &ImageVersion) -> Result<ImageDigest, ImageError> {
        match self {
            Self::Registry { repository, .. } => {
                let version = match version {
                    ImageVersion::Tag(tag) => tag.as_str(),
                    ImageVersion::Digest(digest) => digest.as_str(),
                    ImageVersion::Only => "latest",
                };
                Ok(repository.resolve(version).await?)
            }
            Self::Layout(layout) => layout.resolve(version).await,
        }
    }

    /// A manifest or an index, which is what its digest says.
    pub(crate) async fn manifest(&self, digest: &ImageDigest) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry { repository, .. } => Ok(repository.manifest(digest).await?),
            Self::Layout(layout) => layout.small_blob(digest).await,
        }
    }

    /// A configuration, which is what its digest says.
    pub(crate) async fn config(&self, digest: &ImageDigest) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry { repository, .. } => Ok(repository.small_blob(digest).await?),
            Self::Layout(layout) => layout.small_blob(digest).await,
        }
    }

    /// A blob from a place in it on, or from its beginning.
    pub(crate) async fn blob(&self, digest: &ImageDigest, offset: u64) -> Result<Flow, ImageError> {
        match self {
            Self::Registry { repository, .. } => Ok(Flow::Registry(repository.blob(digest, offset).await?)),
            Self::Layout(layout) => Ok(Flow::File(layout.blob(digest, offset).await?, offset)),
        }
    }
}

impl Flow {
    /// Where it begins.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Self::Registry(stream) => stream.offset,
            Self::File(_, offset) => *offset,
        }
    }

    /// What comes next; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        match self {
            Self::Registry(stream) => stream.next().await,
            Self::File(file, _) => {
                let mut bytes = Vec::with_capacity(CHUNK);
                let read = file.take(CHUNK as u64).read_to_end(&mut bytes).await;
                let broken = |error: std::io::Error| RegistryError::Broken {
                    host: "the layout".into(),
                    said: error.to_string(),
                };
                Ok((read.map_err(broken)? > 0).then(|| bytes.into()))
            }
        }
    }
}
