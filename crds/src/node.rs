//! `GardenNode`: one node's gardend, what it can hold and what it holds.

use crate::common::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The gardend of one node. It writes the object itself, under the node's name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gardend.dev",
    version = "v1alpha1",
    kind = "GardenNode",
    shortname = "gnode",
    category = "gardend",
    status = "GardenNodeStatus",
    derive = "PartialEq",
    doc = "The gardend of one node: its versions, what it can hold and what it holds. It writes the object itself, under the node's name.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether it serves its clients"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.versions.gardend","description":"gardend's version"}"#,
    printcolumn = r#"{"name":"Containers","type":"integer","jsonPath":".status.containers.total","description":"Containers that it has"}"#,
    printcolumn = r#"{"name":"Capacity","type":"integer","jsonPath":".status.capacity.containers","description":"Containers that it can have"}"#,
    printcolumn = r#"{"name":"Draining","type":"boolean","jsonPath":".status.draining","description":"Whether it refuses new containers"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Containerd","type":"string","jsonPath":".status.versions.containerd","priority":1,"description":"containerd's version"}"#,
    printcolumn = r#"{"name":"Runtime","type":"string","jsonPath":".status.versions.runtime","priority":1,"description":"The OCI runtime and its version"}"#,
    printcolumn = r#"{"name":"Kernel","type":"string","jsonPath":".status.versions.kernel","priority":1,"description":"The kernel's version"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GardenNodeSpec {
    /// The node's name. It cannot be changed.
    #[schemars(
        length(min = 1, max = 253),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "spec.nodeName cannot be changed: it is the node that the object is of"
        }])
    )]
    pub node_name: String,
}

/// What a node's gardend tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GardenNodeStatus {
    /// Ready, RuntimeReachable, DiskPressure, MemoryPressure, Draining and MirrorCurrent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Versions of what containers are made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// What it can hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// What it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Counts>,
    /// Blank places that are kept ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// It refuses new containers and waits for those that it has to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// It does, and nothing is left of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<bool>,
    /// When this gardend was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// Versions of what containers are made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// gardend.
    #[schemars(length(max = 256))]
    pub gardend: String,
    /// containerd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub containerd: Option<String>,
    /// The OCI runtime, with its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub runtime: Option<String>,
    /// The kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub kernel: Option<String>,
}

/// What a node can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Containers.
    #[schemars(range(min = 0))]
    pub containers: i64,
    /// Bytes of memory that containers may have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub memory_bytes: Option<i64>,
    /// Bytes of the file system that layers are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub disk_bytes: Option<i64>,
}

/// Containers by how far they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All of them.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// Being made.
    #[schemars(range(min = 0))]
    pub creating: i64,
    /// Ready.
    #[schemars(range(min = 0))]
    pub ready: i64,
    /// Stopping, or stopped.
    #[schemars(range(min = 0))]
    pub stopped: i64,
    /// Being destroyed.
    #[schemars(range(min = 0))]
    pub destroying: i64,
    /// That do not go.
    #[schemars(range(min = 0))]
    pub stuck: i64,
}

/// Blank places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// As many as shall be ready of each kind in use.
    #[schemars(range(min = 0))]
    pub size: i64,
    /// As many as are ready, of all kinds.
    #[schemars(range(min = 0))]
    pub ready: i64,
}
