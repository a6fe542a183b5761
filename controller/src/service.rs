//! What the front ends ask of the controller. See [`Controller`].

use crate::attachment::{Attachment, Output};
use crate::error::Error;
use crate::grace::{self, Busy};
use crate::ledger::{Change, Durable};
use crate::plan::{Place, Wanted};
use crate::ports::{NodeError, NodeErrorKind, OutputStream};
use crate::reconcile::give_back;
use crate::record::{
    ContainerRecord, ContainerStatus, ContainerUid, CreateRequest, Desired, ExitStatus, Handle, Origin, Phase,
    ProcessSpec, Properties, SandboxRecord, Stage, StopMode,
};
use crate::shared::{Key, Shared};
use crate::state::{Container, Failure};
use crate::{processes, state::State};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The longest key and value of a property together, in bytes.
pub const MAX_PROPERTY_BYTES: usize = 1024 * 1024;
/// How long an answer to a failed create waits for the container to be dead, so that its bind
/// mounts are gone and its handle is free when the client reads it.
const UNDOING: Duration = Duration::from_secs(5);
/// How long requests that run have at a shutdown.
const DRAIN: Duration = Duration::from_secs(3);

/// What is known of a container, for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its processes were stopped on request.
    pub stopped: bool,
    /// What happened to it, oldest first.
    pub events: Vec<String>,
    /// Its folder on the host (the place's).
    pub path: String,
    /// Ids of the processes that run.
    pub process_ids: Vec<String>,
    /// Its properties.
    pub properties: Properties,
}

/// How a process's story ended, for those who wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended.
    Exited(ExitStatus),
    /// It is not known how it ended, or its container is gone.
    Failed(String),
}

/// The controller. Cheap to clone; all clones are one. Made by [`Controller::start`].
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

impl Controller {
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A container as asked for, Ready, its record saying so. When the returned future is dropped
    /// before it resolved (the client went away), the container is undone.
    ///
    /// # Errors
    /// [`Error::Node`] where what is asked for cannot be had, [`Error::HandleInUse`],
    /// [`Error::LimitReached`] and [`Error::Ledger`] before anything was done;
    /// [`Error::CreateFailed`] where it was begun, and is undone.
    pub async fn create(&self, request: CreateRequest) -> Result<Handle, Error> {
        let _pass = self.shared.gate.enter()?;
        let deadline = Instant::now() + self.shared.options.create_deadline;
        let properties: usize = request.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
        check_property_size(properties)?;
        self.shared.node.rootfs.check(&request.spec).await?;
        let record = self.record(request);
        let (uid, handle) = (record.uid.clone(), record.handle.clone());
        let (_busy, undo) = self.admit(record).await?;
        self.shared.wake(Key::Container(uid.clone()));
        let made = tokio::time::timeout_at(deadline, self.shared.watch(&uid, how_the_create_went)).await;
        match made {
            Ok(Some(Ok(()))) => {
                undo.not();
                Ok(handle)
            }
            other => {
                let error = match other {
                    Ok(Some(Err(failure))) => create_error(handle, failure),
                    Ok(_) => destroyed_meanwhile(handle),
                    Err(_) => self.out_of_time(&uid, handle),
                };
                drop(undo);
                let dead = self.shared.watch(&uid, |container| container.freed.then_some(()));
                // Whether that was in time or not, the answer is the same.
                let _ = tokio::time::timeout(UNDOING, dead).await;
                Err(error)
            }
        }
    }

    fn record(&self, request: CreateRequest) -> ContainerRecord {
        let grace_time = request.grace_time.filter(|grace| !grace.is_zero());
        ContainerRecord {
            uid: ContainerUid::generate(),
            handle: request.handle.unwrap_or_else(Handle::generate),
            generation: 1,
            desired: Desired::Present,
            spec: request.spec,
            properties: request.properties,
            grace_time: grace_time.or(self.shared.options.default_grace_time).filter(|grace| !grace.is_zero()),
            stop: None,
            answered: false,
            created_at: SystemTime::now(),
            origin: Origin::Garden,
            sandbox: None,
            status: ContainerStatus { phase: Phase::Creating, stage: Some(Stage::Sandbox), ..Default::default() },
        }
    }

