//! Containers' networks by the node's own plugins: the port [`Network`] made real with CNI.
//!
//! The chain gives a container its link and addresses (`attach`). What Garden asks beyond is done by a
//! plugin where one has the capability for it, and otherwise beside it: ports in and rules out in a table
//! of nftables of our own (`rules`), limits of the bandwidth at both ends of the link. What can be done by
//! neither is refused.
//!
//! Promises: what is attached is on disk before the first plugin is called, and until the last has let go
//! (`store`), so that a crash at any instant leaves nothing behind; one call at a time is about one
//! container; each ends by its deadline.
//!
//! Leaves to others: who may have which address (plugins), and whether what they made is still there (they
//! are asked once by each gardend, and what they answer is logged).

mod attach;
mod chain;
mod config;
mod netns;
mod plugin;
mod result;
mod rules;
mod store;
mod told;

use super::elements::Element;
use super::filter::{Filter, Part};
use super::names::Names;
use super::netlink::Connection;
use super::ruleset::Policy;
use super::{DEADLINE, attempting, bandwidth, busy, check_port, links, rules as rules_out, watch};
use crate::node::containerd::labels::OwnerMark;
use crate::node::place::Folders;
use async_trait::async_trait;
use attach::Node;
use futures_util::{StreamExt, stream};
use gardend_controller::ports::{AttachWanted, Network, NetworkWanted, NodeError, NodeErrorKind, WantedNow};
use gardend_controller::record::{Addresses, ContainerUid, RuleOut, SandboxId};
use prometheus_client::metrics::counter::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where configurations are.
    pub conf_dir: PathBuf,
    /// Where plugins are, the first first.
    pub bin_dirs: Vec<PathBuf>,
    /// Which network; `None`: that of the first file.
    pub network: Option<String>,
    /// The network is gardend's alone, and plugins may collect what is not in use.
    pub collects: bool,
    /// What containers may reach.
    pub policy: Policy,
    /// Their name servers, where an operator names some.
    pub dns_servers: Vec<IpAddr>,
    /// How long one plugin may take to make something.
    pub deadline: Duration,
    /// And to undo it.
    pub undo_deadline: Duration,
    /// How often our table was put back.
    pub restores: Counter,
}

impl Options {
    /// As other runtimes have it.
    pub const DEADLINE: Duration = Duration::from_secs(30);
    /// A container's end is answered within 15 s.
    pub const UNDO_DEADLINE: Duration = Duration::from_secs(10);
}

/// Containers that are let go of at a time, where many are.
const AT_ONCE: usize = 8;

/// See the module.
pub struct CniNode {
    node: Arc<Node>,
    enforced: Arc<AsyncMutex<Enforced>>,
    turns: Mutex<BTreeMap<ContainerUid, Arc<AsyncMutex<()>>>>,
    /// This gardend has asked plugins for what is there.
    asked: AtomicBool,
    disturbed: Mutex<Option<mpsc::Receiver<()>>>,
}

/// What is in the kernel by us.
struct Enforced {
    filter: Filter,
    route: Connection,
}

/// One container's turn.
type Alone = OwnedMutexGuard<()>;

impl CniNode {
    /// Nothing in the kernel is changed, and no plugin called, before the first [`Network::restore`].
    ///
    /// # Errors
    /// Where the kernel cannot be talked to, or what is attached cannot be read.
    pub fn open(folders: Folders, options: Options) -> io::Result<Self> {
        let names = Names::of_plugins(&OwnerMark::of(folders.state(), folders.run())?);
        let (told, disturbed) = mpsc::channel(1);
        watch::start(names.table().to_owned(), told)?;
        let filter =
            Filter::open(&names, &rules::SETS, rules::text(&names, &options.policy), options.restores.clone())?;
        let enforced = Enforced { filter, route: Connection::route()? };
        Ok(Self {
            node: Arc::new(Node::open(folders, options)?),
            enforced: Arc::new(AsyncMutex::new(enforced)),
            turns: Mutex::default(),
            asked: AtomicBool::new(false),
            disturbed: Mutex::new(Some(disturbed)),
        })
    }

