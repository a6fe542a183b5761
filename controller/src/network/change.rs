//! [`Controller::add_port`] and [`Controller::add_rules`]: recorded first, then in force, then
//! answered. Changes of one container come one after the other, and each goes on to its end also
//! when its client has left; one that cannot be put in force is taken out of the record again.

use super::reserve::Reserved;
use super::wanted;
use crate::addresses::AddressError;
use crate::error::Error;
use crate::grace::Busy;
use crate::ledger::Durable;
use crate::ports::NodeError;
use crate::record::{ContainerRecord, PortIn, PortInAsked, RuleOut};
use crate::service::Controller;
use crate::shared::Shared;
use std::num::NonZeroU16;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Ports of the node that may lead to one container.
pub const MAX_PORTS_IN: usize = 1024;
/// Rules that one container may have.
pub const MAX_RULES_OUT: usize = 4096;

/// Refuses more ports than one container may have.
pub fn check_ports(many: usize) -> Result<(), Error> {
    if many > MAX_PORTS_IN {
        return Err(Error::Invalid(format!("{many} ports for one container; the limit is {MAX_PORTS_IN}")));
    }
    Ok(())
}

/// Refuses rules that cannot be kept, of a container that has so many in all.
pub async fn check_rules(shared: &Shared, rules: &[RuleOut], many: usize) -> Result<(), Error> {
    if many > MAX_RULES_OUT {
        return Err(Error::Invalid(format!(
            "{many} rules for one container; the limit is {MAX_RULES_OUT}: join rules, each may name many networks and ports"
        )));
    }
    if rules.is_empty() || shared.options.network.is_none() {
        return Ok(());
    }
    Ok(shared.node.network.check_rules(rules).await?)
}

impl Controller {
    /// Makes a port of the node lead to one of the container's. What leads there already is
    /// answered as it is.
    ///
    /// # Errors
    /// [`Error::Address`] for a port that cannot be had, or a container without a network;
    /// [`Error::Node`] where a program of the node has it, or it cannot be put in force: it is as
    /// it was. [`Error::NotReady`].
    pub async fn add_port(&self, handle: &str, asked: PortInAsked) -> Result<PortIn, Error> {
        let _pass = self.shared.gate.enter()?;
        let adding = Adding::begin(&self.shared, handle).await?;
        to_its_end(async move { adding.port(asked).await }).await
    }

    /// Lets a container reach more. Without a network there is nothing to reach: it is recorded
    /// all the same.
    ///
    /// # Errors
    /// [`Error::Node`] for rules that this node cannot keep or could not put in force: none of
    /// them is. [`Error::NotReady`].
    pub async fn add_rules(&self, handle: &str, rules: Vec<RuleOut>) -> Result<(), Error> {
        let _pass = self.shared.gate.enter()?;
        let adding = Adding::begin(&self.shared, handle).await?;
        to_its_end(async move { adding.rules(rules).await }).await
    }
}

/// As [`Controller::add_port`], the other way: the port leads nowhere any more, and may be another's.
/// One that does not lead there is no error.
pub async fn remove_port(shared: &Arc<Shared>, handle: &str, asked: PortInAsked) -> Result<(), Error> {
    let changing = Adding::begin(shared, handle).await?;
    to_its_end(async move { changing.remove(asked).await }).await
}

/// Puts in force what the record says of a container's network.
pub async fn ensure(shared: &Arc<Shared>, handle: &str) -> Result<(), Error> {
    let changing = Adding::begin(shared, handle).await?;
    to_its_end(async move { if changing.record()?.addresses.is_some() { changing.ensure().await } else { Ok(()) } })
        .await
}

async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::spawn(work);
    task.await.unwrap_or_else(|error| Err(Error::Invalid(format!("the change broke off: {error}"))))
}

/// One change of one container, which no other overtakes.
struct Adding {
    shared: Arc<Shared>,
    handle: String,
    busy: Busy,
    _alone: OwnedMutexGuard<()>,
}

impl Adding {
    async fn begin(shared: &Arc<Shared>, handle: &str) -> Result<Self, Error> {
        let busy = Busy::on(shared, handle)?;
        let turn = {
            let state = shared.state();
            let container = state.holder(handle)?;
            container.ready_place()?;
            Arc::clone(&container.network_edit)
        };
        let alone = turn.lock_owned().await;
        let adding = Self { shared: Arc::clone(shared), handle: handle.to_owned(), busy, _alone: alone };
        adding.record()?;
        Ok(adding)
    }

    /// The record, while the container is ready.
    fn record(&self) -> Result<ContainerRecord, Error> {
        let state = self.shared.state();
        let gone = || Error::ContainerNotFound(self.handle.clone());
        let container = state.containers.get(self.busy.uid()).ok_or_else(gone)?;
        container.ready_place()?;
        Ok(container.record.clone())
    }

