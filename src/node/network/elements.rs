//! What stands in the sets of our table for one container, to the byte. `ruleset` has the sets.

use super::names;
use gardend_controller::ports::NetworkWanted;
use gardend_controller::record::{PortIn, SandboxId};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IFNAMSIZ.
const LINK_BYTES: usize = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// An element of a set, or of a map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Element {
    /// Of which.
    pub set: &'static str,
    /// As the kernel compares it: each field padded with zeros to four bytes.
    pub key: Vec<u8>,
    /// Where the range ends that `key` begins.
    pub end: Option<Vec<u8>>,
    /// What it leads to, in a map.
    pub value: Value,
}

/// See [`Element::value`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Value {
    /// It is in a set.
    None,
    /// As the kernel has it.
    Bytes(Vec<u8>),
    /// This chain is asked.
    Jump(String),
}

impl fmt::Display for Element {
    /// As far as its key shows what it is: an address, a link's name, or bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.set)?;
        let name = self.key.split(|byte| *byte == 0).next().unwrap_or_default();
        let (name, rest) = match self.key.len() {
            LINK_BYTES.. if name.len() > 2 && name.iter().all(u8::is_ascii_alphanumeric) => {
                (String::from_utf8_lossy(name).into_owned(), &self.key[LINK_BYTES..])
            }
            _ => (String::new(), &self.key[..]),
        };
        let separator = if name.is_empty() || rest.is_empty() { "" } else { " " };
        write!(f, "{name}{separator}")?;
        match rest.len() {
            0 => Ok(()),
            4 => write!(f, "{}", Ipv4Addr::from([rest[0], rest[1], rest[2], rest[3]])),
            _ => rest.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// All sets.
pub(super) const SETS: [&str; 10] =
    ["sources4", "sources6", "containers4", "containers6", "peers4", "outlets", "ports4", "ports6", "doors4", "doors6"];

/// A container's elements, its link being `link`.
pub(super) fn of(wanted: &NetworkWanted, link: &str) -> Vec<Element> {
    let addresses = &wanted.addresses;
    let name = link_key(link);
    let address = addresses.address.octets();
    let set = |set, key: Vec<u8>| Element { set, key, end: None, value: Value::None };
    let source = |set, address: &[u8]| Element {
        set,
        key: [name.as_slice(), address].concat(),
        end: None,
        value: Value::Bytes(zone(&wanted.sandbox).to_ne_bytes().to_vec()),
    };
    let mut elements = vec![source("sources4", &address), set("containers4", address.to_vec())];
    // One of four addresses has no peer: of the others, one is the gateway's.
    if addresses.subnet.prefix_len() < 30 {
        let ends = [addresses.subnet.network(), addresses.subnet.broadcast()];
        let [first, last] = ends.map(|end| [address, end.octets()].concat());
        elements.push(Element { set: "peers4", key: first, end: Some(last), value: Value::None });
    }
    if !wanted.rules_out.is_empty() {
        let value = Value::Jump(names::chain(&wanted.container));
        elements.push(Element { set: "outlets", key: name.clone(), end: None, value });
    }
    if let Some(ipv6) = addresses.ipv6 {
        elements.push(source("sources6", &ipv6.octets()));
        elements.push(set("containers6", ipv6.octets().to_vec()));
    }
    for port in &wanted.ports_in {
        for protocol in [TCP, UDP] {
            let key = port_key(protocol, port.host_port);
            let to4 = target4(addresses.address, port.container_port);
            elements.push(set("doors4", [key[..4].to_vec(), to4].concat()));
            if let Some(ipv6) = addresses.ipv6 {
                let to6 = target6(ipv6, port.container_port);
                elements.push(set("doors6", [key[..4].to_vec(), to6].concat()));
            }
        }
        let own = std::iter::once(IpAddr::V4(addresses.address)).chain(addresses.ipv6.map(IpAddr::V6));
        elements.extend(own.flat_map(|address| self::ports(address, *port)));
    }
    elements
}

/// What makes a port of the node's lead to one of an address, by both protocols.
pub(super) fn ports(address: IpAddr, port: PortIn) -> [Element; 2] {
    let (set, target) = match address {
        IpAddr::V4(address) => ("ports4", target4(address, port.container_port)),
        IpAddr::V6(address) => ("ports6", target6(address, port.container_port)),
    };
    [TCP, UDP].map(|protocol| {
        let key = port_key(protocol, port.host_port);
        Element { set, key, end: None, value: Value::Bytes(target.clone()) }
    })
}

/// The zone of connections that begin in a place: one of 65,535, by chance, since what counts is that the
/// next with the same address has another. 0 is everybody's.
fn zone(sandbox: &SandboxId) -> u16 {
    let digits = sandbox.as_str().get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    digits.unwrap_or_default().max(1)
}

fn link_key(link: &str) -> Vec<u8> {
    let mut key = link.as_bytes().to_vec();
    key.resize(LINK_BYTES, 0);
    key
}

fn port_key(protocol: u8, port: u16) -> Vec<u8> {
    [[protocol, 0, 0, 0], port_field(port)].concat()
}

fn target4(address: Ipv4Addr, port: u16) -> Vec<u8> {
    [address.octets(), port_field(port)].concat()
}

fn target6(address: Ipv6Addr, port: u16) -> Vec<u8> {
    [address.octets().as_slice(), &port_field(port)].concat()
}

fn port_field(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use gardend_controller::record::{Addresses, ContainerUid, Handle, RuleOut};

    pub fn wanted() -> NetworkWanted {
        NetworkWanted {
            container: ContainerUid::generate(),
            handle: Handle::new("h").unwrap(),
            sandbox: SandboxId::generate(),
            addresses: Addresses {
                address: "10.80.0.2".parse().unwrap(),
                subnet: "10.80.0.0/30".parse().unwrap(),
                gateway: "10.80.0.1".parse().unwrap(),
                ipv6: None,
            },
            ports_in: Vec::new(),
            rules_out: Vec::new(),
            bandwidth_rate: 0,
            bandwidth_burst: 0,
        }
    }

    #[test]
    fn an_element_shows_the_link_and_the_address_that_it_is_about() {
        let shown: Vec<_> = of(&wanted(), "gd1234567890123").iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["sources4 gd1234567890123 10.80.0.2", "containers4 10.80.0.2"]);
    }

    #[test]
    fn every_element_is_of_a_set_that_there_is() {
        let mut wanted = wanted();
        wanted.addresses.subnet = "10.80.0.0/24".parse().unwrap();
        wanted.addresses.ipv6 = Some("2001:db8::2".parse().unwrap());
        wanted.ports_in.push(PortIn { host_port: 80, container_port: 8080 });
        wanted.rules_out.push(RuleOut::default());
        let mut used: Vec<_> = of(&wanted, "gd1").iter().map(|element| element.set).collect();
        used.sort_unstable();
        used.dedup();
        let mut all = SETS.to_vec();
        all.sort_unstable();
        assert_eq!(used, all);
    }

    #[test]
    fn a_port_leads_to_a_port_by_both_protocols_as_the_kernel_writes_them() {
        let mut wanted = wanted();
        wanted.ports_in.push(PortIn { host_port: 80, container_port: 8080 });
        let ports: Vec<_> = of(&wanted, "gd1").into_iter().filter(|element| element.set == "ports4").collect();
        let keys: Vec<_> = ports.iter().map(|element| element.key.clone()).collect();
        assert_eq!(keys, [[6, 0, 0, 0, 0, 80, 0, 0], [17, 0, 0, 0, 0, 80, 0, 0]]);
        assert_eq!(ports[0].value, Value::Bytes(vec![10, 80, 0, 2, 0x1f, 0x90, 0, 0]));
    }

    #[test]
    fn who_is_alone_in_its_subnet_has_no_peers_and_who_asks_for_nothing_no_chain() {
        let used: Vec<_> = of(&wanted(), "gd1").iter().map(|element| element.set).collect();
        assert_eq!(used, ["sources4", "containers4"]);
    }
}
