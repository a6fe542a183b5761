//! The descriptors of a process's streams: made for a new one, or taken over from an init.
//!
//! gardend makes and sizes the pipes and keeps file descriptions of its own for its ends (opened
//! by way of /proc/self/fd): what an init does to the flags of its copies does not reach them, so
//! that none of our calls can be made to block. A terminal's master cannot be had twice; it is
//! checked to be one.

use super::lane::Source;
use super::stdin::Outlet;
use super::sys;
use garden_init::wire::Streams;
use rustix::fs::{FileType, Mode, OFlags, fchown, fcntl_getfl, fcntl_setfl, fstat, major, minor, open};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Gid, Uid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Our ends of the streams of a process that is asked for.
#[derive(Debug)]
pub enum Ends {
    /// Without a terminal.
    Pipes {
        /// Writing.
        stdin: OwnedFd,
        /// Reading.
        stdout: OwnedFd,
        /// Reading.
        stderr: OwnedFd,
    },
    /// With one: the relay that its output is pumped through.
    Relay {
        /// Writing.
        writing: OwnedFd,
        /// Reading.
        reading: OwnedFd,
    },
}

/// A process's streams, ready to use. What is `None` has ended.
#[derive(Debug, Default)]
pub struct Ready {
    /// Its input.
    pub stdin: Option<Outlet>,
    /// Its output.
    pub stdout: Option<Source>,
    /// Its errors; with a terminal they come with the output.
    pub stderr: Option<Source>,
}

impl Ends {
    /// Three pipes, and the six descriptors that go to the init with the request.
    ///
    /// # Errors
    /// The kernel's; most often too many open files.
    pub fn pipes(output: usize, input: usize) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (stdin_read, stdin_write) = sized_pipe(input)?;
        let (stdout_read, stdout_write) = sized_pipe(output)?;
        let (stderr_read, stderr_write) = sized_pipe(output)?;
        let (stdin, stdout, stderr) = (writing(&stdin_write)?, reading(&stdout_read)?, reading(&stderr_read)?);
        let theirs = vec![stdin_read, stdin_write, stdout_write, stdout_read, stderr_write, stderr_read];
        for outer in [1, 3, 5] {
            unblock(&theirs[outer])?;
        }
        Ok((Self::Pipes { stdin, stdout, stderr }, theirs))
    }

    /// A relay, and its two descriptors.
    ///
    /// # Errors
    /// As above.
    pub fn relay(size: usize) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (relay_read, relay_write) = sized_pipe(size)?;
        let ours = Self::Relay { writing: writing(&relay_write)?, reading: reading(&relay_read)? };
        let theirs = vec![relay_write, relay_read];
        theirs.iter().try_for_each(unblock)?;
        Ok((ours, theirs))
    }

    /// The streams of the process that was started, with the terminal's master that came beside
    /// the answer, where one was asked for.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn ready(self, master: Option<OwnedFd>) -> Result<Ready, String> {
        let watched = |error: io::Error| format!("a stream cannot be watched: {error}");
        match (self, master) {
            (Self::Pipes { stdin, stdout, stderr }, None) => Ok(Ready {
                stdin: Some(Outlet::pipe(stdin).map_err(watched)?),
                stdout: Some(Source::pipe(stdout).map_err(watched)?),
                stderr: Some(Source::pipe(stderr).map_err(watched)?),
            }),
            (Self::Relay { writing, reading }, Some(master)) => {
                let master = terminal(master)?;
                let source = Source::terminal(Arc::clone(&master), writing, reading).map_err(watched)?;
                Ok(Ready { stdin: Some(Outlet::Terminal(master)), stdout: Some(source), stderr: None })
            }
            (Self::Pipes { .. }, Some(_)) => Err("a terminal for a process without one".into()),
            (Self::Relay { .. }, None) => Err("no terminal for a process with one".into()),
        }
    }
}

impl Ready {
    /// The streams of a process that an init has kept.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn kept(streams: Streams, fds: Vec<OwnedFd>) -> Result<Self, String> {
        let count = fds.len();
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| format!("{count} descriptors for {streams:?}"));
        match streams {
            Streams::None => Ok(Self::default()),
            Streams::Pipes { stdin } => {
                let stdin = if stdin { Some(writing(pipe_end(&next()?)?).map_err(kept_end)?) } else { None };
                let (stdout, stderr) = (next()?, next()?);
                let stdout = reading(pipe_end(&stdout)?).map_err(kept_end)?;
                let stderr = reading(pipe_end(&stderr)?).map_err(kept_end)?;
                Ok(Self {
                    stdin: stdin.map(Outlet::pipe).transpose().map_err(kept_end)?,
                    stdout: Some(Source::pipe(stdout).map_err(kept_end)?),
                    stderr: Some(Source::pipe(stderr).map_err(kept_end)?),
                })
            }
            Streams::Terminal => {
                let (master, relay_write, relay_read) = (next()?, next()?, next()?);
                let writing = writing(pipe_end(&relay_write)?).map_err(kept_end)?;
                let reading = reading(pipe_end(&relay_read)?).map_err(kept_end)?;
                Ends::Relay { writing, reading }.ready(Some(master))
            }
        }
    }
}

