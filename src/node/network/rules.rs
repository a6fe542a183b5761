//! A container's rules out as rules of nftables: each a row of comparisons, a note in the kernel's
//! log where that is asked for, and an accept.
//!
//! A chain of a container's own holds them, as they overlap as clients like, and what a packet
//! matches first decides whether it is logged. Only the first packet of a connection comes here,
//! and only one of that container.

use gardend_controller::ports::{NodeError, NodeErrorKind};
use gardend_controller::record::{Handle, RuleOut, RuleProtocol};
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// Rows that one container's rules may come to.
pub(super) const MAX_ROWS: usize = 4096;
/// What the kernel takes of a log's prefix, without its zero (NF_LOG_PREFIXLEN).
const MAX_PREFIX_BYTES: usize = 127;

/// Bases of a payload, of linux/netfilter/nf_tables.h.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFTA_LOG_PREFIX`.
const LOG_PREFIX: u16 = 2;
const ACCEPT: u32 = 1;

/// Another whenever [`rows`] makes something else of the same rules, so that chains of an older gardend
/// are known by their stamp.
const ENCODING: u8 = 1;

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub expressions: Vec<Expression>,
}

/// By which a chain in the kernel is known to hold what it shall: what was asked for, and how many rows
/// it comes to.
pub(super) type Stamp = ([u8; 8], usize);

/// The rows of a container's chain.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub rows: Vec<Row>,
    pub stamp: Stamp,
}

/// Refuses what would come to too many rows.
pub(super) fn check(rules: &[RuleOut]) -> Result<(), NodeError> {
    let rows = count_all(rules);
    if rows > MAX_ROWS {
        let message = format!(
            "the rules name {rows} pairs of a network and a range of ports; one container can have {MAX_ROWS}: join ranges, or leave some out"
        );
        return Err(NodeError::new(NodeErrorKind::Invalid, message));
    }
    Ok(())
}

fn count_all(rules: &[RuleOut]) -> usize {
    rules.iter().map(count).fold(0, usize::saturating_add)
}

fn count(rule: &RuleOut) -> usize {
    rule.networks.len().max(1).saturating_mul(rule.ports.len().max(1))
}

/// The rows of these rules. `links` is what our links' names begin with: a rule that names no network
/// leads out of the node, not to other containers.
pub(super) fn rows(rules: &[RuleOut], handle: &Handle, links: &str) -> Rows {
    let mut rows = Vec::new();
    // A later rule goes before an earlier one, which shows only in the log.
    for rule in rules.iter().rev() {
        let networks: Vec<_> = some_or_none(&rule.networks);
        for network in networks {
            for ports in some_or_none(&rule.ports) {
                rows.push(Row { expressions: row(rule, network, ports, handle, links) });
            }
        }
    }
    Rows { rows, stamp: stamp(rules, handle, links) }
}

/// The stamp of what [`rows`] makes of the same, without making it.
pub(super) fn stamp(rules: &[RuleOut], handle: &Handle, links: &str) -> Stamp {
    let mut hash = Sha256::new();
    hash.update([ENCODING]);
    hash.update(format!("{rules:?}\n{handle}\n{links}"));
    (hash.finalize()[..8].try_into().unwrap_or_default(), count_all(rules))
}

fn some_or_none<T: Copy>(items: &[T]) -> Vec<Option<T>> {
    if items.is_empty() { vec![None] } else { items.iter().copied().map(Some).collect() }
}

fn row(
    rule: &RuleOut,
    network: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
    handle: &Handle,
    links: &str,
) -> Vec<Expression> {
    let mut row = Vec::new();
    match network {
        None => {
            row.push(meta(MetaKey::Oifname));
            row.push(compare(Operator::NotEqual, links.as_bytes()));
        }
        Some((start, end)) => destination(&mut row, start, end),
    }
    let protocol = match rule.protocol {
        RuleProtocol::All => None,
        RuleProtocol::Tcp => Some(TCP),
        RuleProtocol::Udp => Some(UDP),
        RuleProtocol::Icmp => Some(ICMP),
        RuleProtocol::Icmpv6 => Some(ICMPV6),
    };
    if let Some(protocol) = protocol {
        row.push(meta(MetaKey::L4Proto));
        row.push(compare(Operator::Equal, &[protocol]));
    }
    if let Some((first, last)) = ports {
        row.push(payload(TRANSPORT_HEADER, 2, 2));
        within(&mut row, &first.to_be_bytes(), &last.to_be_bytes());
    }
    if let Some(icmp) = rule.icmp {
        row.push(payload(TRANSPORT_HEADER, 0, 1));
        row.push(compare(Operator::Equal, &[icmp.kind]));
        if let Some(code) = icmp.code {
            row.push(payload(TRANSPORT_HEADER, 1, 1));
            row.push(compare(Operator::Equal, &[code]));
        }
    }
    if rule.log && matches!(rule.protocol, RuleProtocol::All | RuleProtocol::Tcp) {
        row.push(log(handle));
    }
    row.push(accept());
    row
}

