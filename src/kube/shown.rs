//! What of a container may be shown to whoever can read the cluster's objects.
//!
//! Redaction is a type: [`Shown`] is the only thing that the mirror writes of a container, it is
//! made by [`show`] alone, and there is no field in it for an environment, a password, or an image's
//! own environment. Arguments have a field whose content only [`ArgumentsAllowed`] can make, which
//! exists where the operator says so. Of properties those are taken whose keys the operator names.
//!
//! Everything is cut to the bounds of the definitions in `crds/`, and nothing is taken that their
//! rules would refuse: an object that is refused would show nothing at all.

mod conditions;
mod parts;

use gardend_controller::record::{BindMode, BindOrigin, Limits, Phase, ProcessState, RootfsSource};
use gardend_controller::{ContainerView, ProcessView};
use gardend_crds::{self as crds, Address, BindMount, Condition, ContainerLimits, ContainerPhase, Port, Time};
use parts::{MAX_PATH, path, positive};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use conditions::{condition, keep_times};
pub(super) use parts::cut;

/// Processes that a status shows at most.
const MAX_PROCESSES: usize = 50;
/// Properties, bind mounts and ports that are shown at most, as the definitions have it.
const MAX_ITEMS: usize = 256;
/// What is shown of a property's value.
const MAX_VALUE: usize = 1024;
/// Arguments that are shown of a process, and what of each.
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT: usize = 256;

/// Says that arguments of processes may be shown, though they may be secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentsAllowed(());

impl ArgumentsAllowed {
    /// The operator has asked for it.
    pub fn by_operator() -> Self {
        Self(())
    }
}

/// What may be shown beyond what always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownPolicy {
    /// Keys of properties.
    pub properties: Arc<BTreeSet<String>>,
    /// Arguments of processes.
    pub arguments: Option<ArgumentsAllowed>,
}

/// A container as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    spec: ShownSpec,
    status: ShownStatus,
}

impl Shown {
    /// What is written as the object's spec.
    pub fn spec(&self) -> Value {
        // Maps of texts and numbers: there is nothing in them that JSON could not hold.
        serde_json::to_value(&self.spec).unwrap_or_default()
    }

