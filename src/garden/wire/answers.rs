//! What gardend answers. Field names are Go's, as they are there.

use super::GardenError;
use gardend_controller::Info;
use gardend_controller::record::{Handle, PortIn, Properties};
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

/// A port of the node's that leads to one of the container's.
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
            host_ip: text(info.addresses.as_ref().map(|addresses| addresses.gateway)),
            container_ip: text(info.addresses.as_ref().map(|addresses| addresses.address)),
            container_ipv6: text(info.addresses.as_ref().and_then(|addresses| addresses.ipv6)),
            external_ip: text(info.external),
            mapped_ports: info.ports_in.into_iter().map(PortMapping::from).collect(),
        }
    }
}

/// What there is none of is an empty string to Go.
fn text(address: Option<impl ToString>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

impl From<PortIn> for PortMapping {
    fn from(port: PortIn) -> Self {
        Self { host_port: port.host_port.into(), container_port: port.container_port.into() }
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
    use gardend_controller::record::Addresses;

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
        let text = serde_json::to_string(&ContainerInfo::from(info.clone())).unwrap();
        assert_eq!(
            text,
            r#"{"State":"stopped","Events":[],"HostIP":"","ContainerIP":"","ContainerIPv6":"","ExternalIP":"","ContainerPath":"/p","ProcessIDs":["1"],"Properties":{},"MappedPorts":[]}"#
        );
        let addresses = Addresses {
            address: [10, 80, 0, 2].into(),
            subnet: "10.80.0.0/30".parse().unwrap(),
            gateway: [10, 80, 0, 1].into(),
            ipv6: Some("fd00::2".parse().unwrap()),
        };
        let ports_in = vec![PortIn { host_port: 61001, container_port: 80 }];
        let info = Info { addresses: Some(addresses), external: Some([192, 0, 2, 1].into()), ports_in, ..info };
        let text = serde_json::to_string(&ContainerInfo::from(info)).unwrap();
        let ips =
            r#""HostIP":"10.80.0.1","ContainerIP":"10.80.0.2","ContainerIPv6":"fd00::2","ExternalIP":"192.0.2.1""#;
        assert!(text.contains(ips), "{text}");
        assert!(text.contains(r#""MappedPorts":[{"HostPort":61001,"ContainerPort":80}]"#), "{text}");
    }
}