fn destination(row: &mut Vec<Expression>, start: IpAddr, end: IpAddr) {
    let (family, offset) = if start.is_ipv4() { (IPV4, 16) } else { (IPV6, 24) };
    row.push(meta(MetaKey::Nfproto));
    row.push(compare(Operator::Equal, &[family]));
    let (start, end) = (octets(start), octets(end));
    let length = u32::try_from(start.len()).unwrap_or(0);
    row.push(payload(NETWORK_HEADER, offset, length));
    within(row, &start, &end);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What was loaded last is between these, both included. Numbers are in network order, so that bytes
/// compare as they do.
fn within(row: &mut Vec<Expression>, first: &[u8], last: &[u8]) {
    if first == last {
        row.push(compare(Operator::Equal, first));
    } else {
        row.push(compare(Operator::GreatherThanEqual, first));
        row.push(compare(Operator::LessThanEqual, last));
    }
}

fn meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)]).into()
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    let load = vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ];
    Expressions::Payload(load).into()
}

fn compare(operator: Operator, with: &[u8]) -> Expression {
    let compare =
        vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(DataAttribute::Value(with.to_vec()))];
    Expressions::Cmp(compare).into()
}

fn log(handle: &Handle) -> Expression {
    let mut end = handle.as_str().len().min(MAX_PREFIX_BYTES - 1);
    while !handle.as_str().is_char_boundary(end) {
        end -= 1;
    }
    let prefix = format!("{} \0", &handle.as_str()[..end]).into_bytes();
    let attributes = vec![DefaultNla::new(LOG_PREFIX, prefix)];
    Expressions::Other { expression_type: "log".to_owned(), attributes }.into()
}

fn accept() -> Expression {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))]);
    Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &[RuleOut]) -> Rows {
        rows(rules, &Handle::new("h").unwrap(), "gd1234")
    }

    fn networks(count: u8) -> Vec<(IpAddr, IpAddr)> {
        (0..count).map(|n| ([10, 0, n, 0].into(), [10, 0, n, 9].into())).collect()
    }

    #[test]
    fn each_network_with_each_range_of_ports_is_a_row() {
        let rule = RuleOut {
            networks: networks(3),
            ports: vec![(1, 2), (80, 80)],
            protocol: RuleProtocol::Tcp,
            ..RuleOut::default()
        };
        assert_eq!(of(std::slice::from_ref(&rule)).rows.len(), 6);
        let two = of(&[RuleOut::default(), rule]);
        assert_eq!((two.rows.len(), two.stamp.1), (7, 7));
    }

    #[test]
    fn a_later_rule_goes_first() {
        let log = RuleOut { log: true, ..RuleOut::default() };
        let logs = |row: &Row| format!("{:?}", row.expressions).contains("\"log\"");
        let seen: Vec<_> = of(&[RuleOut::default(), log]).rows.iter().map(logs).collect();
        assert_eq!(seen, [true, false]);
    }

    #[test]
    fn other_rules_have_another_stamp() {
        let tcp = RuleOut { protocol: RuleProtocol::Tcp, ..RuleOut::default() };
        assert_eq!(of(&[RuleOut::default()]).stamp, of(&[RuleOut::default()]).stamp);
        assert_ne!(of(&[RuleOut::default()]).stamp, of(&[tcp]).stamp);
        assert_ne!(of(&[RuleOut::default()]).stamp, of(&[]).stamp);
    }

    #[test]
    fn too_many_rows_are_refused_by_their_number() {
        let rule = RuleOut { networks: networks(255), ports: vec![(1, 1); 17], ..RuleOut::default() };
        let error = check(&[rule]).unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Invalid);
        assert!(error.message.contains("4335") && error.message.contains("4096"), "{error}");
        check(&[RuleOut { networks: networks(255), ..RuleOut::default() }]).unwrap();
    }

    #[test]
    fn a_long_handle_is_cut_within_what_a_prefix_may_be() {
        let handle = Handle::new("ü".repeat(200)).unwrap();
        let text = format!("{:?}", log(&handle));
        assert!(text.contains("log"));
        let Expression::Element(parts) = log(&handle) else { panic!("an element") };
        let bytes = format!("{parts:?}");
        // 63 characters of two bytes and a space.
        assert!(bytes.contains("32, 0]"), "{bytes}");
    }
}
