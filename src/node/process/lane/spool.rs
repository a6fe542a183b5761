//! One output's file on the host for what nobody has read yet, and the places in it.
//!
//! ```text
//! <spool>/stdout         bytes 0..end that came out of the pipe; a hole below the lowest place
//! <spool>/stdout.places  one page, mapped shared: the place of every reader, and where the next one starts
//! ```
//! Offsets count the bytes that went through the file (those that were spliced past it do not).
//!
//! Promises, at whatever instruction a SIGKILL comes:
//! - A byte leaves the pipe and enters the file in one call; the file's size is the only note of it.
//! - A byte goes into a socket and its reader's place moves in one call ([`Marks::send`]).
//! - A place is valid before it is marked as in use, and where the next reader starts is noted
//!   before the last place is given back. So the lowest place in use, or the noted one where none
//!   is, is what [`Spool::open`] goes on from.
//! - [`Spool::reset`] empties the file only when every place is at its end: whoever is killed
//!   before the places are at 0 leaves them beyond the end, which `open` reads as "at the end".
//! - Pages are removed whole and never overwritten or zeroed: a page may still be on its way in a
//!   socket (sendfile gives sockets the page itself). Hence holes of whole [`UNIT`]s only: the
//!   kernel zeroes the removed part of a large folio in place.

use crate::node::process::sys::{MARKS_SIZE, Marks, SLOTS};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat, ftruncate, mkdirat, open, openat};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Holes are whole multiples of this: the largest folio of a page cache with 4 KiB pages.
pub const UNIT: u64 = 2 << 20;
/// A drained file is emptied once it has grown to this.
const RESET_AT: u64 = 256 << 10;
/// The version of the places' file.
const VERSION: u32 = 1;

/// One output's spool.
#[derive(Debug)]
pub struct Spool {
    file: OwnedFd,
    marks: Marks,
    end: u64,
    /// Below this the file is a hole already.
    punched: u64,
    /// The file system cannot make holes; said once.
    unpunchable: bool,
}

