//! Rules of routing that fail closed, and the way out of the node.
//!
//! ```text
//!   P    from SUBNET iif lo          goto P+2    what the node itself sends in a gateway's name
//!   P+1  from SUBNET without a mark  prohibit    what our table did not pass
//!   P+2                              nop
//! ```
//!
//! Where our table is gone (a firewall was reloaded, say), nothing marks what containers send, and it
//! is forwarded nowhere. P is one gardend's own, so that each knows which rules are its own.

use super::netlink::Connection;
use super::ruleset::MARK;
use crate::node::containerd::labels::OwnerMark;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// The first P, behind the rules that people number by hand and before the main table's 32766.
const FIRST: u32 = 10_000;
/// How many there are.
const PLACES: u32 = 5000;
/// What an Ethernet carries, where the node has no way out.
const USUAL_MTU: u32 = 1500;

/// One gardend's P.
#[derive(Clone, Copy, Debug)]
pub(super) struct Priority(u32);

impl Priority {
    pub fn of(owner: &OwnerMark) -> Self {
        let digits = owner.as_str().get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        Self(FIRST + digits.unwrap_or(0) % PLACES * 3)
    }
}

/// Makes the rules those of these subnets, and of no others.
pub(super) fn guard(route: &mut Connection, priority: Priority, subnets: &BTreeSet<IpNet>) -> io::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let of_family = |subnet: &&IpNet| subnet.addr().is_ipv4() == (family == AddressFamily::Inet);
        let mut wanted: Vec<RuleMessage> = Vec::new();
        for subnet in subnets.iter().filter(of_family) {
            // The target first: a rule that leads nowhere is passed over.
            wanted.extend([local(priority, *subnet), closed(priority, *subnet)]);
        }
        if !wanted.is_empty() {
            wanted.insert(0, onward(priority, family));
        }
        let seen = list(route, priority, family)?;
        let missing = wanted.iter().filter(|rule| !seen.iter().any(|seen| same(seen, rule)));
        let add = missing.map(|rule| (RouteNetlinkMessage::NewRule(rule.clone()), NLM_F_CREATE | NLM_F_EXCL));
        let stale = seen.iter().filter(|seen| !wanted.iter().any(|rule| same(seen, rule)));
        let remove = stale.map(|rule| (RouteNetlinkMessage::DelRule(rule.clone()), 0));
        route.apply(add.chain(remove).collect())?;
    }
    Ok(())
}

/// The rules that are there, in words, and the network that each is about.
pub(super) fn seen(route: &mut Connection, priority: Priority) -> io::Result<Vec<(String, Option<IpNet>)>> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for rule in list(route, priority, family)? {
            let (mut at, mut source) = (0, None);
            for attribute in &rule.attributes {
                match attribute {
                    RuleAttribute::Priority(priority) => at = *priority,
                    RuleAttribute::Source(address) => source = IpNet::new(*address, rule.header.src_len).ok(),
                    _ => {}
                }
            }
            let family = if family == AddressFamily::Inet { "ipv4" } else { "ipv6" };
            let from = source.map(|network| format!(" from {network}")).unwrap_or_default();
            all.push((format!("{family} {at}{from} {:?}", rule.header.action), source));
        }
    }
    Ok(all)
}

fn rule(family: AddressFamily, priority: u32, action: RuleAction) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = action;
    message.attributes.push(RuleAttribute::Priority(priority));
    message
}

fn from(message: &mut RuleMessage, subnet: IpNet) {
    message.header.src_len = subnet.prefix_len();
    message.attributes.push(RuleAttribute::Source(subnet.network()));
}

fn local(Priority(priority): Priority, subnet: IpNet) -> RuleMessage {
    let mut message = rule(family_of(subnet), priority, RuleAction::Goto);
    from(&mut message, subnet);
    message.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    message.attributes.push(RuleAttribute::Goto(priority + 2));
    message
}

fn closed(Priority(priority): Priority, subnet: IpNet) -> RuleMessage {
    let mut message = rule(family_of(subnet), priority + 1, RuleAction::Prohibit);
    from(&mut message, subnet);
    message.attributes.push(RuleAttribute::FwMark(0));
    message.attributes.push(RuleAttribute::FwMask(MARK));
    message
}

