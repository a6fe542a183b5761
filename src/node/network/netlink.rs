//! Requests to the kernel over netlink sockets: sent together, each answered, with a deadline.
//!
//! A socket stays in the network namespace that its thread was in when it was opened. Messages are
//! those of the rust-netlink crates; what is here is the conversation around them.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long the kernel may take for one answer. It waits for locks that others hold.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger than any message that the kernel makes at once (it stops at 32 KiB).
const BUFFER: usize = 64 * 1024;
/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES: u16 = 10;

/// A request that the kernel refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Which, counted from 0; `None`: all of them together.
    pub index: Option<usize>,
    /// Why.
    pub error: io::Error,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

impl Refused {
    fn all(error: impl Into<io::Error>) -> Self {
        Self { index: None, error: error.into() }
    }
}

/// A conversation with the kernel.
pub(super) struct Connection {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// About links, addresses, routes and queues, of the calling thread's network namespace.
    pub fn route() -> io::Result<Self> {
        Self::open(None, 0)
    }

    /// About nftables, of the calling thread's network namespace.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER), 0)
    }

    /// One that is told what becomes of nftables. Nothing is asked on it.
    pub fn nftables_events() -> io::Result<Self> {
        /// `NFNLGRP_NFTABLES`, as a bit.
        const GROUP: u32 = 1 << 6;
        let connection = Self::open(Some(rustix::net::netlink::NETFILTER), GROUP)?;
        // It waits for as long as nothing happens.
        sockopt::set_socket_timeout(&connection.socket, sockopt::Timeout::Recv, None)?;
        Ok(connection)
    }

    /// The kernel's own protocol 0, of links and routes, is the one that has no name.
    fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        // Many answers come at once; what does not fit would be lost. Beyond the machine's own ceiling
        // this asks for CAP_NET_ADMIN, which is there.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 4 * 1024 * 1024);
        let _ = sockopt::set_socket_send_buffer_size(&socket, 4 * 1024 * 1024);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Makes requests, in their order, each with further flags of its own. The kernel goes on after
    /// one that it refuses; the first such is told.
    pub fn apply<M>(&mut self, requests: Vec<(M, u16)>) -> Result<(), Refused>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let count = requests.len();
        if count == 0 {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (message, flags) in requests {
            self.write(&mut bytes, message, NLM_F_ACK | flags);
        }
        self.send(&bytes).map_err(Refused::all)?;
        self.acknowledged::<M>(first, count)
    }

    /// Makes changes to nftables, all of them or none.
    pub fn transact(&mut self, changes: Vec<(NetfilterMessage, u16)>) -> Result<(), Refused> {
        let count = changes.len();
        if count == 0 {
            return Ok(());
        }
        let frame = |message| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
            NetfilterMessage::new(header, message)
        };
        let mut bytes = Vec::new();
        self.write(&mut bytes, frame(ControlMessage::BatchBegin), 0);
        let first = self.sequence.wrapping_add(1);
        for (message, flags) in changes {
            self.write(&mut bytes, message, NLM_F_ACK | flags);
        }
        self.write(&mut bytes, frame(ControlMessage::BatchEnd), 0);
        self.send(&bytes).map_err(Refused::all)?;
        self.acknowledged::<NetfilterMessage>(first, count)
    }

    /// Asks for all there is of something.
    pub fn dump<M>(&mut self, request: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        self.write(&mut bytes, request, NLM_F_DUMP);
        let sequence = self.sequence;
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive::<M>()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for one thing.
    pub fn ask<M>(&mut self, request: M) -> io::Result<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        self.write(&mut bytes, request, 0);
        let sequence = self.sequence;
        self.send(&bytes)?;
        loop {
            for message in self.receive::<M>()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// The next messages that the kernel sends by itself.
    pub fn listen<M: NetlinkDeserializable>(&mut self) -> io::Result<Vec<M>> {
        let messages = self.receive::<M>()?;
        let inner = |message: NetlinkMessage<M>| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(inner).collect())
    }

    fn write<M: NetlinkSerializable>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let from = bytes.len();
        bytes.resize(from + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[from..]);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, bytes, SendFlags::empty()))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("the kernel took a part of a request alone")) }
    }

    fn receive<M: NetlinkDeserializable>(&mut self) -> io::Result<Vec<NetlinkMessage<M>>> {
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC))
                .map_err(|error| match error {
                    rustix::io::Errno::AGAIN => io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"),
                    other => other.into(),
                })?;
        if length > self.buffer.len() {
            return Err(io::Error::other("an answer of the kernel's is longer than any should be"));
        }
        let mut messages = Vec::new();
        let mut rest = &self.buffer[..length];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            let step = (message.header.length as usize).next_multiple_of(4);
            messages.push(message);
            rest = rest.get(step..).unwrap_or_default();
        }
        Ok(messages)
    }

    /// Waits for the answers to `count` requests from `first` on.
    fn acknowledged<M: NetlinkDeserializable>(&mut self, first: u32, count: usize) -> Result<(), Refused> {
        let mut refused: Option<Refused> = None;
        let mut answered = 0;
        while answered < count {
            for message in self.receive::<M>().map_err(Refused::all)? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                let index = message.header.sequence_number.wrapping_sub(first) as usize;
                let within = index < count;
                answered += usize::from(within);
                if error.code.is_some() && refused.is_none() {
                    // One about a whole transaction bears the number of its beginning, one below the first.
                    if !within && index != u32::MAX as usize {
                        continue;
                    }
                    refused = Some(Refused { index: within.then_some(index), error: error.to_io() });
                    if !within {
                        // Nothing else may follow: the kernel gave the whole up.
                        self.drain();
                        return refused.map_or(Ok(()), Err);
                    }
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Drops what has come already.
    fn drain(&mut self) {
        while rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
