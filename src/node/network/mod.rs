//! The network of a node's containers: the port [`Network`] made real with links, routes and nftables.
//!
//! What it owns in the kernel, each told from other people's by its name or number (`names`,
//! `routing`): a link for each container, one table of nftables, three rules of routing. Nothing else
//! is touched, but that the machine forwards packets.
//!
//! Promises: a container is let through only once everything of its network is in force (its elements
//! come last, and go first); every change to the table is one transaction; what others did to it is
//! put back by [`Network::restore`], without disturbing what is as it shall be; until then nothing is
//! forwarded. Work on the kernel runs on threads for blocking work, one change after the other.

mod bandwidth;
pub mod cni;
mod elements;
mod filter;
mod leave;
mod links;
mod names;
mod netlink;
pub mod none;
mod resolver;
mod routing;
mod rules;
mod ruleset;
pub(crate) mod seen;
mod sysctl;
mod table;
mod text;
mod watch;

use crate::node::containerd::labels::OwnerMark;
use crate::node::place::Folders;
use async_trait::async_trait;
use filter::{Filter, Part};
use gardend_controller::ports::{Network, NetworkWanted, NodeError, NodeErrorKind, WantedNow};
use gardend_controller::record::{ContainerUid, RuleOut, SandboxId};
use ipnet::{IpNet, Ipv4Net};
pub use leave::leave;
use names::Names;
use netlink::Connection;
use prometheus_client::metrics::counter::Counter;
pub use resolver::Resolver;
use routing::Priority;
pub use routing::Uplink;
pub use ruleset::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};

/// How long one change may take, with those before it.
const DEADLINE: Duration = Duration::from_secs(15);

/// What an operator decides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What containers may reach.
    pub policy: Policy,
    /// Where their addresses come from, but for those of subnets that clients name.
    pub pools: Vec<IpNet>,
    /// What links carry at once, in bytes; `None`: what the node's way out does.
    pub mtu: Option<u32>,
    /// How often the table was put back.
    pub restores: Counter,
}

/// See the module.
pub struct NetworkNode {
    state: Arc<AsyncMutex<State>>,
    disturbed: Mutex<Option<mpsc::Receiver<()>>>,
}

impl NetworkNode {
    /// Nothing in the kernel is changed before the first [`Network::restore`].
    ///
    /// # Errors
    /// Where the kernel cannot be talked to.
    pub fn open(folders: Folders, options: Options) -> io::Result<Self> {
        let owner = OwnerMark::of(folders.state(), folders.run())?;
        let names = Names::of(&owner);
        let (told, disturbed) = mpsc::channel(1);
        watch::start(names.table().to_owned(), told)?;
        let state = State {
            route: Connection::route()?,
            filter: Filter::open(
                &names,
                &elements::SETS,
                ruleset::text(&names, &options.policy),
                options.restores.clone(),
            )?,
            priority: Priority::of(&owner),
            names,
            folders,
            options,
            known: BTreeMap::new(),
            mtu: None,
        };
        Ok(Self { state: Arc::new(AsyncMutex::new(state)), disturbed: Mutex::new(Some(disturbed)) })
    }

    async fn state(&self) -> Result<OwnedMutexGuard<State>, NodeError> {
        let waited = tokio::time::timeout(DEADLINE, Arc::clone(&self.state).lock_owned()).await;
        waited.map_err(|_| busy())
    }
}

/// The node's way out, as it is now.
///
/// # Errors
/// Where the kernel cannot be asked.
pub fn uplink() -> io::Result<Uplink> {
    routing::uplink(&mut Connection::route()?)
}

/// Makes our table where the calling thread is: in a network namespace for trying out.
///
/// # Errors
/// What nftables says to it.
pub fn try_table(folders: &Folders, policy: &Policy) -> Result<(), String> {
    // The folders may not be there yet; whose table it is does not matter here.
    let mark = OwnerMark::of(folders.state(), folders.run()).or_else(|_| OwnerMark::of("/".as_ref(), "/".as_ref()));
    let names = Names::of(&mark.map_err(|error| error.to_string())?);
    ruleset::install(&names, &ruleset::text(&names, policy)).map_err(|error| error.message)
}

