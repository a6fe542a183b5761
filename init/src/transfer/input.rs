//! The stream that files come from: a pipe, perhaps with gzip around its content.

use flate2::bufread::MultiGzDecoder;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::io::{self, BufRead, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Read at once.
const CAPACITY: usize = 256 * 1024;
/// What is spliced at once, and what it has to be worth: less is read together with what follows.
const SPLICED: u64 = 1 << 20;
const LARGE: u64 = 64 * 1024;

/// Bytes of the pipe, read ahead.
#[derive(Debug)]
pub struct Pipe {
    end: OwnedFd,
    buffer: Vec<u8>,
    start: usize,
}

/// See the module.
pub enum Input {
    /// As it comes.
    Plain(Pipe),
    /// Unpacked, all of its members one after the other.
    Gzip(Box<MultiGzDecoder<Pipe>>),
}

impl Input {
    /// Looks how the stream begins.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        // The other end of a pipe may be given to us by someone who set it otherwise.
        rustix::fs::fcntl_setfl(&end, OFlags::empty())?;
        let mut pipe = Pipe { end, buffer: Vec::with_capacity(CAPACITY), start: 0 };
        while pipe.buffer.len() < 2 && pipe.fill()? > 0 {}
        Ok(if pipe.buffer.starts_with(b"\x1f\x8b") {
            Self::Gzip(Box::new(MultiGzDecoder::new(pipe)))
        } else {
            Self::Plain(pipe)
        })
    }

    /// Moves up to so many bytes straight to where a file stands, without a copy of ours. `None`
    /// where they have to be read and written.
    pub fn splice_to(&mut self, file: BorrowedFd<'_>, bytes: u64) -> rustix::io::Result<Option<u64>> {
        let Self::Plain(pipe) = self else { return Ok(None) };
        if pipe.start < pipe.buffer.len() || bytes < LARGE {
            return Ok(None);
        }
        let bytes = usize::try_from(bytes.min(SPLICED)).unwrap_or(usize::MAX);
        loop {
            match splice(&pipe.end, None, file, None, bytes, SpliceFlags::empty()) {
                Ok(moved) => return Ok(Some(moved as u64)),
                Err(Errno::INTR) => {}
                // Not every file system can.
                Err(Errno::INVAL) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads to the end, so that whoever sends is not cut off, and that a sum at the end is checked.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(pipe) => pipe.read(buffer),
            Self::Gzip(packed) => packed.read(buffer).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "its gzip data ends too early")
                }
                kind => io::Error::new(kind, format!("its gzip data is broken ({error})")),
            }),
        }
    }
}

impl Pipe {
    /// Reads more behind what is there.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.end, rustix::buffer::spare_capacity(&mut self.buffer)) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
            self.fill()?;
        }
        Ok(&self.buffer[self.start..])
    }

    fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.buffer.len());
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let bytes = ready.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&ready[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}
