//! Putting a child on a pseudo-terminal.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the terminal that the command has as stdin its controlling one.
pub fn on_its_stdin_terminal(command: &mut Command) {
    let take_terminal = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec only two system calls are made, without allocating and
    // without taking a lock.
    unsafe { command.pre_exec(take_terminal) };
}
