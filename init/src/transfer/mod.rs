//! Moving files between a container and a tar stream: what a child of init does that never becomes
//! another program.
//!
//! It runs in the container's own root, as the user who was asked for, with that user's rights: no
//! name and no link can lead out of the container, and none of gardend's rights are at stake. As
//! for processes, what touches the container's files happens in the child and not in init.
//! It holds two descriptors: the stream, and the socket over which it reports. Where gardend ends,
//! so does the stream, and with that the child.
//!
//! Files are treated as GNU tar does: what is in the way is removed unless it is a folder with
//! something in it, links on the way are followed, missing folders are made. Unlike GNU tar it
//! stops at the first failure.

mod extract;
mod input;
mod output;
mod pack;

use crate::child::{Inheritance, account, ensure_folder};
use crate::sys;
use crate::tar::TarError;
use crate::wire::{self, Direction, SpawnFailure, TransferFailure, TransferReport, TransferSpec};
use crate::{accounts::Account, packet};
use rustix::fs::{Mode, stat};
use rustix::io::Errno;
use rustix::process::{chdir, umask};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// No path that the kernel takes is longer; what is reported back is cut to it.
const PATH_MAX: usize = 4096;

/// What ended a transfer early.
pub type Result<T> = std::result::Result<T, TransferFailure>;

/// Does what `spec` says and reports over `report`.
pub fn run(spec: &TransferSpec, stream: OwnedFd, report: BorrowedFd<'_>, inheritance: &Inheritance) {
    sys::close_all_but(&[stream.as_fd(), report]);
    // Told from pid 1 in a list of processes. Signals stay blocked, so that what is sent to all of
    // the container's processes leaves it alone, and a pipe without a reader is an error.
    let _ = rustix::thread::set_name(c"garden-files");
    let ended = attempt(spec, stream, report, inheritance);
    tell(report, &ended.map_or_else(|failure| TransferReport::Failed(cut(failure)), |()| TransferReport::Done));
}

/// Says over `report` that nothing was begun.
pub fn refuse(report: BorrowedFd<'_>, failure: TransferFailure) {
    tell(report, &TransferReport::Failed(failure));
}

fn tell(report: BorrowedFd<'_>, message: &TransferReport) {
    if let Ok(bytes) = wire::encode(message) {
        // Nobody is left to hear of a failure to report.
        let _ = packet::send(report, &bytes, &[]);
    }
}

fn attempt(spec: &TransferSpec, stream: OwnedFd, report: BorrowedFd<'_>, inheritance: &Inheritance) -> Result<()> {
    chdir("/").map_err(|error| system("chdir to /", error))?;
    let account = account(&spec.user).map_err(from_spawn)?;
    inheritance.end_oom_protection();
    let (folder, member) = match spec.direction {
        Direction::In => (absolute(&spec.path, &account), Vec::new()),
        Direction::Out => divided(&spec.path, &account),
    };
    let folder =
        CString::new(folder).map_err(|_| TransferFailure::Malformed { reason: "a NUL byte in the path".into() })?;
    if spec.direction == Direction::In {
        ensure_folder(&folder, &account, &inheritance.privileges)
            .map_err(|error| file("make the folder", folder.to_bytes(), error))?;
    } else if let Err(error) = stat(&folder) {
        return Err(file("open", &spec.path, error));
    }
    // The folder that was named is entered with root's rights, as guardian does, since it may have
    // been made just now where the user cannot pass; everything in it is reached with the user's.
    chdir(folder.as_c_str()).map_err(|error| file("enter", folder.to_bytes(), error))?;
    inheritance.privileges.assume(&account, spec.capabilities).map_err(from_spawn)?;
    umask(Mode::empty());
    match spec.direction {
        Direction::In => {
            tell(report, &TransferReport::Ready);
            extract::run(stream, account.uid == 0)
        }
        Direction::Out => pack::run(stream, &member, &spec.path, || tell(report, &TransferReport::Ready)),
    }
}

fn absolute(path: &[u8], account: &Account) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [&account.home[..], b"/", path].concat() }
}

/// The folder that holds what is asked for, and its name there: `.` for a folder's own contents.
fn divided(path: &[u8], account: &Account) -> (Vec<u8>, Vec<u8>) {
    let whole = absolute(path, account);
    let (folder, name) = match whole.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&whole[..=slash], &whole[slash + 1..]),
        None => (&b"/"[..], &whole[..]),
    };
    match name {
        b"" | b"." | b".." => (whole, b".".to_vec()),
        name => (folder.to_vec(), name.to_vec()),
    }
}

fn from_spawn(failure: SpawnFailure) -> TransferFailure {
    match failure {
        SpawnFailure::UnknownUser => TransferFailure::UnknownUser,
        SpawnFailure::UnknownGroup { group } => TransferFailure::UnknownGroup { group },
        SpawnFailure::System { call, errno } => TransferFailure::System { call, errno },
        other => TransferFailure::Malformed { reason: format!("{other:?}") },
    }
}

fn file(action: &str, path: &[u8], error: Errno) -> TransferFailure {
    TransferFailure::File { action: action.to_owned(), path: path.to_vec(), errno: error.raw_os_error() }
}

fn system(call: &str, error: Errno) -> TransferFailure {
    TransferFailure::System { call: call.to_owned(), errno: error.raw_os_error() }
}

impl From<TarError> for TransferFailure {
    fn from(error: TarError) -> Self {
        Self::Stream { reason: error.to_string() }
    }
}

/// What echoes the container or the stream is cut, so that the report fits into a packet.
fn cut(failure: TransferFailure) -> TransferFailure {
    match failure {
        TransferFailure::UnknownGroup { group } => {
            TransferFailure::UnknownGroup { group: group.chars().take(PATH_MAX).collect() }
        }
        TransferFailure::File { action, mut path, errno } => {
            path.truncate(PATH_MAX);
            TransferFailure::File { action, path, errno }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alice() -> Account {
        Account { uid: 1000, gid: 100, groups: vec![], home: b"/home/alice".to_vec(), name: b"alice".to_vec() }
    }

    fn parts(path: &str) -> (String, String) {
        let (folder, name) = divided(path.as_bytes(), &alice());
        (String::from_utf8(folder).unwrap(), String::from_utf8(name).unwrap())
    }

    #[test]
    fn a_relative_path_begins_at_home() {
        assert_eq!(absolute(b"a/b", &alice()), b"/home/alice/a/b");
        assert_eq!(absolute(b"/a/b", &alice()), b"/a/b");
        assert_eq!(absolute(b"", &alice()), b"/home/alice/");
    }

    #[test]
    fn what_is_packed_is_a_member_of_its_folder_or_a_folder_s_contents() {
        let expected = [
            ("/a/b", ("/a/", "b")),
            ("/a/b/", ("/a/b/", ".")),
            ("/a", ("/", "a")),
            ("/", ("/", ".")),
            ("", ("/home/alice/", ".")),
            ("x", ("/home/alice/", "x")),
            ("x/", ("/home/alice/x/", ".")),
            ("/a/.", ("/a/.", ".")),
            ("/a/..", ("/a/..", ".")),
            ("/a/...", ("/a/", "...")),
        ];
        for (path, (folder, name)) in expected {
            assert_eq!(parts(path), (folder.to_owned(), name.to_owned()), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_path_is_a_folder_and_one_name_in_it(path in any::<Vec<u8>>()) {
            let (folder, name) = divided(&path, &alice());
            prop_assert!(folder.starts_with(b"/") && !name.is_empty() && !name.contains(&b'/'));
            prop_assert!(name != b"..");
        }
    }
}
