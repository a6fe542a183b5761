//! A container in the network: where it is, what reaches it, what it reaches.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

/// Where a container is. Recorded with it, and its own until it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Its own.
    pub address: Ipv4Addr,
    /// Whom it reaches without any rule: the other containers in it.
    pub subnet: Ipv4Net,
    /// The host's end of its link, and its way out. The first address of the subnet.
    pub gateway: Ipv4Addr,
    /// Its own IPv6 address, where the node has a pool of them.
    pub ipv6: Option<Ipv6Addr>,
}

/// A port of the node that leads to one of a container's, by TCP and UDP alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortIn {
    /// On every address of the node.
    pub host_port: u16,
    /// On the container's.
    pub container_port: u16,
}

/// A port that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortInAsked {
    /// `None`: one of the node's own choice.
    pub host_port: Option<NonZeroU16>,
    /// `None`: the same as the host port.
    pub container_port: Option<NonZeroU16>,
}

/// What a container may reach outside, whatever is denied. Ranges include both of their ends; an
/// empty list is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleOut {
    /// By which protocol.
    pub protocol: RuleProtocol,
    /// Which addresses; both ends of a range are of one family, and in order.
    pub networks: Vec<(IpAddr, IpAddr)>,
    /// Which ports; only with TCP and UDP.
    pub ports: Vec<(u16, u16)>,
    /// Which messages; only with ICMP and ICMPv6.
    pub icmp: Option<IcmpMatch>,
    /// Each new connection is written to the kernel's log, with the handle.
    pub log: bool,
}

/// See [`RuleOut::protocol`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RuleProtocol {
    #[default]
    All,
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
}

/// See [`RuleOut::icmp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IcmpMatch {
    /// The message's type.
    pub kind: u8,
    /// Its code; `None`: any.
    pub code: Option<u8>,
}
