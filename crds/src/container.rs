//! `GardenContainer`: one container on one node, mirrored from a node or declared by `kubectl apply`.

use crate::common::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A container that gardend keeps on one node. gardend writes those that Garden clients made (label
/// gardend.dev/origin: garden); they are a mirror of what the node has, and changing them changes nothing there.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gardend.dev",
    version = "v1alpha1",
    kind = "GardenContainer",
    namespaced,
    shortname = "gctr",
    category = "gardend",
    selectable = ".spec.nodeName",
    status = "GardenContainerStatus",
    derive = "PartialEq",
    doc = "A container that gardend keeps on one node: a mirror of one that a Garden client made there (label gardend.dev/origin: garden), or one that is declared by whoever wrote the object.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether processes can be run in it"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.phase","description":"How far it is"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName","description":"The node that it is on"}"#,
    printcolumn = r#"{"name":"Processes","type":"integer","jsonPath":".status.runningProcesses","description":"Processes that run in it"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image","description":"The image that its files are from"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"IP","type":"string","jsonPath":".status.addresses[0].ip","priority":1,"description":"Its own address"}"#,
    printcolumn = r#"{"name":"Handle","type":"string","jsonPath":".spec.handle","priority":1,"description":"What Garden clients call it"}"#,
    printcolumn = r#"{"name":"UID","type":"string","jsonPath":".status.uid","priority":1,"description":"What gardend calls it"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!(has(self.image) && has(self.rootfs))",
        "message": "spec.image and spec.rootfs exclude each other: name one of them, or neither for the node's default root",
        "fieldPath": ".rootfs",
        "reason": "FieldValueForbidden"
    },
    {
        "rule": "has(self.handle) == has(oldSelf.handle) && (!has(self.handle) || self.handle == oldSelf.handle)",
        "message": "spec.handle cannot be changed: Garden clients know the container by it; delete the object and make another",
        "reason": "FieldValueForbidden"
    }
]))]
pub struct GardenContainerSpec {
    /// The node whose gardend keeps it. It cannot be changed.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        extend("x-kubernetes-validations" = [{
            "rule": "self == oldSelf",
            "message": "spec.nodeName cannot be changed: a container does not move; delete the object and make another"
        }])
    )]
    pub node_name: String,
    /// What Garden clients call it; NAMESPACE.NAME of the object where it is left out. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1024),
        extend("x-kubernetes-validations" = [{
            "rule": "self != '.' && self != '..' && !self.matches('[/?#%,\\\\x00-\\\\x1f\\\\x7f]')",
            "message": "spec.handle holds what Garden clients cannot carry in a URL: choose one without / ? # % , and control characters"
        }])
    )]
    pub handle: Option<String>,
    /// The image that its files are from: docker:///busybox:1.36, docker://HOST/NAME:TAG, oci://HOST/NAME@DIGEST,
    /// oci-layout:///PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = r"^(docker|oci|oci-layout)://[^?]*$"),
        extend("example" = "docker:///busybox:1.36")
    )]
    pub image: Option<String>,
    /// A folder of the node that is its root file system, used as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = "^/"), extend("example" = "/srv/roots/one"))]
    pub rootfs: Option<String>,
    /// The environment that its processes begin with. The mirror never shows any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// No user namespace, all capabilities: root in it is root of the node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// What it may use. What is left out has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ContainerLimits>,
    /// Its address or subnet in IPv4; one of the node's pool where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        extend("example" = "10.2.0.0/30"),
        extend("x-kubernetes-validations" = [{
            "rule": "self == '' || isIP(self) || isCIDR(self)",
            "message": "spec.network must be an address such as 10.2.0.2, or one with its subnet such as 10.2.0.0/30"
        }])
    )]
    pub network: Option<String>,
    /// Folders and files that show in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["target"]))]
    pub bind_mounts: Vec<BindMount>,
    /// Properties that Garden clients read and filter by. The mirror shows those that its operator names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 256,
        "x-kubernetes-validations" = [{
            "rule": "self.all(key, !key.startsWith('gardend.'))",
            "message": "spec.properties has a key that begins with gardend.: these are gardend's own; choose another"
        }]
    ))]
    pub properties: BTreeMap<String, String>,
    /// How long it may go without a client before it is destroyed, as 90s, 5m, 1h30m; for ever where it is left out. Of a
    /// declared container clients are told it, and it is not destroyed for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 32),
        extend("example" = "5m"),
        extend("x-kubernetes-validations" = [{
            "rule": "self.matches('^([0-9]+(h|m|s|ms))+$')",
            "message": "spec.graceTime must be a duration such as 90s, 5m or 1h30m"
        }])
    )]
    pub grace_time: Option<String>,
    /// Ports of the node that lead to it, by TCP and UDP alike. For declared containers alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["containerPort"]))]
    pub ports: Vec<DeclaredPort>,
    /// Processes that are kept running in it. For declared containers alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub processes: Vec<DeclaredProcess>,
    /// Secrets of type kubernetes.io/dockerconfigjson, of the same namespace, for the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<SecretReference>,
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.value) && has(self.valueFrom))",
    "message": "value and valueFrom exclude each other: name one of them",
    "fieldPath": ".valueFrom",
    "reason": "FieldValueForbidden"
}]))]
pub struct EnvVar {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^=\x00]+$"))]
    pub name: String,
    /// What it is; empty where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    /// Where it is taken from when the container is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

/// Where a variable is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvSource {
    /// A key of a secret in the same namespace.
    pub secret_key_ref: SecretKey,
}