    fn turn_of(&self, container: &ContainerUid) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are as good as new ones.
        turns.retain(|other, turn| other == container || Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(container.clone()).or_default())
    }

    /// Waits for what others do with a container. They end by their deadlines.
    async fn alone(&self, container: &ContainerUid) -> Alone {
        self.turn_of(container).lock_owned().await
    }

    async fn enforced(&self) -> Result<OwnedMutexGuard<Enforced>, NodeError> {
        tokio::time::timeout(DEADLINE, Arc::clone(&self.enforced).lock_owned()).await.map_err(|_| busy())
    }

    /// What a container's part of the table is, where its place is attached.
    fn part(&self, wanted: &NetworkWanted) -> Result<Option<Part>, NodeError> {
        let Some(attachment) = self.node.attached(&wanted.container) else { return Ok(None) };
        if attachment.sandbox != wanted.sandbox || attachment.result.is_none() {
            return Ok(None);
        }
        let led_by_plugins = chain::leads_ports(&attachment.network);
        let refused = |what: &str| {
            let message = format!(
                "{what} cannot be kept: network {:?} of CNI names no interface of the node's that the container is behind; use plugins that do, such as ptp and bridge",
                attachment.network.name
            );
            Err(NodeError::new(NodeErrorKind::Invalid, message))
        };
        if attachment.link.is_none() {
            if !wanted.rules_out.is_empty() {
                return refused("a rule out");
            }
            if !wanted.ports_in.is_empty() && !led_by_plugins {
                return refused("a port in");
            }
        }
        let ports = if led_by_plugins { rules::Ports::Plugins } else { rules::Ports::Ours };
        Ok(Some(rules::part(wanted, &attachment, ports)))
    }

    /// Takes away what nobody wants any more; what failed.
    async fn release_others(&self, wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Vec<String> {
        let named = || wanted().into_iter().map(|wanted| wanted.container).collect::<BTreeSet<_>>();
        let there = named();
        let all = self.node.all().into_iter().filter(|(container, _)| !there.contains(container));
        let failures = stream::iter(all).map(async |(container, handle)| {
            // What somebody is at is looked at the next time.
            let alone = self.turn_of(&container).try_lock_owned().ok()?;
            if named().contains(&container) {
                return None;
            }
            tracing::info!(%handle, "what is attached and not wanted any more is let go");
            let let_go = self.let_go(&container, alone).await;
            let_go.err().map(|error| format!("{handle}: {error}"))
        });
        failures.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn let_go(&self, container: &ContainerUid, alone: Alone) -> Result<(), NodeError> {
        let (mut enforced, uid) = (self.enforced().await?, container.clone());
        work(move || enforced.filter.remove(&uid)).await?;
        self.node.detach(container, alone).await
    }

    /// Has plugins lead in the ports that are wanted; what failed.
    async fn lead_ports(&self, all: &[NetworkWanted]) -> Vec<String> {
        let mut failures = Vec::new();
        for wanted in all {
            let Ok(alone) = self.turn_of(&wanted.container).try_lock_owned() else { continue };
            if let Err(error) = self.node.lead_ports(wanted, alone).await {
                failures.push(format!("{}: {error}", wanted.handle));
            }
        }
        failures
    }
}

/// Blocking work, on a thread for that, with a deadline.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T, NodeError> + Send + 'static) -> Result<T, NodeError> {
    match tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(NodeError::new(NodeErrorKind::Failed, format!("work on the network ended: {error}"))),
        Err(_) => Err(busy()),
    }
}

fn not_wanted() -> NodeError {
    NodeError::new(NodeErrorKind::NotFound, "the container is not wanted any more")
}

#[async_trait]
impl Network for CniNode {
    async fn check_rules(&self, rules: &[RuleOut]) -> Result<(), NodeError> {
        rules_out::check(rules)
    }

    async fn check_port(&self, host_port: u16) -> Result<(), NodeError> {
        check_port(host_port)
    }

    async fn attach(
        &self,
        wanted: WantedNow<'_, Option<AttachWanted>>,
        found: &(dyn Fn(Addresses) + Send + Sync),
    ) -> Result<Addresses, NodeError> {
        let container = wanted().ok_or_else(not_wanted)?.container;
        let alone = self.alone(&container).await;
        let wanted = wanted().ok_or_else(not_wanted)?;
        let (addresses, _alone) = self.node.attach(wanted, alone).await?;
        found(addresses.clone());
        Ok(addresses)
    }

