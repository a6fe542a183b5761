//! What a child is given between fork and exec: a terminal, signals that are not ignored.

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

/// Lets signals reach the command as they do in a shell at a terminal. Whoever started the tests may
/// have had them ignored (a shell does for what it starts with `&`), which every child inherits, and
/// which the command respects.
pub fn with_default_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: the default is a valid disposition; it replaces what exec would keep.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made, without allocating and without
    // taking a lock.
    unsafe { command.pre_exec(reset) };
}
