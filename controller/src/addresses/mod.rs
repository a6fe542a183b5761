//! The node's addresses and ports, and whose each is: a plain structure without I/O, kept under
//! the same lock as the containers.
//!
//! Promises: nothing is anybody's twice; what was given back comes last; what a container holds is
//! what its record says, so that a start takes it up from the records alone.
//!
//! Where the node's network says itself where containers are, ports alone are given out here; where
//! they are in the node's own network, only ports are anybody's.
//!
//! Leaves to others: whether a program of the node has a port (`Network::check_port`), and when
//! something is given back (`reconcile`: once nothing leads there any more and that is recorded).

mod asked;
mod host_ports;
mod subnets;
mod turns;

use crate::options::{AddressSource, NetworkOptions};
use crate::record::{Addresses, ContainerRecord, ContainerUid, Handle, PortInAsked};
pub use asked::Asked;
use asked::gateway;
use host_ports::HostPorts;
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use subnets::Subnets;
use turns::Turns;

/// Of the IPv6 pool, its own address (which routers answer to) and the node's.
const BEFORE_FIRST: u128 = 2;

/// Why an address or a port cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum AddressError {
    #[error("network: {asked:?} is no IPv4 address or subnet; write 10.1.2.0/24, or 10.1.2.3/24 for that very address")]
    Syntax { asked: String },
    #[error("network: {subnet} has no room for a container beside its gateway; the smallest subnet is a /30")]
    TooSmall { subnet: Ipv4Net },
    #[error("network: {subnet} overlaps {range}, {what}; ask for another")]
    Reserved { subnet: Ipv4Net, range: Ipv4Net, what: &'static str },
    #[error("network: {address} is {role} of {subnet}; ask for another address of it")]
    NotForContainers { address: Ipv4Addr, role: &'static str, subnet: Ipv4Net },
    #[error(
        "network: {subnet} overlaps {pool}, the pool that this node gives subnets out of; ask for one outside of it, or for none"
    )]
    OverlapsPool { subnet: Ipv4Net, pool: Ipv4Net },
    #[error(
        "network: {subnet} overlaps {used}, which other containers are in; ask for {used} itself, or for one outside of it"
    )]
    OverlapsUsed { subnet: Ipv4Net, used: Ipv4Net },
    #[error(
        "network: {address} of {subnet} is already in use by container '{holder}'; ask for another, or for {subnet}"
    )]
    AddressInUse { address: Ipv4Addr, subnet: Ipv4Net, holder: String },
    #[error(
        "network: no address of {subnet} is free, all {size} are in use; destroy a container of it, or ask for another"
    )]
    SubnetFull { subnet: Ipv4Net, size: u32 },
    #[error(
        "network: no subnet of the pool {pool} is free, all {size} are in use; destroy a container, or give gardend a larger --network-pool"
    )]
    PoolEmpty { pool: Ipv4Net, size: u32 },
    #[error(
        "network: no address of the pool {pool} is free; destroy a container, or give gardend a larger --network-pool-v6"
    )]
    Pool6Empty { pool: Ipv6Net },
    #[error("network: this gardend gives containers no network (--network none); ask again without it")]
    NoNetwork,
    #[error(
        "a port needs a network, and this container has its own loopback alone; run gardend with --network builtin, and make the container again"
    )]
    NoNetworkForPorts,
    #[error(
        "network: containers of this gardend are in the node's own network (--backend host); ask again without one"
    )]
    NodesNetwork,
    #[error(
        "host port {host_port} cannot lead to port {container_port}: containers of this gardend are in the node's own network (--backend host), where both are one; ask for {container_port}, or for 0"
    )]
    NodesPort { host_port: u16, container_port: u16 },
    #[error("host port {port} is already in use by container '{holder}'; ask for another, or for 0 to be given one")]
    PortInUse { port: u16, holder: String },
    #[error(
        "host port {port} already leads to port {container_port} of this container; ask for another, or for 0 to be given one"
    )]
    PortLeadsElsewhere { port: u16, container_port: u16 },
    #[error(
        "no host port from {first} to {last} is free ({occupied} that containers do not have are programs' of the node); destroy a container, or give gardend more --host-ports"
    )]
    NoPortLeft { first: u16, last: u16, occupied: usize },
}

/// What one container has.
pub struct Held {
    handle: Handle,
    addresses: Addresses,
}

/// All of them.
pub struct Pools {
    given: Given,
    held: HashMap<ContainerUid, Held>,
    pub ports: HostPorts,
}

/// Out of what addresses are given.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Given {
    Pools {
        subnets: Subnets,
        pool6: Option<(Ipv6Net, Turns)>,
    },
    /// The node's network says them itself.
    ByNode,
    /// Everybody has this one.
    Shared(Ipv4Addr),
}

