//! Everything that the controller knows, in memory: a plain structure without I/O or time of its
//! own, behind one mutex that is never held across an await.
//!
//! Owns the admission: a handle, addresses and ports, and one of the node's places for containers,
//! are held from the moment a create is admitted until the container is dead, and by nothing else.
//! Containers' records here are what the ledger holds, but for what [`crate::shared`] is writing.

use crate::addresses::{AddressError, Asked, Pools};
use crate::declared::Kept;
use crate::drain::Drain;
use crate::error::Error;
use crate::news::Followers;
use crate::plan::{Observed, Place, Stopping, Wanted};
use crate::ports::{NodeError, ReaderId};
use crate::pressure::Pressure;
use crate::record::{
    ContainerRecord, ContainerUid, DeclaredBy, Desired, Phase, ProcessId, ProcessRecord, ProcessState, ProcessUid,
    SandboxId, SandboxKind, Stage, StopMode,
};
use crate::service::{MESSAGE_PROPERTY, Outcome};
use crate::timers::Timers;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Span;

/// Things that happened to one container, kept at most.
const MAX_EVENTS: usize = 32;

/// All of it.
#[derive(Default)]
pub struct State {
    pub containers: HashMap<ContainerUid, Container>,
    /// Who holds a handle.
    pub handles: BTreeMap<String, ContainerUid>,
    pub processes: HashMap<ProcessUid, Process>,
    pub sandboxes: HashMap<SandboxId, Sandbox>,
    /// Kinds that containers were asked for with.
    pub kinds: Vec<SandboxKind>,
    pub timers: Timers,
    /// Addresses and ports; none where containers have no network.
    pub pools: Option<Pools>,
    /// Why containerd does not answer, while it does not.
    pub unavailable: Option<NodeError>,
    /// Who is told of changes.
    pub followers: Followers,
    /// Why the node's network is not what it shall be, while it is not.
    pub network_fault: Option<NodeError>,
    /// When the sweeper last came to an end.
    pub swept: Option<Instant>,
    /// How the node is being drained; `None`: it is not.
    pub drain: Option<Drain>,
    /// It was told that nothing is left.
    pub told_drained: bool,
    /// What the node has too little of.
    pub pressure: Pressure,
}

/// A place.
pub struct Sandbox {
    pub kind: SandboxKind,
    pub role: Role,
}

/// Whose a place is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Being made for the pool.
    Making,
    /// Blank, its init connected.
    Pooled,
    /// A container's.
    Of(ContainerUid),
    /// Nobody's any more; to be removed.
    Discarded,
}

/// Why a create failed.
#[derive(Clone, Debug)]
pub enum Failure {
    Node(Stage, NodeError),
    Ledger(String),
}

/// One container.
pub struct Container {
    pub record: ContainerRecord,
    /// Held while the record is being changed, so that changes do not overtake each other.
    pub edit: Arc<tokio::sync::Mutex<()>>,
    /// Held while its ports or rules are changed, on the node too.
    pub network_edit: Arc<tokio::sync::Mutex<()>>,
    /// Told of every change that somebody may wait for.
    pub changed: watch::Sender<()>,
    pub place: Place,
    /// Not wanted, though the record may say otherwise still: its create was given up or failed,
    /// or its grace time is over.
    pub unwanted: bool,
    pub failure: Option<Failure>,
    /// The last failure of the step at hand, for a create that runs out of time.
    pub last_failure: Option<(Stage, NodeError)>,
    /// Places that failed for this create.
    pub spoilt_places: u32,
    /// Why its place was given up; for its processes.
    pub why_spoilt: Option<String>,
    /// Something of its network may be on the node.
    pub networked: bool,
    pub freed: bool,
    pub released: bool,
    /// Why it does not die.
    pub stuck: Option<NodeError>,
    pub being_destroyed: bool,
    /// What was sent for the stop at hand, and when first.
    pub stop_sent: Option<(StopMode, Instant)>,
    pub occupied: Option<bool>,
    pub stops_finished: u64,
    pub processes: BTreeMap<ProcessId, ProcessUid>,
    /// Ended processes whose records are kept, in the order in which they ended.
    pub ended: VecDeque<ProcessUid>,
    /// Requests and streams that are open on it.
    pub busy: usize,
    /// Since when there is none.
    pub idle_since: Instant,
    /// The request that waits for what the loop does; a span of nothing where none does.
    pub request: Span,
    /// When its grace time is looked at next.
    pub grace_armed: Option<Instant>,
    /// Of its declared processes, what no record holds.
    pub kept: BTreeMap<ProcessId, Kept>,
}

