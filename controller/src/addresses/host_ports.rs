//! Ports of the node: a range that they are given out of, and whose each is.

use super::AddressError;
use super::turns::Turns;
use crate::record::{ContainerUid, Handle};
use std::collections::HashMap;
use std::ops::RangeInclusive;

pub struct HostPorts {
    range: RangeInclusive<u16>,
    turns: Turns,
    holders: HashMap<u16, (ContainerUid, Handle)>,
}

impl HostPorts {
    pub fn new(range: RangeInclusive<u16>) -> Self {
        let size = u32::try_from(range.len()).unwrap_or(0);
        Self { range, turns: Turns::new(size), holders: HashMap::new() }
    }

    /// How many are somebody's.
    pub fn taken(&self) -> usize {
        self.holders.len()
    }

    /// One of the range.
    pub fn take(&mut self, uid: &ContainerUid, handle: &Handle) -> Result<u16, AddressError> {
        let number = self.turns.take(|_| true).and_then(|number| u16::try_from(number).ok());
        let port = number.and_then(|number| self.range.start().checked_add(number));
        let (first, last) = (*self.range.start(), *self.range.end());
        let port = port.ok_or(AddressError::NoPortLeft { first, last, occupied: 0 })?;
        self.holders.insert(port, (uid.clone(), handle.clone()));
        Ok(port)
    }

    /// This very one, of the range or not; the container may have it already.
    pub fn take_this(&mut self, uid: &ContainerUid, handle: &Handle, port: u16) -> Result<(), AddressError> {
        match self.holders.get(&port) {
            Some((holder, _)) if holder == uid => return Ok(()),
            Some((_, holder)) => return Err(AddressError::PortInUse { port, holder: holder.to_string() }),
            None => {}
        }
        if let Some(number) = self.number(port) {
            self.turns.take_this(number);
        }
        self.holders.insert(port, (uid.clone(), handle.clone()));
        Ok(())
    }

    /// One that was taken before all this began; `false` where somebody else has it by now.
    pub fn take_up(&mut self, uid: &ContainerUid, handle: &Handle, port: u16) -> bool {
        if self.holders.contains_key(&port) {
            return false;
        }
        if let Some(number) = self.number(port) {
            self.turns.take_up(number);
        }
        self.holders.insert(port, (uid.clone(), handle.clone()));
        true
    }

    /// One that is this container's.
    pub fn give_back(&mut self, uid: &ContainerUid, port: u16) {
        if self.holders.get(&port).is_some_and(|(holder, _)| holder == uid) {
            self.holders.remove(&port);
            if let Some(number) = self.number(port) {
                self.turns.give_back(number);
            }
        }
    }

    pub fn give_back_all(&mut self, uid: &ContainerUid) {
        let mut ports: Vec<u16> =
            self.holders.iter().filter(|(_, (holder, _))| holder == uid).map(|(port, _)| *port).collect();
        ports.sort_unstable();
        for port in ports {
            self.give_back(uid, port);
        }
    }

    fn number(&self, port: u16) -> Option<u32> {
        self.range.contains(&port).then(|| u32::from(port - self.range.start()))
    }
}
