//! What the composition root hands to the controller: numbers, and the node.

use crate::declared::Backoff;
use crate::observe::Observing;
use crate::ports::{Files, Images, Metrics, Network, Processes, Resources, Rootfs, Sandboxes, Streams};
use crate::pressure::PressureOptions;
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The numbers that an operator can set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Containers at most.
    pub max_containers: usize,
    /// Grace time of a container that names none. `None`: none.
    pub default_grace_time: Option<Duration>,
    /// Blank places kept ready, of each kind that is in use.
    pub pool_size: usize,
    /// How long stdin stays open after the last client has gone.
    pub detach_grace: Duration,
    /// How long a stream id can be fetched after its process connection has ended.
    pub stream_linger: Duration,
    /// How long the record of an ended process is kept once somebody has seen how it ended.
    pub process_retention: Duration,
    /// How often the sweeper looks at the real state.
    pub sweep_interval: Duration,
    /// How long a stop waits between TERM and KILL.
    pub stop_grace: Duration,
    /// How long a create may take in all.
    pub create_deadline: Duration,
    /// How long a destroy waits for the container to be dead before it answers `Stuck`.
    pub destroy_deadline: Duration,
    /// Places made at once, by creates and for the pool together.
    pub makes_at_once: usize,
    /// Places furnished at once.
    pub furnishings_at_once: usize,
    /// Dead places removed at once.
    pub removals_at_once: usize,
    /// The folder of the places' folders, for [`crate::Info::path`].
    pub places: PathBuf,
    /// What containers' addresses and ports are taken from. `None`: they have their own loopback
    /// alone.
    pub network: Option<NetworkOptions>,
    /// How long restarts of declared processes wait.
    pub restarts: Backoff,
    /// Arguments of processes are kept in memory, for [`crate::ProcessView`]: they may be secrets.
    pub keep_arguments: bool,
    /// How little of the node's memory and disks is too little.
    pub pressure: PressureOptions,
    /// Who is told of what happens.
    pub observing: Observing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_containers: 250,
            default_grace_time: None,
            pool_size: 4,
            detach_grace: Duration::from_secs(60),
            stream_linger: Duration::from_secs(60),
            process_retention: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(10),
            stop_grace: Duration::from_secs(10),
            create_deadline: Duration::from_secs(120),
            destroy_deadline: Duration::from_secs(15),
            makes_at_once: 4,
            furnishings_at_once: 16,
            removals_at_once: 4,
            places: PathBuf::from("/run/gardend/places"),
            network: None,
            restarts: Backoff::default(),
            keep_arguments: false,
            pressure: PressureOptions::default(),
            observing: Observing::default(),
        }
    }
}

/// What containers' addresses and ports are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// Who says where containers are.
    pub addresses: AddressSource,
    /// Ports of the node for those who ask for any.
    pub ports: RangeInclusive<u16>,
    /// Where the node's ports are reached from outside; told to clients.
    pub external: Option<IpAddr>,
}

/// Who says where containers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// The controller, with their admission: each is at addresses of its own.
    Pools {
        /// A container that asks for no network gets a /30 of this one.
        v4: Ipv4Net,
        /// Each container gets an address of this one too.
        v6: Option<Ipv6Net>,
    },
    /// The node's network itself, by [`Network::attach`](crate::ports::Network::attach).
    Node,
    /// All in the node's own network, at this address of it: a port of a container's is the node's.
    Shared(Ipv4Addr),
}

impl NetworkOptions {
    /// Ports that a container may be given: guardian's own, and above 32768 to 60999, out of which
    /// Linux takes the near end of outgoing connections (`net.ipv4.ip_local_port_range`). So no
    /// connection of the node's own is in the way of one that comes in.
    pub const PORTS: RangeInclusive<u16> = 61001..=65534;
}

impl Default for NetworkOptions {
    fn default() -> Self {
        let pool = Ipv4Net::new_assert(Ipv4Addr::new(10, 80, 0, 0), 16);
        Self { addresses: AddressSource::Pools { v4: pool, v6: None }, ports: Self::PORTS, external: None }
    }
}

/// The node's ports, as the composition root hands them over.
#[derive(Clone)]
pub struct Node {
    /// Places.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Files.
    pub rootfs: Arc<dyn Rootfs>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// Their streams.
    pub streams: Arc<dyn Streams>,
    /// Tar streams in and out.
    pub files: Arc<dyn Files>,
    /// Limits.
    pub resources: Arc<dyn Resources>,
    /// Links, addresses, ports in, rules out. Not asked for anything without
    /// [`Options::network`].
    pub network: Arc<dyn Network>,
    /// Figures.
    pub metrics: Arc<dyn Metrics>,
}
