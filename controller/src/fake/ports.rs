//! The ports of one gardend on the fake node.

use super::programs::{self, Program};
use super::world::{Place, World};
use super::{Call, Fault, error};
use crate::ports::{
    NetworkWanted, NodeError, NodeErrorKind, ProcessEvent, ProcessSeen, Processes, Rootfs, SandboxSeen, Sandboxes,
    Signal, SpawnError,
};
use crate::record::{
    ContainerSpec, ContainerUid, Handle, ProcessSpec, ProcessUid, RootfsSource, SandboxId, SandboxKind,
};
use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Events that fit before they are lost.
const EVENTS: usize = 65_536;

/// One gardend's life on the node.
pub struct Life {
    world: Arc<Mutex<World>>,
    number: u64,
    events: Mutex<Option<mpsc::Receiver<ProcessEvent>>>,
    pub oom_events: Mutex<Option<mpsc::Receiver<SandboxId>>>,
    pub disturbed: Mutex<Option<mpsc::Receiver<()>>>,
    /// See [`crate::ports::Network`].
    pub network_turn: tokio::sync::Mutex<()>,
    connected: Mutex<HashSet<SandboxId>>,
}

impl Life {
    pub fn begin(world: Arc<Mutex<World>>) -> Self {
        let (tell, events) = mpsc::channel(EVENTS);
        let (tell_oom, oom_events) = mpsc::channel(EVENTS);
        let (disturb, disturbed) = mpsc::channel(1);
        let number = {
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            world.life += 1;
            world.events = Some(tell);
            world.oom_events = Some(tell_oom);
            world.disturbed = Some(disturb);
            world.readers.clear();
            world.processes.values_mut().for_each(|process| process.readers = 0);
            world.at_once.clear();
            world.life
        };
        Self {
            world,
            number,
            events: Mutex::new(Some(events)),
            oom_events: Mutex::new(Some(oom_events)),
            disturbed: Mutex::new(Some(disturbed)),
            network_turn: tokio::sync::Mutex::default(),
            connected: Mutex::default(),
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For what goes on beside.
    pub fn shared_world(&self) -> Arc<Mutex<World>> {
        Arc::clone(&self.world)
    }

    pub fn is_over(&self) -> bool {
        self.world().life != self.number
    }

    fn connections(&self) -> MutexGuard<'_, HashSet<SandboxId>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `act` once the call's delay is over, unless it shall fail.
    async fn call<T>(
        &self,
        call: Call,
        half: impl FnOnce(&mut World, NodeErrorKind) + Send,
        act: impl FnOnce(&mut World) -> Result<T, NodeError> + Send,
    ) -> Result<T, NodeError> {
        let delay = {
            let mut world = self.world();
            *world.calls.entry(call).or_default() += 1;
            let at_once = world.at_once.entry(call).or_default();
            *at_once += 1;
            let at_once = *at_once;
            let most = world.most_at_once.entry(call).or_default();
            *most = at_once.max(*most);
            world.delays.get(&call).copied()
        };
        let _running = Running { life: self, call };
        match delay {
            Some(delay) => tokio::time::sleep(delay).await,
            None => tokio::task::yield_now().await,
        }
        let mut world = self.world();
        if world.life != self.number {
            return Err(NodeError::new(NodeErrorKind::Unavailable, "another gardend has taken over"));
        }
        let containerd = matches!(call, Call::List | Call::Ensure | Call::Label | Call::Remove);
        if containerd && world.away {
            return Err(NodeError::new(NodeErrorKind::Unavailable, "containerd does not answer"));
        }
        match world.faults.get_mut(&call).and_then(std::collections::VecDeque::pop_front) {
            None => act(&mut world),
            Some(Fault::Before(kind)) => {
                half(&mut world, kind);
                Err(error(kind, call))
            }
            Some(Fault::After(kind)) => {
                // Whatever it says itself is lost.
                let _ = act(&mut world);
                Err(error(kind, call))
            }
        }
    }

    /// Does `act` once the call's delay is over, unless it shall fail before or after.
    pub async fn plain<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut World) -> Result<T, NodeError> + Send,
    ) -> Result<T, NodeError> {
        self.call(call, |_, _| {}, act).await
    }
}

/// A call that runs.
struct Running<'a> {
    life: &'a Life,
    call: Call,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(at_once) = self.life.world().at_once.get_mut(&self.call) {
            *at_once = at_once.saturating_sub(1);
        }
    }
}

pub fn not_there(id: &SandboxId) -> NodeError {
    NodeError::new(NodeErrorKind::NotFound, format!("no init answers in place {id}"))
}

