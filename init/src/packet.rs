//! One packet of a `SOCK_SEQPACKET` connection: bytes, and descriptors beside them.
//!
//! Both sides use these. Whether a call blocks is the socket's own flag; `WouldBlock` comes back
//! as [`PacketError::Io`]. Descriptors arrive close-on-exec, owned, or not at all.

use std::io;
use std::os::fd::OwnedFd;

pub use crate::sys::{recv, send};

/// What [`recv`] found; the bytes are in its buffer.
#[derive(Debug)]
pub enum Packet {
    /// A message, and the descriptors beside it in the order that they were sent.
    Message(Vec<OwnedFd>),
    /// The other side has closed the connection. (An empty packet looks the same; nobody sends one.)
    End,
}

/// Why a packet was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// Larger than [`crate::wire::MAX_PACKET`], or with more descriptors than fit (or than this
    /// process may open). What had arrived of it is closed.
    #[error("a packet over the limits of its size or its descriptors; it was dropped")]
    Truncated,
    /// More than [`crate::wire::MAX_FDS`] to send.
    #[error("{0} descriptors beside one message; the limit is {max}", max = crate::wire::MAX_FDS)]
    TooManyDescriptors(usize),
    /// The socket's own error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PacketError {
    /// Nothing is wrong: a non-blocking socket would have to wait.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_FDS, MAX_PACKET};
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};

    fn pair() -> (OwnedFd, OwnedFd) {
        crate::sys::seqpacket_pair().unwrap()
    }

    #[test]
    fn bytes_and_descriptors_arrive_in_order() {
        let (near, far) = pair();
        let (first_read, first_write) = std::io::pipe().unwrap();
        let (second_read, second_write) = std::io::pipe().unwrap();
        send(near.as_fd(), b"words", &[first_write.as_fd(), second_write.as_fd()]).unwrap();
        drop((first_write, second_write));
        let mut buffer = vec![9; 3];
        let Packet::Message(fds) = recv(far.as_fd(), &mut buffer).unwrap() else { panic!("no message") };
        assert_eq!(buffer, b"words");
        for (text, fd) in ["one", "two"].iter().zip(fds) {
            File::from(fd).write_all(text.as_bytes()).unwrap();
        }
        for (text, mut end) in ["one", "two"].iter().zip([first_read, second_read]) {
            let mut got = String::new();
            end.read_to_string(&mut got).unwrap();
            assert_eq!(got, *text);
        }
    }

    #[test]
    fn the_end_is_told_from_a_message() {
        let (near, far) = pair();
        drop(near);
        assert!(matches!(recv(far.as_fd(), &mut Vec::new()), Ok(Packet::End)));
    }

    #[test]
    fn what_was_sent_before_the_end_arrives_also_where_the_sender_left_something_unread() {
        let (near, far) = pair();
        send(near.as_fd(), b"unread", &[]).unwrap();
        send(far.as_fd(), b"words", &[]).unwrap();
        drop(far);
        let mut buffer = Vec::new();
        assert!(matches!(recv(near.as_fd(), &mut buffer), Ok(Packet::Message(_))));
        assert_eq!(buffer, b"words");
        assert!(matches!(recv(near.as_fd(), &mut buffer), Ok(Packet::End)));
    }

    #[test]
    fn the_largest_packet_passes_and_a_larger_one_is_dropped_whole() {
        let (near, far) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut buffer = Vec::new();
        send(near.as_fd(), &vec![7; MAX_PACKET], &[]).unwrap();
        assert!(matches!(recv(far.as_fd(), &mut buffer), Ok(Packet::Message(fds)) if fds.is_empty()));
        assert_eq!(buffer, vec![7; MAX_PACKET]);
        send(near.as_fd(), &vec![7; MAX_PACKET + 1], &[writer.as_fd()]).unwrap();
        drop(writer);
        assert!(matches!(recv(far.as_fd(), &mut buffer), Err(PacketError::Truncated)));
        assert!(buffer.is_empty());
        let mut rest = Vec::new();
        // Ends only where every copy of the writing end is closed.
        (&reader).read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn no_more_than_the_limit_of_descriptors_is_sent() {
        let (near, far) = pair();
        let one: BorrowedFd<'_> = near.as_fd();
        assert!(matches!(send(near.as_fd(), b"x", &[one; MAX_FDS + 1]), Err(PacketError::TooManyDescriptors(9))));
        send(near.as_fd(), b"x", &[one; MAX_FDS]).unwrap();
        let Packet::Message(fds) = recv(far.as_fd(), &mut Vec::new()).unwrap() else { panic!("no message") };
        assert_eq!(fds.len(), MAX_FDS);
    }
}