/// Makes a link where the calling thread is: in a network namespace for trying out. Whether its
/// bandwidth can be limited.
///
/// # Errors
/// What the kernel says to it.
pub fn try_links() -> Result<bool, String> {
    let mut route = Connection::route().map_err(|error| format!("no socket of netlink: {error}"))?;
    links::try_out(&mut route).map_err(|error| format!("no link can be made: {error}"))
}

fn busy() -> NodeError {
    let message = format!("the kernel's network did not take a change within {} s", DEADLINE.as_secs());
    NodeError::new(NodeErrorKind::Unavailable, message)
}

/// Works on the kernel on a thread for that. Work that takes too long goes on, with the lock, behind
/// the back of whoever waited.
async fn work<T: Send + 'static>(
    mut state: OwnedMutexGuard<State>,
    work: impl FnOnce(&mut State) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let working = tokio::task::spawn_blocking(move || work(&mut state));
    match tokio::time::timeout(DEADLINE, working).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(NodeError::new(NodeErrorKind::Failed, format!("work on the network ended: {error}"))),
        Err(_) => Err(busy()),
    }
}

#[async_trait]
impl Network for NetworkNode {
    async fn check_rules(&self, rules: &[RuleOut]) -> Result<(), NodeError> {
        rules::check(rules)
    }

    async fn check_port(&self, host_port: u16) -> Result<(), NodeError> {
        check_port(host_port)
    }

    async fn ensure(&self, wanted: WantedNow<'_, Option<NetworkWanted>>) -> Result<(), NodeError> {
        let state = self.state().await?;
        let Some(wanted) = wanted() else {
            return Err(NodeError::new(NodeErrorKind::NotFound, "the container is not wanted any more"));
        };
        work(state, |state| state.ensure(wanted)).await
    }

    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError> {
        let (state, container) = (self.state().await?, container.clone());
        work(state, move |state| state.release(&container)).await
    }

    async fn restore(&self, wanted: WantedNow<'_, Vec<NetworkWanted>>) -> Result<(), NodeError> {
        let state = self.state().await?;
        let wanted = wanted();
        work(state, |state| state.restore(wanted)).await
    }

    async fn bandwidth(&self, sandbox: &SandboxId) -> Result<(u64, u64), NodeError> {
        let (state, sandbox) = (self.state().await?, sandbox.clone());
        work(state, move |state| {
            // Links outlive their places by a moment.
            let inside = links::Inside::of(&state.folders.place(&sandbox));
            let there = inside.map_err(attempting("looking for a place's network"))?.is_some();
            let index = links::index_of(&state.names.link(&sandbox)).filter(|_| there);
            let index =
                index.ok_or_else(|| NodeError::new(NodeErrorKind::NotFound, format!("place {sandbox} has no link")))?;
            let limit = bandwidth::read(&mut state.route, index).map_err(attempting("reading a limit of bandwidth"))?;
            Ok(limit.unwrap_or_default())
        })
        .await
    }

    fn disturbed(&self) -> mpsc::Receiver<()> {
        let first = self.disturbed.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A second listener hears nothing.
        first.unwrap_or_else(|| mpsc::channel(1).1)
    }
}

/// Refuses a port of the node's that a program listens on.
fn check_port(host_port: u16) -> Result<(), NodeError> {
    let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, host_port).into();
    let tcp = tokio::net::TcpSocket::new_v4().and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    });
    let taken = tcp.and_then(|()| std::net::UdpSocket::bind(address).map(drop));
    match taken {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let message = format!("host port {host_port} is already in use by a program of the node");
            Err(NodeError::new(NodeErrorKind::Invalid, message))
        }
        Err(error) => Err(NodeError::new(NodeErrorKind::Failed, format!("trying host port {host_port}: {error}"))),
    }
}

