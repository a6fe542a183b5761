//! The life of a place: made, named, killed, removed, found again.
//!
//! ```text
//! ensure: folder, join a group, container, task (held), init.pid, start, init listens
//! kill:   SIGKILL by init.pid and by cgroup; no containerd
//! remove: kill, leave the group, task, container, runtime's state, cgroups, folder (last: while
//!         anything is left, the folder tells)
//! ```

use super::groups::GroupId;
use super::kill::KillError;
use super::listening::Expected;
use super::spec::{self, Blank, MAPPED_ROOT};
use super::{CallError, CallErrorKind, Containerd, NAMESPACE, ceiling, containers, failed, kill, labels, listening};
use crate::node::place::InitProcess;
use async_trait::async_trait;
use garden_init::wire::SOCKET_NAME;
use gardend_controller::ports::{NodeError, NodeErrorKind, SandboxSeen, Sandboxes};
use gardend_controller::record::{ContainerUid, Handle, SandboxId, SandboxKind};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a create or a delete waits for others of its group: one of their creates.
const GROUP_WAIT: Duration = Duration::from_secs(30);
/// From the exec of an init until it listens: under a millisecond, unless the machine is busy.
const INIT_LISTENS: Duration = Duration::from_secs(10);

#[async_trait]
impl Sandboxes for Containerd {
    /// Without containerd there is no answer (`Unavailable`): half the truth would let the sweeper
    /// take what it does not see for gone.
    async fn list(&self) -> Result<Vec<SandboxSeen>, NodeError> {
        let recorded = self.connection.list_containers(labels::OWNER, self.owner.as_str()).await?;
        self.adopt(&recorded).await?;
        let mut ids: BTreeSet<_> = recorded.iter().filter_map(|seen| SandboxId::parse(&seen.id)).collect();
        let (places, cgroups) = (self.folders.places(), self.cgroups.clone());
        blocking("looking for places", move || {
            ids.extend(folders_in(&places)?);
            ids.extend(cgroups.list()?);
            ids.into_iter()
                .map(|id| kill::runs(&places.join(id.as_str())).map(|running| SandboxSeen { id, running }))
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
        self.absent(id, self.connection.delete_dead_task(id.as_str()).await).await?;
        self.absent(id, self.connection.delete_container(id.as_str()).await).await?;
        self.groups.left(id);
        // Again: where a create was cut off, its process may have come after the first kill.
        self.kill(id).await?;
        self.remove_remains(id).await
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
    async fn begin(&self, id: &SandboxId, kind: SandboxKind) -> Result<Begun, NodeError> {
        let (folder, place) = (self.folders.place(id), id.clone());
        let half_made = move || failed(format!("place {place} is half made; remove it and take another"));
        let begun = blocking("making a place's folder", move || match make_folder(&folder, kind) {
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
        let spec = self.spec(id, kind, joining.group()).await?;
        let new = containers::NewContainer {
            id: id.as_str().to_owned(),
            labels: labels::blank(&self.owner, kind, &joining.group().0),
            runtime_options: self.options.runtime.shim_options(&self.folders.run().join("runtime")),
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
        let (cgroup, group) = (self.cgroups.path(id), group.0.clone());
        let socket = self.connection.socket().to_owned();
        blocking("writing a place's spec", move || {
            let ceiling = ceiling::of(&socket)?;
            spec::of(&Blank { kind, root: &root, folder: &folder, cgroup, group: &group, ceiling })
        })
        .await
    }

    /// What is not there needs no removing.
    async fn absent(&self, id: &SandboxId, result: Result<(), CallError>) -> Result<(), NodeError> {
        match self.answered_raw(id, result).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    async fn answered<T>(&self, id: &SandboxId, result: Result<T, CallError>) -> Result<T, NodeError> {
        Ok(self.answered_raw(id, result).await?)
    }

    /// Where containerd answers but the place's shim did not, nobody else is put behind that shim.
    async fn answered_raw<T>(&self, id: &SandboxId, result: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(error) = &result
            && error.kind == CallErrorKind::Unavailable
            && self.connection.version().await.is_ok()
        {
            self.groups.shun(id);
        }
        result
    }

    async fn remove_remains(&self, id: &SandboxId) -> Result<(), NodeError> {
        let (cgroups, place) = (self.cgroups.clone(), id.clone());
        let folder = self.folders.place(id);
        let runtime = self.folders.run().join("runtime").join(NAMESPACE).join(id.as_str());
        blocking("removing what is left of a place", move || {
            cgroups.tree(&place)?.remove()?;
            remove_folder(&runtime)?;
            remove_folder(&folder)
        })
        .await
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
            let mut members = BTreeMap::new();
            for seen in recorded {
                in_use.extend(spec::root_of(&seen.spec));
                let group = seen.labels.get(labels::GROUP).cloned().map(GroupId);
                members.extend(SandboxId::parse(&seen.id).zip(group));
            }
            let (places, blank) = (self.folders.places(), self.blank.clone());
            let members = blocking("adopting places", move || {
                if let Err(error) = blank.prune(&in_use) {
                    tracing::warn!(%error, "an old blank rootfs could not be removed");
                }
                let running = |(id, group): (SandboxId, GroupId)| {
                    kill::runs(&places.join(id.as_str())).map(|runs| (id, group, runs))
                };
                members.into_iter().map(running).collect::<io::Result<Vec<_>>>()
            });
            for (id, group, runs) in members.await? {
                self.groups.adopt(&id, group, runs);
            }
            Ok::<_, NodeError>(())
        };
        self.adopted.get_or_try_init(|| adopting).await.map(|()| ())
    }
}

fn make_folder(folder: &Path, kind: SandboxKind) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    match kind {
        // Its init must be able to make its socket there.
        SandboxKind::Unprivileged => chown(folder, Some(MAPPED_ROOT), Some(MAPPED_ROOT)),
        SandboxKind::Privileged => Ok(()),
    }
}

fn folders_in(places: &Path) -> io::Result<BTreeSet<SandboxId>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(places)? {
        found.extend(entry?.file_name().to_str().and_then(SandboxId::parse));
    }
    Ok(found)
}

fn remove_folder(folder: &PathBuf) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
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