/// Whether arguments of processes are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    Keep,
    Drop,
}

/// One process.
pub struct Process {
    /// Without its environment.
    pub record: ProcessRecord,
    /// How it ended, once that is in the ledger.
    pub outcome: watch::Sender<Option<Outcome>>,
    /// Clients that hold it.
    pub attached: usize,
    /// Counts attaches, so that a timer knows whether it is still meant.
    pub attaches: u64,
    pub streams: HashMap<String, Slot>,
    /// Its end is in the ledger and its init was told, so that the record may go.
    pub settled: bool,
    /// Somebody takes care of its end.
    pub ending: bool,
}

/// What a stream id stands for.
#[derive(Default)]
pub struct Slot {
    /// Its place in the output; none where it gave way to a later client.
    pub reader: Option<ReaderId>,
    /// The client still holds the process.
    pub held: bool,
    /// Outputs that flow.
    pub flowing: usize,
    /// Outputs that have flowed to their end: stdout, stderr.
    pub finished: [bool; 2],
}

impl State {
    /// Takes a container in, with addresses, or refuses. The limit counts who holds a handle:
    /// whatever is wanted, and what is not but still runs.
    pub fn admit(
        &mut self,
        mut record: ContainerRecord,
        network: Asked,
        limit: usize,
        now: Instant,
    ) -> Result<(), Error> {
        if self.handles.contains_key(record.handle.as_str()) {
            return Err(Error::HandleInUse(record.handle));
        }
        self.takes_new()?;
        if self.handles.len() >= limit {
            return Err(Error::LimitReached { limit });
        }
        record.addresses = match &mut self.pools {
            Some(pools) => pools.take(&record.uid, &record.handle, network)?,
            None if network == Asked::OfThePool => None,
            None => return Err(AddressError::NoNetwork.into()),
        };
        self.handles.insert(record.handle.as_str().to_owned(), record.uid.clone());
        self.add_kind(SandboxKind::of(&record.spec));
        let mut container = Container::new(record, now);
        container.networked = self.pools.is_some();
        self.followers.changed(&container.record.uid);
        self.containers.insert(container.record.uid.clone(), container);
        Ok(())
    }

    /// Refuses new containers on a node that is being drained, or has too little left of something.
    pub fn takes_new(&self) -> Result<(), Error> {
        if self.drain.is_some() {
            return Err(Error::Draining);
        }
        self.pressure.shortage().map_or(Ok(()), |shortage| Err(Error::Pressure(shortage)))
    }

    /// Blank places that there shall be of each kind in use, where an operator wants so many.
    pub fn pool_target(&self, wanted: usize) -> usize {
        if self.drain.is_some() { 0 } else { wanted }
    }

