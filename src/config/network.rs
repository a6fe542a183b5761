//! The options of networks, as they are written and as the rest of gardend reads them.

use clap::{Args, ValueEnum};
use gardend_controller::{AddressSource, NetworkOptions};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The least that a link of IPv4 may carry at once (RFC 791), and what one of IPv6 has to (RFC 8200).
const SMALLEST_MTU: i64 = 68;
const SMALLEST_MTU6: u32 = 1280;
const LARGEST_MTU: i64 = 65_535;

/// See the module.
#[derive(Clone, Debug, Args, JsonSchema)]
#[command(next_help_heading = "Network")]
#[schemars(rename_all = "kebab-case")]
pub struct NetworkArgs {
    /// `builtin`: links, addresses and rules of nftables; `cni`: the node's own chain of CNI plugins; `none`:
    /// containers have their own loopback alone
    #[arg(long, env = "GARDEND_NETWORK", value_name = "builtin|cni|none", default_value = "builtin")]
    network: NetworkKind,

    /// Where containers' addresses come from, four for each that asks for none
    #[arg(long, env = "GARDEND_NETWORK_POOL", value_name = "CIDR", default_value = "10.80.0.0/16", value_parser = parse_pool)]
    #[schemars(with = "String")]
    network_pool: Ipv4Net,

    /// Where containers' IPv6 addresses come from, one for each [default: they have none]
    #[arg(long, env = "GARDEND_NETWORK_POOL_V6", value_name = "CIDR", value_parser = parse_pool6)]
    #[schemars(with = "Option<String>")]
    network_pool_v6: Option<Ipv6Net>,

    /// Ports of the node that containers are given when they name none
    #[arg(long, env = "GARDEND_HOST_PORTS", value_name = "FIRST-LAST", default_value = "61001-65534", value_parser = parse_ports)]
    #[schemars(with = "String")]
    host_ports: Ports,

    /// Nothing leaves a container but what its rules let out
    #[arg(long, env = "GARDEND_DENY_BY_DEFAULT")]
    deny_by_default: bool,

    /// Networks that containers reach only by their rules; several times, or with commas between
    #[arg(long, env = "GARDEND_DENY_NETWORK", value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    #[schemars(with = "Vec<String>")]
    deny_network: Vec<IpNet>,

    /// Containers reach the node's own addresses
    #[arg(long, env = "GARDEND_ALLOW_HOST_ACCESS")]
    allow_host_access: bool,

    /// Name servers of containers, in place of the node's; several times, or with commas between
    #[arg(long, env = "GARDEND_DNS_SERVER", value_name = "IP", value_delimiter = ',')]
    #[schemars(with = "Vec<String>")]
    dns_server: Vec<IpAddr>,

    /// The node's address as clients are told it [default: that of its way out]
    #[arg(long, env = "GARDEND_EXTERNAL_IP", value_name = "IP")]
    #[schemars(with = "Option<String>")]
    external_ip: Option<IpAddr>,

    /// What containers' links carry at once, in bytes [default: what the node's way out does]
    #[arg(long, env = "GARDEND_NETWORK_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(SMALLEST_MTU..=LARGEST_MTU))]
    network_mtu: Option<u32>,

    /// Where the configurations of CNI are (`.conflist`, `.conf`, `.json`), with --network cni
    #[arg(long, env = "GARDEND_CNI_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,

    /// Where the plugins of CNI are; several times, or with commas between
    #[arg(
        long,
        env = "GARDEND_CNI_BIN_DIR",
        value_name = "DIR",
        value_delimiter = ',',
        default_values = ["/opt/cni/bin", "/usr/lib/cni"]
    )]
    cni_bin_dir: Vec<PathBuf>,

    /// The network of CNI that containers are in, by its name [default: that of the first file, in order of names]
    #[arg(long, env = "GARDEND_CNI_NETWORK", value_name = "NAME")]
    cni_network: Option<String>,

    /// Has plugins of CNI (1.1.0) collect what containers have left that are not gardend's own or not there: only
    /// where nobody else uses this network
    #[arg(long, env = "GARDEND_CNI_GC")]
    cni_gc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum NetworkKind {
    Builtin,
    Cni,
    None,
}

