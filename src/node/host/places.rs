//! Places as ordinary processes: the port [`Sandboxes`] without containerd.
//!
//! A place is a garden-init with a folder below `<run-dir>/places`, in a session of its own, so that
//! it outlives gardend and the terminal that gardend was started on. It is told apart by the note in
//! its folder and by the name that it has among the machine's processes.

use super::{blocking, failed, kill};
use crate::node::blank::Blank;
use crate::node::containerd::listening::{self, Expected};
use crate::node::place::{Folders, InitProcess};
use async_trait::async_trait;
use garden_init::wire::SOCKET_NAME;
use gardend_controller::ports::{NodeError, NodeErrorKind, SandboxSeen, Sandboxes};
use gardend_controller::record::{ContainerUid, Handle, SandboxId, SandboxKind};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// From the exec of an init until it listens: under a millisecond, unless the machine is busy.
const INIT_LISTENS: Duration = Duration::from_secs(10);
/// In a place's folder, for people: whose it is.
const HANDLE_FILE: &str = "handle";
/// Also there: what its init said when it could not start.
const LOG_FILE: &str = "init.log";

/// See the module.
#[derive(Clone, Debug)]
pub struct HostPlaces {
    folders: Folders,
    program: PathBuf,
}

impl HostPlaces {
    /// Makes the folders of places, and writes garden-init down.
    ///
    /// # Errors
    /// Where a folder cannot be written.
    pub fn open(folders: Folders) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folders.places())?;
        let blank = Blank::install(folders.state())?;
        // Who runs it keeps it, whatever becomes of its name.
        blank.prune(&BTreeSet::new())?;
        Ok(Self { folders, program: blank.init() })
    }

    fn start(&self, id: &SandboxId) -> io::Result<Child> {
        let folder = self.folders.place(id);
        let log = fs::File::create(folder.join(LOG_FILE))?;
        let mut command = Command::new(&self.program);
        // By the folder that it begins in: the path as a whole may be longer than a socket's name.
        command.arg0(kill::name(id)).args(["--on-host", "."]).current_dir(&folder);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn()
    }

    async fn make(&self, id: &SandboxId) -> Result<(), NodeError> {
        let folder = self.folders.place(id);
        let cannot = |error: io::Error| failed(format!("cannot start garden-init of place {id}: {error}"));
        let mut child = self.start(id).map_err(cannot)?;
        let pid = child.id().ok_or_else(|| failed(format!("the init of place {id} ended at once")))?;
        // It is told apart by its start time, and it cannot be reaped before this task waits for it.
        let init = InitProcess::of_pid(pid).and_then(|init| init.write(&folder).map(|()| init));
        let pidfd = init.and_then(|init| init.open()).map_err(cannot)?;
        let named = id.clone();
        tokio::spawn(async move {
            let ended = child.wait().await;
            tracing::debug!(sandbox = %named, ?ended, "an init has ended");
        });
        let pidfd = pidfd.ok_or_else(|| failed(format!("the init of place {id} ended before it was noted down")))?;
        let socket = Expected { folder: &folder, name: SOCKET_NAME, kind: rustix::net::SocketType::SEQPACKET };
        listening::wait(socket, &pidfd, INIT_LISTENS).await.map_err(|error| {
            let said = fs::read_to_string(folder.join(LOG_FILE)).unwrap_or_default();
            failed(format!("garden-init of place {id} was started but {error}: {}", said.trim()))
        })
    }
}

#[async_trait]
impl Sandboxes for HostPlaces {
    async fn list(&self) -> Result<Vec<SandboxSeen>, NodeError> {
        let places = self.folders.places();
        blocking("looking for places failed".into(), move || {
            let ids =
                fs::read_dir(&places)?.flatten().filter_map(|entry| SandboxId::parse(entry.file_name().to_str()?));
            ids.map(|id| kill::runs(&places.join(id.as_str())).map(|running| SandboxSeen { id, running })).collect()
        })
        .await
    }

    /// Both kinds are the same here.
    async fn ensure(&self, id: &SandboxId, _kind: SandboxKind) -> Result<(), NodeError> {
        let folder = self.folders.place(id);
        let begun = blocking(format!("making the folder of place {id} failed"), move || begin(&folder));
        match begun.await? {
            Begun::Ready => Ok(()),
            Begun::Fresh => self.make(id).await,
            Begun::Half => Err(failed(format!("place {id} is half made; remove it and take another"))),
        }
    }

    async fn is_current(&self, id: &SandboxId, _kind: SandboxKind) -> bool {
        kill::runs(&self.folders.place(id)).unwrap_or(false)
    }

    async fn label(&self, id: &SandboxId, _container: &ContainerUid, handle: &Handle) -> Result<(), NodeError> {
        let (file, handle) = (self.folders.place(id).join(HANDLE_FILE), handle.to_string());
        blocking(format!("writing down whose place {id} is failed"), move || fs::write(file, handle)).await
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), NodeError> {
        kill::kill(&self.folders.place(id), id).await.map_err(|error| {
            let kind = match error {
                kill::KillError::Survivors(_) => NodeErrorKind::Stuck,
                kill::KillError::System(_) => NodeErrorKind::Failed,
            };
            NodeError::new(kind, format!("cannot kill place {id}: {error}"))
        })
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), NodeError> {
        self.kill(id).await?;
        let folder = self.folders.place(id);
        blocking(format!("removing the folder of place {id} failed"), move || match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }
}

/// How far a place had got when it was asked for.
enum Begun {
    /// It runs, and its init listens.
    Ready,
    /// It has a folder now, and nothing else.
    Fresh,
    /// Neither.
    Half,
}

fn begin(folder: &Path) -> io::Result<Begun> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => Ok(Begun::Fresh),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_ready = kill::runs(folder)? && folder.join(SOCKET_NAME).exists();
            Ok(if is_ready { Begun::Ready } else { Begun::Half })
        }
        Err(error) => Err(error),
    }
}
