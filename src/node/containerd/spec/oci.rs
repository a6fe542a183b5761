//! The part of the OCI runtime specification that places use, as plain data.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md>. Version 1.0.2 is what
//! is written: Debian's crun 1.8.1 refuses a newer one.

use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    pub oci_version: &'static str,
    pub process: Process,
    pub root: Root,
    pub hostname: &'static str,
    pub mounts: Vec<Mount>,
    pub annotations: BTreeMap<&'static str, String>,
    pub linux: Linux,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    pub user: User,
    pub args: Vec<&'static str>,
    pub env: Vec<&'static str>,
    pub cwd: &'static str,
    pub capabilities: Capabilities,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Capabilities {
    pub bounding: Vec<&'static str>,
    pub effective: Vec<&'static str>,
    pub permitted: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub resource: &'static str,
    pub hard: u64,
    pub soft: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Root {
    pub path: String,
    pub readonly: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Mount {
    pub destination: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub source: String,
    pub options: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Linux {
    pub cgroups_path: String,
    pub namespaces: Vec<Namespace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    pub devices: Vec<Device>,
    pub resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<super::settings::Filter>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub kind: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct IdMapping {
    #[serde(rename = "containerID")]
    pub container: u32,
    #[serde(rename = "hostID")]
    pub host: u32,
    pub size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub file_mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct Resources {
    pub devices: Vec<DeviceRule>,
}

#[derive(Debug, Serialize)]
pub(super) struct DeviceRule {
    pub allow: bool,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    pub access: String,
}
