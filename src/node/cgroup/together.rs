//! What all places of one gardend may have together, on the group above theirs.
//!
//! In a cluster they are outside of any pod, where the scheduler counts nothing of theirs: this is
//! what keeps them from what others on the node were promised. Asked for anew at each start, so
//! that a bound that is no longer wished goes.

use super::{Controller, Groups, Version, write};
use std::fs;
use std::io;
use std::path::Path;

/// A period of the processors' scheduler, in microseconds: what the kernel begins with.
const PERIOD: u64 = 100_000;

/// Bounds; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub processors: Option<u64>,
}

impl Groups {
    /// Sets these bounds, or takes away what there was.
    ///
    /// # Errors
    /// Where the machine does not have the controller of a bound, or refuses: as when more memory
    /// than that is in use and cannot be had back. What was in force stays so.
    pub fn limit_together(&self, bounds: Together) -> io::Result<()> {
        self.bound(Controller::Memory, bounds.memory.is_some(), |version, group| match version {
            Version::V1 => write(group, "memory.limit_in_bytes", &number(bounds.memory, "-1")),
            Version::V2 => write(group, "memory.max", &number(bounds.memory, "max")),
        })?;
        // In microseconds of each period; the kernel takes no less than 1,000.
        let quota = bounds.processors.map(|many| many.saturating_mul(PERIOD / 1_000).max(1_000));
        self.bound(Controller::Cpu, quota.is_some(), |version, group| match version {
            Version::V1 => {
                write(group, "cpu.cfs_period_us", &PERIOD.to_string())?;
                write(group, "cpu.cfs_quota_us", &number(quota, "-1"))
            }
            Version::V2 => write(group, "cpu.max", &format!("{} {PERIOD}", number(quota, "max"))),
        })
    }

    fn bound(
        &self,
        controller: Controller,
        wanted: bool,
        set: impl FnOnce(Version, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let name = controller.name();
        let Some((version, mount)) = self.layout.find(controller) else {
            return if wanted {
                Err(io::Error::other(format!("there is no cgroup controller {name:?}")))
            } else {
                Ok(())
            };
        };
        let parent = mount.join(super::TOP);
        let group = parent.join(self.owner());
        if !wanted && !group.exists() {
            return Ok(());
        }
        for (above, folder) in [(mount, &parent), (&parent, &group)] {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("making the cgroup {}: {error}", folder.display()),
                    ));
                }
                _ => {}
            }
            // A group has a controller's files where the one above hands it down.
            if version == Version::V2 {
                write(above, "cgroup.subtree_control", &format!("+{name}"))?;
            }
        }
        set(version, &group)
    }
}

fn number(bound: Option<u64>, none: &str) -> String {
    bound.map_or_else(|| none.to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cgroup::Layout;
    use crate::node::cgroup::recorded::{V1, V2};
    use crate::node::containerd::Cgroups;

    /// A machine's mounts with the files that the kernel would have made below the group.
    fn machine(table: &str, files: &[&str]) -> (tempfile::TempDir, Groups, std::path::PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::of(crate::node::containerd::OwnerMark::of(root.path(), root.path()).unwrap());
        let group = std::path::PathBuf::from("gardend").join(cgroups.owner().as_str());
        for file in files {
            let file = root.path().join("sys/fs/cgroup").join(file.replace("GROUP", &group.display().to_string()));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, if table == V2 { "cpu memory pids\n" } else { "" }).unwrap();
        }
        let groups = Groups::new(Layout::of(table, root.path()).unwrap(), cgroups);
        let at = root.path().join("sys/fs/cgroup");
        (root, groups, at.join(group))
    }

    #[test]
    fn on_v1_each_bound_is_on_the_group_above_the_places_and_goes_again() {
        let (root, groups, _) = machine(
            V1,
            &[
                "unified/cgroup.controllers",
                "memory/GROUP/memory.limit_in_bytes",
                "cpu/GROUP/cpu.cfs_quota_us",
                "cpu/GROUP/cpu.cfs_period_us",
            ],
        );
        let read = |controller: &str, file: &str| {
            let owner = groups.owner();
            fs::read_to_string(root.path().join(format!("sys/fs/cgroup/{controller}/gardend/{owner}/{file}"))).unwrap()
        };
        groups.limit_together(Together { memory: Some(1 << 30), processors: Some(1_500) }).unwrap();
        assert_eq!(read("memory", "memory.limit_in_bytes"), "1073741824");
        assert_eq!(
            (read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")),
            ("150000".into(), "100000".into())
        );
        groups.limit_together(Together::default()).unwrap();
        assert_eq!(read("memory", "memory.limit_in_bytes"), "-1");
        assert_eq!(read("cpu", "cpu.cfs_quota_us"), "-1");
    }

    #[test]
    fn on_v2_the_controllers_are_handed_down_to_it() {
        let files = [
            "cgroup.controllers",
            "cgroup.subtree_control",
            "gardend/cgroup.subtree_control",
            "GROUP/memory.max",
            "GROUP/cpu.max",
        ];
        let (root, groups, group) = machine(V2, &files);
        groups.limit_together(Together { memory: Some(4096), processors: Some(1) }).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(
            (read(&group.join("memory.max")), read(&group.join("cpu.max"))),
            ("4096".into(), "1000 100000".into())
        );
        assert_eq!(read(&root.path().join("sys/fs/cgroup/gardend/cgroup.subtree_control")), "+cpu");
        groups.limit_together(Together::default()).unwrap();
        assert_eq!(
            (read(&group.join("memory.max")), read(&group.join("cpu.max"))),
            ("max".into(), "max 100000".into())
        );
    }

    #[test]
    fn nothing_is_made_where_nothing_is_wished() {
        let (root, groups, group) = machine(V2, &["cgroup.controllers"]);
        groups.limit_together(Together::default()).unwrap();
        assert!(!group.exists() && !root.path().join("sys/fs/cgroup/gardend").exists());
    }

    #[test]
    fn a_controller_that_is_not_there_is_named() {
        let (_root, groups, _) = machine("", &[]);
        let error = groups.limit_together(Together { memory: Some(1), processors: None }).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
