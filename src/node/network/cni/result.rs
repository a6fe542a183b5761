//! What plugins answer to ADD, as far as it is understood here. As a whole it is kept as it stands, since
//! plugins are told it again.

use gardend_controller::record::Addresses;
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

/// See the module.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Attached {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    dns: Dns,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
    /// Empty: it is the node's.
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: IpNet,
    #[serde(default)]
    gw: Option<IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
struct Dns {
    #[serde(default)]
    nameservers: Vec<String>,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    search: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
}

impl Attached {
    pub fn read(result: &Value) -> Result<Self, String> {
        Self::deserialize(result).map_err(|error| format!("the plugins' result is not understood: {error}"))
    }

    /// Where the container is.
    pub fn addresses(&self) -> Result<Addresses, String> {
        let first = self.inside().find_map(|ip| match ip.address {
            IpNet::V4(address) => Some((address, ip.gateway)),
            IpNet::V6(_) => None,
        });
        let (address, gateway) = first.ok_or("the plugins gave no IPv4 address, which a container of gardend's has")?;
        let ipv6 = self.inside().find_map(|ip| match ip.address {
            IpNet::V6(address) => Some(address.addr()),
            IpNet::V4(_) => None,
        });
        let told = gateway.or_else(|| self.default_route()).and_then(|gateway| match gateway {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        });
        let gateway = told.unwrap_or_else(|| first_of(address));
        Ok(Addresses { address: address.addr(), subnet: address.trunc(), gateway, ipv6 })
    }

    /// The container's own: an address may be of an interface of the node's.
    fn inside(&self) -> impl Iterator<Item = &Ip> {
        let inside = |index: usize| self.interfaces.get(index).is_some_and(|interface| !interface.sandbox.is_empty());
        self.ips.iter().filter(move |ip| ip.interface.is_none_or(inside))
    }

    fn default_route(&self) -> Option<IpAddr> {
        self.routes.iter().find(|route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4())?.gw
    }

    /// The interfaces of the node's that it names.
    pub fn of_node(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().filter(|interface| interface.sandbox.is_empty()).map(|interface| interface.name.as_str())
    }

    /// What it says of name servers, as /etc/resolv.conf has it; `None`: nothing.
    pub fn resolv_conf(&self) -> Option<String> {
        let clean = |word: &&String| !word.is_empty() && !word.contains(char::is_whitespace);
        let servers: Vec<&String> = self.dns.nameservers.iter().filter(clean).collect();
        if servers.is_empty() {
            return None;
        }
        let mut text = String::new();
        for server in servers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "nameserver {server}");
        }
        let domain = Some(&self.dns.domain).filter(clean);
        let search: Vec<&str> = self.dns.search.iter().chain(domain).filter(clean).map(String::as_str).collect();
        let options: Vec<&str> = self.dns.options.iter().filter(clean).map(String::as_str).collect();
        for (keyword, words) in [("search", search), ("options", options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        Some(text)
    }
}

/// Whom a plugin means that names no gateway.
fn first_of(address: Ipv4Net) -> Ipv4Addr {
    if address.prefix_len() > 30 {
        return address.addr();
    }
    Ipv4Addr::from(u32::from(address.network()) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Attached {
        Attached::read(value).unwrap()
    }

    #[test]
    fn a_containers_addresses_are_those_of_its_own_interface() {
        let of_bridge = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0", "mac": "0a:00:00:00:00:01"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [
                {"interface": 1, "address": "192.0.2.1/24"},
                {"version": "4", "interface": 2, "address": "10.1.2.7/24", "gateway": "10.1.2.1"},
                {"interface": 2, "address": "fd00::7/64"}
            ],
            "dns": {}
        });
        let attached = read(&of_bridge);
        let addresses = attached.addresses().unwrap();
        assert_eq!(addresses.address.to_string(), "10.1.2.7");
        assert_eq!(addresses.subnet.to_string(), "10.1.2.0/24");
        assert_eq!(addresses.gateway.to_string(), "10.1.2.1");
        assert_eq!(addresses.ipv6.unwrap().to_string(), "fd00::7");
        assert_eq!(attached.of_node().collect::<Vec<_>>(), ["cni0", "veth1"]);
        assert_eq!(attached.resolv_conf(), None);
    }

    #[test]
    fn a_gateway_that_is_not_told_is_that_of_the_default_route_or_the_first_address() {
        let gateway = |value: Value| read(&value).addresses().unwrap().gateway.to_string();
        let route = json!({"ips": [{"address": "10.1.2.7/32"}], "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]});
        assert_eq!(gateway(route), "169.254.1.1");
        assert_eq!(gateway(json!({"ips": [{"address": "10.1.2.7/24"}]})), "10.1.2.1");
        assert_eq!(gateway(json!({"ips": [{"address": "10.1.2.7/32"}]})), "10.1.2.7");
    }

    #[test]
    fn without_an_ipv4_address_there_is_none() {
        for value in [json!({}), json!({"ips": [{"address": "fd00::7/64"}]})] {
            assert!(read(&value).addresses().unwrap_err().contains("no IPv4 address"));
        }
        assert!(Attached::read(&json!({"ips": [{"address": "x"}]})).is_err());
    }

    #[test]
    fn name_servers_are_those_that_plugins_name() {
        let dns = json!({"dns": {"nameservers": ["192.0.2.1", "a b"], "domain": "d", "search": ["s"], "options": ["ndots:2"]}});
        assert_eq!(read(&dns).resolv_conf().unwrap(), "nameserver 192.0.2.1\nsearch s d\noptions ndots:2\n");
    }
}
