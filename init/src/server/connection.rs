//! The one connection to gardend: what is to be sent, in order, and how far that has got.
//!
//! Sending never blocks. What the peer does not take waits here, bounded: while much waits no
//! further request is read, and beyond the bound the connection is given up, since the next
//! Hello tells everything again.

use super::processes::Processes;
use crate::packet::{self, Packet, PacketError};
use crate::wire::{self, Event, ProcessKey};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// With more waiting than this no request is read.
const BUSY: usize = 64;
/// With more waiting than this the peer is taken for dead.
const MAX_WAITING: usize = 16 * 1024;

/// Why a connection cannot go on. It is closed without a word.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The peer has closed it, or the socket failed.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// What came is no message.
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    /// What came is not for here.
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The peer does not read.
    #[error("{MAX_WAITING} messages wait for the peer")]
    Overflow,
    /// A descriptor could not be copied.
    #[error("a descriptor could not be copied: {0}")]
    Descriptor(std::io::Error),
}

type Message = (Vec<u8>, Vec<OwnedFd>);

/// See the module.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// The peer has said Hello.
    pub is_greeted: bool,
    waiting: VecDeque<Message>,
    /// Processes that are still to be told of, where the last word of that is still to come.
    listing: Option<VecDeque<ProcessKey>>,
    /// What is to be said after that.
    later: VecDeque<Message>,
}

impl Connection {
    /// The socket does not block.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, is_greeted: false, waiting: VecDeque::new(), listing: None, later: VecDeque::new() }
    }

    /// Takes requests now.
    pub fn is_reading(&self) -> bool {
        self.waiting.len() + self.later.len() <= BUSY
    }

    /// Has something to send.
    pub fn is_writing(&self) -> bool {
        !self.waiting.is_empty() || self.listing.is_some()
    }

    /// The next request's bytes go to `buffer`; `None` where there is none yet.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> Result<Option<Packet>, Broken> {
        match packet::recv(self.socket.as_fd(), buffer) {
            Ok(packet) => Ok(Some(packet)),
            Err(error) if error.would_block() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends after all that waits.
    pub fn send(&mut self, event: &Event, fds: Vec<OwnedFd>) -> Result<(), Broken> {
        if self.waiting.len() + self.later.len() >= MAX_WAITING {
            return Err(Broken::Overflow);
        }
        let queue = if self.listing.is_some() { &mut self.later } else { &mut self.waiting };
        queue.push_back((wire::encode(event)?, fds));
        self.send_waiting().map(drop)
    }

    /// From now on tells of each of these processes, and then that it has.
    pub fn list(&mut self, keys: VecDeque<ProcessKey>) {
        self.listing = Some(keys);
    }

    /// Sends what the peer takes now.
    pub fn flush(&mut self, processes: &mut Processes) -> Result<(), Broken> {
        while self.send_waiting()? {
            let Some(listing) = &self.listing else { break };
            let Some(&key) = listing.front() else {
                self.listing = None;
                self.waiting.push_back((wire::encode(&Event::KnownEnd)?, Vec::new()));
                self.waiting.append(&mut self.later);
                continue;
            };
            // One that was forgotten meanwhile is passed over.
            if let Some((event, fds)) = processes.known(&key)
                && !self.try_send(&wire::encode(&event)?, &fds)?
            {
                break;
            }
            processes.announce(&key);
            self.listing.as_mut().map(VecDeque::pop_front);
        }
        Ok(())
    }

    /// Whether nothing waits any more.
    fn send_waiting(&mut self) -> Result<bool, Broken> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if !self.try_send(bytes, &fds)? {
                return Ok(false);
            }
            self.waiting.pop_front();
        }
        Ok(true)
    }

    fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool, Broken> {
        match packet::send(self.socket.as_fd(), bytes, fds) {
            Ok(()) => Ok(true),
            Err(error) if error.would_block() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
