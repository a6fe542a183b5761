//! The writes. Each is one request; that there may be one is for the caller to say.
//!
//! An object is applied (server-side apply) where none of ours is known to be there: whether there
//! is one makes no difference then, and labels and annotations of others stay. Spec and status of one
//! that is there are replaced as a whole: what others have put there is not so.

use crate::kube::client::{FIELD_MANAGER, Place, Trouble, ask};
use crate::kube::shown::Shown;
use gardend_crds::{
    Condition, GardenContainer, GardenNode, GardenNodeSpec, GardenNodeStatus, ORIGIN_GARDEN, ORIGIN_LABEL,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

/// The API server as the mirror writes to it.
pub(super) struct Writer {
    containers: Api<GardenContainer>,
    nodes: Api<GardenNode>,
    node: String,
}

impl Writer {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            containers: Api::namespaced(place.client.clone(), &place.namespace),
            nodes: Api::all(place.client.clone()),
            node: place.node.as_str().to_owned(),
        }
    }

    /// Makes a container's object be there.
    pub(super) async fn container(&self, name: &str, shown: &Shown) -> Result<GardenContainer, Trouble> {
        let labels = json!({ ORIGIN_LABEL: ORIGIN_GARDEN, "app.kubernetes.io/managed-by": "gardend" });
        let object = applied::<GardenContainer>(name, &labels, "spec", shown.spec());
        ask(self.containers.patch(name, &forced(), &Patch::Apply(&object))).await
    }

    /// Makes its spec be as it is shown.
    pub(super) async fn container_spec(&self, name: &str, shown: &Shown) -> Result<GardenContainer, Trouble> {
        ask(self.containers.patch(name, &by_us(), &whole("spec", shown.spec()))).await
    }

    /// Makes its status be as it is shown.
    pub(super) async fn container_status(
        &self,
        name: &str,
        shown: &Shown,
        generation: Option<i64>,
        before: &[Condition],
    ) -> Result<GardenContainer, Trouble> {
        let status = shown.status(generation, before);
        ask(self.containers.patch_status(name, &by_us(), &whole("status", status))).await
    }

    /// Deletes a container's object. One that is not there is deleted.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Trouble> {
        match ask(self.containers.delete(name, &DeleteParams::background())).await {
            Ok(_) | Err(Trouble::NotFound(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// The node's own object.
    pub(super) async fn read_node(&self) -> Result<Option<GardenNode>, Trouble> {
        ask(self.nodes.get_opt(&self.node)).await
    }

    /// Makes it be there.
    pub(super) async fn node(&self) -> Result<GardenNode, Trouble> {
        let labels = json!({ "app.kubernetes.io/managed-by": "gardend" });
        let spec = serde_json::to_value(GardenNodeSpec { node_name: self.node.clone() }).unwrap_or_default();
        let object = applied::<GardenNode>(&self.node, &labels, "spec", spec);
        ask(self.nodes.patch(&self.node, &forced(), &Patch::Apply(&object))).await
    }

    /// Writes its status.
    pub(super) async fn node_status(&self, status: &GardenNodeStatus) -> Result<GardenNode, Trouble> {
        let status = serde_json::to_value(status).unwrap_or_default();
        ask(self.nodes.patch_status(&self.node, &by_us(), &whole("status", status))).await
    }
}

fn forced() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

/// Notes us as the writer.
pub(in crate::kube) fn by_us() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// One half of an object, in place of what is there.
pub(in crate::kube) fn whole(half: &str, content: Value) -> Patch<()> {
    let change = json!([{ "op": "add", "path": format!("/{half}"), "value": content }]);
    // It is one, as RFC 6902 has it.
    Patch::Json(serde_json::from_value(change).unwrap_or_default())
}

fn applied<K: Resource<DynamicType = ()>>(name: &str, labels: &Value, half: &str, content: Value) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "labels": labels },
        half: content,
    })
}

/// Of a container's object, what [`super::book::Book`] goes by.
pub(super) fn name(object: &GardenContainer) -> String {
    object.name_any()
}