    /// A kind of place is in use from now on.
    pub fn add_kind(&mut self, kind: SandboxKind) {
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    /// Gives a container's handle back.
    pub fn free(&mut self, uid: &ContainerUid) {
        let Some(container) = self.containers.get_mut(uid) else { return };
        container.freed = true;
        self.followers.changed(uid);
        let handle = container.record.handle.as_str();
        if self.handles.get(handle) == Some(uid) {
            self.handles.remove(handle);
        }
    }

    /// Gives a container's addresses and ports back. Nothing of it may lead there any more, and no
    /// record that counts after a crash may say that they are its own.
    pub fn give_back_addresses(&mut self, uid: &ContainerUid) {
        if let Some(pools) = &mut self.pools {
            pools.give_back(uid);
        }
    }

    /// Takes everything of a container out of memory.
    pub fn forget(&mut self, uid: &ContainerUid) -> Vec<ProcessUid> {
        self.free(uid);
        self.give_back_addresses(uid);
        let Some(container) = self.containers.remove(uid) else { return Vec::new() };
        let processes: Vec<_> = container.processes.into_values().collect();
        for process in &processes {
            self.processes.remove(process);
        }
        processes
    }

    /// A process of a container's is another than before.
    pub fn process_changed(&self, uid: &ProcessUid) {
        if let Some(process) = self.processes.get(uid) {
            self.followers.changed(&process.record.container);
        }
    }

    /// The object that declares a container, where one does.
    pub fn declared_by(&self, container: &ContainerUid) -> Option<DeclaredBy> {
        let declaration = self.containers.get(container)?.record.origin.declaration()?;
        Some(declaration.by.clone())
    }

    /// Whether a process is one that is declared: how it ended counts for as long.
    pub fn is_kept(&self, process: &Process) -> bool {
        let container = self.containers.get(&process.record.container);
        let declaration = container.and_then(|container| container.record.origin.declaration());
        declaration.is_some_and(|declaration| declaration.runs.contains_key(&process.record.id))
    }

    /// The container that holds a handle.
    pub fn holder(&self, handle: &str) -> Result<&Container, Error> {
        let uid = self.handles.get(handle);
        uid.and_then(|uid| self.containers.get(uid)).ok_or_else(|| Error::ContainerNotFound(handle.to_owned()))
    }

    /// A blank place out of the pool; it is no longer in it.
    pub fn take_pooled(&mut self, kind: SandboxKind, container: &ContainerUid) -> Option<SandboxId> {
        let pooled = |(_, place): &(&SandboxId, &mut Sandbox)| place.kind == kind && place.role == Role::Pooled;
        let (id, place) = self.sandboxes.iter_mut().find(pooled)?;
        place.role = Role::Of(container.clone());
        Some(id.clone())
    }

    /// Gives a container a place: one of the pool, or a new one that is still to be made.
    pub fn assign_place(&mut self, uid: &ContainerUid) -> Option<(SandboxId, SandboxKind, Place)> {
        let kind = SandboxKind::of(&self.containers.get(uid)?.record.spec);
        if let Some(id) = self.take_pooled(kind, uid) {
            return Some((id, kind, Place::Made));
        }
        let id = SandboxId::generate();
        self.sandboxes.insert(id.clone(), Sandbox { kind, role: Role::Of(uid.clone()) });
        Some((id, kind, Place::Recorded))
    }

    /// How many places of a kind are in the pool, ready or on their way.
    pub fn pooled(&self, kind: SandboxKind) -> usize {
        let in_pool = |place: &&Sandbox| place.kind == kind && matches!(place.role, Role::Pooled | Role::Making);
        self.sandboxes.values().filter(in_pool).count()
    }

    /// A process of a container, by the client's name for it.
    pub fn process(&self, handle: &str, id: &str) -> Result<&Process, Error> {
        let container = self.holder(handle)?;
        let not_found = || Error::ProcessNotFound(id.to_owned());
        let key = ProcessId::new(id).map_err(|_| not_found())?;
        let uid = container.processes.get(&key).ok_or_else(not_found)?;
        self.processes.get(uid).ok_or_else(not_found)
    }
}

impl Container {
    /// As it is known from its record alone.
    pub fn new(record: ContainerRecord, now: Instant) -> Self {
        Self {
            place: Place::Nothing,
            edit: Arc::default(),
            network_edit: Arc::default(),
            changed: watch::Sender::new(()),
            unwanted: false,
            failure: None,
            last_failure: None,
            spoilt_places: 0,
            why_spoilt: None,
            networked: false,
            freed: false,
            released: false,
            stuck: None,
            being_destroyed: false,
            stop_sent: None,
            occupied: None,
            stops_finished: 0,
            processes: BTreeMap::new(),
            ended: VecDeque::new(),
            busy: 0,
            idle_since: now,
            request: Span::none(),
            grace_armed: None,
            kept: BTreeMap::new(),
            record,
        }
    }

