//! The ports [`Resources`] and [`Metrics`], on the groups of this gardend's places.

use super::oom::Watch;
use super::victims::End;
use super::victims::Victims;
use super::{Groups, Place, is_gone, limits, network, usage};
use crate::node::disk::{Meter, Size};
use crate::node::headroom;
use crate::node::mount::{disk_limits_in_force, layer_of, upper_of};
use crate::node::place::Folders;
use crate::node::quota;
use async_trait::async_trait;
use gardend_controller::ports::{
    DiskUsage, Headroom, Measured, Metrics, NodeError, NodeErrorKind, OomSeen, Resources, Usage,
};
use gardend_controller::record::{ContainerSpec, ContainerUid, Limits, ProcessUid, RootfsSource, SandboxId};
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Places that want memory, before they are looked at.
const EVENTS: usize = 1024;
/// How long one container's figures wait for its disk to be measured, and how long many do.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_WITH_MANY: Duration = Duration::from_millis(10);
/// Places that one thread reads the figures of, at least: a thread has its price too.
const PLACES_A_THREAD: usize = 16;

/// Both ports. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ResourceNode {
    inner: Arc<Inner>,
}

struct Inner {
    groups: Groups,
    folders: Folders,
    meter: Meter,
    victims: Victims,
    watched: Mutex<HashSet<(SandboxId, Option<ProcessUid>)>>,
    events: mpsc::Sender<SandboxId>,
    receiver: Mutex<Option<mpsc::Receiver<SandboxId>>>,
}

