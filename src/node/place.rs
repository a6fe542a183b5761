//! Where gardend keeps things on the host, and what is known of a place from its folder alone.
//!
//! ```text
//! <run-dir>/places/<sandbox>/   0700; the blank rootfs shows it to its init as /ctl
//!     init.sock                 garden-init listens here
//!     init.pid                  "<pid> <start time>" of the init on the host, written once started
//!     oom-kills                 kills in groups that have gone (cgroup v1), where there were any
//!     etc/                      hosts, hostname: bind-mounted into the container
//! <run-dir>/spool/<process>/    output that nobody has read yet
//! <run-dir>/cni/                network namespaces that plugins are at, and what they write to stderr
//! <run-dir>/hooks/<container>/  what a container's hooks were told
//! <run-dir>/containerd/         socket and state of a managed containerd
//! <state-dir>/ledger.db         the records
//! <state-dir>/blank/            the rootfs that every blank place shares, by version
//! <state-dir>/layers/<container>/  upper and work folder of a container on the default rootfs or
//!                               an image; in processes/<sandbox>/<process>/ those of a process
//! <state-dir>/rootfs/           the default rootfs, copied once
//! <state-dir>/cni/<container>.json  what a container is attached to by plugins
//! <state-dir>/containerd/       root of a managed containerd
//! ```

use gardend_controller::record::{ContainerUid, ProcessUid, SandboxId};
use std::io;
use std::path::{Path, PathBuf};

/// The folders of one gardend.
#[derive(Clone, Debug)]
pub struct Folders {
    state: PathBuf,
    run: PathBuf,
}

impl Folders {
    /// The records' file, in the state folder; the names of those beside it begin with its own.
    pub const LEDGER: &str = "ledger.db";

    /// Both must be absolute.
    pub fn new(state: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), run: run.into() }
    }

    /// What outlives a reboot.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// What does not.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// All places' folders.
    pub fn places(&self) -> PathBuf {
        self.run.join("places")
    }

    /// One place's folder.
    pub fn place(&self, id: &SandboxId) -> PathBuf {
        self.places().join(id.as_str())
    }

    /// The file of kills in a place's groups that have gone.
    pub fn oom_kills(&self, id: &SandboxId) -> PathBuf {
        self.place(id).join("oom-kills")
    }

    /// All spools.
    pub fn spools(&self) -> PathBuf {
        self.run.join("spool")
    }

    /// One process's spool.
    pub fn spool(&self, process: &ProcessUid) -> PathBuf {
        self.spools().join(process.as_str())
    }

    /// What containers' hooks were told, by container.
    pub fn hook_bundles(&self) -> PathBuf {
        self.run.join("hooks")
    }

    /// What containers are attached to by plugins.
    pub fn attachments(&self) -> PathBuf {
        self.state.join("cni")
    }

    /// Containers that are plain processes, by uid.
    pub fn host_containers(&self) -> PathBuf {
        self.state.join("host").join("containers")
    }

    /// All writable layers.
    pub fn layers(&self) -> PathBuf {
        self.state.join("layers")
    }

    /// The writable layers of all processes on images of their own.
    pub fn all_process_layers(&self) -> PathBuf {
        // Beside containers' layers, and no container's name.
        self.layers().join("processes")
    }

    /// Those of one place.
    pub fn process_layers(&self, id: &SandboxId) -> PathBuf {
        self.all_process_layers().join(id.as_str())
    }

    /// That of one process.
    pub fn process_layer(&self, id: &SandboxId, process: &ProcessUid) -> PathBuf {
        self.process_layers(id).join(process.as_str())
    }

    /// One container's writable layer.
    pub fn layer(&self, container: &ContainerUid) -> PathBuf {
        self.layers().join(container.as_str())
    }
}

/// An init on the host, told apart from a later process with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProcess {
    /// In the host's pid namespace.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub start_time: u64,
}

impl InitProcess {
    /// Looks a running process up.
    ///
    /// # Errors
    /// Where /proc shows no such process.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command's name, in parentheses, may itself hold spaces and parentheses.
        let after_name = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
        let start_time = after_name.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
        let start_time = start_time.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
        Ok(Self { pid, start_time })
    }

    /// Reads what [`Self::write`] wrote; `None` where the place was never started.
    ///
    /// # Errors
    /// Where the file is there but cannot be read.
    pub fn read(place: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(place.join("init.pid")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next()) {
            (Some(Ok(pid)), Some(Ok(start_time))) => Ok(u32::try_from(pid).ok().map(|pid| Self { pid, start_time })),
            // Torn by a crash: as if it had not been written; containerd knows the pid too.
            _ => Ok(None),
        }
    }

    /// Notes the init in its place's folder, so that it can be found without containerd.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, place: &Path) -> io::Result<()> {
        let temporary = place.join("init.pid.new");
        std::fs::write(&temporary, format!("{} {}\n", self.pid, self.start_time))?;
        std::fs::rename(temporary, place.join("init.pid"))
    }

    #[cfg(target_os = "linux")]
    /// A descriptor of the process; `None` where it is gone (or its pid is another's by now).
    ///
    /// # Errors
    /// Where the kernel refuses for another reason.
    pub fn open(&self) -> io::Result<Option<std::os::fd::OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after opening: the descriptor holds whatever process the pid named just then.
        match Self::of_pid(self.pid) {
            Ok(seen) if seen == *self => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_from_a_later_one_with_its_pid() {
        let me = InitProcess::of_pid(std::process::id()).unwrap();
        assert!(me.open().unwrap().is_some());
        let other = InitProcess { start_time: me.start_time + 1, ..me };
        assert!(other.open().unwrap().is_none());
    }

    #[test]
    fn what_is_written_is_read_and_what_is_torn_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(InitProcess::read(folder.path()).unwrap(), None);
        let me = InitProcess { pid: 7, start_time: 99 };
        me.write(folder.path()).unwrap();
        assert_eq!(InitProcess::read(folder.path()).unwrap(), Some(me));
        std::fs::write(folder.path().join("init.pid"), "7").unwrap();
        assert_eq!(InitProcess::read(folder.path()).unwrap(), None);
    }
}
