//! Places on containerd: the controller's port [`Sandboxes`](gardend_controller::ports::Sandboxes) made real.
//!
//! For: making blank places (a containerd container whose task runs garden-init), naming, killing
//! and removing them, and finding again what an earlier gardend left. One module a containerd
//! service that we use (`containers`, `tasks`, `content`, `snapshots`, ...), in our words.
//!
//! Owns: the containers in containerd's namespace [`NAMESPACE`] that carry our [`OwnerMark`], the
//! folders `<run-dir>/places` and `<run-dir>/runtime`, the cgroups `/gardend/<owner>`. Touches no
//! other namespace and nothing of another gardend's on the same containerd.
//!
//! Promises: every call has a deadline; a place is killed without containerd; a containerd that was
//! away is found again by itself; removing goes on where it was interrupted.
//!
//! Leaves to others: what the place becomes (`mount`), what runs in it (`process`), when to try
//! again (the controller). [`managed`] runs a containerd of our own; [`super::check`] tells
//! whether this node has what is needed.

mod calls;
mod ceiling;
mod cgroups;
mod connection;
mod containers;
pub(crate) mod content;
mod error;
pub(crate) mod groups;
pub(crate) mod images;
mod kill;
pub(crate) mod labels;
pub(crate) mod leases;
mod leave;
pub(crate) mod listening;
pub mod managed;
mod namespaces;
pub(crate) mod pidfd;
mod places;
pub(crate) mod remains;
mod runtime;
mod seen;
pub(crate) mod shims;
pub(crate) mod snapshots;
mod spec;
mod sys;
mod tasks;
mod version;
mod watch;

pub use calls::Calls;
pub(crate) use ceiling::peer;
pub(crate) use cgroups::TOP;
pub use cgroups::{Cgroups, PlaceCgroups, hierarchies};
pub use connection::Connection;
pub use containers::SHIM;
pub use error::{CallError, CallErrorKind};
pub use labels::OwnerMark;
pub use runtime::{InvalidRuntime, Runtime};
pub use spec::{AllowedDevice, CapabilitySet, ProfileError, SeccompProfile, Settings};

use super::blank::Blank;
use super::ids::IdMap;
use super::place::Folders;
use gardend_controller::ports::{NodeError, NodeErrorKind};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::{OnceCell, Semaphore};

/// containerd's namespace of everything that is ours.
pub const NAMESPACE: &str = "gardend";

/// How many places share a shim at most, unless an option says otherwise. A place of a shim of its
/// own costs 2.8 MB (containerd 1.6) to 4.4 MB (2.4.2) of PSS, of one shared by 8, 16 or 32 places
/// 1.1, 0.8 and 0.7 MB; in time they do not differ (`tests/containerd_cost.rs`). With more, little
/// is saved and more is lost with a shim that dies.
pub const DEFAULT_GROUP_LIMIT: usize = 16;

/// Where containerd is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// gardend starts and supervises one of its own.
    Managed {
        /// The program `containerd`; its shim lies beside it or in PATH.
        binary: PathBuf,
    },
    /// One that is there already listens on this socket.
    Socket(PathBuf),
}

/// How places are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// With which runtime.
    pub runtime: Runtime,
    /// How many share a shim at most.
    pub group_limit: usize,
    /// How many are made at once at most; more would only wait for the processors.
    pub parallel_creates: usize,
    /// Whom the users of unprivileged places are on the host.
    pub id_map: IdMap,
    /// What they may do.
    pub settings: Settings,
    /// Where calls to containerd are counted.
    pub calls: Calls,
}

impl Default for Options {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            runtime: Runtime::runc(),
            group_limit: DEFAULT_GROUP_LIMIT,
            parallel_creates: (2 * processors).max(4),
            id_map: IdMap::garden(),
            settings: Settings::default(),
            calls: Calls::default(),
        }
    }
}

/// The places of one gardend on one containerd.
pub struct Containerd {
    connection: Connection,
    folders: Folders,
    owner: OwnerMark,
    cgroups: Cgroups,
    blank: Blank,
    options: Options,
    groups: groups::Groups,
    adopted: OnceCell<()>,
    creates: Semaphore,
}

impl Containerd {
    /// Readies our folders and the blank rootfs. containerd need not be there yet: it is looked
    /// for at the first call.
    ///
    /// # Errors
    /// Where a folder cannot be made.
    pub fn open(folders: Folders, socket: &Path, options: Options) -> Result<Self, NodeError> {
        let failed = |error: io::Error| {
            let (state, run) = (folders.state().display(), folders.run().display());
            NodeError::new(NodeErrorKind::Failed, format!("cannot prepare the folders {state} and {run}: {error}"))
        };
        for folder in [folders.state(), folders.run(), &folders.places(), &remains::runtime_state(&folders)] {
            searchable(folder).map_err(failed)?;
        }
        let owner = OwnerMark::of(folders.state(), folders.run()).map_err(failed)?;
        let blank = Blank::install(folders.state()).map_err(failed)?;
        Ok(Self {
            connection: Connection::counted(socket, NAMESPACE, options.calls.clone()),
            cgroups: Cgroups::of(owner.clone()),
            groups: groups::Groups::new(options.group_limit),
            creates: Semaphore::new(options.parallel_creates.max(1)),
            adopted: OnceCell::new(),
            folders,
            owner,
            blank,
            options,
        })
    }

    /// The connection, for other parts of the node that use containerd.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Shims that places share, as far as it is known.
    pub fn shims(&self) -> usize {
        self.groups.count()
    }

    /// The cgroups of its places.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Whose places these are.
    pub fn owner(&self) -> &OwnerMark {
        &self.owner
    }
}

/// Makes a folder of ours, or sees that root of an unprivileged place, nobody on the host, can pass
/// through it to what it may see. It cannot list it.
fn searchable(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & 0o111 == 0o111 {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o7777 | 0o111))
}

fn failed(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Failed, message)
}
