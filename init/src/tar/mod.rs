//! The tar format, as a stream: what one is read into, and what one is written from. Touches no
//! file; [`crate::transfer`] does that.
//!
//! Read: v7, ustar, GNU (long names, sparse files) and PAX (all its keys that say something about a
//! file, sparse files of each of GNU tar's versions, extended attributes). Written: ustar, with a
//! PAX header where that is too small.
//!
//! Promises: nothing that a stream says makes a reader take more memory than [`MAX_EXTENSION`] and
//! [`MAX_SEGMENTS`] allow, loop, or panic. An end in the middle of anything is an error.
//!
//! Our own, since a library would hold an extension header of any size in memory, does not know the
//! sparse files that GNU tar writes by default in PAX, and hides the descriptor that a file's
//! content could be spliced from.

mod header;
mod number;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::Reader;
pub use sparse::Segment;
pub use writer::{END, head, padding};

use std::io;

/// Everything in a stream begins at a multiple of this.
pub const BLOCK: usize = 512;
/// The largest extension header (long name, PAX records) that is taken.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Pieces that a sparse file may have.
pub const MAX_SEGMENTS: usize = 1 << 17;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of a member that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
}

/// An instant: seconds since 1970, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// May be before 1970.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

/// One member, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// As the stream has it: it may be absolute, hold `..`, or end in slashes.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permissions, and the bits for set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Numbers alone count; what the stream says of names is not looked at.
    pub uid: u64,
    /// As above.
    pub gid: u64,
    /// When its content was last changed.
    pub mtime: Time,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// Bytes of content in the stream.
    pub size: u64,
    /// Of a sparse file: its size, and where its content goes, in ascending order.
    pub sparse: Option<(u64, Vec<Segment>)>,
    /// Extended attributes by their full names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// One of which nothing else is known.
    pub fn new(kind: Kind, path: Vec<u8>) -> Self {
        Self {
            kind,
            path,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            device: (0, 0),
            size: 0,
            sparse: None,
            xattrs: Vec::new(),
        }
    }
}

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It cannot be had (which includes that its compression is broken).
    #[error("the stream cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It has no first member.
    #[error("the stream is empty: a tar stream ends in at least one block of zeros")]
    Empty,
    /// What it begins with is none.
    #[error("this does not look like a tar stream{0}")]
    NotTar(&'static str),
    /// It ends too early.
    #[error("the stream ends in the middle of {0}")]
    Truncated(&'static str),
    /// A header that is none.
    #[error("the stream is broken: the header at byte {0} has a wrong checksum")]
    Checksum(u64),
    /// Something in a header that makes no sense.
    #[error("the stream is broken: {what} in the header at byte {at} is {problem}")]
    Field {
        /// What.
        what: &'static str,
        /// Where the header begins.
        at: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More than is taken.
    #[error("{what} of {bytes} in the stream; the limit is {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// What is taken.
        limit: u64,
    },
    /// Part of the format, but not of what this reads.
    #[error("the stream holds {0}, which cannot be unpacked")]
    Unsupported(&'static str),
}