    /// Admits a container, gives it a place and records both in one transaction.
    async fn admit(&self, record: ContainerRecord) -> Result<(Busy, Undo), Error> {
        let uid = record.uid.clone();
        let (changes, id, place, kind) = {
            let mut state = self.shared.state();
            state.admit(record, self.shared.options.max_containers, Instant::now())?;
            let (id, kind, place) =
                state.assign_place(&uid).ok_or_else(|| Error::ContainerNotFound(uid.to_string()))?;
            let container = state.containers.get_mut(&uid).ok_or_else(|| Error::ContainerNotFound(uid.to_string()))?;
            container.record.sandbox = Some(id.clone());
            container.place = place;
            let row = SandboxRecord { id: id.clone(), kind, container: Some(uid.clone()) };
            let record = Box::new(container.record.clone());
            (vec![Change::InsertContainer(record), Change::PutSandbox(row)], id, place, kind)
        };
        let busy = Busy::on_uid(&self.shared, &uid);
        let undo = Undo { shared: Arc::clone(&self.shared), uid: uid.clone(), meant: true };
        // Not yet for a reboot: until it was answered it is undone then anyhow.
        if let Err(error) = self.shared.ledger.commit(changes, Durable::Crash).await {
            undo.not();
            let mut state = self.shared.state();
            state.forget(&uid);
            give_back(&mut state, &id, place);
            return Err(error.into());
        }
        // One was taken, or its kind is new.
        self.shared.nudge(Key::Pool(kind));
        Ok((busy, undo))
    }

    /// A create that has not come to an end within its deadline.
    fn out_of_time(&self, uid: &ContainerUid, handle: Handle) -> Error {
        let mut state = self.shared.state();
        let Some(container) = state.containers.get_mut(uid) else { return destroyed_meanwhile(handle) };
        container.unwanted = true;
        let (stage, source) = container.last_failure.clone().unwrap_or_else(|| {
            let waited = self.shared.options.create_deadline.as_secs();
            let stage = match container.place {
                Place::Nothing | Place::Recorded => Stage::Sandbox,
                Place::Made | Place::Spoilt => Stage::Rootfs,
                Place::Furnished | Place::Connected => Stage::Connect,
            };
            (stage, NodeError::new(NodeErrorKind::Unavailable, format!("it was not done within {waited} s")))
        });
        Error::CreateFailed { handle, stage, source }
    }

