//! What of a gardend's network is in the kernel, for whoever counts it. Nothing is changed.

use super::cni;
use super::elements::{self, Element, SETS};
use super::links::{self, Inside};
use super::names::{self, Names};
use super::netlink::Connection;
use super::routing::{self, Priority};
use super::table::Table;
use crate::node::containerd::labels::OwnerMark;
use gardend_controller::ports::NetworkWanted;
use gardend_controller::record::ContainerUid;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Something that is there.
#[derive(Debug)]
pub(crate) enum Part {
    /// The host's end of the link of the place whose name begins so.
    Link { name: String, place: String },
    /// An address of a link.
    Address { address: String, place: String },
    /// A route by a link.
    Route { to: IpAddr, place: String },
    /// A rule of routing, and the network that it is about.
    Rule { text: String, from: Option<IpNet> },
    /// A table of nftables.
    Table(String),
    /// An element of one of its sets; `None`: no container has it.
    Element { text: String, of: Option<ContainerUid> },
    /// A chain of a container's.
    Chain { text: String, of: Option<ContainerUid> },
}

/// All of it. `wanted` is what the containers' networks are.
pub(crate) fn seen(owner: &OwnerMark, wanted: &[NetworkWanted]) -> io::Result<Vec<Part>> {
    let names = Names::of(owner);
    let mut route = Connection::route()?;
    let mut parts = Vec::new();
    let links = links::list(&mut route, names.prefix())?;
    let place = |link: &str| link.strip_prefix(names.prefix()).unwrap_or(link).to_owned();
    let by_index = |index: u32| links.iter().find(|(_, other)| **other == index).map(|(link, _)| place(link));
    for link in links.keys() {
        parts.push(Part::Link { name: link.clone(), place: place(link) });
    }
    for (index, address) in links::addresses(&mut route)? {
        if let Some(place) = by_index(index) {
            parts.push(Part::Address { address: address.to_string(), place });
        }
    }
    for (to, index) in links::routes(&mut route)? {
        if let Some(place) = by_index(index) {
            parts.push(Part::Route { to, place });
        }
    }
    let rules = routing::seen(&mut route, Priority::of(owner))?;
    parts.extend(rules.into_iter().map(|(text, from)| Part::Rule { text, from }));
    let own: Vec<_> = wanted
        .iter()
        .flat_map(|wanted| {
            let elements = elements::of(wanted, &names.link(&wanted.sandbox)).into_iter();
            elements.map(|element| (element, wanted.container.clone()))
        })
        .collect();
    table(&mut parts, names.table(), &SETS, |element| {
        own.iter().find(|(own, _)| own == element).map(|(_, container)| container.clone())
    })?;
    table(&mut parts, Names::of_plugins(owner).table(), &cni::SETS, |element| cni::owner_of(element, wanted))?;
    Ok(parts)
}

fn table(
    parts: &mut Vec<Part>,
    name: &str,
    sets: &'static [&'static str],
    owner: impl Fn(&Element) -> Option<ContainerUid>,
) -> io::Result<()> {
    let Some(found) = Table::open(name, sets)?.read()? else { return Ok(()) };
    parts.push(Part::Table(format!("inet {name}")));
    for element in &found.content.elements {
        parts.push(Part::Element { text: format!("{name} {element}"), of: owner(element) });
    }
    for chain in found.content.chains.keys() {
        let of = chain.strip_prefix(names::CHAIN_PREFIX).and_then(ContainerUid::parse);
        parts.push(Part::Chain { text: format!("{name} {chain}"), of });
    }
    Ok(())
}

/// Whether a place has its end of a link.
pub(crate) fn inside(place: &Path) -> io::Result<bool> {
    match Inside::of(place)? {
        Some(inside) => Ok(links::other_end(&inside)?.is_some()),
        None => Ok(false),
    }
}
