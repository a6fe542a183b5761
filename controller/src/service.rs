//! What the front ends ask of the controller. See [`Controller`]; its `create` and `destroy` are in
//! files of their own.

use crate::addresses::Pools;
use crate::attachment::{Attachment, Output};
use crate::error::Error;
use crate::grace::Busy;
use crate::ledger::Durable;
use crate::observe::Operation;
use crate::plan::Wanted;
use crate::ports::OutputStream;
use crate::processes;
use crate::record::{Addresses, ContainerRecord, ExitStatus, Handle, Phase, PortIn, ProcessSpec, Properties, StopMode};
use crate::shared::{Key, Shared};
use crate::state::{Container, State};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The longest key and value of a property together, in bytes.
pub const MAX_PROPERTY_BYTES: usize = 1024 * 1024;
/// The property that says in words what last happened to a container. It is ours.
pub const MESSAGE_PROPERTY: &str = "gardend.message";
/// Keys that begin so are for gardend's own properties; clients read them and set none.
const RESERVED_PREFIX: &str = "gardend.";
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
    /// Where it is in the network; `None`: it has its own loopback alone.
    pub addresses: Option<Addresses>,
    /// Where the node's ports are reached from outside, for one with a network.
    pub external: Option<IpAddr>,
    /// Ports of the node that lead to it.
    pub ports_in: Vec<PortIn>,
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
    pub(crate) shared: Arc<Shared>,
}

impl Controller {
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns once every process but init is gone. A `Kill` takes effect at once, also while a
    /// `Terminate` of somebody else is waiting.
    ///
    /// # Errors
    /// [`Error::NotReady`] where its create is not finished or it is being destroyed;
    /// [`Error::Declared`] for one whose processes are kept running.
    pub async fn stop(&self, handle: &str, mode: StopMode) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        let finished = {
            let state = self.shared.state();
            let container = state.holder(handle)?;
            if let Some(declaration) = container.record.origin.declaration() {
                // They would only be started again.
                return Err(Error::Declared { handle: container.record.handle.clone(), by: declaration.by.clone() });
            }
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
        let _asked = self.shared.ask_for(busy.uid());
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
            addresses: container.record.addresses.clone().filter(|_| container.networked),
            external: self
                .shared
                .options
                .network
                .as_ref()
                .and_then(|network| network.external)
                .filter(|_| container.networked),
            ports_in: container.record.ports_in.clone(),
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
    /// [`Error::Invalid`] for one that is too long or not a client's; [`Error::Ledger`], and it is as it was.
    pub async fn set_property(&self, handle: &str, key: &str, value: &str) -> Result<(), Error> {
        check_property_size(key.len() + value.len())?;
        check_not_reserved(key)?;
        let (key, value) = (key.to_owned(), value.to_owned());
        self.change(handle, move |record| drop(record.properties.insert(key.clone(), value.clone()))).await
    }

    /// Removes one; one that is not set is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that is not a client's; [`Error::Ledger`], and it is as it was.
    pub async fn remove_property(&self, handle: &str, key: &str) -> Result<(), Error> {
        check_not_reserved(key)?;
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
        let following = self.shared.options.observing.follow(Operation::Run);
        let started = self.run_followed(handle, spec).await;
        following.ended(&started);
        started
    }

    async fn run_followed(&self, handle: &str, spec: ProcessSpec) -> Result<Attachment, Error> {
        let _pass = self.shared.gate.enter()?;
        let busy = Busy::on(&self.shared, handle)?;
        {
            let state = self.shared.state();
            let declaration = state.holder(handle)?.record.origin.declaration();
            let declared =
                declaration.and_then(|all| all.processes.iter().find(|one| Some(&one.id) == spec.id.as_ref()));
            if let Some(declared) = declared {
                return Err(Error::ProcessIdInUse(declared.id.clone()));
            }
        }
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

    /// The limit of containers in force: as many as are allowed, and as there are subnets for.
    pub fn max_containers(&self) -> usize {
        let subnets = self.shared.state().pools.as_ref().map_or(usize::MAX, Pools::size);
        self.shared.options.max_containers.min(subnets)
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

pub(crate) fn check_property_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_PROPERTY_BYTES {
        return Err(Error::Invalid(format!("properties of {bytes} bytes; the limit is {MAX_PROPERTY_BYTES}")));
    }
    Ok(())
}

pub(crate) fn check_not_reserved(key: &str) -> Result<(), Error> {
    if key.starts_with(RESERVED_PREFIX) {
        return Err(Error::Invalid(format!(
            "property {key:?}: keys that begin with {RESERVED_PREFIX:?} are gardend's own and can only be read; choose another"
        )));
    }
    Ok(())
}