    /// What is written as its status, when the API server's object is of this generation. A
    /// condition that is as it was keeps the time at which it became so.
    pub fn status(&self, generation: Option<i64>, before: &[Condition]) -> Value {
        let mut status = self.status.clone();
        status.observed_generation = generation;
        conditions::keep_times(&mut status.conditions, before);
        serde_json::to_value(&status).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSpec {
    node_name: String,
    handle: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    privileged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<ContainerLimits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bind_mounts: Vec<BindMount>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    properties: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_time: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    phase: ContainerPhase,
    conditions: Vec<Condition>,
    uid: String,
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Address>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port>,
    running_processes: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    processes: Vec<ShownProcess>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_omitted: Option<i64>,
    #[serde(rename = "lastOOM", skip_serializing_if = "Option::is_none")]
    last_oom: Option<crds::OutOfMemory>,
    started_at: Time,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProcess {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<ShownArguments>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    state: crds::ProcessState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<Time>,
}

/// Arguments, which may be secrets.
#[derive(Clone, Debug, Serialize)]
struct ShownArguments(Vec<String>);

impl ShownArguments {
    fn of(args: &[String], _: ArgumentsAllowed) -> Option<Self> {
        let shown = args.iter().take(MAX_ARGUMENTS).map(|arg| cut(arg, MAX_ARGUMENT));
        (!args.is_empty()).then(|| Self(shown.collect()))
    }
}

/// A container as it may be shown, on this node.
pub fn show(view: &ContainerView, node: &super::NodeName, policy: &ShownPolicy) -> Shown {
    Shown { spec: spec(view, node, policy), status: status(view, policy) }
}

fn spec(view: &ContainerView, node: &super::NodeName, policy: &ShownPolicy) -> ShownSpec {
    let (image, rootfs) = match &view.rootfs {
        RootfsSource::Default => (None, None),
        RootfsSource::Raw(folder) => (None, path(folder)),
        RootfsSource::Image(image) => (Some(cut(&image.reference.to_string(), 2048)), None),
    };
    let named = view.properties.iter().filter(|(key, _)| policy.properties.contains(*key));
    // Those are in conditions and events, in words, and are refused as properties.
    let clients = named.filter(|(key, _)| !key.starts_with("gardend."));
    ShownSpec {
        node_name: node.as_str().to_owned(),
        handle: view.handle.as_str().to_owned(),
        image,
        rootfs,
        privileged: view.privileged,
        limits: limits(&view.limits),
        network: view.network.clone().filter(|network| parts::is_network(network)),
        bind_mounts: bind_mounts(view),
        properties: clients.take(MAX_ITEMS).map(|(key, value)| (key.clone(), cut(value, MAX_VALUE))).collect(),
        grace_time: view.grace_time.map(parts::duration),
    }
}

fn limits(limits: &Limits) -> Option<ContainerLimits> {
    if *limits == Limits::default() {
        return None;
    }
    // Of two that contradict each other, the hard one is in force.
    let soft = |soft: u64, hard: u64| positive(soft).filter(|_| hard == 0 || soft <= hard);
    Some(ContainerLimits {
        memory_bytes: positive(limits.memory_bytes),
        cpu_weight: positive(limits.shares()),
        pids: positive(limits.pids_max),
        disk_bytes_soft: soft(limits.disk_byte_soft, limits.disk_byte_hard),
        disk_bytes_hard: positive(limits.disk_byte_hard),
        disk_inodes_soft: soft(limits.disk_inode_soft, limits.disk_inode_hard),
        disk_inodes_hard: positive(limits.disk_inode_hard),
        disk_scope: limits.disk_scope_exclusive.then_some(crds::DiskScope::Exclusive),
        bandwidth_rate: positive(limits.bandwidth_rate),
        bandwidth_burst: positive(limits.bandwidth_burst).filter(|_| limits.bandwidth_rate > 0),
    })
}

/// One for each target: what is mounted there last is what is seen.
fn bind_mounts(view: &ContainerView) -> Vec<BindMount> {
    let mut by_target: BTreeMap<String, BindMount> = BTreeMap::new();
    for mount in &view.bind_mounts {
        let (Some(source), Some(target)) = (path(&mount.source), path(&mount.target)) else { continue };
        let mode = (mount.mode == BindMode::ReadWrite).then_some(crds::BindMode::ReadWrite);
        let origin = (mount.origin == BindOrigin::Container).then_some(crds::BindOrigin::Container);
        by_target.insert(target.clone(), BindMount { source, target, mode, origin });
    }
    by_target.into_values().take(MAX_ITEMS).collect()
}

fn status(view: &ContainerView, policy: &ShownPolicy) -> ShownStatus {
    let runs = |process: &&ProcessView| matches!(process.state, ProcessState::Running { .. });
    let running = view.processes.iter().filter(runs).count();
    let (processes, omitted) = processes(view, policy);
    let mut ports: Vec<Port> = view.ports_in.iter().map(parts::port).collect();
    ports.sort_by_key(|port| port.host_port);
    ports.dedup_by_key(|port| port.host_port);
    ports.truncate(MAX_ITEMS);
    let addresses = view.addresses.iter().flat_map(|at| {
        let v4 = Address { ip: at.address.to_string(), subnet: Some(at.subnet.to_string()) };
        let v6 = at.ipv6.map(|ip| Address { ip: ip.to_string(), subnet: None });
        std::iter::once(v4).chain(v6)
    });
    ShownStatus {
        observed_generation: None,
        phase: phase(view.phase),
        conditions: conditions::of(view),
        uid: view.uid.to_string(),
        container_id: view.sandbox.as_ref().map(ToString::to_string),
        addresses: addresses.collect(),
        ports,
        running_processes: running as i64,
        processes,
        processes_omitted: positive(omitted as u64),
        last_oom: view.last_oom.as_ref().map(|oom| crds::OutOfMemory {
            process: cut(&oom.what, 1024),
            time: oom.at.into(),
            limit: positive(oom.limit),
        }),
        started_at: view.created_at.into(),
    }
}

fn is_alive(process: &ProcessView) -> bool {
    matches!(process.state, ProcessState::Pending | ProcessState::Running { .. })
}

/// Those that run, and then the latest that ended, by id; and how many are left out.
fn processes(view: &ContainerView, policy: &ShownPolicy) -> (Vec<ShownProcess>, usize) {
    let mut chosen: Vec<&ProcessView> = view.processes.iter().collect();
    chosen.sort_by_key(|process| (!is_alive(process), std::cmp::Reverse((process.ended_at, process.created_at))));
    chosen.truncate(MAX_PROCESSES);
    chosen.sort_by(|one, other| one.id.cmp(&other.id));
    let omitted = view.processes.len() - chosen.len();
    (chosen.into_iter().map(|process| shown_process(process, policy)).collect(), omitted)
}

fn shown_process(process: &ProcessView, policy: &ShownPolicy) -> ShownProcess {
    let (state, pid, exit_code) = match &process.state {
        ProcessState::Pending => (crds::ProcessState::Pending, None, None),
        ProcessState::Running { pid } => (crds::ProcessState::Running, positive(u64::from(*pid)), None),
        ProcessState::Exited(status) => (crds::ProcessState::Exited, None, Some(status.as_garden().clamp(0, 255))),
        ProcessState::Lost { .. } => (crds::ProcessState::Lost, None, None),
    };
    ShownProcess {
        id: process.id.to_string(),
        path: Some(cut(&process.path, MAX_PATH)).filter(|path| !path.is_empty()),
        args: policy.arguments.and_then(|allowed| ShownArguments::of(&process.args, allowed)),
        user: process.user.as_deref().map(|user| cut(user, 256)),
        state,
        pid,
        exit_code,
        started: process.created_at.map(Into::into),
        finished: process.ended_at.map(Into::into),
    }
}

fn phase(phase: Phase) -> ContainerPhase {
    match phase {
        Phase::Pending => ContainerPhase::Pending,
        Phase::Creating => ContainerPhase::Creating,
        Phase::Ready => ContainerPhase::Ready,
        Phase::Stopping => ContainerPhase::Stopping,
        Phase::Stopped => ContainerPhase::Stopped,
        Phase::Destroying => ContainerPhase::Destroying,
        Phase::Gone => ContainerPhase::Gone,
    }
}

#[cfg(test)]
mod tests;