#[async_trait]
impl Sandboxes for Life {
    async fn list(&self) -> Result<Vec<SandboxSeen>, NodeError> {
        self.plain(Call::List, |world| {
            let seen = |(id, place): (&SandboxId, &Place)| SandboxSeen { id: id.clone(), running: place.running };
            Ok(world.places.iter().map(seen).collect())
        })
        .await
    }

    async fn ensure(&self, id: &SandboxId, kind: SandboxKind) -> Result<(), NodeError> {
        let half = |world: &mut World, error: NodeErrorKind| {
            if error == NodeErrorKind::Failed {
                let place = Place { running: false, ..Place::running(kind) };
                world.places.entry(id.clone()).or_insert(place);
            }
        };
        self.call(Call::Ensure, half, |world| {
            let place = world.places.entry(id.clone()).or_insert_with(|| Place::running(kind));
            if place.running {
                return Ok(());
            }
            Err(NodeError::new(NodeErrorKind::Failed, format!("place {id} was half made")))
        })
        .await
    }

    async fn is_current(&self, id: &SandboxId, _: SandboxKind) -> bool {
        self.world().places.get(id).is_some_and(|place| !place.outdated)
    }

    async fn label(&self, id: &SandboxId, container: &ContainerUid, handle: &Handle) -> Result<(), NodeError> {
        self.plain(Call::Label, |world| {
            let place = world.places.get_mut(id).ok_or_else(|| not_there(id))?;
            place.label = Some((container.clone(), handle.to_string()));
            Ok(())
        })
        .await
    }