impl Spool {
    /// Opens what an earlier gardend left; `None` where nothing was ever spooled.
    ///
    /// # Errors
    /// Where it is there but cannot be used.
    pub fn open(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let folder = match open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => Self::recover(&folder, name, file).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes one, or opens the one that is there.
    ///
    /// # Errors
    /// Where it cannot be made: a full or read-only file system, most often.
    pub fn create(folder: &Path, name: &str) -> io::Result<Self> {
        if let (Some(parent), Some(leaf)) = (folder.parent(), folder.file_name()) {
            let parent = match open_folder(parent) {
                Err(Errno::NOENT) => {
                    std::fs::create_dir_all(parent)?;
                    open_folder(parent)?
                }
                other => other?,
            };
            match mkdirat(&parent, leaf, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let folder = open_folder(folder)?;
        // The places first: where the bytes are, their places are.
        drop(open_places(&folder, name)?);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        Self::recover(&folder, name, file)
    }

    fn recover(folder: &OwnedFd, name: &str, file: OwnedFd) -> io::Result<Self> {
        let places = open_places(folder, name)?;
        let marks = Marks::map(places.as_fd())?;
        match marks.version().load(Ordering::SeqCst) {
            0 => marks.version().store(VERSION, Ordering::SeqCst),
            VERSION => {}
            other => {
                return Err(io::Error::other(format!("places of version {other}; this gardend knows {VERSION}")));
            }
        }
        let end = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        let lowest = (0..SLOTS).filter_map(|slot| marks.slot(slot)).min();
        let resume = lowest.unwrap_or_else(|| marks.resume().load(Ordering::SeqCst)).min(end);
        // Its readers are gone with the gardend that served them.
        marks.resume().store(resume, Ordering::SeqCst);
        (0..SLOTS).for_each(|slot| marks.release(slot));
        let mut spool = Self { file, marks, end, punched: 0, unpunchable: false };
        spool.free_below(resume);
        Ok(spool)
    }

    /// How many bytes have gone through the file since it was last emptied.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the next reader starts, if there is none now.
    pub fn resume(&self) -> u64 {
        self.marks.resume().load(Ordering::SeqCst).min(self.end)
    }

    /// Notes where the next reader starts.
    pub fn set_resume(&mut self, offset: u64) {
        self.marks.resume().store(offset.min(self.end), Ordering::SeqCst);
    }

    /// Gives up what is below `offset`, unread; only while there is no reader.
    pub fn drop_below(&mut self, offset: u64) {
        let lost = offset.min(self.end).saturating_sub(self.resume());
        self.count_dropped(lost);
        self.set_resume(offset);
        self.free_below(offset);
    }

    /// Bytes that nobody has read and nobody will.
    pub fn dropped(&self) -> u64 {
        self.marks.dropped().load(Ordering::Relaxed)
    }

    /// Counts bytes that were lost.
    pub fn count_dropped(&self, bytes: u64) {
        self.marks.dropped().fetch_add(bytes, Ordering::Relaxed);
    }

    /// A reader's place.
    pub fn place(&self, slot: usize) -> u64 {
        self.marks.slot(slot).unwrap_or(self.end).min(self.end)
    }

    /// Gives a reader its place.
    pub fn take(&mut self, slot: usize, offset: u64) {
        self.marks.take(slot, offset.min(self.end));
    }

    /// Takes a reader's place away.
    pub fn release(&mut self, slot: usize) {
        self.marks.release(slot);
    }

    /// Moves up to `count` bytes from a pipe to the file's end. Never waits for the pipe; 0: the
    /// pipe's writers are gone.
    ///
    /// # Errors
    /// `AGAIN` for an empty pipe; else the file's (`NOSPC`, ...): what was not moved is still in
    /// the pipe.
    pub fn fill(&mut self, pipe: BorrowedFd<'_>, count: usize) -> Result<usize, Errno> {
        let mut offset = self.end;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = splice(pipe, None, &self.file, Some(&mut offset), count, flags)?;
        self.end += moved as u64;
        Ok(moved)
    }

    /// Sends from a reader's place on into its socket, and moves the place by what was sent.
    ///
    /// # Errors
    /// `AGAIN` for a full socket; else the socket's.
    pub fn send(&mut self, slot: usize, socket: BorrowedFd<'_>, count: usize) -> Result<usize, Errno> {
        let left = usize::try_from(self.end - self.place(slot)).unwrap_or(usize::MAX);
        self.marks.send(slot, self.file.as_fd(), socket, left.min(count))
    }

    /// Frees what lies below the lowest place that anybody has.
    pub fn free_below(&mut self, offset: u64) {
        let aligned = offset.min(self.end) / UNIT * UNIT;
        if aligned <= self.punched {
            return;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(&self.file, flags, self.punched, aligned - self.punched)
            && !self.unpunchable
        {
            self.unpunchable = true;
            tracing::warn!(%error, "the spool's file system cannot make holes: what was read stays until all is read; put the run folder on a tmpfs");
        }
        self.punched = aligned;
    }

    /// Empties the file, if it is worth it. Only when every place is at the end: `slots` are
    /// those in use.
    pub fn reset(&mut self, slots: impl Iterator<Item = usize>) -> bool {
        if self.end < RESET_AT || ftruncate(&self.file, 0).is_err() {
            return false;
        }
        for slot in slots {
            self.marks.take(slot, 0);
        }
        self.marks.resume().store(0, Ordering::SeqCst);
        self.end = 0;
        self.punched = 0;
        true
    }
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_places(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let places = openat(folder, format!("{name}.places"), flags, Mode::RUSR | Mode::WUSR)?;
    // Allocated, and not only long enough: a store to a page that there is no room for is a SIGBUS.
    fallocate(&places, FallocateFlags::empty(), 0, MARKS_SIZE)?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn filled(folder: &Path, bytes: &[u8]) -> Spool {
        let mut spool = Spool::create(folder, "stdout").unwrap();
        fill(&mut spool, bytes);
        spool
    }

    fn fill(spool: &mut Spool, bytes: &[u8]) {
        let (reader, mut writer) = io::pipe().unwrap();
        for part in bytes.chunks(4096) {
            writer.write_all(part).unwrap();
            assert_eq!(spool.fill(reader.as_fd(), 1 << 20).unwrap(), part.len());
        }
    }

    #[test]
    fn what_was_never_spooled_needs_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Spool::open(&folder.path().join("none"), "stdout").unwrap().is_none());
        assert!(Spool::open(folder.path(), "stdout").unwrap().is_none());
    }

    #[test]
    fn a_place_moves_by_what_was_sent_and_is_gone_on_from_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("spool");
        let mut spool = filled(&folder, b"0123456789");
        spool.take(3, 0);
        spool.take(5, 9);
        let (near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(spool.send(3, near.as_fd(), 4).unwrap(), 4);
        assert_eq!((spool.place(3), spool.place(5)), (4, 9));
        drop(spool);
        let mut spool = Spool::open(&folder, "stdout").unwrap().unwrap();
        assert_eq!((spool.end(), spool.resume()), (10, 4));
        let resume = spool.resume();
        spool.take(0, resume);
        assert_eq!(spool.send(0, near.as_fd(), 100).unwrap(), 6);
        drop(near);
        let mut got = String::new();
        far.read_to_string(&mut got).unwrap();
        assert_eq!(got, "0123456789");
    }

    #[test]
    fn without_a_reader_the_noted_place_is_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = filled(folder.path(), b"0123456789");
        spool.take(3, 2);
        spool.set_resume(7);
        spool.release(3);
        drop(spool);
        assert_eq!(Spool::open(folder.path(), "stdout").unwrap().unwrap().resume(), 7);
    }

    #[test]
    fn a_kill_between_emptying_the_file_and_moving_the_places_loses_nothing_and_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = filled(folder.path(), &[7; 300_000]);
        let end = spool.end();
        spool.take(3, end);
        spool.set_resume(end);
        ftruncate(&spool.file, 0).unwrap();
        drop(spool);
        let mut spool = Spool::open(folder.path(), "stdout").unwrap().unwrap();
        assert_eq!((spool.end(), spool.resume()), (0, 0));
        fill(&mut spool, b"new");
        assert_eq!((spool.end(), spool.resume()), (3, 0));
    }

    #[test]
    fn what_is_given_up_is_counted_and_its_space_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = filled(folder.path(), &vec![7; 3 * UNIT as usize]);
        let before = fstat(&spool.file).unwrap().st_blocks;
        spool.drop_below(2 * UNIT);
        assert_eq!((spool.dropped(), spool.resume(), spool.end()), (2 * UNIT, 2 * UNIT, 3 * UNIT));
        let after = fstat(&spool.file).unwrap().st_blocks;
        assert!(after <= before / 2, "{before} blocks, then {after}");
    }

    #[test]
    fn pages_that_are_still_in_a_socket_keep_their_bytes_when_the_file_gives_them_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = filled(folder.path(), &vec![7; 2 * UNIT as usize]);
        spool.take(0, 0);
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(bytes) = spool.send(0, near.as_fd(), 1 << 20) {
            sent += bytes;
        }
        assert!(sent > 0);
        spool.free_below(UNIT);
        spool.take(0, 2 * UNIT);
        assert!(spool.reset([0].into_iter()));
        fill(&mut spool, &vec![9; UNIT as usize]);
        let mut got = vec![0; sent];
        far.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
    }
}