/// Whether the routes to a container's addresses are those by its link.
fn leads_to(routes: &BTreeMap<IpAddr, u32>, wanted: &NetworkWanted, link: u32) -> bool {
    let addresses = &wanted.addresses;
    let all = std::iter::once(IpAddr::from(addresses.address)).chain(addresses.ipv6.map(IpAddr::from));
    all.into_iter().all(|address| routes.get(&address) == Some(&link))
}

fn attempting(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |error| NodeError::new(NodeErrorKind::Failed, format!("{what}: {error}"))
}

/// What is in force, as far as it is known, and the means to change it.
struct State {
    folders: Folders,
    options: Options,
    names: Names,
    priority: Priority,
    route: Connection,
    filter: Filter,
    known: BTreeMap<ContainerUid, NetworkWanted>,
    mtu: Option<u32>,
}

impl State {
    fn ensure(&mut self, wanted: NetworkWanted) -> Result<(), NodeError> {
        let folder = self.folders.place(&wanted.sandbox);
        let inside = links::Inside::of(&folder).map_err(attempting("looking for a place's network"))?;
        let inside = inside.ok_or_else(|| {
            NodeError::new(NodeErrorKind::Failed, format!("the init of place {} is gone", wanted.sandbox))
        })?;
        let link = self.names.link(&wanted.sandbox);
        let mtu = self.mtu()?;
        if !self.in_pools(&wanted) {
            if !self.known.contains_key(&wanted.container) {
                self.refuse_the_nodes_own(&wanted)?;
            }
            self.guard(Some(&wanted))?;
        }
        let was_limited = self.known.get(&wanted.container).is_some_and(|before| before.bandwidth_rate > 0);
        let limited = was_limited || wanted.bandwidth_rate > 0;
        links::ensure(&mut self.route, &wanted, &link, &inside, mtu, limited)?;
        let before = self.known.insert(wanted.container.clone(), wanted.clone());
        let changed = self.filter.put(&self.part(&wanted));
        if let Some(before) = before.filter(|before| before.sandbox != wanted.sandbox) {
            self.forget_link(&self.names.link(&before.sandbox));
        }
        changed
    }

    /// A container that had an address of the node's own networks would take it from whoever has it.
    fn refuse_the_nodes_own(&mut self, wanted: &NetworkWanted) -> Result<(), NodeError> {
        let ours = links::list(&mut self.route, self.names.prefix()).map_err(attempting("looking at links"))?;
        let ours: BTreeSet<u32> = ours.into_values().collect();
        let networks = routing::own_networks(&mut self.route).map_err(attempting("looking at addresses"))?;
        let asked = wanted.addresses.subnet;
        let overlaps = |network: &Ipv4Net| network.contains(&asked.network()) || asked.contains(&network.network());
        let taken = networks.into_iter().filter(|(link, _)| !ours.contains(link)).map(|(_, network)| network.trunc());
        match taken.into_iter().find(overlaps) {
            None => Ok(()),
            Some(network) => {
                let message = format!(
                    "the requested subnet {asked} overlaps {network}, which the node itself is in; choose another"
                );
                Err(NodeError::new(NodeErrorKind::Invalid, message))
            }
        }
    }

    fn release(&mut self, container: &ContainerUid) -> Result<(), NodeError> {
        let Some(before) = self.known.get(container).cloned() else { return Ok(()) };
        self.filter.remove(container)?;
        self.known.remove(container);
        if self.in_pools(&before) { Ok(()) } else { self.guard(None) }
    }

    fn restore(&mut self, all: Vec<NetworkWanted>) -> Result<(), NodeError> {
        let ipv6 = self.options.pools.iter().any(|pool| pool.addr().is_ipv6());
        sysctl::forward(ipv6).map_err(attempting("letting the machine forward packets"))?;
        self.mtu = None;
        self.known = all.into_iter().map(|wanted| (wanted.container.clone(), wanted)).collect();
        self.guard(None)?;
        let mut failures = Vec::new();
        self.restore_links(&mut failures).map_err(attempting("looking at links and routes"))?;
        let parts: Vec<Part> = self.known.values().map(|wanted| self.part(wanted)).collect();
        self.filter.make(parts)?;
        if failures.is_empty() {
            return Ok(());
        }
        Err(NodeError::new(NodeErrorKind::Failed, format!("not put back: {}", failures.join("; "))))
    }