#[derive(Clone, Debug)]
struct Ports(RangeInclusive<u16>);

/// The network of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Who makes it.
    pub means: NetworkMeans,
    /// Ports of the node for those who ask for any.
    pub ports: RangeInclusive<u16>,
    /// Nothing leaves but what rules let out.
    pub deny_by_default: bool,
    /// What they reach only by rules.
    pub deny_networks: Vec<IpNet>,
    /// They reach the node itself.
    pub allow_host_access: bool,
    /// Their name servers; none: the node's.
    pub dns_servers: Vec<IpAddr>,
    /// The node's address as clients are told it; `None`: that of its way out.
    pub external: Option<IpAddr>,
}

/// Who makes the network of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMeans {
    /// gardend itself.
    Builtin {
        /// Where IPv4 addresses come from.
        pool: Ipv4Net,
        /// Where IPv6 addresses come from.
        pool6: Option<Ipv6Net>,
        /// What links carry at once; `None`: what the node's way out does.
        mtu: Option<u32>,
    },
    /// Plugins.
    Cni(CniConfig),
}

/// The plugins of CNI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Where configurations are.
    pub conf_dir: PathBuf,
    /// Where programs are, the first first.
    pub bin_dirs: Vec<PathBuf>,
    /// Which network; `None`: that of the first file.
    pub network: Option<String>,
    /// The network is gardend's alone, and plugins may collect what is not in use.
    pub collects: bool,
}

/// Options of networks that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--network-mtu {0} is less than the {SMALLEST_MTU6} bytes that IPv6 needs; raise it, or leave --network-pool-v6 out"
)]
pub struct SmallMtu(u32);

impl NetworkArgs {
    /// `None`: no networks.
    pub(super) fn validate(self) -> Result<Option<NetworkConfig>, SmallMtu> {
        if self.network == NetworkKind::None {
            return Ok(None);
        }
        if let (Some(mtu), Some(_)) = (self.network_mtu, self.network_pool_v6)
            && mtu < SMALLEST_MTU6
        {
            return Err(SmallMtu(mtu));
        }
        let means = match self.network {
            NetworkKind::Cni => NetworkMeans::Cni(CniConfig {
                conf_dir: absolute(self.cni_conf_dir),
                bin_dirs: self.cni_bin_dir.into_iter().map(absolute).collect(),
                network: self.cni_network,
                collects: self.cni_gc,
            }),
            NetworkKind::Builtin | NetworkKind::None => {
                NetworkMeans::Builtin { pool: self.network_pool, pool6: self.network_pool_v6, mtu: self.network_mtu }
            }
        };
        Ok(Some(NetworkConfig {
            means,
            ports: self.host_ports.0,
            deny_by_default: self.deny_by_default,
            deny_networks: self.deny_network,
            allow_host_access: self.allow_host_access,
            dns_servers: self.dns_server,
            external: self.external_ip,
        }))
    }
}

impl NetworkConfig {
    /// What the controller is told of it, the node's own address being `own`.
    pub fn options(&self, own: Option<IpAddr>) -> NetworkOptions {
        let addresses = match self.means {
            NetworkMeans::Builtin { pool, pool6, .. } => AddressSource::Pools { v4: pool, v6: pool6 },
            NetworkMeans::Cni(_) => AddressSource::Node,
        };
        NetworkOptions { addresses, ports: self.ports.clone(), external: self.external.or(own) }
    }
}

/// Plugins are called in another folder than gardend's.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| "not a network; say 10.0.0.0/8 or fd00::/8".to_owned())?,
    };
    Ok(network.trunc())
}

