//! Ports that are kept for a container until its record has them.

use crate::addresses::{AddressError, Pools};
use crate::error::Error;
use crate::ports::NodeErrorKind;
use crate::record::{ContainerUid, Handle, PortIn, PortInAsked};
use crate::shared::Shared;
use std::sync::Arc;

/// Dropping it gives them back, and locks the state.
pub struct Reserved {
    shared: Arc<Shared>,
    uid: ContainerUid,
    handle: Handle,
    held: Vec<u16>,
    ports: Vec<PortIn>,
}

impl Reserved {
    /// A port for each that was asked for, in their order; one for two that ask for the same. No
    /// other container has them, and no program of the node listens on them.
    pub async fn new(
        shared: &Arc<Shared>,
        uid: &ContainerUid,
        handle: &Handle,
        asked: &[PortInAsked],
    ) -> Result<Self, Error> {
        let (shared, uid, handle) = (Arc::clone(shared), uid.clone(), handle.clone());
        let mut reserved = Self { shared, uid, handle, held: Vec::new(), ports: Vec::new() };
        let as_they_are = asked.iter().map(|asked| reserved.pools(|pools, _| pools.port(*asked)));
        let asked: Vec<PortInAsked> = as_they_are.collect::<Result<_, _>>()?;
        let mut ports = Vec::new();
        // Who names one has it before it is given to who names none.
        for (at, asked) in asked.iter().enumerate() {
            let Some(host_port) = asked.host_port else { continue };
            let port =
                PortIn { host_port: host_port.get(), container_port: asked.container_port.unwrap_or(host_port).get() };
            match ports.iter().find(|(_, other): &&(usize, PortIn)| other.host_port == port.host_port) {
                None => {
                    reserved.take_this(port.host_port).await?;
                    ports.push((at, port));
                }
                Some((_, same)) if *same == port => {}
                Some((_, PortIn { host_port: port, container_port })) => {
                    return Err(
                        AddressError::PortLeadsElsewhere { port: *port, container_port: *container_port }.into()
                    );
                }
            }
        }
        for (at, asked) in asked.iter().enumerate().filter(|(_, asked)| asked.host_port.is_none()) {
            let host_port = reserved.take().await?;
            let container_port = asked.container_port.map_or(host_port, std::num::NonZeroU16::get);
            ports.push((at, PortIn { host_port, container_port }));
        }
        ports.sort_by_key(|(at, _)| *at);
        reserved.ports = ports.into_iter().map(|(_, port)| port).collect();
        Ok(reserved)
    }

    pub fn ports(&self) -> &[PortIn] {
        &self.ports
    }

    /// They are the container's from now on. Locks nothing.
    pub fn keep(mut self) -> Vec<PortIn> {
        self.held.clear();
        std::mem::take(&mut self.ports)
    }

    fn pools<T>(&self, act: impl FnOnce(&mut Pools, &Self) -> Result<T, AddressError>) -> Result<T, AddressError> {
        let mut state = self.shared.state();
        state.pools.as_mut().map_or(Err(AddressError::NoNetworkForPorts), |pools| act(pools, self))
    }

    async fn take_this(&mut self, port: u16) -> Result<(), Error> {
        self.pools(|pools, this| pools.ports.take_this(&this.uid, &this.handle, port))?;
        self.held.push(port);
        Ok(self.shared.node.network.check_port(port).await?)
    }

    async fn take(&mut self) -> Result<u16, Error> {
        let mut occupied = Vec::new();
        let taken = loop {
            let port = match self.pools(|pools, this| pools.ports.take(&this.uid, &this.handle)) {
                Ok(port) => port,
                Err(AddressError::NoPortLeft { first, last, .. }) => {
                    break Err(AddressError::NoPortLeft { first, last, occupied: occupied.len() }.into());
                }
                Err(error) => break Err(error.into()),
            };
            self.held.push(port);
            match self.shared.node.network.check_port(port).await {
                Ok(()) => break Ok(port),
                Err(error) if error.kind == NodeErrorKind::Invalid => occupied.push(port),
                Err(error) => break Err(error.into()),
            }
        };
        // Not before: they would come again.
        self.held.retain(|port| !occupied.contains(port));
        self.give_back(&occupied);
        taken
    }

    fn give_back(&self, ports: &[u16]) {
        if let Some(pools) = &mut self.shared.state().pools {
            ports.iter().for_each(|port| pools.ports.give_back(&self.uid, *port));
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            self.give_back(&self.held);
        }
    }
}