impl Pools {
    pub fn new(options: &NetworkOptions) -> Self {
        let given = match options.addresses {
            AddressSource::Pools { v4, v6 } => Given::Pools {
                subnets: Subnets::new(v4),
                pool6: v6.map(|pool| (pool.trunc(), Turns::new(size6(pool)))),
            },
            AddressSource::Node => Given::ByNode,
            AddressSource::Shared(address) => Given::Shared(address),
        };
        Self { given, held: HashMap::new(), ports: HostPorts::new(options.ports.clone()) }
    }

    /// Containers that the pool has room for.
    pub fn size(&self) -> usize {
        match &self.given {
            Given::Pools { subnets, .. } => subnets.size() as usize,
            Given::ByNode | Given::Shared(_) => usize::MAX,
        }
    }

    /// The node's network gives addresses itself.
    pub fn given_by_node(&self) -> bool {
        matches!(self.given, Given::ByNode)
    }

    /// A port as it can be had: in the node's own network it is the same on both sides.
    pub fn port(&self, asked: PortInAsked) -> Result<PortInAsked, AddressError> {
        match (&self.given, asked) {
            (Given::Shared(_), PortInAsked { host_port: Some(host), container_port: Some(container) })
                if host != container =>
            {
                Err(AddressError::NodesPort { host_port: host.get(), container_port: container.get() })
            }
            (Given::Shared(_), PortInAsked { host_port: None, container_port }) => {
                Ok(PortInAsked { host_port: container_port, container_port })
            }
            _ => Ok(asked),
        }
    }

    /// Addresses for a container that has none; `None` where they are not ours to give.
    pub fn take(
        &mut self,
        uid: &ContainerUid,
        handle: &Handle,
        asked: Asked,
    ) -> Result<Option<Addresses>, AddressError> {
        let (subnets, pool6) = match &mut self.given {
            Given::Pools { subnets, pool6 } => (subnets, pool6),
            Given::ByNode => return Ok(None),
            Given::Shared(address) if asked == Asked::OfThePool => {
                let (address, subnet) = (*address, Ipv4Net::from(*address));
                return Ok(Some(Addresses { address, subnet, gateway: address, ipv6: None }));
            }
            Given::Shared(_) => return Err(AddressError::NodesNetwork),
        };
        let (address, subnet) = subnets.take(asked, &self.held)?;
        let ipv6 = match pool6 {
            None => None,
            Some((pool, turns)) => match turns.take(|_| true) {
                Some(number) => Some(nth6(*pool, number)),
                None => {
                    let pool = *pool;
                    subnets.give_back(address, subnet);
                    return Err(AddressError::Pool6Empty { pool });
                }
            },
        };
        let addresses = Addresses { address, subnet, gateway: gateway(subnet), ipv6 };
        self.held.insert(uid.clone(), Held { handle: handle.clone(), addresses: addresses.clone() });
        Ok(Some(addresses))
    }

    /// What a record says that its container has. Of two that say the same, who is taken up first
    /// has it: the other's is none any more.
    pub fn take_up(&mut self, record: &ContainerRecord) {
        if let (Some(addresses), Given::Pools { subnets, pool6 }) = (&record.addresses, &mut self.given) {
            if subnets.take_up(addresses.address, addresses.subnet) {
                if let (Some((pool, turns)), Some(ipv6)) = (pool6, addresses.ipv6)
                    && let Some(number) = number6(*pool, ipv6)
                {
                    turns.take_up(number);
                }
                let held = Held { handle: record.handle.clone(), addresses: addresses.clone() };
                self.held.insert(record.uid.clone(), held);
            } else {
                let (handle, uid, address) = (&record.handle, &record.uid, addresses.address);
                tracing::debug!(%handle, %uid, %address, "another container has its address by now");
            }
        }
        for port in &record.ports_in {
            self.ports.take_up(&record.uid, &record.handle, port.host_port);
        }
    }

    /// Whatever a container has.
    pub fn give_back(&mut self, uid: &ContainerUid) {
        if let (Some(Held { addresses, .. }), Given::Pools { subnets, pool6 }) =
            (self.held.remove(uid), &mut self.given)
        {
            subnets.give_back(addresses.address, addresses.subnet);
            if let (Some((pool, turns)), Some(ipv6)) = (pool6, addresses.ipv6)
                && let Some(number) = number6(*pool, ipv6)
            {
                turns.give_back(number);
            }
        }
        self.ports.give_back_all(uid);
    }
}

fn size6(pool: Ipv6Net) -> u32 {
    let addresses = 1_u128.checked_shl(128 - u32::from(pool.prefix_len())).unwrap_or(u128::MAX);
    u32::try_from(addresses.saturating_sub(BEFORE_FIRST)).unwrap_or(u32::MAX)
}

fn nth6(pool: Ipv6Net, number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(pool.network()) + BEFORE_FIRST + u128::from(number))
}

fn number6(pool: Ipv6Net, address: Ipv6Addr) -> Option<u32> {
    let number = u128::from(address).checked_sub(u128::from(pool.network()))?.checked_sub(BEFORE_FIRST)?;
    u32::try_from(number).ok().filter(|_| pool.contains(&address))
}

#[cfg(test)]
mod tests;
