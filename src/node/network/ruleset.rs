//! Our table: its chains, and the sets and maps that containers stand in.
//!
//! ```text
//!   prerouting  guard    from a link of ours: its own source address, or nothing; what passes is marked
//!               ports    to an address of the node: ports in
//!   output      ports_own  the same, for programs of the node
//!   forward     forward  from a container: what is established, its rules, what is not denied
//!                        to a container: what is established, ports in
//!   input       input    from a container to the node itself: nothing, unless that is allowed
//!   postrouting leave    out of the node in the node's name
//! ```
//!
//! What a container begins is kept track of in a zone of its place's own, so that whoever has its address
//! next does not go on with its connections.
//!
//! No rule here names a container: those are elements of the sets, and a chain of its own for the
//! rules that a client asked for. Other tables are not looked at. What this table accepts, another
//! may still drop.

use super::names::Names;
use super::text::{BaseChain, NEIGHBOURS, REJECT, Set, Table};
use crate::own;
use gardend_controller::ports::{NodeError, NodeErrorKind};
use ipnet::IpNet;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a packet from a container bears once the guard has passed it. Routing refuses those that do
/// not: without our table nothing is forwarded. Bit 13: kube-proxy has 14 and 15, Cilium 8 to 11,
/// Calico 16 and up.
pub(super) const MARK: u32 = 0x2000;

/// What decides on the rules for all containers.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Nothing leaves but what rules let out.
    pub deny_by_default: bool,
    /// What does not leave without a rule, where the rest does.
    pub deny_networks: Vec<IpNet>,
    /// Containers reach the node's own addresses.
    pub allow_host_access: bool,
}

/// The table as `nft` reads it.
pub(super) fn text(names: &Names, policy: &Policy) -> String {
    let ours = format!("\"{}*\"", names.prefix());
    let mut table = Table::new(names, &SETS, &[GUARD], &CHAINS);
    let mut rule = |chain: &str, words: &str| table.rule(chain, words);

    rule("guard", &format!("iifname != {ours} accept"));
    for (family, sources) in [("ip", "sources4"), ("ip6", "sources6")] {
        let zone = format!("ct original zone set iifname . {family} saddr map @{sources}");
        rule("guard", &format!("{zone} meta mark set meta mark | {MARK:#x} accept"));
    }
    rule("guard", NEIGHBOURS);
    rule("guard", "drop");

    rule("forward", &format!("iifname {ours} goto from_container"));
    rule("forward", &format!("oifname {ours} goto to_container"));

    rule("from_container", &format!("oifname {ours} ct status dnat goto door"));
    rule("from_container", "ct state established,related accept");
    rule("from_container", &format!("oifname {ours} goto between"));
    rule("from_container", "iifname vmap @outlets");
    table.deny("from_container", policy);

    let mut rule = |chain: &str, words: &str| table.rule(chain, words);
    rule("between", "ip saddr . ip daddr @peers4 accept");
    rule("between", "iifname vmap @outlets");
    rule("between", REJECT);

    rule("to_container", "ct status dnat goto door");
    rule("to_container", "ct state established,related accept");
    rule("to_container", REJECT);

    // Looked at with each packet: a connection does not outlive the port that it came by.
    rule("door", "ct direction reply accept");
    rule("door", "ct state related accept");
    for (family, doors) in [("ip", "doors4"), ("ip6", "doors6")] {
        rule("door", &format!("meta l4proto . {family} daddr . th dport @{doors} accept"));
    }
    rule("door", REJECT);

    rule("input", &format!("iifname != {ours} accept"));
    rule("input", "ct state established,related accept");
    rule("input", NEIGHBOURS);
    if !policy.allow_host_access {
        rule("input", REJECT);
    }

    // A container that reaches itself, or another, by a port of the node's: the answer must come back here.
    rule("leave", &format!("iifname {ours} oifname {ours} ct status dnat masquerade"));
    rule("leave", &format!("oifname != {ours} ip saddr @containers4 masquerade"));
    rule("leave", &format!("oifname != {ours} ip6 saddr @containers6 masquerade"));
    table.into_text()
}

const SETS: [Set; 6] = [
    ("map", "sources4", "typeof iifname . ip saddr : ct zone;"),
    ("map", "sources6", "typeof iifname . ip6 saddr : ct zone;"),
    ("set", "peers4", "type ipv4_addr . ipv4_addr; flags interval;"),
    ("map", "outlets", "type ifname : verdict;"),
    ("set", "doors4", "type inet_proto . ipv4_addr . inet_service;"),
    ("set", "doors6", "type inet_proto . ipv6_addr . inet_service;"),
];

/// Before connections are looked up.
const GUARD: BaseChain = ("guard", "type filter hook prerouting priority -310");

/// Chains that the kernel's call.
const CHAINS: [&str; 4] = ["from_container", "between", "to_container", "door"];

/// Has `nft` make the table what a text such as [`text`] says. Where an older gardend's table stands in the way it is
/// made anew, in the same transaction.
pub(super) fn install(names: &Names, text: &str) -> Result<(), NodeError> {
    run(text).or_else(|first| {
        let table = names.table();
        let anew = format!("add table inet {table}\ndelete table inet {table}\n{text}");
        run(&anew).map_err(|second| {
            let message = format!("making the table inet {table} of nftables: {second}");
            if first != second {
                tracing::warn!(error = first, "the table was not made upon the one that is there, either");
            }
            NodeError::new(NodeErrorKind::Failed, message)
        })
    })
}

/// Removes the table, where there is one.
pub(super) fn remove(names: &Names) -> std::io::Result<()> {
    let table = names.table();
    // One that is not there cannot be deleted; added first, it can, in the same transaction.
    run(&format!("add table inet {table}\ndelete table inet {table}\n")).map_err(std::io::Error::other)
}

fn run(script: &str) -> Result<(), String> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A node may have none; the image brings one.
    let mut nft = own::program(&mut nft).and_then(Command::spawn).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no program nft; install the package nftables, or use --network none".to_owned()
        }
        _ => format!("cannot start nft: {error}"),
    })?;
    if let Some(mut stdin) = nft.stdin.take() {
        // Where it does not read, it says why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = nft.wait_with_output().map_err(|error| format!("nft: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| line.contains("Error")).or_else(|| said.lines().next());
    Err(format!("nft: {}", first.unwrap_or("it failed without a word")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::containerd::labels::OwnerMark;

    fn of(policy: &Policy) -> String {
        let folder = tempfile::tempdir().unwrap();
        text(&Names::of(&OwnerMark::of(folder.path(), folder.path()).unwrap()), policy)
    }

    #[test]
    fn what_is_denied_is_denied_after_the_rules_that_may_open_it() {
        let policy = Policy { deny_networks: vec!["10.1.2.3/8".parse().unwrap()], ..Policy::default() };
        let text = of(&policy);
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words:?} is not in {text}"));
        assert!(at("from_container iifname vmap @outlets") < at("ip daddr 10.0.0.0/8 reject"));
        assert!(!of(&Policy::default()).contains("from_container reject"));
    }

    #[test]
    fn nothing_leaves_by_default_where_that_is_asked_for() {
        let text = of(&Policy { deny_by_default: true, ..Policy::default() });
        assert!(text.contains("from_container reject with"));
    }

    #[test]
    fn the_node_is_closed_to_containers_unless_it_is_opened() {
        assert!(of(&Policy::default()).contains("input reject with"));
        assert!(!of(&Policy { allow_host_access: true, ..Policy::default() }).contains("input reject with"));
    }
}