    async fn edit(&self, change: impl Fn(&mut ContainerRecord) + Send + 'static) -> Result<(), Error> {
        self.shared.edit(self.busy.uid(), Durable::Reboot, Vec::new(), change).await
    }

    async fn port(self, asked: PortInAsked) -> Result<PortIn, Error> {
        let record = self.record()?;
        if record.addresses.is_none() || self.shared.options.network.is_none() {
            return Err(AddressError::NoNetworkForPorts.into());
        }
        let possible = self.shared.state().pools.as_ref().map(|pools| pools.port(asked)).transpose()?;
        let asked = possible.unwrap_or(asked);
        if let Some(there) = already(&record.ports_in, asked)? {
            self.ensure().await?;
            return Ok(there);
        }
        check_ports(record.ports_in.len() + 1)?;
        let reserved = Reserved::new(&self.shared, self.busy.uid(), &record.handle, &[asked]).await?;
        let [port] = *reserved.ports() else { return Err(AddressError::NoNetworkForPorts.into()) };
        self.edit(move |record| record.ports_in.push(port)).await?;
        let Err(error) = self.ensure().await else {
            reserved.keep();
            return Ok(port);
        };
        let out = self.put_back(move |record| record.ports_in.retain(|other| *other != port)).await;
        if !out {
            // It may lead here still, so that it is nobody else's as long as the container is there.
            reserved.keep();
        }
        Err(error)
    }

    async fn remove(self, asked: PortInAsked) -> Result<(), Error> {
        let leads = |port: &&PortIn| {
            let (host, inner) = (asked.host_port.map(NonZeroU16::get), asked.container_port.map(NonZeroU16::get));
            host.is_none_or(|host| host == port.host_port) && inner.is_none_or(|inner| inner == port.container_port)
        };
        let Some(port) = self.record()?.ports_in.iter().find(leads).copied() else { return Ok(()) };
        self.edit(move |record| record.ports_in.retain(|other| *other != port)).await?;
        if let Err(error) = self.ensure().await {
            self.put_back(move |record| record.ports_in.push(port)).await;
            return Err(error);
        }
        if let Some(pools) = &mut self.shared.state().pools {
            pools.ports.give_back(self.busy.uid(), port.host_port);
        }
        Ok(())
    }

    async fn rules(self, rules: Vec<RuleOut>) -> Result<(), Error> {
        let record = self.record()?;
        let before = record.rules_out;
        // One that comes again counts once, as the last of them.
        let mut after: Vec<RuleOut> = before.iter().filter(|rule| !rules.contains(rule)).cloned().collect();
        after.extend_from_slice(&rules);
        check_rules(&self.shared, &rules, after.len()).await?;
        self.edit(move |record| record.rules_out.clone_from(&after)).await?;
        if record.addresses.is_none() {
            return Ok(());
        }
        let Err(error) = self.ensure().await else { return Ok(()) };
        self.put_back(move |record| record.rules_out.clone_from(&before)).await;
        Err(error)
    }

    async fn ensure(&self) -> Result<(), Error> {
        if self.shared.options.network.is_none() {
            return Ok(());
        }
        let uid = self.busy.uid();
        let ensured = self.shared.node.network.ensure(&|| wanted(&self.shared, uid)).await;
        ensured.map_err(|error: NodeError| match self.record() {
            Ok(_) => error.into(),
            // That is why.
            Err(not_ready) => not_ready,
        })
    }

    /// Makes record and node as they were; whether both are.
    async fn put_back(&self, change: impl Fn(&mut ContainerRecord) + Send + 'static) -> bool {
        let recorded = self.edit(change).await;
        if let Err(error) = &recorded {
            tracing::warn!(uid = %self.busy.uid(), %error, "a change of a container's network was not taken back");
        }
        let ensured = self.ensure().await;
        if ensured.is_err() {
            self.shared.network_soon.notify_one();
        }
        recorded.is_ok() && ensured.is_ok()
    }
}

/// The port that was asked for, where it leads there already.
fn already(ports: &[PortIn], asked: PortInAsked) -> Result<Option<PortIn>, AddressError> {
    let Some(host_port) = asked.host_port else { return Ok(None) };
    let Some(there) = ports.iter().find(|port| port.host_port == host_port.get()) else { return Ok(None) };
    if there.container_port == asked.container_port.unwrap_or(host_port).get() {
        return Ok(Some(*there));
    }
    Err(AddressError::PortLeadsElsewhere { port: there.host_port, container_port: there.container_port })
}
