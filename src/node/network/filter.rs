//! What containers have in our table, and the table as a whole: made, changed, and put back.
//!
//! A change of one container is one transaction. Where the kernel refuses one, the table is not what it
//! was believed to be: it is read, and made what all containers' parts come to.

use super::attempting;
use super::elements::Element;
use super::names::{self, Names};
use super::rules::{self, Rows, Stamp};
use super::ruleset;
use super::table::{Change, Content, Table};
use gardend_controller::ports::{NodeError, NodeErrorKind};
use gardend_controller::record::{ContainerUid, Handle, RuleOut};
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// One container's part.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub container: ContainerUid,
    /// Stands in the kernel's log.
    pub handle: Handle,
    pub elements: BTreeSet<Element>,
    /// What its chain holds, where there are any.
    pub rules: Vec<RuleOut>,
}

impl Part {
    /// The chain of a container that has rules, by the stamp of what it holds.
    fn chain(&self, links: &str) -> Option<(String, Stamp)> {
        let stamp = || rules::stamp(&self.rules, &self.handle, links);
        (!self.rules.is_empty()).then(|| (names::chain(&self.container), stamp()))
    }

    /// The same, with what it holds.
    fn rows(&self, links: &str) -> Option<(String, Rows)> {
        let rows = || rules::rows(&self.rules, &self.handle, links);
        (!self.rules.is_empty()).then(|| (names::chain(&self.container), rows()))
    }
}

/// See the module.
pub(super) struct Filter {
    names: Names,
    table: Table,
    /// The table without containers, as `nft` reads it.
    text: String,
    /// Of the table's own rules when they were made last.
    base: Option<[u8; 32]>,
    parts: BTreeMap<ContainerUid, Part>,
    /// How often it was put back.
    restores: Counter,
}

impl Filter {
    /// Nothing in the kernel is changed before the first [`Self::settle`].
    pub fn open(names: &Names, sets: &'static [&'static str], text: String, restores: Counter) -> io::Result<Self> {
        let table = Table::open(names.table(), sets)?;
        Ok(Self { names: names.clone(), table, text, base: None, parts: BTreeMap::new(), restores })
    }

    /// Puts a container's part in force, in place of what it had.
    pub fn put(&mut self, part: &Part) -> Result<(), NodeError> {
        let before = self.parts.insert(part.container.clone(), part.clone());
        if self.change(before.as_ref(), Some(part)) { Ok(()) } else { self.settle() }
    }

    /// Takes a container's part away.
    pub fn remove(&mut self, container: &ContainerUid) -> Result<(), NodeError> {
        let Some(before) = self.parts.remove(container) else { return Ok(()) };
        if self.change(Some(&before), None) {
            return Ok(());
        }
        let settled = self.settle();
        if settled.is_err() {
            self.parts.insert(container.clone(), before);
        }
        settled
    }

    /// Makes the whole what these parts come to, from whatever it is.
    pub fn make(&mut self, parts: impl IntoIterator<Item = Part>) -> Result<(), NodeError> {
        self.parts = parts.into_iter().map(|part| (part.container.clone(), part)).collect();
        self.settle()
    }

    /// One container's part becomes another, in one transaction; whether the kernel took it.
    fn change(&mut self, before: Option<&Part>, after: Option<&Part>) -> bool {
        let links = self.names.prefix();
        let none = BTreeSet::new();
        let before_elements = before.map_or(&none, |part| &part.elements);
        let after_elements = after.map_or(&none, |part| &part.elements);
        let before_chain = before.and_then(|part| part.chain(links));
        let after_chain = after.and_then(|part| part.chain(links));
        let written = after.filter(|_| after_chain != before_chain).and_then(|part| part.rows(links));
        let mut change = Change {
            gone: before_elements.difference(after_elements).collect(),
            new: after_elements.difference(before_elements).collect(),
            ..Change::default()
        };
        if let (Some((chain, _)), None) = (&before_chain, &after_chain) {
            change.chains_gone.push(chain);
        }
        change.chains.extend(written.iter().map(|(chain, rows)| (chain.as_str(), rows)));
        match self.table.change(change) {
            Ok(()) => true,
            Err(refused) => {
                // It is not what it was believed to be: somebody else was there.
                tracing::info!(error = %refused.error, at = ?refused.index, "the table of nftables is looked at");
                false
            }
        }
    }

    /// The table becomes what all parts come to, from whatever it is.
    fn settle(&mut self) -> Result<(), NodeError> {
        let reading = attempting("reading the table of nftables");
        let mut found = self.table.read().map_err(&reading)?;
        if found.as_ref().is_none_or(|found| Some(found.base) != self.base) {
            if self.base.is_some() {
                tracing::warn!(table = self.names.table(), "somebody changed the table of nftables; it is put back");
                self.restores.inc();
            }
            ruleset::install(&self.names, &self.text)?;
            found = self.table.read().map_err(&reading)?;
            self.base = found.as_ref().map(|found| found.base);
        }
        let Some(found) = found else {
            return Err(NodeError::new(NodeErrorKind::Failed, "the table of nftables is gone as soon as it is made"));
        };
        let links = self.names.prefix();
        let shall = Content {
            elements: self.parts.values().flat_map(|part| part.elements.iter().cloned()).collect(),
            chains: self.parts.values().filter_map(|part| part.chain(links)).collect(),
        };
        let is = found.content;
        let other = |part: &&Part| {
            let chain = names::chain(&part.container);
            is.chains.get(&chain) != shall.chains.get(&chain)
        };
        let rows: Vec<_> = self.parts.values().filter(other).filter_map(|part| part.rows(links)).collect();
        let change = Change {
            gone: is.elements.difference(&shall.elements).collect(),
            chains_gone: is
                .chains
                .keys()
                .filter(|chain| !shall.chains.contains_key(*chain))
                .map(String::as_str)
                .collect(),
            chains: rows.iter().map(|(chain, rows)| (chain.as_str(), rows)).collect(),
            new: shall.elements.difference(&is.elements).collect(),
        };
        self.table.change(change).map_err(|refused| attempting("changing the table of nftables")(refused.error))
    }
}