    async fn kill(&self, id: &SandboxId) -> Result<(), NodeError> {
        self.plain(Call::Kill, |world| {
            if world.unkillable && world.occupied(id) {
                return Err(NodeError::new(NodeErrorKind::Stuck, format!("a process in place {id} does not die")));
            }
            world.empty(id);
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), NodeError> {
        self.plain(Call::Remove, |world| {
            if world.places.get(id).is_some_and(|place| place.running) {
                world.violated(format!("place {id} was removed while it ran"));
            }
            world.places.remove(id);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Rootfs for Life {
    /// Refuses a folder below `/missing`, and limits of the disk, as a node without quotas does.
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError> {
        let sources = spec.bind_mounts.iter().map(|mount| &mount.source);
        let rootfs = match &spec.rootfs {
            RootfsSource::Raw(path) => Some(path),
            RootfsSource::Default | RootfsSource::Image(_) => None,
        };
        let missing = sources.chain(rootfs).find(|path| path.starts_with("/missing")).cloned();
        let has_disk = spec.limits.has_disk();
        self.plain(Call::Check, |_| match missing {
            None if has_disk => {
                let message = "limits.disk_limits: this node has no quotas; ask again without them";
                Err(NodeError::new(NodeErrorKind::Invalid, message))
            }
            None => Ok(()),
            Some(path) => {
                let message = format!("{} does not exist on this node; create it first", path.display());
                Err(NodeError::new(NodeErrorKind::Invalid, message))
            }
        })
        .await
    }

    async fn furnish(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        _handle: &Handle,
        spec: &ContainerSpec,
        network: Option<&NetworkWanted>,
    ) -> Result<(), NodeError> {
        let half = |world: &mut World, _| {
            if let Some(place) = world.places.get_mut(sandbox) {
                place.half_furnished = true;
            }
        };
        self.call(Call::Furnish, half, |world| {
            let used = |place: &Place| place.furnished.is_some() || place.half_furnished;
            if world.places.get(sandbox).is_some_and(used) {
                world.violated(format!("place {sandbox} was furnished twice"));
            }
            let twice = world.places.values().any(|place| place.running && place.furnished.as_ref() == Some(container));
            if twice {
                world.violated(format!("container {container} has two places that run"));
            }
            let place = world.places.get_mut(sandbox).filter(|place| place.running);
            let place = place.ok_or_else(|| NodeError::new(NodeErrorKind::Failed, "the place does not run"))?;
            if place.kind != SandboxKind::of(spec) {
                let wrong = format!("place {sandbox} is of the wrong kind for {container}");
                world.violated(wrong);
                return Ok(());
            }
            place.furnished = Some(container.clone());
            place.networked = network.is_some();
            if spec.rootfs.unresolved().is_some() {
                world.violated(format!("{container} was furnished before its image was pulled"));
            }
            if let Some(image) = spec.rootfs.resolved()
                && !world.images.values().any(|there| there == image)
            {
                world.violated(format!("{container} was furnished with an image that is not there"));
            }
            world.layers.insert(container.clone());
            Ok(())
        })
        .await
    }

    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError> {
        self.plain(Call::Release, |world| {
            if world.places.values().any(|place| place.running && place.furnished.as_ref() == Some(container)) {
                world.violated(format!("the files of {container} were released under it"));
            }
            world.layers.remove(container);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<ContainerUid>, NodeError> {
        self.plain(Call::ListLayers, |world| Ok(world.layers.iter().cloned().collect())).await
    }
}

#[async_trait]
impl Processes for Life {
    async fn connect(&self, sandbox: &SandboxId) -> Result<Vec<ProcessSeen>, NodeError> {
        let seen = self.plain(Call::Connect, |world| {
            if !world.places.get(sandbox).is_some_and(|place| place.running) {
                return Err(not_there(sandbox));
            }
            let mine = world.processes.iter().filter(|(_, process)| process.place == *sandbox && !process.acknowledged);
            let seen = mine.map(|(uid, process)| ProcessSeen {
                uid: uid.clone(),
                pid: if process.exit.is_some() { 0 } else { process.pid },
                exit: process.exit,
            });
            Ok(seen.collect())
        });
        let seen = seen.await?;
        self.connections().insert(sandbox.clone());
        Ok(seen)
    }

    async fn disconnect(&self, sandbox: &SandboxId) {
        self.connections().remove(sandbox);
        let mut world = self.world();
        if world.places.get(sandbox).is_some_and(|place| place.running) {
            world.violated(format!("place {sandbox} was forgotten while it ran"));
        }
    }

    async fn spawn(
        &self,
        sandbox: &SandboxId,
        process: &ProcessUid,
        env: &[String],
        spec: &ProcessSpec,
    ) -> Result<u32, SpawnError> {
        let _ = env;
        let gone = |error: NodeError| SpawnError::InitGone { reason: error.message };
        let connected = self.connections().contains(sandbox);
        let spawned = self.plain(Call::Spawn, |world| {
            let place = world.places.get(sandbox).filter(|place| place.running).ok_or_else(|| not_there(sandbox))?;
            if place.furnished.is_none() || !connected {
                world.violated(format!("a process was started in place {sandbox} before it was ready"));
            }
            if world.places.get(sandbox).is_some_and(|place| place.networked && !place.connected) {
                world.violated(format!("a process was started in place {sandbox} before its network was in force"));
            }
            if !world.spawned.insert(process.clone()) {
                world.violated(format!("process {process} was started twice"));
            }
            let program = match Program::of(spec) {
                Ok(program) => program,
                Err(error) => return Ok(Err(error)),
            };
            world.next_id += 1;
            let pid = u32::try_from(1000 + world.next_id).unwrap_or(u32::MAX);
            let started = super::world::Process {
                place: sandbox.clone(),
                program,
                pid,
                exit: None,
                acknowledged: false,
                stdin_open: true,
                terminal: spec.tty.is_some(),
                readers: 0,
                outputs: Default::default(),
            };
            world.processes.insert(process.clone(), started);
            if let Some(place) = world.places.get_mut(sandbox) {
                place.alive += 1;
            }
            world.act(process, programs::started);
            Ok(Ok(pid))
        });
        spawned.await.map_err(gone)?
    }

    async fn signal(&self, _sandbox: &SandboxId, process: &ProcessUid, signal: Signal) -> Result<(), NodeError> {
        self.plain(Call::Signal, |world| {
            world.act(process, |process| programs::signalled(process, signal));
            Ok(())
        })
        .await
    }

    async fn signal_all(&self, sandbox: &SandboxId, signal: Signal) -> Result<(), NodeError> {
        self.plain(Call::SignalAll, |world| {
            if !world.places.get(sandbox).is_some_and(|place| place.running) {
                return Err(not_there(sandbox));
            }
            let mine = world.processes.iter().filter(|(_, process)| process.place == *sandbox);
            let mine: Vec<_> = mine.map(|(uid, _)| uid.clone()).collect();
            for uid in mine {
                world.act(&uid, |process| programs::signalled(process, signal));
            }
            Ok(())
        })
        .await
    }

    async fn occupied(&self, sandbox: &SandboxId) -> Result<bool, NodeError> {
        self.plain(Call::Occupied, |world| {
            if !world.places.get(sandbox).is_some_and(|place| place.running) {
                return Err(not_there(sandbox));
            }
            Ok(world.occupied(sandbox))
        })
        .await
    }

    async fn acknowledge(&self, _sandbox: &SandboxId, process: &ProcessUid) -> Result<(), NodeError> {
        self.plain(Call::Acknowledge, |world| {
            if let Some(process) = world.processes.get_mut(process) {
                process.acknowledged = process.exit.is_some();
            }
            Ok(())
        })
        .await
    }

    fn events(&self) -> mpsc::Receiver<ProcessEvent> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.take().expect("the events of a gardend are taken once")
    }
}
