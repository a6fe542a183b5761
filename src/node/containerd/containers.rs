//! containerd's containers service: the records that places have there.

use super::calls::Metered;
use super::connection::{Connection, MAX_ANSWER, QUICK};
use super::error::CallError;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, ListContainersRequest, UpdateContainerRequest, container,
};
use prost_types::{Any, FieldMask};
use std::collections::HashMap;

/// The shim that runs places.
pub const SHIM: &str = "io.containerd.runc.v2";
/// How containerd calls an OCI spec in JSON.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// A container to be recorded.
pub(super) struct NewContainer {
    /// Unique in the namespace.
    pub id: String,
    /// Shown by `ctr`.
    pub labels: HashMap<String, String>,
    /// The shim's options.
    pub runtime_options: Any,
    /// The OCI spec as JSON.
    pub spec: Vec<u8>,
}

/// A container as it is recorded.
pub(super) struct ContainerSeen {
    /// Unique in the namespace.
    pub id: String,
    /// Shown by `ctr`.
    pub labels: HashMap<String, String>,
    /// The OCI spec as JSON.
    pub spec: Vec<u8>,
}

fn client(connection: &Connection) -> ContainersClient<Metered> {
    ContainersClient::new(connection.channel()).max_decoding_message_size(MAX_ANSWER)
}

impl Connection {
    /// Records a container. Nothing is started.
    pub(super) async fn create_container(&self, new: NewContainer) -> Result<(), CallError> {
        let id = new.id.clone();
        let container = Container {
            id: new.id,
            labels: new.labels,
            runtime: Some(container::Runtime { name: SHIM.into(), options: Some(new.runtime_options) }),
            spec: Some(Any { type_url: SPEC_TYPE.into(), value: new.spec }),
            ..Container::default()
        };
        let request = self.request(CreateContainerRequest { container: Some(container) }, QUICK);
        self.call(QUICK, || format!("create container {id}"), client(self).create(request)).await.map(drop)
    }

    /// Sets labels; the others stay.
    pub(super) async fn label_container(&self, id: &str, labels: HashMap<String, String>) -> Result<(), CallError> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let container = Container { id: id.to_owned(), labels, ..Container::default() };
        let update = UpdateContainerRequest { container: Some(container), update_mask: Some(FieldMask { paths }) };
        let request = self.request(update, QUICK);
        self.call(QUICK, || format!("label container {id}"), client(self).update(request)).await.map(drop)
    }

    /// Removes the record.
    pub(super) async fn delete_container(&self, id: &str) -> Result<(), CallError> {
        let request = self.request(DeleteContainerRequest { id: id.to_owned() }, QUICK);
        self.call(QUICK, || format!("delete container {id}"), client(self).delete(request)).await.map(drop)
    }

    /// All containers of our namespace whose label has this value. Streamed, since containerd
    /// would not send one answer over 16 MB.
    pub(super) async fn list_containers(&self, label: &str, value: &str) -> Result<Vec<ContainerSeen>, CallError> {
        let attempt = || format!("list containers labelled {label}={value}");
        self.list_filtered(vec![format!("labels.\"{label}\"==\"{value}\"")], attempt).await
    }

    /// All containers of our namespace, whoever's.
    pub(super) async fn list_all_containers(&self) -> Result<Vec<ContainerSeen>, CallError> {
        self.list_filtered(Vec::new(), || "list containers".into()).await
    }

    async fn list_filtered(
        &self,
        filters: Vec<String>,
        attempt: impl FnOnce() -> String,
    ) -> Result<Vec<ContainerSeen>, CallError> {
        let request = self.request(ListContainersRequest { filters }, QUICK);
        let mut client = client(self);
        let collect = async {
            let mut stream = client.list_stream(request).await?.into_inner();
            let mut seen = Vec::new();
            while let Some(item) = stream.message().await? {
                let Some(Container { id, labels, spec, .. }) = item.container else { continue };
                seen.push(ContainerSeen { id, labels, spec: spec.map(|any| any.value).unwrap_or_default() });
            }
            Ok(tonic::Response::new(seen))
        };
        self.call(QUICK, attempt, collect).await
    }
}