    async fn ensure(&self, wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError> {
        let container = wanted().ok_or_else(not_wanted)?.container;
        let alone = self.alone(&container).await;
        let now = wanted().ok_or_else(not_wanted)?;
        // Refused before anything of it is in force.
        self.part(&now)?;
        let _alone = self.node.lead_ports(&now, alone).await?;
        let mut enforced = self.enforced().await?;
        let now = wanted().ok_or_else(not_wanted)?;
        let part = self.part(&now)?.ok_or_else(|| {
            let message = format!("place {} of '{}' is attached to no network", now.sandbox, now.handle);
            NodeError::new(NodeErrorKind::Failed, message)
        })?;
        work(move || enforced.filter.put(&part)).await
    }

    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError> {
        let alone = self.alone(container).await;
        self.let_go(container, alone).await
    }

    async fn restore(&self, wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError> {
        let mut failures = self.release_others(wanted).await;
        failures.extend(self.lead_ports(&wanted()).await);
        {
            let mut enforced = self.enforced().await?;
            let mut parts = Vec::new();
            for wanted in wanted() {
                match self.part(&wanted) {
                    Ok(part) => parts.extend(part),
                    Err(error) => failures.push(format!("{}: {error}", wanted.handle)),
                }
            }
            work(move || enforced.filter.make(parts)).await?;
        }
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.node.collect().await;
            let node = Arc::clone(&self.node);
            let turns: Vec<_> =
                self.node.all().into_iter().map(|(container, _)| (self.turn_of(&container), container)).collect();
            // Nobody waits for it.
            tokio::spawn(async move {
                for (turn, container) in turns {
                    node.check(&container, turn.lock_owned().await).await;
                }
            });
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(NodeError::new(NodeErrorKind::Failed, format!("not put back: {}", failures.join("; "))))
    }

    async fn bandwidth(&self, sandbox: &SandboxId) -> Result<(u64, u64), NodeError> {
        let (link, limit) = self.node.limit_of(sandbox)?;
        let Some(link) = link else { return Ok(limit) };
        let mut enforced = self.enforced().await?;
        work(move || {
            let index = links::index_of(&link);
            let index =
                index.ok_or_else(|| NodeError::new(NodeErrorKind::NotFound, format!("there is no link {link}")))?;
            let read =
                bandwidth::read(&mut enforced.route, index).map_err(attempting("reading a limit of bandwidth"))?;
            Ok(read.unwrap_or_default())
        })
        .await
    }

    fn disturbed(&self) -> mpsc::Receiver<()> {
        let first = self.disturbed.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second listener hears nothing.
        first.unwrap_or_else(|| mpsc::channel(1).1)
    }
}

/// The sets of our table beside plugins' networks.
pub(super) const SETS: [&str; 6] = rules::SETS;

/// Whose an element of that table is.
pub(super) fn owner_of(element: &Element, wanted: &[NetworkWanted]) -> Option<ContainerUid> {
    let of_it = |wanted: &&NetworkWanted| rules::elements(wanted, rules::Ports::Ours).contains(element);
    wanted.iter().find(of_it).map(|wanted| wanted.container.clone())
}

/// Where what is attached is kept.
pub(super) fn store_of(folders: &Folders) -> PathBuf {
    folders.attachments()
}

/// What plugins told of name servers for a container, as /etc/resolv.conf has it.
pub(super) fn resolv_conf(store: &Path, container: &ContainerUid) -> Option<String> {
    store::resolv_conf(store, container)
}

/// Looks whether there is a network to attach to, without calling a plugin: its name, and its plugins.
///
/// # Errors
/// What there is not.
pub fn look(options: &Options) -> Result<String, String> {
    let offered = config::load(&options.conf_dir, options.network.as_deref()).map_err(|error| error.to_string())?;
    let programs = plugin::Programs { folders: options.bin_dirs.clone() };
    let kinds: Vec<&str> = offered.plugins().iter().map(|plugin| plugin.kind.as_str()).collect();
    match kinds.iter().find(|kind| programs.find(kind).is_none()) {
        Some(missing) => {
            Err(format!("network {:?} has plugin {missing}, which is not in --cni-bin-dir", offered.name()))
        }
        None => Ok(format!("network {:?}: {}", offered.name(), kinds.join(", "))),
    }
}