/// A key of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Limits, as Garden names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.diskBytesSoft) || !has(self.diskBytesHard) || self.diskBytesSoft <= self.diskBytesHard",
        "message": "limits.diskBytesSoft must not be above limits.diskBytesHard",
        "fieldPath": ".diskBytesSoft"
    },
    {
        "rule": "!has(self.diskInodesSoft) || !has(self.diskInodesHard) || self.diskInodesSoft <= self.diskInodesHard",
        "message": "limits.diskInodesSoft must not be above limits.diskInodesHard",
        "fieldPath": ".diskInodesSoft"
    },
    {
        "rule": "!has(self.bandwidthBurst) || has(self.bandwidthRate)",
        "message": "limits.bandwidthBurst needs limits.bandwidthRate",
        "fieldPath": ".bandwidthBurst"
    }
]))]
pub struct ContainerLimits {
    /// Bytes of memory, swap counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_bytes: Option<i64>,
    /// Relative weight of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpu_weight: Option<i64>,
    /// Processes and threads at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pids: Option<i64>,
    /// Bytes of disk that may be exceeded for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_bytes_soft: Option<i64>,
    /// Bytes of disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_bytes_hard: Option<i64>,
    /// Inodes that may be exceeded for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_inodes_soft: Option<i64>,
    /// Inodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_inodes_hard: Option<i64>,
    /// Whether the image's own bytes count: Total or Exclusive of them. Total where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_scope: Option<DiskScope>,
    /// Bytes a second, in and out alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_rate: Option<i64>,
    /// Bytes that may go at once above the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_burst: Option<i64>,
}

/// What counts to a limit of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum DiskScope {
    Total,
    Exclusive,
}

/// A folder or file that shows in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindMount {
    /// On the node, or in the container by `origin`.
    #[schemars(length(max = 4096), regex(pattern = "^/"))]
    pub source: String,
    /// In the container; made where it is missing.
    #[schemars(length(max = 4096), regex(pattern = "^/"))]
    pub target: String,
    /// ReadOnly or ReadWrite. ReadOnly where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BindMode>,
    /// Whose path the source is: the Host's or the Container's own. Host where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<BindOrigin>,
}

/// Whether a bind mount can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum BindMode {
    ReadOnly,
    ReadWrite,
}

/// Whose path a bind mount's source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum BindOrigin {
    Host,
    Container,
}

/// A port that shall lead to a declared container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredPort {
    /// In the container.
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub container_port: u16,
    /// On the node; one of the node's own choice where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub host_port: Option<u16>,
}

/// A process that is kept running in a declared container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredProcess {
    /// Its id among the container's processes.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The program, by its path in the container or by a name for PATH.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// Its arguments, without the program's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub args: Vec<String>,
    /// Its environment, above the container's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Its working folder; the user's home where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = "^/"))]
    pub dir: Option<String>,
    /// Whom it runs as: name, uid, uid:gid or name:group; root where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub user: Option<String>,
    /// When it is started again after its end: Always, OnFailure or Never. Always where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
}

/// When a process is started again after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// What became of a container. Written by its node's gardend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GardenContainerStatus {
    /// The generation of the object that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// How far it is: Pending, Creating, Ready, Stopping, Stopped, Destroying or Gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ContainerPhase>,
    /// Ready, SandboxReady, RootfsReady, NetworkReady and Stuck; of a declared one Current and ProcessesRunning too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// gardend's own name for it, unique for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// The containerd container that it lives in at present, in containerd's namespace gardend.
    #[serde(default, rename = "containerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub container_id: Option<String>,
    /// Its own addresses, IPv4 first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["ip"]))]
    pub addresses: Vec<Address>,
    /// Ports of the node that lead to it, by TCP and UDP alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["hostPort"]))]
    pub ports: Vec<Port>,
    /// How many processes run in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub running_processes: Option<i64>,
    /// The processes that run, and the latest that ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub processes: Vec<ProcessStatus>,
    /// How many more there are than are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub processes_omitted: Option<i64>,
    /// The last time that the kernel killed something in it for want of memory.
    #[serde(default, rename = "lastOOM", skip_serializing_if = "Option::is_none")]
    pub last_oom: Option<OutOfMemory>,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ContainerPhase {
    Pending,
    Creating,
    Ready,
    Stopping,
    Stopped,
    Destroying,
    Gone,
}

/// One address of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The address.
    #[schemars(length(max = 45))]
    pub ip: String,
    /// The subnet whose containers it reaches without any rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 49))]
    pub subnet: Option<String>,
}

/// A port of the node that leads to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// On the node.
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: i32,
    /// In the container.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: i32,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// What its client calls it.
    #[schemars(length(min = 1, max = 1024))]
    pub id: String,
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub path: Option<String>,
    /// Its arguments, where the operator has let the mirror show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub args: Option<Vec<String>>,
    /// Whom it runs as; root where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub user: Option<String>,
    /// What became of it: Pending, Running, Exited, or Lost where nobody can say how it ended.
    pub state: ProcessState,
    /// On the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pid: Option<i64>,
    /// How it ended: its own code, or 128 and the signal's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// How often it was started again. Of a declared one, as what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restarts: Option<i64>,
    /// How its last run that has ended did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<ProcessEnd>,
    /// When it is started again, while it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Time>,
}

/// How a run of a declared process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessEnd {
    /// Its own code, or 128 and the signal's number; left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub exit_code: Option<i32>,
    /// In words, where there is no code: it could not be started, or nobody can say how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// When.
    pub finished: Time,
}

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ProcessState {
    Pending,
    Running,
    Exited,
    Lost,
}

/// The kernel killed something for want of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutOfMemory {
    /// Which process, in words.
    #[schemars(length(max = 1024))]
    pub process: String,
    /// When.
    pub time: Time,
    /// The container's limit, in bytes; left out where it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<i64>,
}