    /// Whether it shall be there.
    pub fn wanted(&self) -> Wanted {
        if self.unwanted || self.record.desired == Desired::Absent { Wanted::Absent } else { Wanted::Present }
    }

    /// The ledger says that it is ready.
    pub fn confirmed(&self) -> bool {
        matches!(self.record.status.phase, Phase::Ready | Phase::Stopping | Phase::Stopped)
    }

    /// What [`crate::plan`] decides on.
    pub fn observed(&self, now: Instant, stop_grace: std::time::Duration) -> Observed {
        let stop = self.record.stop.map(|mode| {
            let grace_over = self.stop_sent.is_some_and(|(_, since)| now >= since + stop_grace);
            Stopping {
                mode: if grace_over { StopMode::Kill } else { mode },
                sent: self.stop_sent.map(|(mode, _)| mode),
                occupied: self.occupied,
            }
        });
        Observed {
            place: self.place,
            awaits_image: self.record.spec.rootfs.unresolved().is_some(),
            confirmed: self.confirmed(),
            stop,
            absence_recorded: self.record.desired == Desired::Absent || !self.record.answered,
            networked: self.networked,
            freed: self.freed,
            released: self.released,
        }
    }

    /// Its place, when processes can be run in it.
    pub fn ready_place(&self) -> Result<&SandboxId, Error> {
        let not_ready = |reason: &str| Error::NotReady { handle: self.record.handle.clone(), reason: reason.into() };
        if self.wanted() == Wanted::Absent {
            return Err(not_ready("it is being destroyed"));
        }
        match &self.record.sandbox {
            Some(id) if self.place == Place::Connected && self.confirmed() => Ok(id),
            _ if self.record.answered => Err(not_ready("its place is being made again; ask again in a moment")),
            _ => Err(not_ready("it is still being created")),
        }
    }
}

/// Notes what happened to a container, once in a row.
pub fn add_event(record: &mut ContainerRecord, event: String) {
    if record.status.events.last() != Some(&event) {
        record.properties.insert(MESSAGE_PROPERTY.to_owned(), event.clone());
        keep_event(record, event);
    }
}

/// Notes each of several that are alike. What goes under [`MESSAGE_PROPERTY`] is the caller's to say.
pub fn keep_event(record: &mut ContainerRecord, event: String) {
    let events = &mut record.status.events;
    if events.len() == MAX_EVENTS {
        events.remove(0);
    }
    events.push(event);
}

impl Process {
    pub fn new(record: ProcessRecord, arguments: Arguments) -> Self {
        let outcome = outcome(&record.state);
        let settled = outcome.is_some();
        let mut record = record;
        record.spec.env = Vec::new();
        if arguments == Arguments::Drop {
            record.spec.args = Vec::new();
        }
        Self {
            record,
            outcome: watch::Sender::new(outcome),
            attached: 0,
            attaches: 0,
            streams: HashMap::new(),
            settled,
            ending: settled,
        }
    }

    /// Whether it may still do something.
    pub fn alive(&self) -> bool {
        matches!(self.record.state, ProcessState::Pending | ProcessState::Running { .. })
    }
}

/// What those who wait are told of a state.
pub fn outcome(state: &ProcessState) -> Option<Outcome> {
    match state {
        ProcessState::Pending | ProcessState::Running { .. } => None,
        ProcessState::Exited(status) => Some(Outcome::Exited(*status)),
        ProcessState::Lost { why } => Some(Outcome::Failed(why.clone())),
    }
}
