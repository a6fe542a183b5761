//! What may be seen of containers by those who show them elsewhere.
//!
//! A [`Follower`] is told which containers have changed, not how: whoever reads late reads what is
//! true by then, and a container that came and went between two looks was never there. What cannot
//! be read later, an [`Incident`], is kept for it, the latest [`MAX_INCIDENTS`].
//!
//! Promises: nobody waits for a follower; what it has not read yet is bounded by the containers
//! that there are and were since. Views hold no environment, and arguments only where
//! [`crate::Options::keep_arguments`] says so. Leaves to others: what is shown of it, and to whom.

use crate::declared::DeclaredView;
use crate::drain::drained;
use crate::plan::{Place, Wanted};
use crate::pressure::Pressure;
use crate::record::{
    Addresses, BindMount, ContainerUid, DeclaredBy, Handle, Limits, OutOfMemory, Phase, PortIn, ProcessId,
    ProcessState, Properties, RootfsSource, SandboxId,
};
use crate::service::Controller;
use crate::state::{Container, Role, State};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// Incidents that are kept for a follower that does not read.
pub const MAX_INCIDENTS: usize = 256;

/// Something that happened to a container and cannot be read of it afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// To which.
    pub container: ContainerUid,
    /// The object that declares it, where one does.
    pub declared_by: Option<DeclaredBy>,
    /// What its client calls it.
    pub handle: Handle,
    /// What.
    pub kind: IncidentKind,
    /// In words.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// See [`Incident::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IncidentKind {
    /// The kernel killed something in it for want of memory.
    OutOfMemory,
    /// It does not go.
    Stuck,
    /// Nobody can say how one of its processes ended.
    ProcessLost,
    /// It could not be made.
    CreateFailed,
    /// One of its declared processes had ended, and is started again.
    ProcessRestarted,
}

/// What has happened since the follower last read.
#[derive(Debug, Default)]
pub struct News {
    /// Containers of which something may be another than before, or that are gone.
    pub containers: HashSet<ContainerUid>,
    /// What else happened, oldest first.
    pub incidents: VecDeque<Incident>,
    /// The node itself: what it holds, or whether it answers.
    pub node: bool,
}

/// Reads news. Made by [`Controller::follow`].
pub struct Follower {
    inbox: Arc<Inbox>,
}

impl Follower {
    /// Waits for news and takes them. Dropped before it is done, it has taken nothing.
    pub async fn news(&mut self) -> News {
        loop {
            {
                let mut unread = self.inbox.unread();
                if unread.node || !unread.containers.is_empty() || !unread.incidents.is_empty() {
                    return std::mem::take(&mut *unread);
                }
            }
            self.inbox.arrived.notified().await;
        }
    }
}

#[derive(Default)]
struct Inbox {
    unread: Mutex<News>,
    arrived: Notify,
}

impl Inbox {
    fn unread(&self) -> MutexGuard<'_, News> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who observe. Part of the state, so that nothing changes there without them.
#[derive(Default)]
pub struct Followers {
    inboxes: Vec<Weak<Inbox>>,
}

impl Followers {
    /// Something of a container may be another than before.
    pub fn changed(&self, uid: &ContainerUid) {
        self.each(|unread| {
            unread.node = true;
            if !unread.containers.contains(uid) {
                unread.containers.insert(uid.clone());
            }
        });
    }

    /// Something of the node.
    pub fn node_changed(&self) {
        self.each(|unread| unread.node = true);
    }

    /// Something happened.
    pub fn tell(&self, incident: &Incident) {
        self.each(|unread| {
            if unread.incidents.len() == MAX_INCIDENTS {
                unread.incidents.pop_front();
            }
            unread.incidents.push_back(incident.clone());
        });
    }

    fn each(&self, note: impl Fn(&mut News)) {
        for inbox in self.inboxes.iter().filter_map(Weak::upgrade) {
            note(&mut inbox.unread());
            inbox.arrived.notify_one();
        }
    }
}

/// A container, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    /// Ours.
    pub uid: ContainerUid,
    /// The client's.
    pub handle: Handle,
    /// Where its files come from.
    pub rootfs: RootfsSource,
    /// What of the host shows in it.
    pub bind_mounts: Vec<BindMount>,
    /// No user namespace, all capabilities.
    pub privileged: bool,
    /// What it may use.
    pub limits: Limits,
    /// The address or subnet that was asked for.
    pub network: Option<String>,
    /// All its properties; not all of them are for everybody.
    pub properties: Properties,
    /// How long it may go without a client.
    pub grace_time: Option<Duration>,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// How far it is.
    pub phase: Phase,
    /// The last failure, in words, while it is not over.
    pub failure: Option<String>,
    /// Its place, where it has one.
    pub sandbox: Option<SandboxId>,
    /// How far its place is.
    pub place: Place,
    /// Where it is in the network.
    pub addresses: Option<Addresses>,
    /// Ports of the node that lead to it.
    pub ports_in: Vec<PortIn>,
    /// Why it does not go.
    pub stuck: Option<String>,
    /// What the kernel last killed in it for want of memory.
    pub last_oom: Option<OutOfMemory>,
    /// Its processes whose records are kept.
    pub processes: Vec<ProcessView>,
    /// What is declared of it, where it is.
    pub declared: Option<DeclaredView>,
}

