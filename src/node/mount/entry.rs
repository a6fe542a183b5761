//! The way into a place: its init, held by a descriptor, and what its namespaces are.
//!
//! Promises: a place is entered only while its init lives, and only where its mount and UTS
//! namespaces are its own and its user namespace is what its kind asks for; whatever else a pid
//! file says, the host's own namespaces are never taken for a place's.

use super::error::{Result, attempting, failed};
use super::owner::{self, Owner};
use crate::node::ids::IdMap;
use crate::node::place::InitProcess;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::thread::ThreadNameSpaceType as Kinds;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The mount namespace of the calling thread, to come back to.
pub(super) struct Home(OwnedFd);

impl Home {
    pub(super) fn of_this_thread() -> Result<Self> {
        let path = "/proc/thread-self/ns/mnt";
        File::open(path).map(|file| Self(file.into())).map_err(attempting(format!("opening {path}")))
    }

    /// Moves the calling thread there, so that it holds no other any more.
    pub(super) fn enter(&self) -> Result<()> {
        rustix::thread::move_into_thread_name_spaces(self.0.as_fd(), Kinds::MOUNT)
            .map_err(attempting("entering a mount namespace"))
    }
}

/// The mount namespace that clients' paths are paths of.
#[derive(Clone, Debug, Default)]
pub enum HostMounts {
    /// The one that gardend runs in.
    #[default]
    Own,
    /// Another, by its file: `/proc/1/ns/mnt` where gardend runs in a pod of its own.
    Of(PathBuf),
}

impl HostMounts {
    /// Moves the calling thread there.
    pub(super) fn enter(&self) -> Result<()> {
        let Self::Of(path) = self else { return Ok(()) };
        let namespace =
            File::open(path).map_err(attempting(format!("opening the host's mounts, {}", path.display())))?;
        rustix::thread::move_into_thread_name_spaces(namespace.as_fd(), Kinds::MOUNT)
            .map_err(attempting(format!("entering the host's mounts, {}", path.display())))
    }
}

/// A process that has unshared its mounts, and waits to be furnished.
#[derive(Debug)]
pub struct OwnMounts {
    /// On the host.
    pub pid: u32,
    /// Of the same process.
    pub pidfd: OwnedFd,
}

/// A place, or a process with mounts of its own, that can be entered.
pub(super) struct Entry {
    init: OwnedFd,
    owner: Owner,
}

impl Entry {
    /// Looks at the place whose folder this is.
    pub(super) fn open(place: &Path, privileged: bool, map: &IdMap, host: &HostMounts) -> Result<Self> {
        let shown = place.display();
        let process = InitProcess::read(place).map_err(attempting(format!("reading {shown}/init.pid")))?;
        let process = process.ok_or_else(|| failed(format!("place {shown} was never started: it has no init.pid")))?;
        let gone = || failed(format!("the init of place {shown}, pid {}, is gone", process.pid));
        let init = process.open().map_err(attempting(format!("looking for the init of {shown}")))?.ok_or_else(gone)?;

        for name in ["mnt", "uts"] {
            if same_namespace(process.pid, name, &own(name))? {
                return Err(failed(format!("pid {} is no place: its {name} namespace is gardend's", process.pid)));
            }
        }
        if let HostMounts::Of(path) = host
            && same_namespace(process.pid, "mnt", path)?
        {
            return Err(failed(format!("pid {} is no place: its mnt namespace is the host's", process.pid)));
        }
        match (privileged, same_namespace(process.pid, "user", &own("user"))?) {
            (true, true) => {}
            (false, false) => owner::expect_of_process(map, process.pid)?,
            (true, false) => {
                return Err(failed(format!("place {shown} has a user namespace and a privileged one is wanted")));
            }
            (false, true) => {
                return Err(failed(format!("place {shown} has no user namespace and an unprivileged one is wanted")));
            }
        }
        let owner = if privileged { Owner::HOST_ROOT } else { owner::of_root(map) };
        let entry = Self { init, owner };
        // While it lives, its pid was nobody else's above.
        if entry.is_alive()? { Ok(entry) } else { Err(gone()) }
    }

    /// Looks at a process that is in the place, but for its mount namespace, which is its own.
    pub(super) fn of_process(place: &Path, process: &OwnMounts, map: &IdMap, host: &HostMounts) -> Result<Self> {
        let init = InitProcess::read(place).map_err(attempting("reading a place's init.pid"))?;
        let init = init.ok_or_else(|| failed(format!("place {} was never started", place.display())))?;
        let privileged = same_namespace(init.pid, "user", &own("user"))?;
        let around = Self::open(place, privileged, map, host)?;
        let pid = process.pid;
        let of_init = |name: &str| PathBuf::from(format!("/proc/{}/ns/{name}", init.pid));
        if !same_namespace(pid, "user", &of_init("user"))? || !same_namespace(pid, "uts", &of_init("uts"))? {
            return Err(failed(format!("process {pid} is not in place {}", place.display())));
        }
        let others = [own("mnt"), of_init("mnt")].into_iter().chain(match host {
            HostMounts::Of(path) => Some(path.clone()),
            HostMounts::Own => None,
        });
        for other in others {
            if same_namespace(pid, "mnt", &other)? {
                return Err(failed(format!("process {pid} has no mount namespace of its own")));
            }
        }
        let init = process.pidfd.try_clone().map_err(attempting("keeping a pidfd"))?;
        let entry = Self { init, owner: around.owner };
        // While both live, their numbers were nobody else's above.
        if entry.is_alive()? && around.is_alive()? {
            Ok(entry)
        } else {
            Err(failed(format!("process {pid} has ended")))
        }
    }

    /// Who owns what the place's root makes.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether the init has not ended.
    pub(super) fn is_alive(&self) -> Result<bool> {
        let mut polled = [PollFd::new(&self.init, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = rustix::event::poll(&mut polled, Some(&now)).map_err(attempting("asking after a place's init"))?;
        Ok(ended == 0)
    }

    /// Moves the calling thread into the place's mount and UTS namespaces.
    pub(super) fn enter(&self) -> Result<()> {
        match rustix::thread::move_into_thread_name_spaces(
            self.init.as_fd(),
            Kinds::MOUNT | Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME,
        ) {
            Err(Errno::SRCH) => Err(failed("whoever is to be furnished has ended")),
            result => result.map_err(attempting("entering the place's namespaces")),
        }
    }
}

fn own(name: &str) -> PathBuf {
    Path::new("/proc/thread-self/ns").join(name)
}

fn same_namespace(pid: u32, name: &str, other: &Path) -> Result<bool> {
    let identity = |path: &Path| -> Result<(u64, u64)> {
        let what = || format!("looking at {}", path.display());
        rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).map_err(attempting(what()))
    };
    Ok(identity(Path::new(&format!("/proc/{pid}/ns/{name}")))? == identity(other)?)
}
