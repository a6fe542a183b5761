//! The system calls of the streams that cannot be had without `unsafe`: places in a shared mapping
//! that the kernel itself advances, watched descriptors, and what a socket still holds.

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Readers of one output that have a place of their own in the file.
pub const SLOTS: usize = 448;
/// The size of the file that [`Marks`] maps: one page of the smallest size there is.
pub const MARKS_SIZE: u64 = 4096;

const _: () = assert!(size_of::<Page>() as u64 == MARKS_SIZE);

/// What is in the file. All zeros is a valid state: nothing is spooled, nobody reads.
#[repr(C)]
struct Page {
    version: AtomicU32,
    /// Counts the calls of [`Marks::send`]; its store makes the page writable before the kernel
    /// writes to it, also on a file system that write-protects pages that it writes back.
    beat: AtomicU32,
    resume: AtomicU64,
    dropped: AtomicU64,
    reserved: [AtomicU64; 5],
    live: [AtomicU8; SLOTS],
    offsets: [AtomicI64; SLOTS],
}

/// The places of one output, in a file that is mapped shared: they survive any death of this
/// process at the value of their last store, by us or by the kernel.
#[derive(Debug)]
pub struct Marks {
    page: NonNull<Page>,
}

// SAFETY: the mapping is owned by this value alone, lives as long as it does, and is only reached
// through atomics (the kernel's own writes happen within a call that borrows the value).
unsafe impl Send for Marks {}
// SAFETY: as above.
unsafe impl Sync for Marks {}

impl Marks {
    /// Maps a file of (at least) [`MARKS_SIZE`] bytes, whose blocks are allocated.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let length = MARKS_SIZE as usize;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)?
        };
        let page = NonNull::new(address.cast()).ok_or(Errno::FAULT)?;
        Ok(Self { page })
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping is page-aligned, as long as Page, readable and writable, and lives
        // until drop; every field is an atomic, for which any bits are a value.
        unsafe { self.page.as_ref() }
    }

    /// The layout's version; 0 in a file that was just made.
    pub fn version(&self) -> &AtomicU32 {
        &self.page().version
    }

    /// Where the next reader starts when there is none.
    pub fn resume(&self) -> &AtomicU64 {
        &self.page().resume
    }

    /// Bytes that nobody has read and nobody will.
    pub fn dropped(&self) -> &AtomicU64 {
        &self.page().dropped
    }

    /// The place of a slot in use; `None` where it is free (or there is no such slot).
    pub fn slot(&self, slot: usize) -> Option<u64> {
        let page = self.page();
        let live = page.live.get(slot)?.load(Ordering::SeqCst) != 0;
        live.then(|| u64::try_from(page.offsets[slot].load(Ordering::SeqCst)).unwrap_or(0))
    }

    /// Takes a slot. The place is written first: a slot in use always has a valid one.
    pub fn take(&self, slot: usize, offset: u64) {
        let page = self.page();
        if let (Some(place), Some(live)) = (page.offsets.get(slot), page.live.get(slot)) {
            place.store(offset.cast_signed(), Ordering::SeqCst);
            live.store(1, Ordering::SeqCst);
        }
    }

    /// Gives a slot back.
    pub fn release(&self, slot: usize) {
        if let Some(live) = self.page().live.get(slot) {
            live.store(0, Ordering::SeqCst);
        }
    }

    /// Sends up to `count` bytes of `file` from the slot's place on into `socket`. The kernel
    /// advances the place in the mapping by what it sent, within the call: a SIGKILL finds both
    /// done or neither.
    ///
    /// # Errors
    /// The kernel's; `Errno::INVAL` for a slot that there is not.
    pub fn send(
        &self,
        slot: usize,
        file: BorrowedFd<'_>,
        socket: BorrowedFd<'_>,
        count: usize,
    ) -> Result<usize, Errno> {
        let page = self.page();
        let place = page.offsets.get(slot).ok_or(Errno::INVAL)?;
        page.beat.fetch_add(1, Ordering::SeqCst);
        // SAFETY: both descriptors are borrowed for the call; the pointer is to an atomic in a
        // mapping that outlives the call, and may be written to by the kernel.
        let sent = unsafe { libc::sendfile64(socket.as_raw_fd(), file.as_raw_fd(), place.as_ptr(), count) };
        usize::try_from(sent).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives the value.
        let _ = unsafe { munmap(self.page.as_ptr().cast(), MARKS_SIZE as usize) };
    }
}

/// Both directions of a descriptor.
pub const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Has the runtime watch a descriptor.
///
/// # Errors
/// The kernel's, for what cannot be watched; the descriptor is closed.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped, and AsyncFd, which
    // owns it from here on, deregisters it first.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// Bytes that were written to a socket and have not left it (or were not acknowledged) yet.
///
/// # Errors
/// The kernel's.
pub fn unsent(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(u64::try_from(bytes).unwrap_or(0)) }
}
