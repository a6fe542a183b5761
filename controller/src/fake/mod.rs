//! A node in memory, behind every port, with scripted failures and delays.
//!
//! The node outlives the gardend that uses it, as a real one does: each [`FakeNode::node`] is the
//! ports of one more gardend on it, and calls of an earlier one do nothing any more.
//! What a real node would be harmed by is kept as a violation ([`FakeNode::violations`]).
//!
//! Programs, by the last part of their path: `true`, `false`, `exit CODE`, `echo WORDS...`,
//! `print OUT ERR CODE`, `flood BYTES`, `cat` (until stdin ends), `sleep` (until signalled),
//! `stubborn` (until killed), `noise` (writes a line for each signal it gets, until killed).
//! Everything else is not found; `/etc/passwd` is found, and not executable.
//! Users: root, vcap, and numbers. Files: a tar stream that was streamed in is kept as it is by its
//! destination, and streamed out by the same name with a slash behind it. Every image can be had but
//! those of the host `missing.example`; each has `IMAGE=<its name>` for its environment.

mod files;
mod images;
mod network;
mod ports;
mod programs;
mod resources;
mod streams;
mod world;

use crate::options::Node;
use crate::ports::{Headroom, NetworkWanted, NodeError, NodeErrorKind, Room};
use crate::record::{ContainerUid, ImageCredentials, Limits, ProcessUid, SandboxId};
use ports::Life;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use world::World;

/// The methods of the ports that can be scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Call {
    List,
    Ensure,
    Label,
    Kill,
    Remove,
    Check,
    Furnish,
    Release,
    ListLayers,
    Connect,
    Spawn,
    Signal,
    SignalAll,
    Occupied,
    Acknowledge,
    StreamIn,
    StreamOut,
    CheckLimits,
    Limit,
    InForce,
    Oom,
    Usage,
    Headroom,
    Pull,
    ListImages,
    Collect,
    CheckRules,
    CheckPort,
    Attach,
    EnsureNetwork,
    ReleaseNetwork,
    RestoreNetwork,
    Bandwidth,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::List,
        Self::Ensure,
        Self::Label,
        Self::Kill,
        Self::Remove,
        Self::Check,
        Self::Furnish,
        Self::Release,
        Self::ListLayers,
        Self::Connect,
        Self::Spawn,
        Self::Signal,
        Self::SignalAll,
        Self::Occupied,
        Self::Acknowledge,
        Self::StreamIn,
        Self::StreamOut,
        Self::CheckLimits,
        Self::Limit,
        Self::InForce,
        Self::Oom,
        Self::Usage,
        Self::Headroom,
        Self::Pull,
        Self::ListImages,
        Self::Collect,
        Self::CheckRules,
        Self::CheckPort,
        Self::Attach,
        Self::EnsureNetwork,
        Self::ReleaseNetwork,
        Self::RestoreNetwork,
        Self::Bandwidth,
    ];
}

/// What a call shall come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing was done; or half of it where that can be (a place half made, half
    /// furnished).
    Before(NodeErrorKind),
    /// It fails, though all of it was done.
    After(NodeErrorKind),
}

/// The node. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct FakeNode {
    world: Arc<Mutex<World>>,
}

impl FakeNode {
    /// An empty node.
    pub fn new() -> Self {
        let node = Self::default();
        let room = Room { free: 1 << 30, total: 1 << 31 };
        node.leave(Headroom { memory: Some(room), disks: vec![("/fake".to_owned(), room)] });
        node
    }

