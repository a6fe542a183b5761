//! A table of ours as `nft` reads it, and what both of them have: the one of our own networks
//! ([`super::ruleset`]) and the one beside plugins' ([`super::cni`]).
//!
//! Sets that are there stay as they are, with all that is in them; every chain but the containers' own
//! is filled anew, all in one transaction.

use super::names::Names;
use super::ruleset::Policy;

/// A set or map, by kind, name and definition. [`super::elements`] says what is in them.
pub(super) type Set = (&'static str, &'static str, &'static str);
/// A chain that the kernel calls, by name and place.
pub(super) type BaseChain = (&'static str, &'static str);

pub(super) const REJECT: &str = "reject with icmpx type admin-prohibited";
pub(super) const NEIGHBOURS: &str = "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

const SETS: [Set; 4] = [
    ("set", "containers4", "type ipv4_addr;"),
    ("set", "containers6", "type ipv6_addr;"),
    ("map", "ports4", "type inet_proto . inet_service : ipv4_addr . inet_service;"),
    ("map", "ports6", "type inet_proto . inet_service : ipv6_addr . inet_service;"),
];

const BASE_CHAINS: [BaseChain; 5] = [
    ("ports", "type nat hook prerouting priority -100"),
    ("ports_own", "type nat hook output priority -100"),
    ("forward", "type filter hook forward priority -5"),
    ("input", "type filter hook input priority -5"),
    ("leave", "type nat hook postrouting priority 100"),
];

/// Being written.
pub(super) struct Table {
    name: String,
    text: String,
}

impl Table {
    /// With these beside what both have, and rules for ports in.
    pub(super) fn new(names: &Names, sets: &[Set], base_chains: &[BaseChain], chains: &[&str]) -> Self {
        let name = format!("inet {}", names.table());
        let mut table = Self { text: format!("add table {name}\n"), name };
        for (kind, set, definition) in SETS.iter().chain(sets) {
            table.line(&format!("add {kind} {} {set} {{ {definition} }}", table.name));
        }
        for (chain, hook) in base_chains.iter().chain(&BASE_CHAINS) {
            table.chain(chain, &format!(" {{ {hook}; policy accept; }}"));
        }
        chains.iter().for_each(|chain| table.chain(chain, ""));
        for chain in ["ports", "ports_own"] {
            table.rule(
                chain,
                "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @ports4",
            );
            table.rule(chain, "ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6");
        }
        table
    }

    /// Adds one at the end of a chain.
    pub(super) fn rule(&mut self, chain: &str, words: &str) {
        self.line(&format!("add rule {} {chain} {words}", self.name));
    }

    /// What does not leave containers without a rule of theirs.
    pub(super) fn deny(&mut self, chain: &str, policy: &Policy) {
        if policy.deny_by_default {
            return self.rule(chain, REJECT);
        }
        for network in &policy.deny_networks {
            let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
            self.rule(chain, &format!("{family} daddr {} {REJECT}", network.trunc()));
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn chain(&mut self, chain: &str, hook: &str) {
        self.line(&format!("add chain {} {chain}{hook}", self.name));
        self.line(&format!("flush chain {} {chain}", self.name));
    }

    fn line(&mut self, words: &str) {
        self.text.push_str(words);
        self.text.push('\n');
    }
}
