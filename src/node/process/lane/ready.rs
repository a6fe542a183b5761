//! What the kernel says of a descriptor as of now, without waiting.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;

/// There is something to read, or the end.
pub fn readable(fd: impl AsFd) -> bool {
    !state(fd, PollFlags::IN).is_empty()
}

/// It takes bytes, or fails at once.
pub fn writable(fd: impl AsFd) -> bool {
    !state(fd, PollFlags::OUT).is_empty()
}

/// A pipe that is empty and has no writers.
pub fn at_end(fd: impl AsFd) -> bool {
    let state = state(fd, PollFlags::IN);
    state.contains(PollFlags::HUP) && !state.contains(PollFlags::IN)
}

/// A socket whose peer sends nothing any more.
pub fn peer_closed(fd: impl AsFd) -> bool {
    state(fd, PollFlags::RDHUP).intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

fn state(fd: impl AsFd, asked: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), asked)];
    match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds[0].revents(),
        // Interrupted: nothing is known; the call that follows will tell.
        Err(_) => PollFlags::empty(),
    }
}
