//! IPv4: a /30 of the pool each, or subnets that were asked for and are shared.

use super::asked::{Asked, SMALLEST, gateway, overlap};
use super::turns::Turns;
use super::{AddressError, Held};
use crate::record::ContainerUid;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv4Addr;

/// Subnets without a container whose turns are remembered.
const REMEMBERED: usize = 64;
/// Addresses of a /30.
const STEP: u32 = 4;
/// The network's own and the gateway's.
const BEFORE_FIRST: u32 = 2;

pub struct Subnets {
    pool: Ipv4Net,
    of_pool: Turns,
    /// Those outside of the pool that somebody is in.
    others: BTreeMap<Ipv4Net, Turns>,
    /// Those that somebody was in.
    left: VecDeque<(Ipv4Net, Turns)>,
}

impl Subnets {
    pub fn new(pool: Ipv4Net) -> Self {
        let size = if pool.prefix_len() > SMALLEST { 0 } else { 1 << (SMALLEST - pool.prefix_len()) };
        Self { pool: pool.trunc(), of_pool: Turns::new(size), others: BTreeMap::new(), left: VecDeque::new() }
    }

    /// Containers that the pool has room for.
    pub fn size(&self) -> u32 {
        self.of_pool.size()
    }

    pub fn take(
        &mut self,
        asked: Asked,
        held: &HashMap<ContainerUid, Held>,
    ) -> Result<(Ipv4Addr, Ipv4Net), AddressError> {
        let (subnet, address) = match asked {
            Asked::OfThePool => return self.take_of_pool(),
            Asked::In(subnet) => (subnet, None),
            Asked::At(address, subnet) => (subnet, Some(address)),
        };
        if overlap(self.pool, subnet) {
            return Err(AddressError::OverlapsPool { subnet, pool: self.pool });
        }
        if let Some(used) = self.others.keys().find(|used| **used != subnet && overlap(**used, subnet)) {
            return Err(AddressError::OverlapsUsed { subnet, used: *used });
        }
        let turns = self.turns_of(subnet);
        let taken = match address {
            None => turns.take(|_| true).map(|number| nth(subnet, number)),
            Some(address) => turns.take_this(number(subnet, address)).then_some(address),
        };
        taken.map(|address| (address, subnet)).ok_or_else(|| match address {
            None => AddressError::SubnetFull { subnet, size: room(subnet) },
            Some(address) => {
                let holder = held.values().find(|held| held.addresses.address == address);
                let holder = holder.map_or_else(String::new, |held| held.handle.to_string());
                AddressError::AddressInUse { address, subnet, holder }
            }
        })
    }

    fn take_of_pool(&mut self) -> Result<(Ipv4Addr, Ipv4Net), AddressError> {
        let (pool, others) = (self.pool, &self.others);
        // None overlaps, unless the pool was another when they were taken.
        let number = self.of_pool.take(|number| !others.keys().any(|other| overlap(*other, of_pool(pool, number))));
        let number = number.ok_or(AddressError::PoolEmpty { pool, size: self.of_pool.size() })?;
        let subnet = of_pool(pool, number);
        Ok((nth(subnet, 0), subnet))
    }

    /// What was taken before all this began; `false` where somebody else has it by now.
    pub fn take_up(&mut self, address: Ipv4Addr, subnet: Ipv4Net) -> bool {
        match self.number_in_pool(subnet) {
            Some(number) => self.of_pool.take_up(number),
            None => {
                let taken = self.turns_of(subnet).take_up(number(subnet, address));
                self.leave_if_empty(subnet);
                taken
            }
        }
    }

    pub fn give_back(&mut self, address: Ipv4Addr, subnet: Ipv4Net) {
        if let Some(number) = self.number_in_pool(subnet) {
            return self.of_pool.give_back(number);
        }
        if let Some(turns) = self.others.get_mut(&subnet) {
            turns.give_back(number(subnet, address));
        }
        self.leave_if_empty(subnet);
    }

    fn leave_if_empty(&mut self, subnet: Ipv4Net) {
        if self.others.get(&subnet).is_some_and(Turns::nothing_taken)
            && let Some(turns) = self.others.remove(&subnet)
        {
            self.left.truncate(REMEMBERED - 1);
            self.left.push_front((subnet, turns));
        }
    }

    pub fn is_of_pool(&self, subnet: Ipv4Net) -> bool {
        self.number_in_pool(subnet).is_some()
    }

    fn number_in_pool(&self, subnet: Ipv4Net) -> Option<u32> {
        let within = self.pool.contains(&subnet) && subnet.prefix_len() == SMALLEST;
        within.then(|| (u32::from(subnet.network()) - u32::from(self.pool.network())) / STEP)
    }

    fn turns_of(&mut self, subnet: Ipv4Net) -> &mut Turns {
        let left = &mut self.left;
        self.others.entry(subnet).or_insert_with(|| {
            let before = left.iter().position(|(other, _)| *other == subnet).and_then(|at| left.remove(at));
            before.map_or_else(|| Turns::new(room(subnet)), |(_, turns)| turns)
        })
    }
}

fn of_pool(pool: Ipv4Net, number: u32) -> Ipv4Net {
    let network = Ipv4Addr::from(u32::from(pool.network()) + number * STEP);
    // The prefix is one.
    Ipv4Net::new_assert(network, SMALLEST)
}

/// Containers that a subnet has room for: all but its own address, the gateway's and the broadcast's.
fn room(subnet: Ipv4Net) -> u32 {
    let addresses = 1_u64 << (32 - subnet.prefix_len());
    u32::try_from(addresses.saturating_sub(3)).unwrap_or(u32::MAX)
}

fn nth(subnet: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + BEFORE_FIRST + number)
}

/// The inverse of [`nth`]; beyond every subnet's room for what is not for containers.
fn number(subnet: Ipv4Net, address: Ipv4Addr) -> u32 {
    if address == gateway(subnet) {
        return u32::MAX;
    }
    u32::from(address)
        .checked_sub(u32::from(subnet.network()))
        .and_then(|n| n.checked_sub(BEFORE_FIRST))
        .unwrap_or(u32::MAX)
}
