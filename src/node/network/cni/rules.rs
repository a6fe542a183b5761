//! Our table beside plugins' networks: what they leave to the runtime. Containers are told by their
//! addresses, since how they are linked is the plugins' affair.
//!
//! ```text
//!   prerouting  ports    to an address of the node: ports in, where no plugin leads them
//!   output      ports_own  the same, for programs of the node
//!   forward     forward  from a container: what is established, its rules, what is not denied
//!   input       input    from a container to the node itself: nothing, unless that is allowed
//!   postrouting leave    from a container to one by a port of the node's: in the node's name
//! ```
//!
//! What reaches containers, and them one another, is decided by plugins, and who has which address.

use super::store::Attachment;
use crate::node::network::elements::{self as of_tables, Element, Value};
use crate::node::network::filter::Part;
use crate::node::network::names::{self, Names};
use crate::node::network::ruleset::Policy;
use crate::node::network::text::{NEIGHBOURS, REJECT, Set, Table};
use gardend_controller::ports::NetworkWanted;
use std::net::IpAddr;

/// All sets.
pub(super) const SETS: [&str; 6] = ["containers4", "containers6", "outlets4", "outlets6", "ports4", "ports6"];

const OUTLETS: [Set; 2] =
    [("map", "outlets4", "type ipv4_addr : verdict;"), ("map", "outlets6", "type ipv6_addr : verdict;")];

const CHAINS: [&str; 2] = ["from_container", "to_node"];

/// The table as `nft` reads it.
pub(super) fn text(names: &Names, policy: &Policy) -> String {
    let mut table = Table::new(names, &OUTLETS, &[], &CHAINS);
    let mut rule = |chain: &str, words: &str| table.rule(chain, words);
    for (chain, to) in [("forward", "from_container"), ("input", "to_node")] {
        rule(chain, "ct state established,related accept");
        rule(chain, &format!("ip saddr @containers4 goto {to}"));
        rule(chain, &format!("ip6 saddr @containers6 goto {to}"));
    }
    rule("from_container", "ip saddr vmap @outlets4");
    rule("from_container", "ip6 saddr vmap @outlets6");
    table.deny("from_container", policy);
    let mut rule = |chain: &str, words: &str| table.rule(chain, words);
    if !policy.allow_host_access {
        rule("to_node", NEIGHBOURS);
        rule("to_node", REJECT);
    }
    rule("leave", "ip saddr @containers4 ip daddr @containers4 ct status dnat masquerade");
    rule("leave", "ip6 saddr @containers6 ip6 daddr @containers6 ct status dnat masquerade");
    table.into_text()
}

/// Whether what an operator denies can be kept only where packets pass the node.
pub(super) fn denies(policy: &Policy) -> bool {
    policy.deny_by_default || !policy.deny_networks.is_empty()
}

/// Who makes ports of the node lead to containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    Ours,
    Plugins,
}

/// A container's part of it.
pub(super) fn part(wanted: &NetworkWanted, attachment: &Attachment, ports: Ports) -> Part {
    Part {
        container: attachment.container.clone(),
        handle: wanted.handle.clone(),
        elements: elements(wanted, ports).into_iter().collect(),
        rules: wanted.rules_out.clone(),
    }
}

/// Its elements.
pub(super) fn elements(wanted: &NetworkWanted, ports: Ports) -> Vec<Element> {
    let own = std::iter::once(IpAddr::V4(wanted.addresses.address)).chain(wanted.addresses.ipv6.map(IpAddr::V6));
    let mut elements = Vec::new();
    for address in own {
        let (containers, outlets, key) = match address {
            IpAddr::V4(address) => ("containers4", "outlets4", address.octets().to_vec()),
            IpAddr::V6(address) => ("containers6", "outlets6", address.octets().to_vec()),
        };
        elements.push(Element { set: containers, key: key.clone(), end: None, value: Value::None });
        if !wanted.rules_out.is_empty() {
            let value = Value::Jump(names::chain(&wanted.container));
            elements.push(Element { set: outlets, key, end: None, value });
        }
        if ports == Ports::Ours {
            elements.extend(wanted.ports_in.iter().flat_map(|port| of_tables::ports(address, *port)));
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_comes_after_the_rules_that_may_open_it() {
        let names =
            Names::of_plugins(&crate::node::containerd::labels::OwnerMark::of("/".as_ref(), "/".as_ref()).unwrap());
        let policy = Policy { deny_networks: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
        let text = text(&names, &policy);
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words:?} is not in {text}"));
        assert!(at("vmap @outlets6") < at("ip daddr 10.0.0.0/8 reject"));
        assert!(text.contains("to_node reject with"));
        assert!(denies(&policy) && !denies(&Policy::default()));
    }
}
