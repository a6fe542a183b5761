//! Our table in the kernel: what is in it, and changes to it, one transaction each.
//!
//! The chains and sets come from `ruleset`. Here are the containers' elements and chains, over
//! netlink, without a program to start. A chain's rules bear a stamp, so that what they are can be
//! compared without reading them.

use super::elements::{Element, Value};
use super::names::CHAIN_PREFIX;
use super::netlink::{Connection, Refused};
use super::rules::{Rows, Stamp};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, Nla};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage,
    SetElementAttribute, SetElementList, SetElementMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// NLM_F_APPEND of linux/netlink.h: a rule goes behind the others.
const APPEND: u16 = 0x800;
/// Elements in one message: what the kernel echoes of a refused one must fit its answer.
const ELEMENTS_AT_ONCE: usize = 200;
/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;

/// What is in the table for containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Of all sets.
    pub elements: BTreeSet<Element>,
    /// The stamp of each container's chain, by the chain's name.
    pub chains: BTreeMap<String, Stamp>,
}

/// The table as it was found.
pub(super) struct Found {
    pub content: Content,
    /// Of all rules that are no container's.
    pub base: [u8; 32],
}

/// Our table.
pub(super) struct Table {
    name: String,
    sets: &'static [&'static str],
    connection: Connection,
}

impl Table {
    pub fn open(name: &str, sets: &'static [&'static str]) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), sets, connection: Connection::netfilter()? })
    }

    /// Reads it; `None` where there is none, or not all of its sets.
    pub fn read(&mut self) -> io::Result<Option<Found>> {
        let mut content = Content::default();
        for set in self.sets {
            let attributes = vec![SetElementList::Table(self.name.clone()), SetElementList::Set((*set).to_owned())];
            match self.connection.dump(message(NfTablesMessage::GetSetElement(SetElementMessage { attributes }))) {
                Ok(found) => found.into_iter().for_each(|found| elements_of(found, set, &mut content.elements)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        for found in self.dump_chains()? {
            content.chains.insert(found, ([0; 8], 0));
        }
        let mut base = Sha256::new();
        for rule in self.dump_rules()? {
            match rule.chain.starts_with(CHAIN_PREFIX) {
                true => {
                    let chain = content.chains.entry(rule.chain).or_insert(([0; 8], 0));
                    // Rules of one chain bear one stamp; another's rule among them is none of ours.
                    let first = chain.1 == 0;
                    let same = rule.stamp.is_some_and(|stamp| first || stamp == chain.0);
                    *chain = (if same { rule.stamp.unwrap_or_default() } else { [0; 8] }, chain.1 + 1);
                }
                false => base.update(rule.bytes),
            }
        }
        Ok(Some(Found { content, base: base.finalize().into() }))
    }

    fn dump_chains(&mut self) -> io::Result<Vec<String>> {
        // The kernel lists those of all tables of a family.
        let found =
            self.connection.dump(message(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() })))?;
        let names = found.into_iter().filter_map(|found| {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = found.inner else { return None };
            let mut name = None;
            let mut ours = false;
            for attribute in chain.attributes {
                match attribute {
                    ChainAttribute::Table(table) => ours = table == self.name,
                    ChainAttribute::Name(found) => name = Some(found),
                    _ => {}
                }
            }
            name.filter(|name| ours && name.starts_with(CHAIN_PREFIX))
        });
        Ok(names.collect())
    }

    fn dump_rules(&mut self) -> io::Result<Vec<FoundRule>> {
        let attributes = vec![RuleAttribute::Table(self.name.clone())];
        let found = self.connection.dump(message(NfTablesMessage::GetRule(RuleMessage { attributes })))?;
        let rule = |found: NetfilterMessage| {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = found.inner else { return None };
            let mut seen = FoundRule::default();
            let mut ours = false;
            for attribute in &rule.attributes {
                match attribute {
                    RuleAttribute::Table(table) => ours = *table == self.name,
                    RuleAttribute::Chain(chain) => seen.chain.clone_from(chain),
                    RuleAttribute::UserData(data) => seen.stamp = data.as_slice().try_into().ok(),
                    _ => {}
                }
            }
            if !seen.chain.starts_with(CHAIN_PREFIX) {
                seen.bytes = format!("{:?}", rule.attributes).into_bytes();
            }
            ours.then_some(seen)
        };
        Ok(found.into_iter().filter_map(rule).collect())
    }

    /// Makes the changes, all or none.
    pub fn change(&mut self, change: Change<'_>) -> Result<(), Refused> {
        let mut messages = Vec::new();
        self.elements(&mut messages, change.gone, NfTablesMessage::DeleteSetElement, 0);
        for chain in change.chains_gone {
            messages.push((self.flush(chain), 0));
            messages.push((message(NfTablesMessage::DeleteChain(self.chain(chain))), 0));
        }
        for (chain, rows) in change.chains {
            messages.push((message(NfTablesMessage::NewChain(self.chain(chain))), NLM_F_CREATE));
            messages.push((self.flush(chain), 0));
            messages.extend(rows.rows.iter().map(|row| {
                let attributes = vec![
                    RuleAttribute::Table(self.name.clone()),
                    RuleAttribute::Chain(chain.to_owned()),
                    RuleAttribute::Expressions(row.expressions.clone()),
                    RuleAttribute::UserData(rows.stamp.0.to_vec()),
                ];
                (message(NfTablesMessage::NewRule(RuleMessage { attributes })), NLM_F_CREATE | APPEND)
            }));
        }
        self.elements(&mut messages, change.new, NfTablesMessage::NewSetElement, NLM_F_CREATE);
        self.connection.transact(messages)
    }

    fn elements(
        &self,
        messages: &mut Vec<(NetfilterMessage, u16)>,
        mut elements: Vec<&Element>,
        kind: fn(SetElementMessage) -> NfTablesMessage,
        flags: u16,
    ) {
        elements.sort_unstable_by_key(|element| element.set);
        for of_set in elements.chunk_by(|one, other| one.set == other.set) {
            for some in of_set.chunks(ELEMENTS_AT_ONCE) {
                let set = some.first().map_or("", |element| element.set);
                let attributes = vec![
                    SetElementList::Table(self.name.clone()),
                    SetElementList::Set(set.to_owned()),
                    SetElementList::Elements(some.iter().map(|element| encode(element)).collect()),
                ];
                messages.push((message(kind(SetElementMessage { attributes })), flags));
            }
        }
    }

    fn chain(&self, name: &str) -> ChainMessage {
        ChainMessage {
            attributes: vec![ChainAttribute::Table(self.name.clone()), ChainAttribute::Name(name.to_owned())],
        }
    }

    fn flush(&self, chain: &str) -> NetfilterMessage {
        let attributes = vec![RuleAttribute::Table(self.name.clone()), RuleAttribute::Chain(chain.to_owned())];
        message(NfTablesMessage::DeleteRule(RuleMessage { attributes }))
    }
}

