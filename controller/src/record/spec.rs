//! What clients ask for: of a container and of a process.

use super::{Handle, Image, ImageCredentials, ImageReference, PortInAsked, ProcessId, ResolvedImage, RuleOut};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A container's properties, and a filter over them.
pub type Properties = BTreeMap<String, String>;

/// What a client wants a container to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Where its files come from.
    pub rootfs: RootfsSource,
    /// Folders and files of the host that show inside.
    pub bind_mounts: Vec<BindMount>,
    /// `K=V`, below every process's own.
    pub env: Vec<String>,
    /// No user namespace, all capabilities.
    pub privileged: bool,
    /// What it may use. Zero means no limit.
    pub limits: Limits,
    /// The address or subnet that was asked for, as text.
    pub network: Option<String>,
}

/// A request to create a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// The handle; generated where absent.
    pub handle: Option<Handle>,
    /// How long it may go without a client. `None` or zero: the server's default.
    pub grace_time: Option<Duration>,
    /// Its properties.
    pub properties: Properties,
    /// What it shall be.
    pub spec: ContainerSpec,
    /// For its image's registry. They serve the pull and are not recorded.
    pub credentials: Option<ImageCredentials>,
    /// Ports of the node that shall lead to it.
    pub ports_in: Vec<PortInAsked>,
    /// What it may reach.
    pub rules_out: Vec<RuleOut>,
}

/// Where a container's files come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootfsSource {
    /// The server's default rootfs, shared, with an overlay of the container's own above it.
    #[default]
    Default,
    /// A folder of the host, used as it is, writable, not copied.
    Raw(PathBuf),
    /// An image's layers, shared, with an overlay of the container's own above them.
    Image(Box<Image>),
}

impl RootfsSource {
    /// An image that is still to be pulled.
    pub fn image(reference: ImageReference) -> Self {
        Self::Image(Box::new(Image { reference, resolved: None }))
    }

    /// The image that was pulled for it.
    pub fn resolved(&self) -> Option<&ResolvedImage> {
        match self {
            Self::Image(image) => image.resolved.as_ref(),
            Self::Default | Self::Raw(_) => None,
        }
    }

    /// The image that is still to be pulled for it.
    pub fn unresolved(&self) -> Option<&ImageReference> {
        match self {
            Self::Image(image) if image.resolved.is_none() => Some(&image.reference),
            _ => None,
        }
    }

    /// Notes what its image was found to be.
    pub fn resolve(&mut self, resolved: ResolvedImage) {
        if let Self::Image(image) = self {
            image.resolved = Some(resolved);
        }
    }
}

impl ContainerSpec {
    /// What every process's environment begins with: the image's, and above it the container's own.
    pub fn base_env(&self) -> Vec<String> {
        let of_image = self.rootfs.resolved().map_or(&[][..], |image| &image.env);
        of_image.iter().chain(&self.env).cloned().collect()
    }
}

/// One bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// On the host.
    pub source: PathBuf,
    /// In the container; made where missing.
    pub target: PathBuf,
    /// Whether it can be written to.
    pub mode: BindMode,
    /// Whose path `source` is.
    pub origin: BindOrigin,
}

/// Read-only or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindMode {
    /// Read-only all the way down.
    ReadOnly,
    /// Writable.
    ReadWrite,
}

/// Whose path a bind mount's source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindOrigin {
    /// The host's.
    Host,
    /// The container's own root.
    Container,
}

/// Limits as Garden names them. Zero means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes a second.
    pub bandwidth_rate: u64,
    /// Bytes.
    pub bandwidth_burst: u64,
    /// Relative weight.
    pub cpu_weight: u64,
    /// The older name for a weight.
    pub cpu_shares: u64,
    /// Number of inodes.
    pub disk_inode_soft: u64,
    /// Number of inodes.
    pub disk_inode_hard: u64,
    /// Bytes.
    pub disk_byte_soft: u64,
    /// Bytes.
    pub disk_byte_hard: u64,
    /// Whether the image's own bytes count.
    pub disk_scope_exclusive: bool,
    /// Bytes, swap counted in.
    pub memory_bytes: u64,
    /// Number of processes and threads.
    pub pids_max: u64,
}

impl Limits {
    /// The processor shares that were asked for, by whichever name: the newer one wins.
    pub fn shares(&self) -> u64 {
        if self.cpu_weight > 0 { self.cpu_weight } else { self.cpu_shares }
    }

    /// Whether one for the disk was asked for.
    pub fn has_disk(&self) -> bool {
        [self.disk_byte_soft, self.disk_byte_hard, self.disk_inode_soft, self.disk_inode_hard].iter().any(|n| *n > 0)
    }
}

/// What a client wants to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Its id; generated where absent.
    pub id: Option<ProcessId>,
    /// The program: a path, or a name that is looked up in the process's PATH.
    pub path: String,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// `K=V`, above the container's.
    pub env: Vec<String>,
    /// Its working folder; the user's home where absent. Made where missing.
    pub dir: Option<String>,
    /// `name`, `uid`, `uid:gid` or `name:group`; root where absent.
    pub user: Option<String>,
    /// Resource limits that were asked for.
    pub rlimits: Vec<Rlimit>,
    /// A terminal for its stdio, where asked for.
    pub tty: Option<WindowSize>,
    /// Files of its own, in place of its container's.
    #[serde(default)]
    pub image: Option<ProcessImage>,
    /// Limits of its own, in place of its container's.
    #[serde(default)]
    pub limits: ProcessLimits,
}

/// Limits of a process's own. Zero means the same as its container's, apart from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Relative weight of the processor, within its container.
    pub cpu_weight: u64,
    /// The older name for a weight.
    pub cpu_shares: u64,
    /// Bytes, swap counted in.
    pub memory_bytes: u64,
}

impl ProcessLimits {
    /// Whether any was asked for.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// The processor shares that were asked for, by whichever name: the newer one wins.
    pub fn shares(&self) -> u64 {
        if self.cpu_weight > 0 { self.cpu_weight } else { self.cpu_shares }
    }
}

/// Files of a process's own. All else (network, other processes, users, hostname) is its container's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// Where they come from.
    pub rootfs: RootfsSource,
    /// Folders and files that show there.
    pub bind_mounts: Vec<BindMount>,
    /// For the image's registry. They serve the pull and are not recorded.
    #[serde(skip)]
    pub credentials: Option<ImageCredentials>,
}

/// One resource limit: soft and hard alike, as Garden sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which.
    pub resource: RlimitResource,
    /// The limit, in the resource's own unit (getrlimit(2)).
    pub value: u64,
}

/// The resources of getrlimit(2) that Garden names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RlimitResource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Sigpending,
    Stack,
}

/// A terminal's size, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

impl WindowSize {
    /// What a terminal is given when its client names no size.
    pub const DEFAULT: Self = Self { columns: 80, rows: 24 };
}
