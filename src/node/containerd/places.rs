//! The life of a place: made, named, killed, removed, found again.
//!
//! ```text
//! ensure: folder, join a group, container, task (held), init.pid, start, init listens
//! kill:   SIGKILL by init.pid and by cgroup; no containerd
//! remove: kill, leave the group, task, container, bundle, shim (the group's last place), runtime's
//!         state, cgroups, folder (last: while anything is left, the folder tells)
//! ```

use super::groups::{Departure, GroupId};
use super::kill::KillError;
use super::listening::Expected;
use super::shims::{self, End, Shim};
use super::spec::{self, Blank};
use super::{
    CallError, CallErrorKind, Containerd, NAMESPACE, ceiling, containers, failed, kill, labels, listening, remains,
};
use crate::node::place::InitProcess;
use async_trait::async_trait;
use garden_init::wire::SOCKET_NAME;
use gardend_controller::ports::{NodeError, NodeErrorKind, SandboxSeen, Sandboxes};
use gardend_controller::record::{ContainerUid, Handle, SandboxId, SandboxKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long a create or a delete waits for others of its group: one of their creates.
const GROUP_WAIT: Duration = Duration::from_secs(30);
/// From the exec of an init until it listens: under a millisecond, unless the machine is busy.
const INIT_LISTENS: Duration = Duration::from_secs(10);
/// How long a shim may take to end after its last place was deleted.
const SHIM_ENDS: Duration = Duration::from_secs(3);
/// How long a cgroup that is busy is left alone.
const BUSY_AGAIN: Duration = Duration::from_millis(10);
/// In a place's folder, beside what [`crate::node::place`] tells of: its group.
pub(super) const GROUP_FILE: &str = "group";
/// Also there: the mark of the settings that it was made with.
const SETTINGS_FILE: &str = "settings";

#[async_trait]
impl Sandboxes for Containerd {
    /// Without containerd there is no answer (`Unavailable`): half the truth would let the sweeper
    /// take what it does not see for gone.
    async fn list(&self) -> Result<Vec<SandboxSeen>, NodeError> {
        let recorded = self.connection.list_containers(labels::OWNER, self.owner.as_str()).await?;
        self.adopt(&recorded).await?;
        let mut ids: BTreeSet<_> = recorded.iter().filter_map(|seen| SandboxId::parse(&seen.id)).collect();
        let (folders, cgroups) = (self.folders.clone(), self.cgroups.clone());
        blocking("looking for places", move || {
            ids.extend(remains::list(&folders, &cgroups)?);
            ids.into_iter()
                .map(|id| kill::runs(&folders.place(&id)).map(|running| SandboxSeen { id, running }))
                .collect()
        })
        .await
    }

    async fn ensure(&self, id: &SandboxId, kind: SandboxKind) -> Result<(), NodeError> {
        match self.begin(id, kind).await? {
            Begun::Ready => Ok(()),
            Begun::Fresh => self.make(id, kind).await,
        }
    }

    /// One that has no mark is of a gardend that knew no settings.
    async fn is_current(&self, id: &SandboxId, kind: SandboxKind) -> bool {
        let (file, mark) = (self.folders.place(id).join(SETTINGS_FILE), self.options.settings.mark(kind));
        let read = blocking("reading a place's settings", move || fs::read_to_string(file)).await;
        read.is_ok_and(|made_with| made_with == mark)
    }

    async fn label(&self, id: &SandboxId, container: &ContainerUid, handle: &Handle) -> Result<(), NodeError> {
        Ok(self.connection.label_container(id.as_str(), labels::furnished(container, handle)).await?)
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), NodeError> {
        kill::kill(&self.folders.place(id), &self.cgroups, id).await.map_err(|error| {
            let kind = match error {
                KillError::Survivors(_) => NodeErrorKind::Stuck,
                KillError::System { .. } => NodeErrorKind::Failed,
            };
            NodeError::new(kind, format!("cannot kill place {id}: {error}"))
        })
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), NodeError> {
        self.adopted().await?;
        self.kill(id).await?;
        self.groups
            .leave(id, GROUP_WAIT)
            .await
            .map_err(|busy| NodeError::new(NodeErrorKind::Unavailable, format!("cannot remove place {id}: {busy}")))?;
        self.delete_task(id).await?;
        absent(self.connection.delete_container(id.as_str()).await)?;
        let (socket, place) = (self.connection.socket().to_owned(), id.clone());
        blocking("removing a place's bundle", move || remains::remove_bundle(&socket, &place)).await?;
        if let Departure::Last(group) = self.groups.depart(id) {
            self.end_shim(&group, SHIM_ENDS).await?;
            self.groups.forget(id);
        }
        self.remove_cgroups(id).await?;
        let (folders, place) = (self.folders.clone(), id.clone());
        blocking("removing what is left of a place", move || remains::remove(&folders, &place)).await
    }
}

/// How far a place had got when it was asked for.
enum Begun {
    /// It runs, and its init listens.
    Ready,
    /// It has a folder now, and nothing else.
    Fresh,
}

impl Containerd {
    /// Kills what is in the place's cgroups and removes them, again while they are busy: where a
    /// create was cut off, its process may come after a kill, and the kernel may count a process
    /// that has ended for a moment more.
    async fn remove_cgroups(&self, id: &SandboxId) -> Result<(), NodeError> {
        let deadline = Instant::now() + kill::DEADLINE;
        loop {
            self.kill(id).await?;
            let (cgroups, place) = (self.cgroups.clone(), id.clone());
            let removed = blocking("removing a place's cgroups", move || match cgroups.tree(&place)?.remove() {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(Err(error)),
                other => other.map(Ok),
            });
            match removed.await? {
                Ok(()) => return Ok(()),
                Err(busy) if Instant::now() >= deadline => {
                    let text = format!("cannot remove place {id}: its cgroup stays busy: {busy}");
                    return Err(NodeError::new(NodeErrorKind::Stuck, text));
                }
                Err(_) => tokio::time::sleep(BUSY_AGAIN).await,
            }
        }
    }

    async fn begin(&self, id: &SandboxId, kind: SandboxKind) -> Result<Begun, NodeError> {
        let (folder, place) = (self.folders.place(id), id.clone());
        let half_made = move || failed(format!("place {place} is half made; remove it and take another"));
        let owner = (!self.options.settings.rights(kind).is_full()).then(|| self.options.id_map.root());
        let mark = self.options.settings.mark(kind);
        let begun = blocking("making a place's folder", move || match make_folder(&folder, owner, &mark) {
            Ok(()) => Ok(Some(Begun::Fresh)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let ready = kill::runs(&folder)? && folder.join(SOCKET_NAME).exists();
                Ok(ready.then_some(Begun::Ready))
            }
            Err(error) => Err(error),
        });
        begun.await?.ok_or_else(half_made)
    }

    async fn make(&self, id: &SandboxId, kind: SandboxKind) -> Result<(), NodeError> {
        self.adopted().await?;
        let _turn = self.creates.acquire().await.map_err(|_| failed("no places are made any more"))?;
        let joining =
            self.groups.join(id, GROUP_WAIT).await.map_err(|busy| {
                NodeError::new(NodeErrorKind::Unavailable, format!("cannot make place {id}: {busy}"))
            })?;
        self.note_group(id, joining.group()).await?;
        let spec = self.spec(id, kind, joining.group()).await?;
        let new = containers::NewContainer {
            id: id.as_str().to_owned(),
            labels: labels::blank(&self.owner, kind, joining.group().as_str()),
            runtime_options: self.options.runtime.shim_options(&remains::runtime_state(&self.folders)),
            spec,
        };
        self.connection.create_container(new).await?;
        let pid = self.answered(id, self.connection.create_task(id.as_str()).await).await?;
        // Before the start, so that there is no moment at which it runs and nobody knows it. The
        // process is the same before and after its exec.
        let folder = self.folders.place(id);
        let init = InitProcess::of_pid(pid).and_then(|init| init.write(&folder).map(|()| init));
        let pidfd = init.and_then(|init| init.open());
        let pidfd = pidfd.map_err(|error| failed(format!("cannot note down the init of place {id}: {error}")))?;
        let pidfd = pidfd.ok_or_else(|| failed(format!("the init of place {id} ended before it was started")))?;
        self.answered(id, self.connection.start_task(id.as_str()).await).await?;
        let socket = Expected { folder: &folder, name: SOCKET_NAME, kind: rustix::net::SocketType::SEQPACKET };
        listening::wait(socket, &pidfd, INIT_LISTENS)
            .await
            .map_err(|error| failed(format!("garden-init of place {id} was started but {error}")))?;
        joining.made();
        Ok(())
    }

    async fn spec(&self, id: &SandboxId, kind: SandboxKind, group: &GroupId) -> Result<Vec<u8>, NodeError> {
        let (root, folder) = (self.blank.path().to_owned(), self.folders.place(id));
        let (cgroup, group) = (self.cgroups.path(id), group.as_str().to_owned());
        let (socket, id_map) = (self.connection.socket().to_owned(), self.options.id_map.clone());
        let settings = self.options.settings.clone();
        blocking("writing a place's spec", move || {
            let ceiling = ceiling::of(&socket)?;
            let group = group.as_str();
            let (root, folder, id_map, settings) = (&root, &folder, &id_map, &settings);
            spec::of(&Blank { kind, root, folder, cgroup, group, ceiling, id_map, settings })
        })
        .await
    }

    async fn note_group(&self, id: &SandboxId, group: &GroupId) -> Result<(), NodeError> {
        let (file, group) = (self.folders.place(id).join(GROUP_FILE), group.clone());
        blocking("writing a place's group down", move || fs::write(file, group.as_str())).await
    }

    /// Where containerd answers but the place's shim did not, nobody else is put behind that shim.
    async fn answered<T>(&self, id: &SandboxId, result: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(error) = &result
            && error.kind == CallErrorKind::Unavailable
            && self.connection.version().await.is_ok()
        {
            self.groups.shun(id);
        }
        result
    }

    async fn delete_task(&self, id: &SandboxId) -> Result<(), NodeError> {
        let result = self.answered(id, self.connection.delete_dead_task(id.as_str()).await).await;
        if let Err(error) = &result
            && error.kind == CallErrorKind::Unavailable
            && let Some(group) = self.groups.given_up(id)
            && self.connection.version().await.is_ok()
        {
            // It hangs, and nobody wants any of its places: containerd cleans up after its death.
            self.end_shim(&group, Duration::ZERO).await?;
        }
        absent(result)
    }

    async fn end_shim(&self, group: &GroupId, patience: Duration) -> Result<(), NodeError> {
        let (founded, socket) = (group.clone(), self.connection.socket().to_owned());
        let found = blocking("looking for a shim", move || {
            let found = Shim::find(&founded, &socket)?;
            if found.is_none() {
                shims::remove_socket(&founded, &socket)?;
            }
            Ok(found)
        });
        let Some(shim) = found.await? else { return Ok(()) };
        match shim.end(patience).await {
            Ok(End::Own) => {}
            Ok(End::Killed) => tracing::warn!(group = group.as_str(), "killed a shim that outlived its places"),
            Err(error) => return Err(failed(format!("cannot end the shim of group {}: {error}", group.as_str()))),
        }
        Ok(())
    }

    /// Makes sure that the places of an earlier gardend are known before one is made or removed.
    async fn adopted(&self) -> Result<(), NodeError> {
        if self.adopted.initialized() {
            return Ok(());
        }
        let recorded = self.connection.list_containers(labels::OWNER, self.owner.as_str()).await?;
        self.adopt(&recorded).await
    }

    async fn adopt(&self, recorded: &[containers::ContainerSeen]) -> Result<(), NodeError> {
        let adopting = async {
            self.connection.ensure_namespace(NAMESPACE).await?;
            let mut in_use = BTreeSet::new();
            let mut labelled = BTreeMap::new();
            for seen in recorded {
                in_use.extend(spec::root_of(&seen.spec));
                let group = seen.labels.get(labels::GROUP).and_then(|label| GroupId::parse(label));
                labelled.extend(SandboxId::parse(&seen.id).zip(group));
            }
            let (folders, cgroups, blank) = (self.folders.clone(), self.cgroups.clone(), self.blank.clone());
            let members = blocking("adopting places", move || {
                if let Err(error) = blank.prune(&in_use) {
                    tracing::warn!(%error, "an old blank rootfs could not be removed");
                }
                let mut groups = labelled;
                for id in remains::list(&folders, &cgroups)? {
                    let noted = fs::read_to_string(folders.place(&id).join(GROUP_FILE)).ok();
                    groups.extend(noted.and_then(|text| GroupId::parse(&text)).map(|group| (id, group)));
                }
                let with_state = |(id, group)| kill::runs(&folders.place(&id)).map(|runs| (id, group, runs));
                groups.into_iter().map(with_state).collect::<io::Result<Vec<_>>>()
            });
            for (id, group, runs) in members.await? {
                self.groups.adopt(&id, group, runs);
            }
            Ok::<_, NodeError>(())
        };
        self.adopted.get_or_try_init(|| adopting).await.copied()
    }
}

/// `owner`: root of a user namespace, whose init must be able to make its socket there.
fn make_folder(folder: &Path, owner: Option<u32>, mark: &str) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    fs::write(folder.join(SETTINGS_FILE), mark)?;
    match owner {
        Some(root) => chown(folder, Some(root), Some(root)),
        None => Ok(()),
    }
}

/// What is not there needs no removing.
fn absent(result: Result<(), CallError>) -> Result<(), NodeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}

/// Runs short file system work beside the async threads.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(failed(format!("{doing} failed: {error}"))),
        Err(_) => Err(failed(format!("{doing} was cut short: gardend is shutting down"))),
    }
}
