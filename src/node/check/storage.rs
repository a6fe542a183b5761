//! The folders: can be written, can be reached by the root of unprivileged places, have room.

use super::Line;
use crate::node::place::Folders;
use crate::node::quota::{self, Support};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Below this it is worth knowing.
const LITTLE: u64 = 1 << 30;

pub(super) fn lines(folders: &Folders) -> Vec<Line> {
    let mut lines = writable_lines(folders);
    lines.extend([reachable(folders.state()), disk_limits(folders.state())]);
    lines
}

/// What any backend needs.
pub(super) fn writable_lines(folders: &Folders) -> Vec<Line> {
    vec![
        writable("state folder", folders.state(), "--state-dir"),
        writable("run folder", folders.run(), "--run-dir"),
        room("state folder's disk", folders.state()),
        room("run folder's disk", folders.run()),
    ]
}

/// The folder itself, or the deepest one on the way to it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

fn writable(name: &str, path: &Path, option: &str) -> Line {
    let there = existing(path);
    let remedy = || format!("make {} a folder on a writable file system, or choose another {option}", there.display());
    if !there.is_dir() {
        return Line::fail(name, format!("{} is not a folder", there.display()), remedy());
    }
    // A file without a name: it is gone when it is closed, whatever happens to us.
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::open(there, flags, rustix::fs::Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let found =
                if there == path { path.display().to_string() } else { format!("{}, to be made", path.display()) };
            Line::ok(name, found)
        }
        Err(error) => Line::fail(name, format!("{} cannot be written: {error}", there.display()), remedy()),
    }
}

/// Root of an unprivileged place is nobody on the host, and its root file system is mounted from
/// below the state folder in its name.
fn reachable(state: &Path) -> Line {
    let name = "reachable state folder";
    match first_closed(state) {
        Ok(None) => Line::ok(name, "others may pass through every folder on the way"),
        Ok(Some(closed)) => {
            let found = format!(
                "{} lets nobody but its owner through, so unprivileged containers cannot start",
                closed.display()
            );
            let remedy = format!("run `chmod o+x {}`, or choose another --state-dir", closed.display());
            Line::fail(name, found, remedy)
        }
        Err(error) => Line::warn(name, format!("cannot tell: {error}"), "unprivileged containers may not start"),
    }
}

/// The first folder on the way to one of ours, itself not included (that one we open ourselves),
/// that others may not pass through.
pub(crate) fn first_closed(path: &Path) -> io::Result<Option<&Path>> {
    for ancestor in path.ancestors().skip(1) {
        match fs::metadata(ancestor) {
            Ok(metadata) if metadata.mode() & 0o001 == 0 => return Ok(Some(ancestor)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn room(name: &str, path: &Path) -> Line {
    let there = existing(path);
    match rustix::fs::statvfs(there) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            // File systems without a fixed number of inodes tell 0 of 0.
            let no_inodes = space.f_files > 0 && space.f_favail == 0;
            judge(name, there, free, no_inodes)
        }
        Err(error) => Line::warn(name, format!("cannot tell: {error}"), "look at it with df"),
    }
}

/// Most nodes live without: containers that ask for a limit are refused there.
fn disk_limits(state: &Path) -> Line {
    let (name, there) = ("disk limits", existing(state));
    match quota::support(there) {
        Ok(Support::Enforced) => Line::ok(name, format!("project quotas are in force at {}", there.display())),
        Ok(Support::Counted | Support::None) => {
            let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
            Line::ok(name, format!("refused where asked for: {}", quota::explain(there, &table)))
        }
        Err(error) => Line::warn(name, format!("cannot tell: {error}"), "limits of the disk may be refused"),
    }
}

fn judge(name: &str, path: &Path, free: u64, no_inodes: bool) -> Line {
    let found = format!("{} MiB free at {}", free >> 20, path.display());
    let remedy = format!("free some space there ({} MiB at least), or choose another folder", LITTLE >> 20);
    // Warnings, however little there is: what runs is to be served also where nothing new can be made.
    match free {
        _ if no_inodes => Line::warn(name, format!("no inodes free at {}", path.display()), "remove files there"),
        0..LITTLE => Line::warn(name, found, remedy),
        _ => Line::ok(name, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::check::Verdict;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_is_still_to_be_made_is_judged_by_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let line = writable("state folder", &folder.path().join("a/b"), "--state-dir");
        assert!(line.verdict == Verdict::Ok && line.found.ends_with("to be made"), "{line:?}");
        fs::write(folder.path().join("file"), "").unwrap();
        let line = writable("state folder", &folder.path().join("file"), "--state-dir");
        assert!(line.verdict == Verdict::Fail && line.remedy.unwrap().contains("--state-dir"));
    }

    #[test]
    fn a_closed_folder_on_the_way_is_named_with_the_command_that_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let line = reachable(&folder.path().join("state"));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.remedy.unwrap().contains(&format!("chmod o+x {}", folder.path().display())));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(reachable(&folder.path().join("state")).verdict, Verdict::Ok);
    }

    #[test]
    fn little_room_is_a_warning_and_no_failure() {
        let verdict = |free, no_inodes| judge("disk", Path::new("/"), free, no_inodes).verdict;
        assert_eq!(verdict(1 << 40, false), Verdict::Ok);
        assert_eq!(verdict(500 << 20, false), Verdict::Warn);
        assert_eq!(verdict(1 << 20, false), Verdict::Warn);
        assert_eq!(verdict(1 << 40, true), Verdict::Warn);
    }
}