fn onward(Priority(priority): Priority, family: AddressFamily) -> RuleMessage {
    rule(family, priority + 2, RuleAction::Nop)
}

fn family_of(subnet: IpNet) -> AddressFamily {
    if subnet.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn list(route: &mut Connection, Priority(priority): Priority, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let found = match route.dump(RouteNetlinkMessage::GetRule(request)) {
        Ok(found) => found,
        // A kernel without this family.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let ours = |found| match found {
        RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(rule),
        _ => None,
    };
    let at = |rule: &RuleMessage| {
        rule.attributes.iter().any(
            |attribute| matches!(attribute, RuleAttribute::Priority(seen) if (priority..priority + 3).contains(seen)),
        )
    };
    Ok(found.into_iter().filter_map(ours).filter(at).collect())
}

/// Whether a rule of the kernel's is what was asked for: it tells more of it than it was told.
fn same(seen: &RuleMessage, asked: &RuleMessage) -> bool {
    let zero_mark = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::FwMark(0));
    seen.header.action == asked.header.action
        && seen.header.src_len == asked.header.src_len
        && asked.attributes.iter().all(|attribute| zero_mark(attribute) || seen.attributes.contains(attribute))
}

/// The node's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// What its link carries at once, in bytes.
    pub mtu: u32,
    /// The node's own address there; `None` where it has no way out.
    pub address: Option<Ipv4Addr>,
}

/// Looks for the default route of IPv4, and for its link.
pub(super) fn uplink(route: &mut Connection) -> io::Result<Uplink> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let mut best: Option<(u32, u32, Option<Ipv4Addr>)> = None;
    for found in route.dump(RouteNetlinkMessage::GetRoute(request))? {
        let RouteNetlinkMessage::NewRoute(found) = found else { continue };
        if found.header.destination_prefix_length != 0 || found.header.table != RouteHeader::RT_TABLE_MAIN {
            continue;
        }
        let (mut link, mut metric, mut source) = (None, 0, None);
        for attribute in found.attributes {
            match attribute {
                RouteAttribute::Oif(index) => link = Some(index),
                RouteAttribute::Priority(priority) => metric = priority,
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(address),
                _ => {}
            }
        }
        if let Some(link) = link
            && best.is_none_or(|(least, ..)| metric < least)
        {
            best = Some((metric, link, source));
        }
    }
    let Some((_, link, source)) = best else { return Ok(Uplink { mtu: USUAL_MTU, address: None }) };
    let address = match source {
        Some(address) => Some(address),
        None => address_of(route, link)?,
    };
    Ok(Uplink { mtu: mtu_of(route, link)?.unwrap_or(USUAL_MTU), address })
}

/// The networks of IPv4 that the node has addresses in, by the number of the link.
pub(super) fn own_networks(route: &mut Connection) -> io::Result<Vec<(u32, Ipv4Net)>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let found = route.dump(RouteNetlinkMessage::GetAddress(request))?;
    let network = |found| {
        let RouteNetlinkMessage::NewAddress(found) = found else { return None };
        let address = found.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
        Ipv4Net::new(address, found.header.prefix_len).ok().map(|network| (found.header.index, network))
    };
    Ok(found.into_iter().filter_map(network).collect())
}

fn address_of(route: &mut Connection, link: u32) -> io::Result<Option<Ipv4Addr>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    let found = route.dump(RouteNetlinkMessage::GetAddress(request))?;
    Ok(found.into_iter().find_map(|found| {
        let RouteNetlinkMessage::NewAddress(found) = found else { return None };
        if found.header.index != link || found.header.scope != AddressScope::Universe {
            return None;
        }
        found.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
    }))
}

fn mtu_of(route: &mut Connection, link: u32) -> io::Result<Option<u32>> {
    let found = route.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found.into_iter().find_map(|found| {
        let RouteNetlinkMessage::NewLink(found) = found else { return None };
        let mtu = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        };
        (found.header.index == link).then(|| found.attributes.iter().find_map(mtu)).flatten()
    }))
}