/// Makes them the place's root's, who may then open them anew (/dev/stdout, by its name) and give
/// them on to the process's user. They are the host's root's, whom no other user namespace knows.
///
/// # Errors
/// As `fchown(2)`.
pub fn give(theirs: &[OwnedFd], (uid, gid): (Uid, Gid)) -> io::Result<()> {
    if uid.is_root() && gid.is_root() {
        return Ok(());
    }
    Ok(theirs.iter().try_for_each(|end| fchown(end, Some(uid), Some(gid)))?)
}

fn kept_end(error: io::Error) -> String {
    format!("a kept stream cannot be opened: {error}")
}

/// Reading and writing end of a pipe of this size, where the node allows it.
///
/// # Errors
/// As `pipe(2)`.
pub fn sized_pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
    // Beyond what the node allows (fs.pipe-max-size, or the user's quota): the kernel's own size.
    let _ = fcntl_setpipe_size(&writing, size);
    Ok((reading, writing))
}

/// From now on no call on it waits.
///
/// # Errors
/// As `fcntl(2)`.
pub fn unblock(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

fn reading(pipe: impl AsFd) -> io::Result<OwnedFd> {
    reopen(pipe, OFlags::RDONLY)
}

fn writing(pipe: impl AsFd) -> io::Result<OwnedFd> {
    reopen(pipe, OFlags::WRONLY)
}

fn reopen(pipe: impl AsFd, mode: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
    Ok(open(path, mode | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

fn pipe_end(fd: &OwnedFd) -> Result<&OwnedFd, String> {
    let seen = fstat(fd).map_err(|error| error.to_string())?;
    let is_pipe = FileType::from_raw_mode(seen.st_mode) == FileType::Fifo;
    if is_pipe { Ok(fd) } else { Err("a kept stream that is no pipe".into()) }
}

fn terminal(master: OwnedFd) -> Result<Arc<AsyncFd<OwnedFd>>, String> {
    let seen = fstat(&master).map_err(|error| error.to_string())?;
    let device = FileType::from_raw_mode(seen.st_mode) == FileType::CharacterDevice;
    // ptmx, of whatever devpts.
    if !device || (major(seen.st_rdev), minor(seen.st_rdev)) != (5, 2) {
        return Err("a terminal that is none".into());
    }
    unblock(&master).map_err(|error| error.to_string())?;
    sys::watch(master, Interest::READABLE)
        .map(Arc::new)
        .map_err(|error| format!("a terminal cannot be watched: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_of_ours_do_not_block_whatever_is_done_to_the_flags_of_the_others() {
        let (Ends::Pipes { stdout, .. }, theirs) = Ends::pipes(1 << 20, 1 << 16).unwrap() else { panic!("no pipes") };
        assert_eq!(theirs.len(), 6);
        fcntl_setfl(&theirs[3], fcntl_getfl(&theirs[3]).unwrap() - OFlags::NONBLOCK).unwrap();
        assert!(fcntl_getfl(&stdout).unwrap().contains(OFlags::NONBLOCK));
        rustix::io::write(&theirs[2], b"x").unwrap();
        assert_eq!(rustix::io::read(&stdout, &mut [0; 8][..]).unwrap(), 1);
        assert_eq!(rustix::io::read(&stdout, &mut [0; 8][..]), Err(rustix::io::Errno::AGAIN));
        // The inner ends are the process's, which may expect them to block.
        assert!(!fcntl_getfl(&theirs[2]).unwrap().contains(OFlags::NONBLOCK));
    }

    #[tokio::test]
    async fn what_is_no_pipe_or_no_terminal_is_refused() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let pipe = || sized_pipe(4096).unwrap().0;
        assert!(Ready::kept(Streams::Pipes { stdin: false }, vec![null(), null()]).is_err());
        assert!(Ready::kept(Streams::Pipes { stdin: true }, vec![pipe(), pipe()]).is_err());
        assert!(Ready::kept(Streams::Terminal, vec![pipe(), pipe(), pipe()]).is_err());
        assert!(Ready::kept(Streams::None, vec![]).is_ok());
        let (relay, _theirs) = Ends::relay(4096).unwrap();
        assert!(relay.ready(Some(null())).is_err());
    }
}