fn parse_pool(text: &str) -> Result<Ipv4Net, String> {
    let pool: Ipv4Net = text.parse().map_err(|_| "not a network of IPv4; say 10.80.0.0/16".to_owned())?;
    if pool.prefix_len() > 30 {
        return Err("has no room for a single container, which needs four addresses; say 10.80.0.0/16".to_owned());
    }
    if pool.trunc() != pool {
        return Err(format!("has more than a network in it; say {}", pool.trunc()));
    }
    Ok(pool)
}

fn parse_pool6(text: &str) -> Result<Ipv6Net, String> {
    let pool: Ipv6Net = text.parse().map_err(|_| "not a network of IPv6; say fd00:80::/64".to_owned())?;
    if pool.prefix_len() > 126 {
        return Err("has no room for containers; say fd00:80::/64".to_owned());
    }
    if pool.trunc() != pool {
        return Err(format!("has more than a network in it; say {}", pool.trunc()));
    }
    Ok(pool)
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let wrong = || "not a range of ports; say 61001-65534".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err("ends before it begins".to_owned()) } else { Ok(Ports(first..=last)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        network: NetworkArgs,
    }

    fn parsed(words: &[&str]) -> Result<Option<NetworkConfig>, String> {
        let line = Line::try_parse_from(std::iter::once(&"gardend").chain(words)).map_err(|error| error.to_string())?;
        line.network.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_word_everything_leaves_and_the_node_is_closed() {
        let network = parsed(&[]).unwrap().unwrap();
        assert!(!network.deny_by_default && !network.allow_host_access && network.deny_networks.is_empty());
        assert_eq!(network.options(None), NetworkOptions::default());
        assert_eq!(parsed(&["--network", "none"]).unwrap(), None);
    }

    #[test]
    fn plugins_are_looked_for_where_nodes_have_them() {
        let network = parsed(&["--network", "cni", "--cni-network", "n"]).unwrap().unwrap();
        let bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).to_vec();
        let (conf_dir, name) = ("/etc/cni/net.d".into(), Some("n".to_owned()));
        let cni = CniConfig { conf_dir, bin_dirs, network: name, collects: false };
        assert_eq!(network.means, NetworkMeans::Cni(cni));
        assert_eq!(network.options(None).addresses, AddressSource::Node);
        let network = parsed(&["--network", "cni", "--cni-bin-dir", "/a,/b", "--cni-bin-dir", "/c"]).unwrap().unwrap();
        let NetworkMeans::Cni(cni) = network.means else { panic!("{network:?}") };
        assert_eq!(cni.bin_dirs, ["/a", "/b", "/c"].map(PathBuf::from));
    }

    #[test]
    fn lists_are_written_in_either_way_and_networks_are_cut_to_what_they_are() {
        let words = ["--deny-network", "10.1.2.3/8,192.0.2.1", "--deny-network", "fd00::/8", "--dns-server", "::1"];
        let network = parsed(&words).unwrap().unwrap();
        let denied: Vec<String> = network.deny_networks.iter().map(ToString::to_string).collect();
        assert_eq!(denied, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
        assert_eq!(network.dns_servers.len(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        for (words, part) in [
            (["--network-pool", "10.0.0.0/31"], "no room for a single container"),
            (["--network-pool", "10.80.0.1/16"], "say 10.80.0.0/16"),
            (["--network-pool", "fd00::/64"], "not a network of IPv4"),
            (["--network-pool-v6", "fd00::/127"], "no room"),
            (["--host-ports", "9-3"], "ends before it begins"),
            (["--host-ports", "70000-70001"], "not a range of ports"),
            (["--deny-network", "x"], "not a network"),
            (["--network-mtu", "67"], "68"),
        ] {
            let error = parsed(&words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        let error = parsed(&["--network-mtu", "1000", "--network-pool-v6", "fd00::/64"]).unwrap_err();
        assert!(error.contains("1280"), "{error}");
    }
}
