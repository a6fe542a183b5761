//! A place's cgroup, in every hierarchy that the machine has (all of v1's, and v2's).
//!
//! The runtime makes it, as `/gardend/<owner>/<place>`; what runs in the place may make more below
//! it. Here they are found, thawed, read and removed. Plain, short calls on cgroupfs: nothing
//! here waits for anything.

use super::labels::OwnerMark;
use gardend_controller::record::SandboxId;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The parent of all owners' cgroups.
pub(crate) const TOP: &str = "gardend";
/// Deeper trees of a place's own making are cut off here: a recursion needs an end.
const MAX_DEPTH: usize = 64;

/// The cgroups of one gardend's places.
#[derive(Clone, Debug)]
pub struct Cgroups {
    owner: OwnerMark,
}

impl Cgroups {
    /// Those of `owner`.
    pub fn of(owner: OwnerMark) -> Self {
        Self { owner }
    }

    /// Whose they are.
    pub fn owner(&self) -> &OwnerMark {
        &self.owner
    }

    /// The place's cgroup as the OCI spec names it: the same in every hierarchy.
    pub fn path(&self, id: &SandboxId) -> String {
        format!("/{TOP}/{}/{id}", self.owner)
    }

    /// Places of this owner that have a cgroup, by their names.
    ///
    /// # Errors
    /// Where the mount table or a hierarchy cannot be read.
    pub fn list(&self) -> io::Result<BTreeSet<SandboxId>> {
        let mut found = BTreeSet::new();
        for hierarchy in hierarchies()? {
            let names = folders(&hierarchy.join(TOP).join(self.owner.as_str()))?;
            found.extend(names.iter().filter_map(|path| SandboxId::parse(path.file_name()?.to_str()?)));
        }
        Ok(found)
    }

    /// All folders of ours, in every hierarchy.
    ///
    /// # Errors
    /// Where the mount table or a hierarchy cannot be read.
    pub(crate) fn folders(&self) -> io::Result<OwnFolders> {
        let mut own = OwnFolders::default();
        for hierarchy in hierarchies()? {
            let parent = hierarchy.join(TOP).join(self.owner.as_str());
            for folder in folders(&parent)? {
                let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                own.places.push((folder, name));
            }
            own.parents.extend(parent.is_dir().then_some(parent));
        }
        Ok(own)
    }

    /// Moves a process into the place's cgroup, in every hierarchy where it is not to join one
    /// below that anyway (v2 lets no process into a group with limited groups below).
    ///
    /// # Errors
    /// Where the place has no cgroup, or a hierarchy refuses.
    pub fn enter(&self, id: &SandboxId, pid: u32, to_join: &[PathBuf]) -> io::Result<()> {
        let path = self.path(id);
        let mut entered = false;
        for hierarchy in hierarchies()? {
            let own = hierarchy.join(path.trim_start_matches('/'));
            if to_join.iter().any(|folder| folder.starts_with(&own)) {
                entered = true;
                continue;
            }
            let procs = own.join("cgroup.procs");
            match fs::write(&procs, pid.to_string()) {
                Ok(()) => entered = true,
                // Not every hierarchy is one that the runtime uses.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", procs.display()))),
            }
        }
        if entered { Ok(()) } else { Err(io::Error::other(format!("there is no cgroup {path}"))) }
    }

    /// The place's cgroups and those below them, parents first.
    ///
    /// # Errors
    /// Where the mount table or a hierarchy cannot be read.
    pub fn tree(&self, id: &SandboxId) -> io::Result<PlaceCgroups> {
        let mut folders = Vec::new();
        for hierarchy in hierarchies()? {
            collect(&hierarchy.join(TOP).join(self.owner.as_str()).join(id.as_str()), 0, &mut folders)?;
        }
        Ok(PlaceCgroups { path: self.path(id), folders })
    }
}

/// Folders of one gardend's in the hierarchies.
#[derive(Debug, Default)]
pub(crate) struct OwnFolders {
    /// Above all places.
    pub parents: Vec<PathBuf>,
    /// Below those, with their names: places'.
    pub places: Vec<(PathBuf, String)>,
}

/// The cgroups of one place as they were found.
#[derive(Debug)]
pub struct PlaceCgroups {
    path: String,
    folders: Vec<PathBuf>,
}

