//! The port of images, of a node that has none: there is no root that an image could be.

use async_trait::async_trait;
use gardend_controller::ports::{Collect, ImageSeen, Images, InUse, NodeError, NodeErrorKind, PullProgress, Pulled};
use gardend_controller::record::{ImageCredentials, ImageReference};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoImages;

/// Why an image cannot be had.
pub(super) fn refused(image: &ImageReference) -> NodeError {
    let message = format!(
        "{}: this gardend runs containers on the machine's own root (--backend host) and has no images; ask for no \
         image, or run gardend with --backend containerd",
        image.as_str()
    );
    NodeError::new(NodeErrorKind::Invalid, message)
}

#[async_trait]
impl Images for NoImages {
    async fn pull(&self, image: &ImageReference, _with: Option<&ImageCredentials>) -> Result<Pulled, NodeError> {
        Err(refused(image))
    }

    async fn list(&self, _in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(Vec::new())
    }

    async fn collect(&self, _which: Collect, _in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(Vec::new())
    }

    async fn surplus(&self, _which: Collect, _in_use: InUse<'_>) -> Result<Vec<ImageSeen>, NodeError> {
        Ok(Vec::new())
    }

    fn pulling(&self, _image: &ImageReference) -> Option<PullProgress> {
        None
    }
}
