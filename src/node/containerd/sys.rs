//! What safe Rust cannot say: what a child does between fork and exec, and that a descriptor stays
//! what it is while tokio watches it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for readability.
pub(super) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open file until it is dropped, which the AsyncFd does
    // after it has deregistered it (and a forgotten AsyncFd never does).
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Makes the command's child the leader of a session of its own, out of reach of our terminal's
/// signals, a member of the cgroups of these `cgroup.procs`, and has it write its pid to `pid_file`
/// before its exec: there is no moment at which it runs and the file does not say so, whatever
/// happens to us.
pub(super) fn detach(command: &mut Command, pid_file: File, groups: Vec<File>) {
    let detach = move || {
        rustix::process::setsid()?;
        for group in &groups {
            // The writer itself is meant.
            rustix::io::write(group, b"0")?;
        }
        let mut digits = [0u8; 12];
        let text = decimal(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs(), &mut digits);
        // SAFETY: write(2) is async-signal-safe; the descriptor is open, since the closure owns
        // the file, and `text` is valid for reads of its length.
        let written = unsafe { libc::write(pid_file.as_raw_fd(), text.as_ptr().cast(), text.len()) };
        if usize::try_from(written) == Ok(text.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec in a process that had threads only async-signal-safe calls are
    // allowed: these are system calls and arithmetic, no allocation and no lock.
    unsafe {
        command.pre_exec(detach);
    }
}

/// The number and a newline, in a buffer of the caller's.
fn decimal(mut number: u32, digits: &mut [u8; 12]) -> &[u8] {
    let mut at = digits.len() - 1;
    digits[at] = b'\n';
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_notes_its_pid_down_and_leads_a_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "cut -d' ' -f6 /proc/$$/stat"]).stdout(std::process::Stdio::piped());
        detach(&mut command, File::create(&path).unwrap(), Vec::new());
        let child = command.spawn().unwrap();
        let pid = child.id();
        let session = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), format!("{pid}\n"));
        assert_eq!(session.trim(), pid.to_string());
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        assert_eq!(decimal(0, &mut [0; 12]), b"0\n");
        assert_eq!(decimal(u32::MAX, &mut [0; 12]), b"4294967295\n");
    }
}
