//! [`Controller::create`]: admitted, recorded, made by the loop, and undone unless it is answered.
//!
//! The request only waits: the work goes on in the reconciler, and dropping the request, at
//! whatever instant, leaves an unwanted container that the loop takes away again.

use crate::addresses::Asked;
use crate::error::Error;
use crate::grace::Busy;
use crate::images;
use crate::ledger::{Change, Durable};
use crate::network::{self, Reserved};
use crate::news::{Incident, IncidentKind};
use crate::observe::{Observation, Operation};
use crate::plan::{Place, Wanted};
use crate::ports::{NodeError, NodeErrorKind};
use crate::reconcile::give_back;
use crate::record::{
    ContainerRecord, ContainerStatus, ContainerUid, CreateRequest, Desired, Handle, Limits, Origin, Phase,
    SandboxRecord, Stage,
};
use crate::service::{Controller, check_not_reserved, check_property_size};
use crate::shared::{Key, Shared};
use crate::state::{Container, Failure};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

/// How long an answer to a failed create waits for the container to be dead, so that its bind
/// mounts are gone and its handle is free when the client reads it.
const UNDOING: Duration = Duration::from_secs(5);
const DESTROYED_MEANWHILE: &str = "it was destroyed while it was being made";

impl Controller {
    /// A container as asked for, Ready, its record saying so. When the returned future is dropped
    /// before it resolved (the client went away), the container is undone.
    ///
    /// # Errors
    /// [`Error::Node`] and [`Error::Address`] where what is asked for cannot be had,
    /// [`Error::HandleInUse`], [`Error::LimitReached`] and [`Error::Ledger`] before anything was done;
    /// [`Error::CreateFailed`] where it was begun, and is undone.
    pub async fn create(&self, request: CreateRequest) -> Result<Handle, Error> {
        self.create_for(request, Origin::Garden).await
    }

    /// The same, for whoever wants it.
    pub(crate) async fn create_for(&self, request: CreateRequest, origin: Origin) -> Result<Handle, Error> {
        let following = self.shared.options.observing.follow(Operation::Create);
        let created = self.create_followed(request, origin).await;
        following.ended(&created);
        created
    }