impl PlaceCgroups {
    /// Thaws all of them, parents first: what is frozen does not die.
    pub fn thaw(&self) {
        for folder in &self.folders {
            // Each file is there in one kind of hierarchy only, and a cgroup may be gone by now.
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
            let _ = fs::write(folder.join("cgroup.freeze"), "0");
        }
    }

    /// Processes in any of them, by their pids on the host.
    ///
    /// # Errors
    /// Where one can be seen but not be read.
    pub fn processes(&self) -> io::Result<BTreeSet<u32>> {
        let mut pids = BTreeSet::new();
        for folder in &self.folders {
            match fs::read_to_string(folder.join("cgroup.procs")) {
                // 0 is a process that this pid namespace does not see.
                Ok(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &u32| pid != 0))
                }
                Err(error) if is_gone(&error) => {}
                // A threaded cgroup lists its processes in its parent.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Whether the process is in one of them just now.
    pub fn hold(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| is_below(path, &self.path))
    }

    /// Removes them, children first.
    ///
    /// # Errors
    /// `EBUSY` where something still runs there.
    pub fn remove(&self) -> io::Result<()> {
        for folder in self.folders.iter().rev() {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display()))),
            }
        }
        Ok(())
    }
}

fn is_below(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Makes a cgroup in every hierarchy, and opens what a process that is to join it writes to.
///
/// # Errors
/// Where a hierarchy refuses, with the file.
pub(super) fn open_to_join(group: &Path) -> io::Result<Vec<fs::File>> {
    let mut files = Vec::new();
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.clone();
        for name in group {
            let parent = folder.clone();
            folder.push(name);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(naming(&folder)(error)),
            }
            inherit_processors(&parent, &folder)?;
        }
        let procs = folder.join("cgroup.procs");
        files.push(fs::OpenOptions::new().write(true).open(&procs).map_err(naming(&procs))?);
    }
    Ok(files)
}

/// Removes such a group, and those above it where nobody else is in them.
///
/// # Errors
/// Where something runs there, with the folder.
pub(super) fn remove_joined(group: &Path) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(group);
        match fs::remove_dir(&folder) {
            Err(error) if !is_gone(&error) => return Err(naming(&folder)(error)),
            _ => {}
        }
        for above in group.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            // Somebody else's is there, or it has gone with what was.
            let _ = fs::remove_dir(hierarchy.join(above));
        }
    }
    Ok(())
}

/// On v1 a new group may run nowhere, until it is told.
fn inherit_processors(parent: &Path, folder: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (above, own) = (parent.join(name), folder.join(name));
        let unset = fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty());
        // On v2 what is unset is inherited.
        if unset && !folder.join("cgroup.controllers").exists() {
            fs::write(&own, fs::read(&above).map_err(naming(&above))?).map_err(naming(&own))?;
        }
    }
    Ok(())
}

fn naming(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Where cgroup hierarchies are mounted, each once.
///
/// # Errors
/// Where the mount table cannot be read.
pub fn hierarchies() -> io::Result<BTreeSet<PathBuf>> {
    Ok(in_mount_table(&fs::read_to_string("/proc/thread-self/mountinfo")?))
}

fn in_mount_table(table: &str) -> BTreeSet<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut fields = before.split(' ').skip(2);
        let (Some(device), Some(_root), Some(mount_point)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let kind = after.split(' ').next().unwrap_or_default();
        // A hierarchy that is mounted in several places has one device number.
        if matches!(kind, "cgroup" | "cgroup2") && seen.insert(device.to_owned()) {
            found.insert(PathBuf::from(mount_point));
        }
    }
    found
}

fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(of) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => found.push(entry.path()),
            Ok(_) => {}
            Err(error) if is_gone(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn collect(folder: &Path, depth: usize, into: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    into.push(folder.to_owned());
    if depth < MAX_DEPTH {
        for child in folders(folder)? {
            collect(&child, depth + 1, into)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hierarchy_is_found_once() {
        let table = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 30 0:27 / /mnt/again rw - cgroup cgroup rw,cpu
33 30 0:28 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw
";
        let expected: BTreeSet<_> = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from).into();
        assert_eq!(in_mount_table(table), expected);
    }

    #[test]
    fn a_cgroup_beside_one_with_a_longer_name_is_not_below_it() {
        assert!(is_below("/gardend/o/a", "/gardend/o/a"));
        assert!(is_below("/gardend/o/a/child", "/gardend/o/a"));
        assert!(!is_below("/gardend/o/ab", "/gardend/o/a"));
    }
}
