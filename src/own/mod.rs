//! What is gardend's own where it works in the host's mount namespace: in a pod.
//!
//! ```text
//! main thread       the pod's mounts: what joins the process (pods/exec) finds its program there
//! all other threads the host's mounts (/proc/1/ns/mnt): every path that clients, containerd and
//!                   kubelet name is what it is for them
//! ```
//! So a path is the host's, unless it goes through here: [`file`] for what the operator gave to the
//! pod (configuration, certificates, tokens), [`program`] for what its image brings. Both ask the
//! kernel which mounts this thread and the main thread have, and change nothing where these are
//! the same: outside of a pod there is one kind of path.
//!
//! Leaves to others: which paths are the pod's.

mod sys;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The main thread's root, seen from any thread.
const ROOT: &str = "/proc/self/root";
/// The main thread's mounts.
const MOUNTS: &str = "/proc/self/ns/mnt";
/// Links in a row at most, as the kernel has it.
const LONGEST_CHAIN: usize = 40;

/// Why gardend cannot work among the host's mounts.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The first process is gardend itself.
    #[error(
        "--mount-namespace host: gardend does not see the host's processes; give its pod `hostPID: true`, or leave the \
         option out"
    )]
    NoHostPid,
    /// The kernel refuses.
    #[error("--mount-namespace host: cannot enter {path}: {source}; give gardend's container `privileged: true`")]
    Refused {
        /// Whose.
        path: &'static str,
        /// errno.
        source: io::Error,
    },
}

/// Does this work on a thread, and on those that it starts, which have the host's mounts and
/// cgroups, and System V IPC (what is started there may outlive the pod). The calling one has to be the main thread, and keeps its own.
///
/// # Errors
/// Where the host's cannot be entered; then nothing of it was done.
pub fn work_on_host<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, EnterError> {
    if std::process::id() == 1 {
        return Err(EnterError::NoHostPid);
    }
    let enter = || {
        let refused = |path| move |source| EnterError::Refused { path, source };
        sys::unshare_working_folder().map_err(refused(MOUNTS))?;
        // Mounts last: they decide where the other files are.
        for (path, kind) in [
            ("/proc/1/ns/cgroup", LinkNameSpaceType::ControlGroup),
            ("/proc/1/ns/ipc", LinkNameSpaceType::InterProcessCommunication),
            ("/proc/1/ns/mnt", LinkNameSpaceType::Mount),
        ] {
            let namespace = File::open(path).map_err(refused(path))?;
            let entered = move_into_link_name_space(namespace.as_fd(), Some(kind));
            entered.map_err(|error| refused(path)(error.into()))?;
        }
        Ok(work())
    };
    let done = std::thread::scope(|scope| scope.spawn(enter).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether this thread has other mounts than gardend's own.
///
/// # Errors
/// Where /proc does not tell.
pub fn is_away() -> io::Result<bool> {
    let (own, here) = (rustix::fs::stat(MOUNTS)?, rustix::fs::stat("/proc/thread-self/ns/mnt")?);
    Ok((own.st_dev, own.st_ino) != (here.st_dev, here.st_ino))
}

/// The path by which this thread finds a file of gardend's own. Links on the way lead where they
/// lead in gardend's own root. The file may be another each time: as a rule kubelet makes a new one
/// and changes a link beside it.
///
/// # Errors
/// Where its folder is not there.
pub fn file(path: &Path) -> io::Result<PathBuf> {
    if is_away()? { beneath(Path::new(ROOT), path, LONGEST_CHAIN) } else { Ok(path.to_owned()) }
}

fn beneath(root: &Path, path: &Path, links: usize) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
    };
    let top = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat2(&top, parent, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let at = |file: &dyn AsRawFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // As the kernel shows both; a root in another mount namespace is shown as "/".
    let (shown, base) = (at(&folder)?, at(&top)?);
    let within = shown.strip_prefix(&base).map_err(io::Error::other)?;
    match rustix::fs::readlinkat(&folder, name, Vec::new()) {
        Ok(target) if target.as_bytes().starts_with(b"/") => {
            let links = links.checked_sub(1).ok_or(rustix::io::Errno::LOOP)?;
            beneath(root, Path::new(OsStr::from_bytes(target.as_bytes())), links)
        }
        _ => Ok(root.join(within).join(name)),
    }
}

/// Lets a program of gardend's own be found, and find its files, among gardend's own mounts.
///
/// # Errors
/// Where these cannot be opened.
pub fn program(command: &mut Command) -> io::Result<&mut Command> {
    if is_away()? {
        sys::start_in(command, File::open(MOUNTS)?);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn where_there_is_one_mount_namespace_a_path_is_itself() {
        assert!(!is_away().unwrap());
        assert_eq!(file(Path::new("/no/such/file")).unwrap(), Path::new("/no/such/file"));
    }

    #[test]
    fn links_on_the_way_to_a_file_stay_in_its_own_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("run/secrets/..data_1")).unwrap();
        fs::create_dir(at("var")).unwrap();
        symlink("/run", at("var/run")).unwrap();
        symlink("..data_1", at("run/secrets/..data")).unwrap();
        symlink("..data/token", at("run/secrets/token")).unwrap();
        symlink("/var/run/secrets/token", at("elsewhere")).unwrap();
        fs::write(at("run/secrets/..data_1/token"), "one").unwrap();
        let found = |path: &str| beneath(root.path(), Path::new(path), LONGEST_CHAIN);

        let token = found("/var/run/secrets/token").unwrap();
        assert_eq!(token, at("run/secrets/token"));
        assert_eq!(fs::read_to_string(&token).unwrap(), "one");
        assert_eq!(found("/elsewhere").unwrap(), token);
        assert_eq!(found("/../../var/run/secrets/token").unwrap(), token);
        // One that is put in its place later is found by the same path.
        fs::create_dir(at("run/secrets/..data_2")).unwrap();
        fs::write(at("run/secrets/..data_2/token"), "two").unwrap();
        symlink("..data_2", at("run/secrets/new")).unwrap();
        fs::rename(at("run/secrets/new"), at("run/secrets/..data")).unwrap();
        assert_eq!(fs::read_to_string(&token).unwrap(), "two");

        symlink("/loop", at("loop")).unwrap();
        assert!(found("/loop").is_err());
        assert!(found("/nowhere/token").is_err());
        assert!(found("/").is_err());
    }
}