/// A process, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// The client's.
    pub id: ProcessId,
    /// The program.
    pub path: String,
    /// Its arguments; none unless they are kept.
    pub args: Vec<String>,
    /// Whom it runs as; root where absent.
    pub user: Option<String>,
    /// What became of it.
    pub state: ProcessState,
    /// When it was asked for.
    pub created_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
}

/// The node, as it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Containers that there may be.
    pub max_containers: usize,
    /// Containers being made.
    pub creating: usize,
    /// Containers that are ready.
    pub ready: usize,
    /// Containers that are stopping or stopped.
    pub stopped: usize,
    /// Containers that are going.
    pub destroying: usize,
    /// Containers, of all these, that do not go.
    pub stuck: usize,
    /// Blank places that shall be ready, of each kind in use.
    pub pool_size: usize,
    /// Blank places that are.
    pub pool_ready: usize,
    /// It is being drained.
    pub draining: bool,
    /// It is, and nothing is left.
    pub drained: bool,
    /// What it has too little of.
    pub pressure: Pressure,
    /// Why containerd does not answer, while it does not.
    pub unavailable: Option<String>,
}

impl Controller {
    /// A follower of everything from now on. What there is already is for it to read first.
    pub fn follow(&self) -> Follower {
        let inbox = Arc::new(Inbox::default());
        let mut state = self.shared.state();
        state.followers.inboxes.retain(|inbox| inbox.strong_count() > 0);
        state.followers.inboxes.push(Arc::downgrade(&inbox));
        Follower { inbox }
    }

    /// The containers that there are. One whose handle is free again is gone, whatever of it is
    /// still to be swept.
    pub fn container_uids(&self) -> Vec<ContainerUid> {
        let state = self.shared.state();
        state.containers.iter().filter(|(_, container)| !container.freed).map(|(uid, _)| uid.clone()).collect()
    }

    /// One as it is now; `None` once it is gone.
    pub fn view(&self, uid: &ContainerUid) -> Option<ContainerView> {
        let state = self.shared.state();
        state.containers.get(uid).filter(|container| !container.freed).map(|container| view(&state, container))
    }

    /// The node as it is now.
    pub fn view_node(&self) -> NodeView {
        let max_containers = self.max_containers();
        let state = self.shared.state();
        let pooled = state.sandboxes.values().filter(|sandbox| sandbox.role == Role::Pooled);
        let mut node = NodeView {
            max_containers,
            pool_size: state.pool_target(self.shared.options.pool_size),
            draining: state.drain.is_some(),
            drained: drained(&state),
            pressure: state.pressure.clone(),
            pool_ready: pooled.count(),
            unavailable: state.unavailable.as_ref().map(ToString::to_string),
            ..NodeView::default()
        };
        for container in state.containers.values().filter(|container| !container.freed) {
            let count = match phase(container) {
                Phase::Pending | Phase::Creating => &mut node.creating,
                Phase::Ready => &mut node.ready,
                Phase::Stopping | Phase::Stopped => &mut node.stopped,
                Phase::Destroying | Phase::Gone => &mut node.destroying,
            };
            *count += 1;
            node.stuck += usize::from(container.stuck.is_some());
        }
        node
    }
}

/// One that is not wanted any more is going, whether or not that is recorded yet.
fn phase(container: &Container) -> Phase {
    if container.wanted() == Wanted::Absent { Phase::Destroying } else { container.record.status.phase }
}

fn view(state: &State, container: &Container) -> ContainerView {
    let record = &container.record;
    let processes = container.processes.values().filter_map(|uid| state.processes.get(uid));
    ContainerView {
        uid: record.uid.clone(),
        handle: record.handle.clone(),
        rootfs: without_environment(&record.spec.rootfs),
        bind_mounts: record.spec.bind_mounts.clone(),
        privileged: record.spec.privileged,
        limits: record.spec.limits,
        network: record.spec.network.clone(),
        properties: record.properties.clone(),
        grace_time: record.grace_time,
        created_at: record.created_at,
        phase: phase(container),
        failure: record.status.message.clone(),
        sandbox: record.sandbox.clone(),
        place: container.place,
        addresses: record.addresses.clone().filter(|_| container.networked),
        ports_in: record.ports_in.clone(),
        stuck: container.stuck.as_ref().map(ToString::to_string),
        last_oom: record.status.last_oom.clone(),
        processes: processes
            .map(|process| ProcessView {
                id: process.record.id.clone(),
                path: process.record.spec.path.clone(),
                args: process.record.spec.args.clone(),
                user: process.record.spec.user.clone(),
                state: process.record.state.clone(),
                created_at: process.record.created_at,
                ended_at: process.record.ended_at,
            })
            .collect(),
        declared: record.origin.declaration().map(|declaration| DeclaredView::of(declaration, &container.kept)),
    }
}

/// The image's own environment is an environment too.
fn without_environment(rootfs: &RootfsSource) -> RootfsSource {
    match rootfs {
        RootfsSource::Default => RootfsSource::Default,
        RootfsSource::Raw(path) => RootfsSource::Raw(path.clone()),
        RootfsSource::Image(image) => RootfsSource::image(image.reference.clone()),
    }
}