    /// Returns once every process and mount of it is gone; the rest is swept.
    ///
    /// # Errors
    /// [`Error::Stuck`] where it does not die in time: it is retried until it does.
    /// [`Error::AlreadyDestroying`] while somebody else waits for the same.
    pub async fn destroy(&self, handle: &str) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let deadline = Instant::now() + self.shared.options.destroy_deadline;
        let destroying = Destroying::begin(&self.shared, handle)?;
        let uid = &destroying.uid;
        if destroying.to_record {
            let recorded = self.shared.edit(uid, Durable::Reboot, Vec::new(), |record| {
                record.desired = Desired::Absent;
                record.generation += 1;
                record.status.phase = Phase::Destroying;
            });
            recorded.await?;
        }
        self.shared.wake(Key::Container(uid.clone()));
        let dead = self.shared.watch(uid, |container| match &container.stuck {
            _ if container.freed => Some(Ok(())),
            Some(source) => Some(Err(source.clone())),
            None => None,
        });
        let source = match tokio::time::timeout_at(deadline, dead).await {
            // Out of memory means dead and swept.
            Ok(None | Some(Ok(()))) => return Ok(()),
            Ok(Some(Err(source))) => source,
            Err(_) => self.why_not_dead(uid),
        };
        Err(Error::Stuck { handle: destroying.handle.clone(), source })
    }

    fn why_not_dead(&self, uid: &ContainerUid) -> NodeError {
        let state = self.shared.state();
        let last = state.containers.get(uid).and_then(|container| container.last_failure.clone());
        last.map_or_else(
            || {
                let waited = self.shared.options.destroy_deadline.as_secs();
                NodeError::new(NodeErrorKind::Stuck, format!("it was not dead within {waited} s"))
            },
            |(_, error)| error,
        )
    }

    /// Returns once every process but init is gone. A `Kill` takes effect at once, also while a
    /// `Terminate` of somebody else is waiting.
    ///
    /// # Errors
    /// [`Error::NotReady`] where its create is not finished or it is being destroyed.
    pub async fn stop(&self, handle: &str, mode: StopMode) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        let finished = {
            let state = self.shared.state();
            let container = state.holder(handle)?;
            if !container.record.answered || container.wanted() == Wanted::Absent {
                container.ready_place()?;
            }
            container.stops_finished
        };
        let recorded = self.shared.edit(busy.uid(), Durable::Crash, Vec::new(), move |record| {
            let kill = mode == StopMode::Kill || record.stop == Some(StopMode::Kill);
            record.stop = Some(if kill { StopMode::Kill } else { StopMode::Terminate });
            record.generation += 1;
            if record.status.phase != Phase::Creating {
                record.status.phase = Phase::Stopping;
            }
        });
        recorded.await?;
        self.shared.wake(Key::Container(busy.uid().clone()));
        let stopped = self.shared.watch(busy.uid(), |container| {
            let gone = container.wanted() == Wanted::Absent;
            let done = container.stops_finished > finished && container.record.stop.is_none();
            if gone { Some(false) } else { done.then_some(true) }
        });
        match stopped.await {
            Some(true) => Ok(()),
            _ => Err(Error::ContainerNotFound(handle.to_owned())),
        }
    }

    /// Handles of the containers that have all these properties; without `unfinished` only those
    /// whose create has been answered.
    pub fn list(&self, filter: &Properties, unfinished: bool) -> Vec<Handle> {
        let state = self.shared.state();
        let asked_for = |container: &&Container| {
            let has = |(key, value)| container.record.properties.get(key) == Some(value);
            (unfinished || container.record.answered) && filter.iter().all(has)
        };
        let containers = state.handles.values().filter_map(|uid| state.containers.get(uid));
        containers.filter(asked_for).map(|container| container.record.handle.clone()).collect()
    }

    /// What is known of one.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`].
    pub fn info(&self, handle: &str) -> Result<Info, Error> {
        self.read(handle, |state, container| Info {
            stopped: container.record.status.stopped,
            events: container.record.status.events.clone(),
            path: container.record.sandbox.as_ref().map_or_else(String::new, |id| {
                self.shared.options.places.join(id.as_str()).to_string_lossy().into_owned()
            }),
            process_ids: {
                let runs = |uid| state.processes.get(uid).is_some_and(|process| process.alive() && !process.ending);
                let running = container.processes.iter().filter(|(_, uid)| runs(*uid));
                running.map(|(id, _)| id.to_string()).collect()
            },
            properties: container.record.properties.clone(),
        })
    }

    /// Reads of a container, as a client that comes and goes.
    fn read<T>(&self, handle: &str, read: impl FnOnce(&State, &Container) -> T) -> Result<T, Error> {
        let _busy = Busy::on(&self.shared, handle)?;
        let state = self.shared.state();
        let container = state.holder(handle)?;
        let read = read(&state, container);
        drop(state);
        Ok(read)
    }

    /// All its properties.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`].
    pub fn properties(&self, handle: &str) -> Result<Properties, Error> {
        self.read(handle, |_, container| container.record.properties.clone())
    }

    /// One property.
    ///
    /// # Errors
    /// [`Error::PropertyNotFound`] where it is not set.
    pub fn property(&self, handle: &str, key: &str) -> Result<String, Error> {
        let value = self.read(handle, |_, container| container.record.properties.get(key).cloned())?;
        value.ok_or_else(|| Error::PropertyNotFound(key.to_owned()))
    }

    /// Sets one. Key and value together may be [`MAX_PROPERTY_BYTES`] long.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that is too long; [`Error::Ledger`], and it is as it was.
    pub async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<(), Error> {
        check_property_size(key.len() + value.len())?;
        let (key, value) = (key.to_owned(), value.to_owned());
        self.change(handle, move |record| drop(record.properties.insert(key.clone(), value.clone()))).await
    }

    /// Removes one; one that is not set is no error.
    ///
    /// # Errors
    /// [`Error::Ledger`], and it is as it was.
    pub async fn remove_property(&self, handle: &str, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.change(handle, move |record| drop(record.properties.remove(&key))).await
    }

    /// Sets the grace time and restarts its count. Zero ends it.
    ///
    /// # Errors
    /// [`Error::Ledger`], and it is as it was.
    pub async fn set_grace_time(&self, handle: &str, grace_time: Duration) -> Result<(), Error> {
        // Its count starts when this request, a client like any other, has gone.
        let grace_time = Some(grace_time).filter(|grace| !grace.is_zero());
        self.change(handle, move |record| record.grace_time = grace_time).await
    }

    async fn change(&self, handle: &str, change: impl Fn(&mut ContainerRecord) + Send + 'static) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        self.shared.edit(busy.uid(), Durable::Reboot, Vec::new(), change).await
    }

    /// Starts a process and attaches to it.
    ///
    /// # Errors
    /// [`Error::Spawn`] says why it did not start; nothing of it remains.
    pub async fn run(&self, handle: &str, spec: ProcessSpec) -> Result<Attachment, Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        processes::run(&self.shared, busy, spec).await
    }

    /// Attaches to a process whose record is kept, running or ended.
    ///
    /// # Errors
    /// [`Error::ProcessNotFound`]; [`Error::NotReady`] for one that runs in a place whose init
    /// has not answered yet.
    pub async fn attach(&self, handle: &str, process: &str) -> Result<Attachment, Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        let (uid, id) = {
            let state = self.shared.state();
            let process = state.process(handle, process)?;
            if process.alive() {
                state.holder(handle)?.ready_place()?;
            }
            (process.record.uid.clone(), process.record.id.clone())
        };
        Attachment::open(&self.shared, busy, uid, id)
    }

    /// Moves one output of an attachment into a connected socket, to its end. An unknown stream
    /// id closes the socket at once; an unknown container or process is an error, before.
    ///
    /// # Errors
    /// [`Error::ContainerNotFound`], [`Error::ProcessNotFound`].
    pub fn output(&self, handle: &str, process: &str, stream_id: &str, stream: OutputStream) -> Result<Output, Error> {
        let busy = Busy::on(&self.shared, handle)?;
        let uid = self.shared.state().process(handle, process)?.record.uid.clone();
        Ok(Output::open(&self.shared, busy, uid, stream_id, stream))
    }

    /// Whether all is well.
    ///
    /// # Errors
    /// `Err` says what is unhealthy.
    pub async fn ping(&self) -> Result<(), Error> {
        if *self.shared.stopped.borrow() {
            return Err(Error::ShuttingDown);
        }
        self.shared.ledger.health().await?;
        match self.shared.state().unavailable.clone() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// The limit of containers in force.
    pub fn max_containers(&self) -> usize {
        self.shared.options.max_containers
    }

    /// Stops taking requests, lets the running ones finish for a bounded time, detaches streams.
    /// Containers and processes go on.
    pub async fn shutdown(&self) {
        // What has not finished by then is as a crash would leave it.
        let _ = tokio::time::timeout(DRAIN, self.shared.gate.close()).await;
        self.shared.stopped.send_replace(true);
        if let Err(error) = self.shared.ledger.commit(Vec::new(), Durable::Reboot).await {
            tracing::warn!(%error, "the ledger was not written at the end");
        }
    }
}

