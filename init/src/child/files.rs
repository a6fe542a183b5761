//! Single files of the container's, none of which is trusted.

use rustix::fs::{FileType, Mode, OFlags, fchown, fstat, open, stat};
use rustix::io::Errno;
use rustix::process::Uid;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

/// More of a file is not looked at.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A file's first 16 MiB. One that is missing, or no regular file (which might block, or mean
/// something to a driver), is empty. Links are followed: some images keep /etc behind them.
pub fn read_bounded(path: &CStr) -> rustix::io::Result<Vec<u8>> {
    let is_absent = |error: &Errno| matches!(*error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    let is_regular = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    // Looked at before it is opened, since opening alone can have effects on a device; and again
    // after that, since it may have been swapped. Even then a FIFO does not block.
    match stat(path) {
        Ok(found) if is_regular(found.st_mode) => {}
        Err(error) if !is_absent(&error) => return Err(error),
        _ => return Ok(Vec::new()),
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if !is_regular(fstat(&file)?.st_mode) {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    File::from(file).take(MAX_BYTES).read_to_end(&mut text).map_err(as_errno)?;
    Ok(text)
}

/// Gives a pipe to the user, so that `/dev/stdout` can be opened by name. Where that is not
/// allowed the pipe still works by its descriptor: other files than pipes are not touched.
pub fn give(end: BorrowedFd<'_>, uid: u32) {
    let is_anothers_pipe =
        fstat(end).is_ok_and(|seen| FileType::from_raw_mode(seen.st_mode) == FileType::Fifo && seen.st_uid != uid);
    if is_anothers_pipe {
        let _ = fchown(end, Some(Uid::from_raw(uid)), None);
    }
}

/// Makes this process as likely to be chosen by the kernel's out-of-memory killer as any other.
/// Without a /proc it stays as it is.
pub fn end_oom_protection() {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(file) = open(c"/proc/self/oom_score_adj", flags, Mode::empty()) {
        let _ = rustix::io::write(file, b"0");
    }
}

fn as_errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
