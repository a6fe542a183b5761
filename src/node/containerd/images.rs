//! containerd's images service: the names that manifests and indexes have.

use super::calls::Metered;
use super::connection::{Connection, MAX_ANSWER, QUICK};
use super::error::{CallError, CallErrorKind};
use super::leases::Collection;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use prost_types::FieldMask;
use std::collections::HashMap;
use std::time::Duration;

/// How long a deletion may take where containerd is to have collected by then.
const COLLECTS: Duration = Duration::from_secs(60);

/// A blob that an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Its media type.
    pub media_type: String,
    /// By sha256.
    pub digest: String,
    /// In bytes.
    pub size: u64,
}

impl Blob {
    /// As containerd has it.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            ..Descriptor::default()
        }
    }
}

/// An image that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Unique in the namespace.
    pub name: String,
    /// Its manifest, or the index that it is in.
    pub target: Blob,
    /// What is written on it.
    pub labels: HashMap<String, String>,
}

impl Named {
    fn of(image: Image) -> Self {
        let target = image.target.unwrap_or_default();
        let size = u64::try_from(target.size).unwrap_or(0);
        let target = Blob { media_type: target.media_type, digest: target.digest, size };
        Self { name: image.name, target, labels: image.labels }
    }
}

fn client(connection: &Connection) -> ImagesClient<Metered> {
    ImagesClient::new(connection.channel()).max_decoding_message_size(MAX_ANSWER)
}

impl Connection {
    /// Gives a manifest or index a name, whatever had it before.
    pub(crate) async fn name_image(&self, image: &Named) -> Result<(), CallError> {
        let wire = || Image {
            name: image.name.clone(),
            labels: image.labels.clone(),
            target: Some(image.target.descriptor()),
            ..Image::default()
        };
        let attempt = || format!("name image {}", image.name);
        let mut client = client(self);
        let request = self.request(CreateImageRequest { image: Some(wire()), ..CreateImageRequest::default() }, QUICK);
        match self.call(QUICK, attempt, client.create(request)).await {
            Err(error) if error.kind == CallErrorKind::AlreadyExists => {}
            created => return created.map(drop),
        }
        let paths = vec!["target".into(), "labels".into()];
        let update =
            UpdateImageRequest { image: Some(wire()), update_mask: Some(FieldMask { paths }), ..Default::default() };
        self.call(QUICK, attempt, client.update(self.request(update, QUICK))).await.map(drop)
    }

    /// Writes one label on an image; the others stay.
    pub(crate) async fn label_image(&self, name: &str, label: &str, value: String) -> Result<(), CallError> {
        let labels = [(label.to_owned(), value)].into();
        let image = Image { name: name.to_owned(), labels, ..Image::default() };
        let paths = vec![format!("labels.{label}")];
        let update =
            UpdateImageRequest { image: Some(image), update_mask: Some(FieldMask { paths }), ..Default::default() };
        let request = self.request(update, QUICK);
        self.call(QUICK, || format!("label image {name}"), client(self).update(request)).await.map(drop)
    }

    /// The image of this name.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<Named>, CallError> {
        let request = self.request(GetImageRequest { name: name.to_owned() }, QUICK);
        match self.call(QUICK, || format!("look for image {name}"), client(self).get(request)).await {
            Ok(answer) => Ok(answer.image.map(Named::of)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All images of our namespace.
    pub(crate) async fn images(&self) -> Result<Vec<Named>, CallError> {
        let request = self.request(ListImagesRequest::default(), QUICK);
        let listed = self.call(QUICK, || "list images".into(), client(self).list(request)).await?;
        Ok(listed.images.into_iter().map(Named::of).collect())
    }

    /// Takes a name away. One that is not there is gone.
    pub(crate) async fn forget_image(&self, name: &str, collection: Collection) -> Result<(), CallError> {
        let (sync, deadline) = match collection {
            Collection::Later => (false, QUICK),
            Collection::Now => (true, COLLECTS),
        };
        let request = self.request(DeleteImageRequest { name: name.to_owned(), sync, target: None }, deadline);
        match self.call(deadline, || format!("delete image {name}"), client(self).delete(request)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