/// How far a create is, for who waits for it.
fn how_the_create_went(container: &Container) -> Option<Result<(), Failure>> {
    if let Some(failure) = &container.failure {
        return Some(Err(failure.clone()));
    }
    if container.wanted() == Wanted::Absent {
        let why = NodeError::new(NodeErrorKind::Failed, "it was destroyed while it was being made");
        return Some(Err(Failure::Node(Stage::Sandbox, why)));
    }
    (container.record.answered && container.confirmed()).then_some(Ok(()))
}

fn create_error(handle: Handle, failure: Failure) -> Error {
    match failure {
        Failure::Node(stage, source) => Error::CreateFailed { handle, stage, source },
        Failure::Ledger(reason) => Error::Ledger(reason),
    }
}

fn destroyed_meanwhile(handle: Handle) -> Error {
    let source = NodeError::new(NodeErrorKind::Failed, "it was destroyed while it was being made");
    Error::CreateFailed { handle, stage: Stage::Sandbox, source }
}

fn check_property_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_PROPERTY_BYTES {
        return Err(Error::Invalid(format!("properties of {bytes} bytes; the limit is {MAX_PROPERTY_BYTES}")));
    }
    Ok(())
}

/// A create that is undone, unless that is not meant.
struct Undo {
    shared: Arc<Shared>,
    uid: ContainerUid,
    meant: bool,
}

impl Undo {
    fn not(mut self) {
        self.meant = false;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.meant {
            return;
        }
        if let Some(container) = self.shared.state().containers.get_mut(&self.uid) {
            container.unwanted = true;
        }
        self.shared.wake(Key::Container(self.uid.clone()));
    }
}

/// The one request that waits for a container's end.
struct Destroying {
    shared: Arc<Shared>,
    uid: ContainerUid,
    handle: Handle,
    to_record: bool,
}

impl Destroying {
    fn begin(shared: &Arc<Shared>, handle: &str) -> Result<Self, Error> {
        let mut state = shared.state();
        let uid = state.holder(handle)?.record.uid.clone();
        let container = state.containers.get_mut(&uid).ok_or_else(|| Error::ContainerNotFound(handle.to_owned()))?;
        if container.being_destroyed {
            return Err(Error::AlreadyDestroying(container.record.handle.clone()));
        }
        container.being_destroyed = true;
        container.stuck = None;
        let (handle, to_record) = (container.record.handle.clone(), container.record.desired == Desired::Present);
        Ok(Self { shared: Arc::clone(shared), uid, handle, to_record })
    }
}

impl Drop for Destroying {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(container) = state.containers.get_mut(&self.uid) {
            container.being_destroyed = false;
        }
        grace::arm(&self.shared, &mut state, &self.uid);
    }
}