impl ResourceNode {
    /// Of the places in `folders`, whose groups are these.
    pub fn new(folders: Folders, groups: Groups) -> Self {
        let (events, receiver) = mpsc::channel(EVENTS);
        let inner = Inner {
            groups,
            folders,
            meter: Meter::default(),
            victims: Victims::of_machine(),
            watched: Mutex::default(),
            events,
            receiver: Mutex::new(Some(receiver)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Tells of a place's want from now on, until the place is gone.
    fn watch(&self, id: &SandboxId) {
        let place = self.inner.groups.place(id);
        self.watch_group(id, None, &place.run());
        // Where it cannot be read it is read again with the next look.
        for uid in place.processes().unwrap_or_default() {
            self.watch_group(id, Some(uid.clone()), &place.process(&uid));
        }
    }

    fn watch_group(&self, id: &SandboxId, process: Option<ProcessUid>, group: &Place<'_>) {
        let watched = || self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (id.clone(), process);
        if watched().contains(&key) {
            return;
        }
        let watch = match Watch::begin(group) {
            Ok(Some(watch)) => watch,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(sandbox = %id, %error, "a place is not watched for want of memory; it is looked at every while");
                return;
            }
        };
        if !watched().insert(key.clone()) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            while watch.next().await {
                // One that does not fit is found by the sweeper.
                let _ = inner.events.try_send(key.0.clone());
            }
            inner.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }
}

#[async_trait]
impl Resources for ResourceNode {
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError> {
        let invalid = |message| NodeError::new(NodeErrorKind::Invalid, message);
        limits::check(&self.inner.groups.place(&SandboxId::generate()), &spec.limits).map_err(invalid)
    }

    async fn limit(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<(), NodeError> {
        let (limits, privileged) = (spec.limits, spec.privileged);
        self.on(sandbox, "cannot put limits in force on", move |inner, id| {
            limits::apply(&inner.groups.place(id), &ContainerSpec { limits, privileged, ..ContainerSpec::default() })
        })
        .await?;
        self.watch(sandbox);
        Ok(())
    }

    async fn in_force(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        spec: &ContainerSpec,
    ) -> Result<Limits, NodeError> {
        let (asked, container) = (spec.limits, container.clone());
        self.on(sandbox, "cannot read the limits of", move |inner, id| {
            let seen = limits::in_force(&inner.groups.place(id), &asked)?;
            if asked.has_disk() { disk_limits_in_force(&inner.folders, &container, seen) } else { Ok(seen) }
        })
        .await
    }

    async fn oom(&self, sandbox: &SandboxId) -> Result<OomSeen, NodeError> {
        self.watch(sandbox);
        self.on(sandbox, "cannot tell what was killed in", |inner, id| {
            let place = inner.groups.place(id);
            let kills = usage::oom_kills(&place, &inner.folders.oom_kills(id))?;
            let last = if kills > 0 { inner.last_victim(id)? } else { None };
            Ok(OomSeen { kills, last })
        })
        .await
    }

    fn oom_events(&self) -> mpsc::Receiver<SandboxId> {
        let mut receiver = self.inner.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one receiver; whoever asks again gets one that has ended.
        receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}

#[async_trait]
impl Metrics for ResourceNode {
    async fn usage(&self, of: Vec<Measured>) -> Vec<Result<Usage, NodeError>> {
        let patience = if of.len() > 1 { PATIENCE_WITH_MANY } else { PATIENCE };
        let deadline = Instant::now() + patience;
        let disks = of.iter().map(|one| self.disk(one, deadline));
        let (figures, disks) = tokio::join!(self.figures(&of), futures_util::future::join_all(disks));
        let with_disk = |(figures, disk): (Result<Usage, NodeError>, _)| figures.map(|usage| Usage { disk, ..usage });
        figures.into_iter().zip(disks).map(with_disk).collect()
    }

    async fn headroom(&self) -> Result<Headroom, NodeError> {
        headroom::left(&self.inner.folders).await
    }
}

impl ResourceNode {
    /// Runs short work on cgroupfs beside the async threads.
    async fn on<T: Send + 'static>(
        &self,
        sandbox: &SandboxId,
        attempt: &'static str,
        work: impl FnOnce(&Inner, &SandboxId) -> io::Result<T> + Send + 'static,
    ) -> Result<T, NodeError> {
        let (inner, id) = (Arc::clone(&self.inner), sandbox.clone());
        let done =
            tokio::task::spawn_blocking(move || work(&inner, &id).map_err(|error| of_place(&id, attempt, error)));
        done.await.unwrap_or_else(|_| Err(NodeError::new(NodeErrorKind::Failed, "gardend is shutting down")))
    }

    /// All but the disk, of several places at once.
    async fn figures(&self, of: &[Measured]) -> Vec<Result<Usage, NodeError>> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let share = of.len().div_ceil(threads).max(PLACES_A_THREAD);
        let parts: Vec<_> = of
            .chunks(share)
            .map(|part| {
                let (inner, part) = (Arc::clone(&self.inner), part.to_vec());
                let many = part.len();
                let work =
                    tokio::task::spawn_blocking(move || part.iter().map(|one| inner.figures(one)).collect::<Vec<_>>());
                (many, work)
            })
            .collect();
        let mut figures = Vec::with_capacity(of.len());
        for (many, part) in parts {
            let cut_short = || Err(NodeError::new(NodeErrorKind::Failed, "gardend is shutting down"));
            figures.extend(part.await.unwrap_or_else(|_| (0..many).map(|_| cut_short()).collect()));
        }
        figures
    }

    async fn disk(&self, of: &Measured, deadline: Instant) -> DiskUsage {
        let (own, shared) = self.inner.files(of);
        let own = match quota::used(&own) {
            Some(counted) => counted,
            None => self.inner.meter.size(&own, deadline).await,
        };
        let shared = match (shared, of.rootfs.resolved()) {
            (Some(shared), _) => self.inner.meter.size(&shared, deadline).await,
            // Counted when it was pulled.
            (None, Some(image)) => Size { bytes: image.bytes, inodes: image.inodes },
            (None, None) => Size::default(),
        };
        DiskUsage {
            total_bytes: own.bytes.saturating_add(shared.bytes),
            total_inodes: own.inodes.saturating_add(shared.inodes),
            exclusive_bytes: own.bytes,
            exclusive_inodes: own.inodes,
        }
    }
}

impl Inner {
    fn figures(&self, of: &Measured) -> Result<Usage, NodeError> {
        let id = &of.sandbox;
        let place = self.groups.place(id);
        let own = of.process.as_ref().map(|uid| place.process(uid)).filter(Place::is_there);
        let read = || -> io::Result<Usage> {
            let group = own.as_ref().unwrap_or(&place);
            Ok(Usage {
                memory: usage::memory(group)?,
                cpu: usage::cpu(group)?,
                pids: own.as_ref().map_or_else(|| usage::pids(&place), usage::pids_of_process)?,
                network: network::usage(&self.folders.place(id))?,
                disk: DiskUsage::default(),
            })
        };
        read().map_err(|error| of_place(id, "cannot read the figures of", error))
    }

    /// The folder that holds a container's own files, and the one of those that it shares.
    fn files(&self, of: &Measured) -> (PathBuf, Option<PathBuf>) {
        match &of.rootfs {
            RootfsSource::Raw(folder) => (folder.clone(), None),
            RootfsSource::Default => layer_of(&self.folders, &of.container),
            RootfsSource::Image(_) => (upper_of(&self.folders, &of.container), None),
        }
    }

    fn last_victim(&self, id: &SandboxId) -> io::Result<Option<String>> {
        let Some(victim) = self.victims.last(self.groups.owner(), id.as_str()) else { return Ok(None) };
        let who = format!("{} (pid {} on the node) was killed", victim.name, victim.pid);
        let place = self.groups.place(id);
        Ok(Some(match victim.end {
            End::Machine => format!("{who}: the node itself had no memory left"),
            End::Container => {
                let limit = limits::in_force(&place, &Limits::default())?.memory_bytes;
                format!("{who}: the container's memory limit of {limit} bytes was reached")
            }
            End::Process(uid) => match limits::memory_of(&place.process(&uid))? {
                Some(limit) => format!("{who}: the process's own memory limit of {limit} bytes was reached"),
                None => format!("{who}: the process's own memory limit was reached"),
            },
        }))
    }
}

fn of_place(id: &SandboxId, attempt: &str, error: io::Error) -> NodeError {
    let kind = if is_gone(&error) { NodeErrorKind::NotFound } else { NodeErrorKind::Failed };
    let why = if kind == NodeErrorKind::NotFound { "it is gone".to_owned() } else { error.to_string() };
    NodeError::new(kind, format!("{attempt} place {id}: {why}"))
}
