//! The last step: execve(2), in every place where the program may be.

use crate::sys::ExecImage;
use crate::wire::SpawnFailure;
use rustix::fs::{FileType, stat};
use std::ffi::{CStr, CString};

/// How the program was named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// By a path, which is the only candidate.
    ByPath,
    /// By a name that is looked for in PATH.
    ByName,
}

impl Lookup {
    /// As the kernel's own callers tell the two apart.
    pub fn of(program: &[u8]) -> Self {
        if program.contains(&b'/') { Self::ByPath } else { Self::ByName }
    }
}

/// Tries each candidate in turn; comes back with the reason why none became this process. Like
/// execvp(3) it searches on after a program that may not be run, and tells of it if there is no
/// other; unlike that it hands nothing to a shell. Allocates nothing.
pub fn exec(lookup: Lookup, candidates: &[CString], image: &ExecImage) -> SpawnFailure {
    let mut first = None;
    for candidate in candidates {
        let errno = image.exec(candidate).raw_os_error().unwrap_or(libc::EIO);
        let found = Found::at(candidate);
        let exists = found != Found::Nothing;
        if !is_about_the_path(errno) {
            return SpawnFailure::Exec { errno, exists };
        }
        let matters = match found {
            Found::File => true,
            // In a folder of PATH it is passed over, as is a folder that may not be looked into.
            Found::Folder => lookup == Lookup::ByPath,
            Found::Nothing => lookup == Lookup::ByPath && errno != libc::ENOENT,
        };
        if matters && first.is_none() {
            first = Some(SpawnFailure::Exec { errno, exists });
        }
    }
    first.unwrap_or(SpawnFailure::NotFound)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Folder,
    File,
}

impl Found {
    fn at(path: &CStr) -> Self {
        match stat(path) {
            Err(_) => Self::Nothing,
            Ok(seen) if FileType::from_raw_mode(seen.st_mode) == FileType::Directory => Self::Folder,
            Ok(_) => Self::File,
        }
    }
}

/// Whether another place may still do better: the errors after which execvp(3) searches on.
fn is_about_the_path(errno: i32) -> bool {
    let those = [
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EACCES,
        libc::ELOOP,
        libc::ENAMETOOLONG,
        libc::ENODEV,
        libc::ESTALE,
        libc::ETIMEDOUT,
    ];
    those.contains(&errno)
}
