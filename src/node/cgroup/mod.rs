//! Control groups: limits, figures and what the kernel kills, by files under a given root.
//!
//! ```text
//!   v1, each hierarchy            v2
//!   gardend/<owner>/<place>       gardend/<owner>/<place>       cpu.weight
//!     (init; cpu.shares)            init/                       init, once there is a run/
//!     run/  memory, pids            run/                        memory.max, pids.max
//!     process-<uid>/                process-<uid>/              one with limits of its own
//! ```
//!
//! A process that is to obey limits lives in `run`, init does not: a limit that init shared would
//! end init, since pages of a tmpfs outlive who wrote them. `run` is there only where there is a
//! limit of memory or processes; where there is none a process is started without any of this.
//! A process with limits of its own has a group of its own beside it ([`own`]).
//!
//! Owns nothing: a runtime makes a place's groups and [`super::containerd`] removes them with all
//! that is below. Each controller is used in the version that the machine has it in, so that a
//! hybrid machine is two layouts at once and no case of its own. Plain, short calls on cgroupfs.

pub mod limits;
mod network;
mod node;
pub mod oom;
pub mod own;
mod reading;
mod sys;
mod together;
pub mod usage;
mod victims;

pub use node::ResourceNode;
pub use reading::Figure;
pub use together::Together;

use super::containerd::{Cgroups, TOP};
use gardend_controller::record::SandboxId;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The group of those that are to obey limits.
const RUN: &str = "run";
/// What the groups of processes with limits of their own are called, before their uids.
const OWN: &str = "process-";
/// On v2, where a group with limited groups below holds no process itself: init's.
const INIT: &str = "init";

/// Of which make a controller's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Version {
    V1,
    V2,
}

/// The controllers that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Controller {
    Memory,
    Cpu,
    /// Counts processor time; on v2 every group does.
    CpuAccounting,
    Pids,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::Pids => "pids",
        }
    }
}

/// Where each controller is on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// By the names of controllers.
    v1: Vec<(String, PathBuf)>,
    v2: Option<(PathBuf, BTreeSet<String>)>,
}

impl Layout {
    /// This machine's.
    ///
    /// # Errors
    /// Where the mount table cannot be read.
    pub fn of_machine() -> io::Result<Self> {
        Self::of(&fs::read_to_string("/proc/thread-self/mountinfo")?, Path::new("/"))
    }

    /// That of a mount table, whose mount points are taken to be beneath `root`.
    ///
    /// # Errors
    /// Where the controllers of v2 cannot be read.
    pub fn of(table: &str, root: &Path) -> io::Result<Self> {
        let mut layout = Self::default();
        for line in table.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = before.split(' ').nth(4) else { continue };
            let mount_point = root.join(mount_point.trim_start_matches('/'));
            let mut after = after.split(' ');
            match (after.next(), after.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let known = |name: &&str| {
                        [Controller::Memory, Controller::Cpu, Controller::CpuAccounting, Controller::Pids]
                            .iter()
                            .any(|one| one.name() == *name)
                    };
                    layout
                        .v1
                        .extend(options.split(',').filter(known).map(|name| (name.to_owned(), mount_point.clone())));
                }
                (Some("cgroup2"), _) if layout.v2.is_none() => {
                    let controllers = fs::read_to_string(mount_point.join("cgroup.controllers"))?;
                    layout.v2 = Some((mount_point, controllers.split_ascii_whitespace().map(str::to_owned).collect()));
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    fn find(&self, controller: Controller) -> Option<(Version, &Path)> {
        let name = controller.name();
        if let Some((_, mount)) = self.v1.iter().find(|(one, _)| one == name) {
            return Some((Version::V1, mount));
        }
        let (mount, controllers) = self.v2.as_ref()?;
        let there = controller == Controller::CpuAccounting || controllers.contains(name);
        there.then_some((Version::V2, mount.as_path()))
    }
}

/// The groups of one gardend's places.
#[derive(Clone, Debug)]
pub struct Groups {
    layout: Layout,
    cgroups: Cgroups,
}

impl Groups {
    /// Those that `cgroups` names, where `layout` has them.
    pub fn new(layout: Layout, cgroups: Cgroups) -> Self {
        Self { layout, cgroups }
    }

    /// What all places together may have of the machine's memory, by whatever limits are above
    /// them; `None` where there is none.
    pub fn memory_of_all(&self) -> Option<u64> {
        let (version, mount) = self.layout.find(Controller::Memory)?;
        let path = self.cgroups.path(&SandboxId::generate());
        let above = Path::new(path.trim_start_matches('/')).ancestors().skip(1);
        above.filter_map(|path| limits::memory_limit(version, &mount.join(path)).ok().flatten()).min()
    }

    fn owner(&self) -> &str {
        self.cgroups.owner().as_str()
    }

    /// A place's.
    pub fn place(&self, id: &SandboxId) -> Place<'_> {
        Place { layout: &self.layout, path: self.cgroups.path(id).trim_start_matches('/').to_owned() }
    }
}

/// The groups of one place, or one group below it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    layout: &'a Layout,
    path: String,
}

