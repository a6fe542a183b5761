//! What plugins are told of a container beside the configuration: CNI_ARGS, and what they have the
//! capability for (`runtimeConfig`), by the names and in the units of CNI's conventions.

use super::config::NetworkList;
use super::store::Attachment;
use crate::node::place::InitProcess;
use gardend_controller::Asked;
use gardend_controller::ports::AttachWanted;
use gardend_controller::record::{ContainerUid, Handle, PortIn};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;

pub(super) const PORT_MAPPINGS: &str = "portMappings";
pub(super) const BANDWIDTH: &str = "bandwidth";
const IPS: &str = "ips";
const IP_RANGES: &str = "ipRanges";
const BITS: u64 = 8;
/// What the plugin counts bursts with ends here.
const LARGEST_BURST: u64 = u32::MAX as u64;
/// A whole frame of the largest size that is usual.
const SMALLEST_BURST: u64 = 9018;

/// CNI_ARGS. There is no way to write `;` and `=` in it, so that a handle with these is left out.
pub(super) fn args(container: &ContainerUid, handle: &Handle) -> String {
    let handle = handle.as_str();
    let named = if handle.contains([';', '=']) { String::new() } else { format!(";GARDEN_HANDLE={handle}") };
    format!("IgnoreUnknown=1{named};GARDEND_UID={container}")
}

/// All that can be told, whoever has the capability for it.
///
/// # Errors
/// What was asked for and can be told to nobody.
pub(super) fn all(
    wanted: &AttachWanted,
    network: &NetworkList,
    dns_servers: &[IpAddr],
    init: &InitProcess,
) -> Result<BTreeMap<String, Value>, String> {
    let mut told = BTreeMap::from([
        ("aliases".to_owned(), json!([wanted.handle.as_str()])),
        ("mac".to_owned(), json!(mac(&wanted.container))),
        (PORT_MAPPINGS.to_owned(), port_mappings(&wanted.ports_in)),
    ]);
    match &wanted.asked {
        Asked::OfThePool => {}
        Asked::At(address, subnet) if network.capable(IPS) => {
            told.insert(IPS.to_owned(), json!([format!("{address}/{}", subnet.prefix_len())]));
        }
        Asked::In(subnet) if network.capable(IP_RANGES) => {
            told.insert(IP_RANGES.to_owned(), json!([[{ "subnet": subnet.to_string() }]]));
        }
        asked => {
            let (what, capability) = match asked {
                Asked::At(address, subnet) => (format!("{address}/{}", subnet.prefix_len()), IPS),
                Asked::In(subnet) => (subnet.to_string(), IP_RANGES),
                Asked::OfThePool => (String::new(), IPS),
            };
            return Err(format!(
                "network: {what} is asked for, and no plugin of network {:?} has the capability {capability}; ask for no network, or add the capability to its configuration",
                network.name
            ));
        }
    }
    if wanted.bandwidth_rate > 0 {
        told.insert(BANDWIDTH.to_owned(), bandwidth(wanted.bandwidth_rate, wanted.bandwidth_burst));
    }
    if !dns_servers.is_empty() {
        told.insert("dns".to_owned(), json!({ "servers": dns_servers, "searches": [], "options": [] }));
    }
    if let Some(group) = cgroup(init) {
        told.insert("cgroupPath".to_owned(), json!(group));
    }
    Ok(told)
}

/// Ports of the node's that lead to a container's, by both protocols.
pub(super) fn port_mappings(ports: &[PortIn]) -> Value {
    let both = |port: &PortIn| {
        ["tcp", "udp"].map(|protocol| {
            json!({ "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol })
        })
    };
    ports.iter().flat_map(both).collect()
}

/// The same of an attachment's.
pub(super) fn tell_ports(attachment: &mut Attachment, ports: &[PortIn]) {
    attachment.told.insert(PORT_MAPPINGS.to_owned(), port_mappings(ports));
}

/// In bits.
fn bandwidth(rate: u64, burst: u64) -> Value {
    let burst = if burst == 0 { rate / 10 } else { burst }.max(SMALLEST_BURST);
    let (rate, burst) = (rate.saturating_mul(BITS), burst.saturating_mul(BITS).min(LARGEST_BURST));
    json!({ "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst })
}

/// A hardware address that is a container's own in each of its places.
fn mac(container: &ContainerUid) -> String {
    let hash = Sha256::digest(container.to_string());
    format!("0a:67:{:02x}:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2], hash[3])
}

/// A place's group, below the root of its hierarchy: of v2, or that of memory.
fn cgroup(init: &InitProcess) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).ok()?;
    let mut lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(controllers, _)| controllers.is_empty() || controllers.split(',').any(|name| name == "memory"))
        .collect();
    // That of memory, where it is v1's: the other has no limits then.
    lines.sort_by_key(|(controllers, _)| controllers.is_empty());
    let (_, path) = *lines.first()?;
    Some(path.strip_suffix("/init").unwrap_or(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_that_cannot_be_written_is_left_out() {
        let uid = ContainerUid::generate();
        let of = |handle: &str| args(&uid, &Handle::new(handle).unwrap());
        assert_eq!(of("h"), format!("IgnoreUnknown=1;GARDEN_HANDLE=h;GARDEND_UID={uid}"));
        for handle in ["a;b", "a=b"] {
            assert_eq!(of(handle), format!("IgnoreUnknown=1;GARDEND_UID={uid}"));
        }
    }

    #[test]
    fn bandwidth_is_told_in_bits_with_a_burst_that_lets_frames_pass() {
        let told = bandwidth(1_000_000, 0);
        assert_eq!((&told["ingressRate"], &told["egressBurst"]), (&json!(8_000_000), &json!(800_000)));
        assert_eq!(bandwidth(1000, 1)["ingressBurst"], json!(SMALLEST_BURST * 8));
        assert_eq!(bandwidth(u64::MAX / 100, u64::MAX / 100)["ingressBurst"], json!(u32::MAX));
    }

    #[test]
    fn a_port_leads_in_by_both_protocols() {
        let told = port_mappings(&[PortIn { host_port: 80, container_port: 8080 }]);
        let tcp = json!({"hostPort": 80, "containerPort": 8080, "protocol": "tcp"});
        let udp = json!({"hostPort": 80, "containerPort": 8080, "protocol": "udp"});
        assert_eq!(told, json!([tcp, udp]));
    }
}
