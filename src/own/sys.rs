//! What safe Rust cannot say: a thread's own root and working folder, and what a child does between
//! fork and exec.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives the calling thread a root, a working folder and a umask of its own; setns(2) into a mount
/// namespace asks for that. Threads that it starts share them.
pub(super) fn unshare_working_folder() -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor changes its meaning for any thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.map_err(Into::into)
}

/// Starts the command's child in this mount namespace, where its program is looked for as well.
pub(super) fn start_in(command: &mut Command, mounts: File) {
    let enter = move || Ok(move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?);
    // SAFETY: between fork and exec in a process that had threads only async-signal-safe calls are
    // allowed: this is one system call, and its error is a number.
    unsafe {
        command.pre_exec(enter);
    }
}