/// One group of one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    folder: PathBuf,
}

impl Place<'_> {
    /// A group below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self { layout: self.layout, path: format!("{}/{name}", self.path) }
    }

    /// Its own, without what is above.
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn run(&self) -> Self {
        self.child(RUN)
    }

    /// In the hierarchy of a controller; `None` where this machine has none.
    fn group(&self, controller: Controller) -> Option<Group> {
        let (version, mount) = self.layout.find(controller)?;
        Some(Group { version, folder: mount.join(&self.path) })
    }

    /// As [`Self::group`], where the group is there.
    fn existing(&self, controller: Controller) -> Option<Group> {
        self.group(controller).filter(|group| group.folder.is_dir())
    }

    /// What a process has to join before it becomes what it is to be; nothing where the place has
    /// no limits.
    pub fn to_join(&self) -> Vec<PathBuf> {
        let run = self.run();
        let mut folders: Vec<_> = [Controller::Memory, Controller::Pids]
            .into_iter()
            .filter_map(|controller| run.existing(controller))
            .map(|group| group.folder)
            .collect();
        folders.dedup();
        folders
    }
}

/// Moves a process into groups.
///
/// # Errors
/// The kernel's, with the group's name.
pub fn join(pid: u32, folders: &[PathBuf]) -> io::Result<()> {
    folders.iter().try_for_each(|folder| write(folder, "cgroup.procs", &pid.to_string()))
}

/// Writes one of a group's files.
fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    // Never made: a name that the kernel does not know is an error, also in a recorded tree.
    let written = fs::OpenOptions::new().write(true).truncate(true).open(&path).and_then(|mut file| {
        // In one call: the kernel takes each for a value of its own.
        io::Write::write_all(&mut file, value.as_bytes())
    });
    written.map_err(|error| io::Error::new(error.kind(), format!("writing {value} to {}: {error}", path.display())))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
pub(crate) mod recorded;

#[cfg(test)]
mod tests {
    use super::recorded::{Recorded, V1, V2};
    use super::*;

    #[test]
    fn each_controller_is_found_in_the_version_that_the_machine_has_it_in() {
        let hybrid = Recorded::v1();
        let layout = hybrid.layout();
        assert_eq!(layout.find(Controller::Memory).unwrap().0, Version::V1);
        assert_eq!(layout.find(Controller::Pids).unwrap().1, hybrid.root().join("sys/fs/cgroup/pids"));
        let unified = Recorded::v2();
        for controller in [Controller::Memory, Controller::Cpu, Controller::CpuAccounting, Controller::Pids] {
            let expected = unified.root().join("sys/fs/cgroup");
            assert_eq!(unified.layout().find(controller), Some((Version::V2, expected.as_path())), "{controller:?}");
        }
        assert!(V1.contains("cgroup2") && V2.contains("cgroup2"));
    }

    #[test]
    fn controllers_that_share_a_mount_are_both_found() {
        let table = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";
        let layout = Layout::of(table, Path::new("/")).unwrap();
        let expected = Some((Version::V1, Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!((layout.find(Controller::Cpu), layout.find(Controller::CpuAccounting)), (expected, expected));
        assert_eq!(layout.find(Controller::Memory), None);
    }

    #[test]
    fn a_file_that_the_kernel_does_not_have_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), "memory.max", "1").unwrap_err().to_string();
        assert!(error.contains("memory.max") && !folder.path().join("memory.max").exists(), "{error}");
    }
}