    /// Links that nobody wants go; those that something happened to come back.
    fn restore_links(&mut self, failures: &mut Vec<String>) -> io::Result<()> {
        let mut there = links::list(&mut self.route, self.names.prefix())?;
        let routes = links::routes(&mut self.route)?;
        let wanted: Vec<NetworkWanted> = self.known.values().cloned().collect();
        for wanted in wanted {
            let link = self.names.link(&wanted.sandbox);
            let restored = match there.remove(&link) {
                Some(index) if leads_to(&routes, &wanted, index) => continue,
                Some(_) => links::restore(&mut self.route, &wanted, &link).map_err(attempting("setting up its link")),
                None => self.link_again(&wanted, &link),
            };
            if let Err(error) = restored {
                tracing::warn!(handle = %wanted.handle, %error, "a container's link is not put back");
                failures.push(format!("{}: {error}", wanted.handle));
            }
        }
        for (link, index) in there {
            tracing::info!(link, "a link that no container has is removed");
            links::remove(&mut self.route, index)?;
        }
        Ok(())
    }

    /// Makes a link that is missing, unless its place is gone.
    fn link_again(&mut self, wanted: &NetworkWanted, link: &str) -> Result<(), NodeError> {
        let folder = self.folders.place(&wanted.sandbox);
        let inside = links::Inside::of(&folder).map_err(attempting("looking for a place's network"))?;
        let Some(inside) = inside else { return Ok(()) };
        let mtu = self.mtu()?;
        links::ensure(&mut self.route, wanted, link, &inside, mtu, wanted.bandwidth_rate > 0)
    }

    /// A container's part of the table.
    fn part(&self, wanted: &NetworkWanted) -> Part {
        Part {
            container: wanted.container.clone(),
            handle: wanted.handle.clone(),
            elements: elements::of(wanted, &self.names.link(&wanted.sandbox)).into_iter().collect(),
            rules: wanted.rules_out.clone(),
        }
    }

    /// Routing refuses what the table has not passed, for the pools and what clients asked for beside.
    fn guard(&mut self, also: Option<&NetworkWanted>) -> Result<(), NodeError> {
        let mut subnets: BTreeSet<IpNet> = self.options.pools.iter().map(IpNet::trunc).collect();
        let asked_for = self.known.values().chain(also).filter(|wanted| !self.in_pools(wanted));
        let asked_for: Vec<IpNet> = asked_for.map(|wanted| wanted.addresses.subnet.trunc().into()).collect();
        subnets.extend(asked_for);
        routing::guard(&mut self.route, self.priority, &subnets).map_err(attempting("setting the rules of routing"))
    }

    fn in_pools(&self, wanted: &NetworkWanted) -> bool {
        let subnet = IpNet::from(wanted.addresses.subnet);
        self.options.pools.iter().any(|pool| pool.contains(&subnet))
    }

    fn mtu(&mut self) -> Result<u32, NodeError> {
        if let Some(mtu) = self.options.mtu.or(self.mtu) {
            return Ok(mtu);
        }
        let uplink = routing::uplink(&mut self.route).map_err(attempting("looking for the node's way out"))?;
        self.mtu = Some(uplink.mtu);
        Ok(uplink.mtu)
    }

    /// A place's link that is not needed any more, where its place has not taken it along yet.
    fn forget_link(&mut self, link: &str) {
        if let Some(index) = links::index_of(link)
            && let Err(error) = links::remove(&mut self.route, index)
        {
            tracing::warn!(link, %error, "the link of a place that is gone is not removed");
        }
    }
}
