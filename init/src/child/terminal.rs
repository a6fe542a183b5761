//! A terminal of the container's own.

use super::{Report, errno, system};
use crate::packet;
use crate::wire::{self, SpawnFailure};
use rustix::fs::{FileType, Mode, OFlags, fchmod, fchown, fcntl_setfl, fstat, major, minor, open};
use rustix::io::Errno;
use rustix::process::{Uid, ioctl_tiocsctty};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio;
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The multiplexer's names, the first that is there.
const MULTIPLEXERS: [&CStr; 2] = [c"/dev/ptmx", c"/dev/pts/ptmx"];
/// Its device number.
const MULTIPLEXER: (u32, u32) = (5, 2);
/// Where nobody says how large it is.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Makes a terminal with the kernel's usual modes (echo, lines, signals) and makes it this process's own:
/// its controlling terminal and its input and output. The master goes to init.
pub fn attach(columns: u16, rows: u16, uid: u32, status: BorrowedFd<'_>) -> Result<(), SpawnFailure> {
    let master = open_master().map_err(|error| system("open /dev/ptmx", error))?;
    let slave = prepare(&master, columns, rows, uid).map_err(|error| system("openpty", error))?;
    let report = wire::encode(&Report::Terminal)
        .map_err(|error| SpawnFailure::Malformed { reason: format!("the report of a terminal: {error}") })?;
    packet::send(status, &report, &[master.as_fd()]).map_err(|error| match error {
        packet::PacketError::Io(error) => SpawnFailure::System { call: "sendmsg".into(), errno: errno(&error) },
        other => SpawnFailure::Malformed { reason: other.to_string() },
    })?;
    ioctl_tiocsctty(&slave).map_err(|error| system("TIOCSCTTY", error))?;
    let attached =
        stdio::dup2_stdin(&slave).and_then(|()| stdio::dup2_stdout(&slave)).and_then(|()| stdio::dup2_stderr(&slave));
    attached.map_err(|error| system("dup2", error))
}

/// Whatever the container has in its place neither blocks nor is taken for a terminal.
fn open_master() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut opened = Err(Errno::NOENT);
    for path in MULTIPLEXERS {
        opened = open(path, flags, Mode::empty());
        if !matches!(opened, Err(Errno::NOENT)) {
            break;
        }
    }
    let master = opened?;
    let seen = fstat(&master)?;
    let is_multiplexer = FileType::from_raw_mode(seen.st_mode) == FileType::CharacterDevice
        && (major(seen.st_rdev), minor(seen.st_rdev)) == MULTIPLEXER;
    if !is_multiplexer {
        return Err(Errno::NODEV);
    }
    fcntl_setfl(&master, OFlags::RDWR)?;
    Ok(master)
}

fn prepare(master: &OwnedFd, columns: u16, rows: u16, uid: u32) -> rustix::io::Result<OwnedFd> {
    unlockpt(master)?;
    // By the master and not by a name, which could lead elsewhere.
    let slave = ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut modes = tcgetattr(&slave)?;
    // The kernel's own modes, line ends made whole on output whatever they are: as the reference has it.
    modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    let (columns, rows) = if (columns, rows) == (0, 0) { DEFAULT_SIZE } else { (columns, rows) };
    tcsetwinsize(&slave, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })?;
    fchown(&slave, Some(Uid::from_raw(uid)), None)?;
    fchmod(&slave, Mode::from_raw_mode(0o620))?;
    Ok(slave)
}
