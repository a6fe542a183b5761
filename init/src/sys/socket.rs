//! `sendmsg(2)` and `recvmsg(2)` with descriptors beside the bytes.

use super::checked;
use crate::packet::{Packet, PacketError};
use crate::wire::{MAX_FDS, MAX_PACKET};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Room for [`MAX_FDS`] descriptors and the header before them, aligned as `cmsghdr` wants it.
const CONTROL_WORDS: usize = 8;
type Control = [u64; CONTROL_WORDS];

const _: () = {
    // SAFETY: CMSG_SPACE only computes.
    let needed = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;
    assert!(needed <= size_of::<Control>());
};

/// Sends one packet. Blocks as the socket does.
///
/// # Errors
/// As `sendmsg(2)`; `EPIPE` raises no signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
    if fds.len() > MAX_FDS {
        return Err(PacketError::TooManyDescriptors(fds.len()));
    }
    let mut control: Control = [0; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid msghdr (null pointers with zero lengths).
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = size_of_val(fds) as u32;
        header.msg_control = (&raw mut control).cast();
        // SAFETY: CMSG_SPACE only computes; `control` has room for MAX_FDS (checked above).
        header.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the header's control buffer is large enough for one cmsghdr with `length` bytes
        // of data, so that CMSG_FIRSTHDR is not null and CMSG_DATA stays inside; BorrowedFd has
        // the layout of RawFd.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(length) as _;
            ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(message), length as usize);
        }
    }
    loop {
        // SAFETY: the header and what it points at live until the call returns; the kernel only
        // reads from them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
}

/// Receives one packet into `buffer`, whose content it replaces. Blocks as the socket does.
/// The buffer's spare room is written only as far as the packet reaches.
///
/// # Errors
/// As `recvmsg(2)`; `WouldBlock` on a non-blocking socket without a packet.
/// [`PacketError::Truncated`]: the packet or its descriptors were too many; none of it is kept.
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<Packet, PacketError> {
    buffer.clear();
    buffer.reserve(MAX_PACKET);
    let mut control: Control = [0; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: MAX_PACKET };
    // SAFETY: all zeroes is a valid msghdr (null pointers with zero lengths).
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<Control>() as _;
    let received = loop {
        // SAFETY: the iovec covers MAX_PACKET reserved bytes of `buffer`, the control buffer is as
        // long as said, and both outlive the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if let Ok(received) = usize::try_from(received) {
            break received;
        }
        let error = io::Error::last_os_error();
        // A reset: the other side has closed with something of ours unread. It is told once, before
        // what the other side had sent; that, and then the end, is what counts.
        if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset) {
            return Err(error.into());
        }
    };
    // Owned before anything can fail, so that nothing leaks.
    let fds = take_descriptors(&header);
    // SAFETY: the kernel has written `received` bytes, at most the MAX_PACKET that were reserved.
    unsafe { buffer.set_len(received.min(MAX_PACKET)) };
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        buffer.clear();
        return Err(PacketError::Truncated);
    }
    if received == 0 && fds.is_empty() {
        return Ok(Packet::End);
    }
    Ok(Packet::Message(fds))
}

fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer and set msg_controllen to what it wrote; the
    // CMSG macros walk inside of it. Each descriptor of an SCM_RIGHTS message was made for this
    // process by the call and is owned by nobody else.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let length = ((*message).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..length / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                }
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    fds
}

/// The process that connected, as its pid in our pid namespace; 0 for one outside of it.
/// (rustix keeps it in a type that cannot be 0.)
///
/// # Errors
/// As `getsockopt(2)`.
pub fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<i32> {
    let mut peer = libc::ucred { pid: -1, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is ours to be written, and as long as `length` says.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    Ok(peer.pid)
}

/// Two connected ends.
///
/// # Errors
/// As `socketpair(2)`.
#[cfg(test)]
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: `pair` has room for the two descriptors that the call writes.
    if unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) } != 0
    {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just made and are owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}