/// What becomes another in one transaction, in this order.
#[derive(Default)]
pub(super) struct Change<'a> {
    pub gone: Vec<&'a Element>,
    pub chains_gone: Vec<&'a str>,
    pub chains: Vec<(&'a str, &'a Rows)>,
    pub new: Vec<&'a Element>,
}

#[derive(Default)]
struct FoundRule {
    chain: String,
    stamp: Option<[u8; 8]>,
    /// Only of a rule that is no container's.
    bytes: Vec<u8>,
}

fn message(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn encode(element: &Element) -> ListAttribute<SetElementAttribute> {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(element.key.clone()))];
    if let Some(end) = &element.end {
        attributes.push(SetElementAttribute::KeyEnd(vec![DefaultNla::new(DATA_VALUE, end.clone())]));
    }
    match &element.value {
        Value::None => {}
        Value::Bytes(bytes) => attributes.push(SetElementAttribute::Data(DataAttribute::Value(bytes.clone()))),
        Value::Jump(chain) => attributes.push(SetElementAttribute::Data(DataAttribute::Verdict(vec![
            VerdictAttribute::Code(Verdict::Jump),
            VerdictAttribute::Chain(chain.clone()),
        ]))),
    }
    ListAttribute::Element(attributes)
}

fn elements_of(found: NetfilterMessage, set: &'static str, into: &mut BTreeSet<Element>) {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(found)) = found.inner else { return };
    for list in found.attributes {
        let SetElementList::Elements(elements) = list else { continue };
        for element in elements {
            let ListAttribute::Element(attributes) = element else { continue };
            into.insert(decode(set, attributes));
        }
    }
}

fn decode(set: &'static str, attributes: Vec<SetElementAttribute>) -> Element {
    let mut element = Element { set, key: Vec::new(), end: None, value: Value::None };
    for attribute in attributes {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(key)) => element.key = key,
            SetElementAttribute::KeyEnd(parts) => {
                element.end = parts.iter().find(|part| part.kind() == DATA_VALUE).map(|part| {
                    let mut bytes = vec![0; part.value_len()];
                    part.emit_value(&mut bytes);
                    bytes
                });
            }
            SetElementAttribute::Data(DataAttribute::Value(bytes)) => element.value = Value::Bytes(bytes),
            SetElementAttribute::Data(DataAttribute::Verdict(parts)) => {
                let chain = parts.into_iter().find_map(|part| match part {
                    VerdictAttribute::Chain(chain) => Some(chain),
                    _ => None,
                });
                element.value = Value::Jump(chain.unwrap_or_default());
            }
            _ => {}
        }
    }
    element
}
