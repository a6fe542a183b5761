//! Links, addresses, routes, rules and tables of our containers' networks.

use super::records::Records;
use super::{Found, Kind, Of, Subject};
use crate::node::containerd::labels::OwnerMark;
use crate::node::network::seen::{Part, seen};
use ipnet::IpNet;

pub(super) fn look(found: &mut Found, subject: &Subject, mark: &OwnerMark, records: &Records) {
    let wanted = records.networks();
    let Some(parts) = found.miss("the kernel's network", seen(mark, &wanted)) else { return };
    let mut subnets: Vec<IpNet> = subject.pools.clone();
    subnets.extend(wanted.iter().map(|wanted| IpNet::from(wanted.addresses.subnet)));
    for part in parts {
        match part {
            Part::Link { name, place } => {
                found.see(Kind::Link, &name, Of::PlaceLike(place));
            }
            Part::Address { address, place } => found.see(Kind::Address, address, Of::PlaceLike(place)),
            Part::Route { to, place } => found.see(Kind::Route, to.to_string(), Of::PlaceLike(place)),
            Part::Rule { text, from } => {
                let wanted = from.is_none_or(|from| subnets.iter().any(|subnet| subnet.trunc() == from));
                found.see(Kind::RoutingRule, text, if wanted { Of::Gardend } else { Of::Nobody });
            }
            Part::Table(name) => found.see(Kind::Table, name, Of::Gardend),
            Part::Element { text, of } => found.see(Kind::Element, text, of.map_or(Of::Nobody, Of::Container)),
            Part::Chain { text, of } => found.see(Kind::Chain, text, of.map_or(Of::Nobody, Of::Container)),
        }
    }
}
