//! What gardend answers. Field names are Go's, as they are there.

use super::GardenError;
use gardend_controller::Info;
use gardend_controller::record::{Handle, Properties};
use serde::{Deserialize, Serialize};

/// The answer to a call that has nothing to tell.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    pub(crate) handle: Handle,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Listed {
    pub(crate) handles: Vec<Handle>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Capacity {
    pub(crate) memory_in_bytes: u64,
    pub(crate) disk_in_bytes: u64,
    pub(crate) schedulable_disk_in_bytes: u64,
    pub(crate) max_containers: u64,
}

/// The body of a stop.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stop {
    pub(crate) kill: bool,
}

/// The body of a property's PUT, and the answer to its GET.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PropertyValue {
    pub(crate) value: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ContainerInfo {
    state: &'static str,
    events: Vec<String>,
    #[serde(rename = "HostIP")]
    host_ip: String,
    #[serde(rename = "ContainerIP")]
    container_ip: String,
    #[serde(rename = "ContainerIPv6")]
    container_ipv6: String,
    #[serde(rename = "ExternalIP")]
    external_ip: String,
    container_path: String,
    #[serde(rename = "ProcessIDs")]
    process_ids: Vec<String>,
    properties: Properties,
    mapped_ports: Vec<PortMapping>,
}

/// None until containers have a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PortMapping {
    host_port: u32,
    container_port: u32,
}

impl From<Info> for ContainerInfo {
    fn from(info: Info) -> Self {
        Self {
            state: if info.stopped { "stopped" } else { "active" },
            events: info.events,
            container_path: info.path,
            process_ids: info.process_ids,
            properties: info.properties,
            ..Self::default()
        }
    }
}

/// One container's part of a bulk_info.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InfoEntry {
    info: ContainerInfo,
    err: Option<GardenError>,
}

impl From<Result<ContainerInfo, GardenError>> for InfoEntry {
    fn from(result: Result<ContainerInfo, GardenError>) -> Self {
        match result {
            Ok(info) => Self { info, err: None },
            Err(error) => Self { info: ContainerInfo::default(), err: Some(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_has_the_names_that_go_knows_and_no_null() {
        let info = Info {
            stopped: true,
            events: vec![],
            path: "/p".into(),
            process_ids: vec!["1".into()],
            properties: Properties::new(),
            addresses: None,
            external: None,
            ports_in: Vec::new(),
        };
        let text = serde_json::to_string(&ContainerInfo::from(info)).unwrap();
        assert_eq!(
            text,
            r#"{"State":"stopped","Events":[],"HostIP":"","ContainerIP":"","ContainerIPv6":"","ExternalIP":"","ContainerPath":"/p","ProcessIDs":["1"],"Properties":{},"MappedPorts":[]}"#
        );
    }
}
