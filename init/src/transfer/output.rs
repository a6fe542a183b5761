//! The stream that files go to: a pipe, to which small things go together and large files straight.

use super::{Result, system};
use crate::wire::TransferFailure;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is gathered before it is written.
const CAPACITY: usize = 128 * 1024;
/// A file that is larger is spliced.
const LARGE: u64 = 64 * 1024;
/// What is spliced at once.
const SPLICED: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Output {
    end: OwnedFd,
    buffer: Vec<u8>,
}

/// What a file had to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All that was asked for.
    All,
    /// It has become shorter meanwhile.
    Short,
}

/// What a file's content cannot be read for, told from what is wrong with the stream.
pub enum Broken {
    /// The file's.
    File(Errno),
    /// The stream's.
    Stream(TransferFailure),
}

impl Output {
    /// Over the pipe's writing end.
    pub fn new(end: OwnedFd) -> Result<Self> {
        rustix::fs::fcntl_setfl(&end, OFlags::empty()).map_err(|error| system("fcntl", error))?;
        Ok(Self { end, buffer: Vec::with_capacity(CAPACITY) })
    }

    /// Where headers are added; [`Output::settle`] sends what has gathered.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends, where enough has gathered.
    pub fn settle(&mut self) -> Result<()> {
        if self.buffer.len() >= CAPACITY / 2 { self.flush() } else { Ok(()) }
    }

    /// Sends what has gathered.
    pub fn flush(&mut self) -> Result<()> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            match rustix::io::write(&self.end, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(system("write to the stream", error)),
            }
        }
        self.buffer.clear();
        Ok(())
    }

    /// Adds so many bytes of a file.
    pub fn send(&mut self, file: BorrowedFd<'_>, size: u64) -> std::result::Result<Sent, Broken> {
        let mut left = size;
        if size > LARGE {
            self.flush().map_err(Broken::Stream)?;
            left = self.splice(file, size)?;
        }
        while left > 0 {
            // Whatever the buffer holds already, there is room for something.
            self.settle().map_err(Broken::Stream)?;
            let start = self.buffer.len();
            let wanted = usize::try_from(left).unwrap_or(CAPACITY).min(CAPACITY - start);
            self.buffer.resize(start + wanted, 0);
            let read = read(file, &mut self.buffer[start..]);
            self.buffer.truncate(start + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Ok(Sent::Short),
                Ok(read) => left -= read as u64,
                Err(error) => return Err(Broken::File(error)),
            }
        }
        Ok(Sent::All)
    }

    /// What is left to be read and written, where the file cannot be spliced from.
    fn splice(&self, file: BorrowedFd<'_>, size: u64) -> std::result::Result<u64, Broken> {
        let mut left = size;
        while left > 0 {
            let bytes = usize::try_from(left.min(SPLICED)).unwrap_or(usize::MAX);
            match splice(file, None, self.end.as_fd(), None, bytes, SpliceFlags::MORE) {
                // Its end: found out, and told, by reading.
                Ok(0) | Err(Errno::INVAL) => break,
                Ok(moved) => left -= moved as u64,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE) => return Err(Broken::Stream(system("write to the stream", Errno::PIPE))),
                Err(error) => return Err(Broken::File(error)),
            }
        }
        Ok(left)
    }
}

fn read(file: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
