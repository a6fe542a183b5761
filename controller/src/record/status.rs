//! What became of what was asked for.

use super::{
    Addresses, ContainerSpec, ContainerUid, Declaration, Handle, PortIn, ProcessId, ProcessSpec, ProcessUid,
    Properties, RuleOut, SandboxId,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// What the ledger wants of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It shall be there.
    Present,
    /// It shall be gone, and then its row too.
    Absent,
}

/// Who wants a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A Garden client.
    Garden,
    /// A custom resource.
    Declared(Box<Declaration>),
}

impl Origin {
    /// What is declared, where it is.
    pub fn declaration(&self) -> Option<&Declaration> {
        match self {
            Self::Garden => None,
            Self::Declared(declaration) => Some(declaration),
        }
    }

    /// The same, to be changed.
    pub fn declaration_mut(&mut self) -> Option<&mut Declaration> {
        match self {
            Self::Garden => None,
            Self::Declared(declaration) => Some(declaration),
        }
    }
}

/// How a container is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// TERM, a grace, then KILL.
    Terminate,
    /// KILL at once.
    Kill,
}

/// What is wanted of one container. A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Ours, unique for ever.
    pub uid: ContainerUid,
    /// The client's, unique among the containers that are wanted.
    pub handle: Handle,
    /// Counts the changes of what is wanted.
    pub generation: u64,
    /// Wanted or not.
    pub desired: Desired,
    /// What it shall be.
    pub spec: ContainerSpec,
    /// Its properties.
    pub properties: Properties,
    /// How long it may go without a client; `None`: for ever.
    pub grace_time: Option<Duration>,
    /// A stop that was asked for and is not finished; `status.stopped` says that one is.
    pub stop: Option<StopMode>,
    /// Whether its create was answered. One that was not is undone after a restart.
    pub answered: bool,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// Who asked.
    pub origin: Origin,
    /// Its place, once it has one.
    pub sandbox: Option<SandboxId>,
    /// Where it is in the network, until it is gone. `None`: its own loopback alone.
    #[serde(default)]
    pub addresses: Option<Addresses>,
    /// Ports of the node that lead to it; nobody else's while they are here.
    #[serde(default)]
    pub ports_in: Vec<PortIn>,
    /// What it may reach, in the order in which that was asked for.
    #[serde(default)]
    pub rules_out: Vec<RuleOut>,
    /// What became of it.
    pub status: ContainerStatus,
}

/// What became of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// The generation that this speaks of.
    pub observed_generation: u64,
    /// How far it is.
    pub phase: Phase,
    /// The step that runs or failed last.
    pub stage: Option<Stage>,
    /// Its files are in place (the place has been furnished and confirmed).
    pub furnished: bool,
    /// All its processes were stopped on request.
    pub stopped: bool,
    /// What happened to it ("Out of memory", "Stuck: ...", "made again: ..."), oldest first, bounded.
    pub events: Vec<String>,
    /// Of what the kernel has killed in its present place for want of memory, what is told already.
    #[serde(default)]
    pub oom_kills: u64,
    /// What the kernel last killed in it for want of memory.
    #[serde(default)]
    pub last_oom: Option<OutOfMemory>,
    /// Failures in a row of the present step.
    pub failures: u32,
    /// The last failure, in words.
    pub message: Option<String>,
}

/// The kernel killed something for want of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// What, in words.
    pub what: String,
    /// When that was found.
    pub at: SystemTime,
    /// The container's limit in bytes; 0 where it has none.
    pub limit: u64,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Phase {
    #[default]
    Pending,
    Creating,
    Ready,
    Stopping,
    Stopped,
    Destroying,
    Gone,
}

/// The stage of a create, or of a destroy, named in errors and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Stage {
    Sandbox,
    Rootfs,
    Connect,
    Stop,
    Kill,
    Release,
    Remove,
    Limits,
    Image,
    Network,
    ReleaseNetwork,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "making its place",
            Self::Rootfs => "furnishing its root file system",
            Self::Connect => "connecting to its init",
            Self::Stop => "stopping its processes",
            Self::Kill => "killing it",
            Self::Release => "releasing its files",
            Self::Remove => "removing its place",
            Self::Limits => "putting its limits in force",
            Self::Image => "pulling its image",
            Self::Network => "making its network",
            Self::ReleaseNetwork => "releasing its network",
        })
    }
}

/// One process. A row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Ours.
    pub uid: ProcessUid,
    /// The client's.
    pub id: ProcessId,
    /// The container that it runs in.
    pub container: ContainerUid,
    /// What was asked for.
    pub spec: ProcessSpec,
    /// What became of it.
    pub state: ProcessState,
    /// Somebody has been told how it ended.
    pub seen: bool,
    /// When it was asked for; `None` where an older gardend recorded it.
    pub created_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
}

/// What became of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// Recorded; whether it runs is not known yet.
    Pending,
    /// Runs.
    Running {
        /// In the host's pid namespace.
        pid: u32,
    },
    /// Ended.
    Exited(ExitStatus),
    /// Nobody can say how it ended.
    Lost {
        /// Why.
        why: String,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// As Garden reports it: the code, or 128 + the signal.
    pub fn as_garden(self) -> i32 {
        match self {
            Self::Code(code) => code.into(),
            Self::Signal(signal) => 128 + i32::from(signal),
        }
    }
}

/// A place that the ledger knows of: blank in the pool, or a container's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Ours.
    pub id: SandboxId,
    /// Of which kind it is.
    pub kind: SandboxKind,
    /// Whose it is; `None`: nobody's yet.
    pub container: Option<ContainerUid>,
}

/// The two kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxKind {
    /// A user namespace of its own, a small capability set, seccomp, masked paths.
    Unprivileged,
    /// All that gardend itself may do.
    Privileged,
}

impl SandboxKind {
    /// The kind that a container needs.
    pub fn of(spec: &ContainerSpec) -> Self {
        if spec.privileged { Self::Privileged } else { Self::Unprivileged }
    }
}