    /// The ports of a new gardend on this node; those of the one before do nothing any more.
    pub fn node(&self) -> Node {
        let life = Arc::new(Life::begin(Arc::clone(&self.world)));
        Node {
            sandboxes: Arc::clone(&life) as _,
            rootfs: Arc::clone(&life) as _,
            images: Arc::clone(&life) as _,
            processes: Arc::clone(&life) as _,
            streams: Arc::clone(&life) as _,
            resources: Arc::clone(&life) as _,
            network: Arc::clone(&life) as _,
            metrics: Arc::clone(&life) as _,
            files: life,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `times` calls end in this way.
    pub fn fail(&self, call: Call, fault: Fault, times: usize) {
        self.world().faults.entry(call).or_default().extend(std::iter::repeat_n(fault, times));
    }

    /// Forgets every failure that has not happened yet.
    pub fn heal(&self) {
        self.world().faults.clear();
    }

    /// Each call takes so long from now on.
    pub fn delay(&self, call: Call, delay: Duration) {
        self.world().delays.insert(call, delay);
    }

    /// How often a method was called.
    pub fn calls(&self, call: Call) -> usize {
        self.world().calls.get(&call).copied().unwrap_or(0)
    }

    /// The most that ran at once of a method.
    pub fn most_at_once(&self, call: Call) -> usize {
        self.world().most_at_once.get(&call).copied().unwrap_or(0)
    }

    /// Containerd stops answering, or answers again.
    pub fn containerd_away(&self, away: bool) {
        self.world().away = away;
    }

    /// Inits' events are lost from now on, or come again.
    pub fn lose_events(&self, lose: bool) {
        self.world().lose_events = lose;
    }

    /// So much is left from now on.
    pub fn leave(&self, headroom: Headroom) {
        self.world().headroom = headroom;
    }

    /// What runs in places cannot be killed from now on, or can be again.
    pub fn unkillable(&self, unkillable: bool) {
        self.world().unkillable = unkillable;
    }

    /// Kills a place's init, and with it all that runs there.
    pub fn kill_init(&self, id: &SandboxId) {
        self.world().kill_init(id);
    }

    /// The kernel kills something in a place for want of memory.
    pub fn out_of_memory(&self, id: &SandboxId, words: &str) {
        self.world().out_of_memory(id, words);
    }

    /// The limits that places are held to.
    pub fn limits(&self) -> Vec<(SandboxId, Limits)> {
        self.world().places.iter().map(|(id, place)| (id.clone(), place.limits)).collect()
    }

    /// What is in force of containers' networks, whether or not something of it was removed since.
    pub fn networks(&self) -> Vec<NetworkWanted> {
        self.world().networks.values().cloned().collect()
    }

    /// Containers that the node gave addresses itself.
    pub fn attached(&self) -> Vec<ContainerUid> {
        self.world().attached.keys().cloned().collect()
    }

    /// Containers whose networks let nothing through, since others have removed something.
    pub fn cut_off(&self) -> Vec<ContainerUid> {
        self.world().cut_off.iter().cloned().collect()
    }

    /// Another program flushes the node's rules, of which gardend may hear.
    pub fn flush_rules(&self) {
        let mut world = self.world();
        world.cut_off = world.networks.keys().cloned().collect();
        if let Some(disturbed) = world.disturbed.as_ref().filter(|_| !world.lose_events) {
            // One that waits already is enough.
            let _ = disturbed.try_send(());
        }
    }

    /// A program of the node listens on a port from now on, or no more.
    pub fn listen(&self, port: u16, listens: bool) {
        let mut world = self.world();
        if listens {
            world.listening.insert(port)
        } else {
            world.listening.remove(&port)
        };
    }

    /// All places, whatever is left of them.
    pub fn places(&self) -> Vec<SandboxId> {
        self.world().places.keys().cloned().collect()
    }

    /// Places that were given a container's files.
    pub fn furnished(&self) -> Vec<(SandboxId, ContainerUid)> {
        let world = self.world();
        let furnished = world.places.iter().filter_map(|(id, place)| Some((id.clone(), place.furnished.clone()?)));
        furnished.collect()
    }

    /// What is written on places: whose each is, and that one's handle.
    pub fn labels(&self) -> Vec<(ContainerUid, String)> {
        self.world().places.values().filter_map(|place| place.label.clone()).collect()
    }

    /// Containers of which files are on the node.
    pub fn layers(&self) -> Vec<ContainerUid> {
        self.world().layers.iter().cloned().collect()
    }

    /// Names of images that are there.
    pub fn images(&self) -> Vec<String> {
        self.world().images.keys().cloned().collect()
    }

    /// The credentials that pulls were given.
    pub fn credentials(&self) -> Vec<ImageCredentials> {
        self.world().credentials.clone()
    }

    /// Processes that run.
    pub fn running(&self) -> Vec<ProcessUid> {
        self.world().running()
    }

    /// How many processes were started, ever.
    pub fn spawned(&self) -> usize {
        self.world().spawned.len()
    }

    /// Gives the node other settings: no place that there is would be made as it is.
    pub fn change_settings(&self) {
        self.world().places.values_mut().for_each(|place| place.outdated = true);
    }

    /// Adds a place that no record speaks of.
    pub fn add_stray_place(&self) -> SandboxId {
        let id = SandboxId::generate();
        self.world().places.insert(id.clone(), world::Place::running(crate::record::SandboxKind::Unprivileged));
        id
    }

    /// Adds files that no record speaks of.
    pub fn add_stray_layers(&self) -> ContainerUid {
        let uid = ContainerUid::generate();
        self.world().layers.insert(uid.clone());
        uid
    }

    /// What was done that a real node would have been harmed by.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }
}

fn error(kind: NodeErrorKind, call: Call) -> NodeError {
    NodeError::new(kind, format!("{call:?} failed as it was told to ({kind:?})"))
}
