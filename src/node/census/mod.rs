//! The leak census: everything of one gardend's making that is on the node, and whose each is.
//!
//! For: `gardend check --leaks`, beside a gardend that runs or without one. Looks and changes
//! nothing. What is whose is told by the records ([`records`]), and what is ours by the names that
//! the parts that make things have for them.
//!
//! Promises: what is recorded before it is made, and unrecorded after it is gone, is never called a
//! leak on a node where things come and go: records are read before and after each look, and what
//! nobody owns is looked at once more after a moment. Nothing of other software's, or of another
//! gardend's, is listed.

mod containerd;
mod files;
mod network;
mod processes;
mod records;

use super::containerd::{CallError, OwnerMark};
use super::place::Folders;
use gardend_controller::LedgerError;
use gardend_controller::record::{ContainerUid, ProcessUid, SandboxId};
use ipnet::IpNet;
use records::Records;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// From one look to the next. What is being removed has its record for nearly all of that time.
const MOMENT: Duration = Duration::from_secs(1);
/// How often it is looked again.
const LOOKS: u32 = 3;

/// Whose things are counted.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where it keeps things.
    pub folders: Folders,
    /// Where its containerd listens; `None`: it has none.
    pub containerd: Option<PathBuf>,
    /// Its unix sockets.
    pub sockets: Vec<PathBuf>,
    /// What its containers' addresses are taken from.
    pub pools: Vec<IpNet>,
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Container,
    Task,
    Image,
    Lease,
    Snapshot,
    Shim,
    Init,
    NetworkNamespace,
    Link,
    Address,
    Route,
    RoutingRule,
    Table,
    Element,
    Chain,
    Cgroup,
    Mount,
    Socket,
    File,
    Row,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Task => "task",
            Self::Image => "image",
            Self::Lease => "lease",
            Self::Snapshot => "snapshot",
            Self::Shim => "shim",
            Self::Init => "init",
            Self::NetworkNamespace => "network namespace",
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::RoutingRule => "routing rule",
            Self::Table => "table",
            Self::Element => "element",
            Self::Chain => "chain",
            Self::Cgroup => "cgroup",
            Self::Mount => "mount",
            Self::Socket => "socket",
            Self::File => "file",
            Self::Row => "row",
        }
    }
}

/// What something is there for, as far as it shows by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Place(SandboxId),
    /// Any of these.
    Places(BTreeSet<SandboxId>),
    /// The place whose name begins so.
    PlaceLike(String),
    Container(ContainerUid),
    Process(ProcessUid),
    /// Gardend itself, whatever containers there are.
    Gardend,
    Nobody,
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    name: String,
    of: Of,
}

impl Seen {
    fn new(kind: Kind, name: impl Into<String>, of: Of) -> Self {
        Self { kind, name: name.into(), of }
    }
}

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A container's.
    Container {
        /// What its client calls it.
        handle: String,
        /// Ours.
        uid: ContainerUid,
    },
    /// Of the blank places.
    Pool,
    /// Gardend's own; of a place that is being removed, too.
    Gardend,
    /// A leak.
    Nobody,
}

/// A thing, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// By what it is known among its kind.
    pub name: String,
    /// Whose.
    pub owner: Owner,
}

/// All that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In order of kind and name.
    pub things: Vec<Thing>,
    /// What could not be looked at, and why: there may be more.
    pub unseen: Vec<String>,
}

impl Census {
    /// What nobody owns.
    pub fn leaks(&self) -> impl Iterator<Item = &Thing> {
        self.things.iter().filter(|thing| thing.owner == Owner::Nobody)
    }
}

/// Why it cannot be said what there is.
#[derive(Debug, thiserror::Error)]
pub enum CensusError {
    /// Whose things are whose is not known.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Which things are ours is not known.
    #[error("cannot tell whose folders {state} and {run} are: {source}", state = folders.state().display(), run = folders.run().display())]
    Folders {
        /// Which.
        folders: Box<Folders>,
        /// errno.
        source: io::Error,
    },
}

/// Counts everything. Takes a moment longer where something seems to be nobody's.
///
/// # Errors
/// Where the records cannot be read. What else cannot be looked at is in [`Census::unseen`].
pub async fn look(subject: &Subject) -> Result<Census, CensusError> {
    let mut census = look_once(subject).await?;
    for _ in 0..LOOKS {
        if census.leaks().next().is_none() {
            break;
        }
        tokio::time::sleep(MOMENT).await;
        let before = std::mem::replace(&mut census, look_once(subject).await?);
        let suspects: BTreeSet<_> = before.leaks().map(|thing| (thing.kind, thing.name.clone())).collect();
        // What was not there before is new, and may be on its way; it is not judged by one look.
        census
            .things
            .retain(|thing| thing.owner != Owner::Nobody || suspects.contains(&(thing.kind, thing.name.clone())));
    }
    Ok(census)
}

async fn look_once(subject: &Subject) -> Result<Census, CensusError> {
    let folders = &subject.folders;
    let mark = OwnerMark::of_folders(folders.state(), folders.run())
        .map_err(|source| CensusError::Folders { folders: Box::new(folders.clone()), source })?;
    let before = Records::read(folders).await?;
    let found = Found::of(subject, &mark, &before).await;
    let after = Records::read(folders).await?;
    let mut seen = found.seen;
    seen.extend(after.rows());
    let mut things: Vec<_> = seen
        .into_iter()
        .map(|Seen { kind, name, of }| {
            let owner = match after.owner(&of) {
                Owner::Nobody => before.owner(&of),
                owner => owner,
            };
            Thing { kind, name, owner }
        })
        .collect();
    things.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    things.dedup_by(|one, other| (one.kind, &one.name) == (other.kind, &other.name));
    Ok(Census { things, unseen: found.unseen })
}

/// What was seen in one look.
#[derive(Default)]
struct Found {
    seen: Vec<Seen>,
    unseen: Vec<String>,
    /// Places by the groups that share their shims.
    groups: BTreeMap<String, BTreeSet<SandboxId>>,
    /// Other gardends use the same containerd.
    is_shared: bool,
}

impl Found {
    async fn of(subject: &Subject, mark: &OwnerMark, records: &Records) -> Self {
        let mut found = Self::default();
        if let Some(socket) = subject.containerd.as_deref() {
            containerd::look(&mut found, socket, mark, records).await;
        }
        let (subject, mark, records) = (subject.clone(), mark.clone(), records.clone());
        let rest = tokio::task::spawn_blocking(move || {
            files::look(&mut found, &subject, &mark);
            processes::look(&mut found, &subject, &mark);
            network::look(&mut found, &subject, &mark, &records);
            found
        });
        rest.await.unwrap_or_else(|error| Self { unseen: vec![format!("this node: {error}")], ..Self::default() })
    }

    fn see(&mut self, kind: Kind, name: impl Into<String>, of: Of) {
        self.seen.push(Seen::new(kind, name, of));
    }

    /// Notes what could not be looked at.
    fn miss<T>(&mut self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(found) => Some(found),
            Err(error) => {
                self.unseen.push(format!("{what}: {error}"));
                None
            }
        }
    }

    fn miss_call(&mut self, error: &CallError) {
        self.unseen.push(error.to_string());
    }
}