    async fn create_followed(&self, mut request: CreateRequest, origin: Origin) -> Result<Handle, Error> {
        let _pass = self.shared.gate.enter()?;
        // And once more with the admission; here before anything is asked of the node.
        self.shared.state().takes_new()?;
        let properties: usize = request.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
        check_property_size(properties)?;
        request.properties.keys().try_for_each(|key| check_not_reserved(key))?;
        let network = Asked::parse(request.spec.network.as_deref())?;
        network::check_rules(&self.shared, &request.rules_out, request.rules_out.len()).await?;
        network::check_ports(request.ports_in.len())?;
        self.shared.node.rootfs.check(&request.spec).await?;
        if request.spec.limits != Limits::default() {
            self.shared.node.resources.check(&request.spec).await?;
        }
        let credentials = request.credentials.clone();
        let ports_in = std::mem::take(&mut request.ports_in);
        let record = self.record(request, origin);
        let image = record.spec.rootfs.unresolved().cloned();
        let (uid, handle) = (record.uid.clone(), record.handle.clone());
        let reserved = Reserved::new(&self.shared, &uid, &handle, &ports_in).await?;
        let (_busy, undo) = self.admit(record, network, reserved).await?;
        let asked = self.shared.ask_for(&uid);
        tracing::info!(%handle, %uid, "container is being created");
        self.shared.wake(Key::Container(uid.clone()));
        let made = match image {
            None => self.made(&uid).await,
            // Its place is made meanwhile.
            Some(image) => tokio::select! {
                // Cancel-safe: a pull that nobody waits for any more is given up.
                brought = images::bring(&self.shared, &uid, &image, credentials.as_ref()) => match brought {
                    // It takes as long as it goes on; the deadline is for the rest.
                    Ok(()) => self.made(&uid).await,
                    Err(failure) => Ok(Some(Err(failure))),
                },
                // Cancel-safe: it only looks. It was destroyed, or its place cannot be made.
                went = self.shared.watch(&uid, how_the_create_went) => Ok(went),
            },
        };
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
                self.tell_of_failure(&uid, &error);
                drop(undo);
                // What undoes it is still this request's.
                let _asked = asked;
                let dead = self.shared.watch(&uid, |container| container.freed.then_some(()));
                // Whether that was in time or not, the answer is the same.
                let _ = tokio::time::timeout(UNDOING, dead).await;
                Err(error)
            }
        }
    }

    /// Waits until it is made or has failed, for as long as a create may take.
    async fn made(&self, uid: &ContainerUid) -> Result<Option<Result<(), Failure>>, Elapsed> {
        tokio::time::timeout(self.shared.options.create_deadline, self.shared.watch(uid, how_the_create_went)).await
    }

    fn record(&self, request: CreateRequest, origin: Origin) -> ContainerRecord {
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
            origin,
            sandbox: None,
            addresses: None,
            ports_in: Vec::new(),
            rules_out: request.rules_out,
            status: ContainerStatus { phase: Phase::Creating, stage: Some(Stage::Sandbox), ..Default::default() },
        }
    }

    /// Admits a container, gives it addresses and a place, and records all that in one transaction.
    async fn admit(&self, record: ContainerRecord, network: Asked, reserved: Reserved) -> Result<(Busy, Undo), Error> {
        let uid = record.uid.clone();
        let (commit, id, place, kind) = {
            let mut state = self.shared.state();
            state.admit(record, network, self.shared.options.max_containers, Instant::now())?;
            let (id, kind, place) =
                state.assign_place(&uid).ok_or_else(|| Error::ContainerNotFound(uid.to_string()))?;
            let container = state.containers.get_mut(&uid).ok_or_else(|| Error::ContainerNotFound(uid.to_string()))?;
            container.record.sandbox = Some(id.clone());
            container.record.ports_in = reserved.keep();
            container.place = place;
            let row = SandboxRecord { id: id.clone(), kind, container: Some(uid.clone()) };
            let record = Box::new(container.record.clone());
            let changes = vec![Change::InsertContainer(record), Change::PutSandbox(row)];
            // Under the lock: whoever finds it in memory writes after this, or else what they wrote
            // would be lost. Not yet for a reboot: until it was answered it is undone then anyhow.
            (self.shared.ledger.submit(changes, Durable::Crash), id, place, kind)
        };
        let busy = Busy::on_uid(&self.shared, &uid);
        let undo = Undo { shared: Arc::clone(&self.shared), uid: uid.clone(), meant: true };
        if let Err(error) = commit.written().await {
            undo.not();
            let mut state = self.shared.state();
            state.forget(&uid);
            give_back(&mut state, &id, place);
            return Err(error.into());
        }
        self.shared.options.observing.tell(Observation::PlaceTaken { pooled: place == Place::Made });
        // One was taken, or its kind is new.
        self.shared.nudge(Key::Pool(kind));
        Ok((busy, undo))
    }

    /// Tells followers, unless it was destroyed on purpose meanwhile.
    fn tell_of_failure(&self, container: &ContainerUid, error: &Error) {
        let Error::CreateFailed { handle, stage, source } = error else { return };
        if source.message != DESTROYED_MEANWHILE {
            let state = self.shared.state();
            state.followers.tell(&Incident {
                container: container.clone(),
                declared_by: state.declared_by(container),
                handle: handle.clone(),
                kind: IncidentKind::CreateFailed,
                message: format!("{stage} failed: {source}"),
                at: SystemTime::now(),
            });
        }
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
}

/// How far a create is, for who waits for it.
fn how_the_create_went(container: &Container) -> Option<Result<(), Failure>> {
    if let Some(failure) = &container.failure {
        return Some(Err(failure.clone()));
    }
    if container.wanted() == Wanted::Absent {
        let why = NodeError::new(NodeErrorKind::Failed, DESTROYED_MEANWHILE);
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
    let source = NodeError::new(NodeErrorKind::Failed, DESTROYED_MEANWHILE);
    Error::CreateFailed { handle, stage: Stage::Sandbox, source }
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
        {
            let mut state = self.shared.state();
            if let Some(container) = state.containers.get_mut(&self.uid) {
                container.unwanted = true;
            }
            state.followers.changed(&self.uid);
        }
        self.shared.wake(Key::Container(self.uid.clone()));
    }
}
