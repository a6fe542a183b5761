//! What whoever reads declarations asks of the controller.

use crate::destroy::Asking;
use crate::error::Error;
use crate::grace::Busy;
use crate::ledger::Durable;
use crate::network;
use crate::plan::Wanted;
use crate::record::{
    ContainerUid, CreateRequest, Declaration, DeclaredBy, DeclaredProcess, Handle, Limits, Origin, PortInAsked,
    Properties,
};
use crate::service::{Controller, check_not_reserved, check_property_size};
use crate::shared::Key;
use crate::state::Container;
use std::time::Duration;

/// A declared container, as far as whoever declares it needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredContainer {
    /// Ours.
    pub uid: ContainerUid,
    /// What clients call it.
    pub handle: Handle,
    /// What is in force.
    pub declaration: Declaration,
    /// Its create was answered.
    pub made: bool,
    /// It is not wanted any more.
    pub going: bool,
}

/// What of a declared container is another than before. Everything is put in force on the container
/// as it is, and recorded as in force after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redeclaration {
    /// Which version of the object this is.
    pub generation: i64,
    /// It, as [`Declaration::source`].
    pub source: String,
    /// Its processes.
    pub processes: Vec<DeclaredProcess>,
    /// Its limits, where they are others. None of memory or processes begins or ends.
    pub limits: Option<Limits>,
    /// Its grace time, which clients are told and which does not count.
    pub grace_time: Option<Duration>,
    /// Properties that it has from now on.
    pub properties: Properties,
    /// Keys of properties that it has no more.
    pub without_properties: Vec<String>,
    /// Ports that lead to it no more.
    pub without_ports: Vec<PortInAsked>,
    /// Ports that do.
    pub ports: Vec<PortInAsked>,
}

impl Controller {
    /// All that are declared and not gone.
    pub fn declared(&self) -> Vec<DeclaredContainer> {
        let state = self.shared.state();
        state.containers.values().filter_map(declared).collect()
    }

    /// The one that an object of this name declares, whichever object that is.
    pub fn declared_as(&self, namespace: &str, name: &str) -> Option<DeclaredContainer> {
        let state = self.shared.state();
        let named =
            |one: &DeclaredContainer| one.declaration.by.namespace == namespace && one.declaration.by.name == name;
        let mut all: Vec<_> = state.containers.values().filter_map(declared).filter(named).collect();
        all.sort_by_key(|one| one.going);
        all.into_iter().next()
    }

    /// As [`Controller::create`], for who declares it.
    ///
    /// # Errors
    /// As [`Controller::create`].
    pub async fn declare(&self, request: CreateRequest, declaration: Declaration) -> Result<Handle, Error> {
        self.create_for(request, Origin::Declared(Box::new(declaration))).await
    }

    /// As [`Controller::destroy`], for who declared it. One that is gone is no error.
    ///
    /// # Errors
    /// As [`Controller::destroy`].
    pub async fn undeclare(&self, by: &DeclaredBy) -> Result<(), Error> {
        let Some(one) = self.declared().into_iter().find(|one| one.declaration.by == *by) else { return Ok(()) };
        match self.destroy_for(one.handle.as_str(), &Asking::Declarer(by)).await {
            Err(Error::ContainerNotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Changes a declared container that is ready, in place.
    ///
    /// # Errors
    /// Whatever could not be put in force; what could stays so, and [`Declaration::generation`] is as
    /// it was, so that it is tried again as a whole. [`Error::NotReady`].
    pub async fn redeclare(&self, by: &DeclaredBy, change: Redeclaration) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let properties: usize = change.properties.iter().map(|(key, value)| key.len() + value.len()).sum();
        check_property_size(properties)?;
        change.properties.keys().try_for_each(|key| check_not_reserved(key))?;
        let one = self.declared().into_iter().find(|one| one.declaration.by == *by);
        let one = one.ok_or_else(|| Error::ContainerNotFound(by.to_string()))?;
        let (shared, handle) = (&self.shared, one.handle.as_str());
        let busy = Busy::on_uid(shared, &one.uid);
        let (sandbox, mut spec) = {
            let state = shared.state();
            let container =
                state.containers.get(&one.uid).ok_or_else(|| Error::ContainerNotFound(handle.to_owned()))?;
            (container.ready_place()?.clone(), container.record.spec.clone())
        };
        if let Some(limits) = change.limits {
            spec.limits = limits;
            shared.node.resources.check(&spec).await?;
        }
        let Redeclaration { limits, grace_time, properties, without_properties, .. } = change.clone();
        let recorded = shared.edit(busy.uid(), Durable::Reboot, Vec::new(), move |record| {
            record.generation += 1;
            record.grace_time = grace_time;
            if let Some(limits) = limits {
                record.spec.limits = limits;
            }
            without_properties.iter().for_each(|key| drop(record.properties.remove(key)));
            record.properties.extend(properties.clone());
        });
        recorded.await?;
        if change.limits.is_some() {
            shared.node.resources.limit(&sandbox, &spec).await?;
            network::ensure(shared, handle).await?;
        }
        for port in change.without_ports {
            network::remove_port(shared, handle, port).await?;
        }
        for port in change.ports {
            // One of the node's own choice may lead there since an earlier try.
            let leads = port.host_port.is_none()
                && port.container_port.is_some_and(|inner| self.leads_to(&one.uid, inner.get()));
            if !leads {
                self.add_port(handle, port).await?;
            }
        }
        let (generation, source, processes) = (change.generation, change.source, change.processes);
        let in_force = shared.edit(busy.uid(), Durable::Reboot, Vec::new(), move |record| {
            record.status.observed_generation = record.generation;
            if let Some(declaration) = record.origin.declaration_mut() {
                declaration.generation = generation;
                declaration.source.clone_from(&source);
                declaration.processes.clone_from(&processes);
            }
        });
        in_force.await?;
        shared.wake(Key::Container(busy.uid().clone()));
        Ok(())
    }

    /// Whether some port of the node leads to this one of a container's.
    fn leads_to(&self, uid: &ContainerUid, container_port: u16) -> bool {
        let state = self.shared.state();
        let ports = state.containers.get(uid).map_or(&[][..], |container| &container.record.ports_in);
        ports.iter().any(|port| port.container_port == container_port)
    }
}

fn declared(container: &Container) -> Option<DeclaredContainer> {
    let record = &container.record;
    let declaration = record.origin.declaration().filter(|_| !container.freed)?;
    Some(DeclaredContainer {
        uid: record.uid.clone(),
        handle: record.handle.clone(),
        declaration: declaration.clone(),
        made: record.answered && container.confirmed(),
        going: container.wanted() == Wanted::Absent,
    })
}
