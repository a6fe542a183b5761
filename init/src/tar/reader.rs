//! Reads a stream member by member.

use super::header::{Header, Type, more_segments, text};
use super::pax::Extensions;
use super::sparse::{self, MapReader, Segment};
use super::{BLOCK, Entry, Kind, MAX_EXTENSION, MAX_SEGMENTS, TarError, Time};
use std::io::{self, Read};

/// Read at once where bytes are passed over.
const SKIPPED: usize = 4096;

/// See the module. After an error it is of no further use.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// How far the stream was read.
    at: u64,
    /// Of the present member's content, what was not read yet, and what it is padded with.
    left: u64,
    padding: u64,
    /// What holds for all members that follow.
    all: Extensions,
}

impl<R: Read> Reader<R> {
    /// From the stream's beginning.
    pub fn new(source: R) -> Self {
        Self { source, at: 0, left: 0, padding: 0, all: Extensions::default() }
    }

    /// The next member; what was not read of the one before is passed over. `None` at the end: a
    /// block of zeros, or where the stream itself ends between two members.
    ///
    /// # Errors
    /// Each of [`TarError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let (left, padding) = (self.left, self.padding);
        self.skip(left, "a file's content")?;
        self.left = 0;
        self.skip(padding, "a file's padding")?;
        self.padding = 0;
        let mut extensions = Extensions::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut is_extended = false;
        loop {
            let at = self.at;
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return match (is_extended, at) {
                    (true, _) => Err(TarError::Truncated("a member: its header is missing")),
                    (false, 0) => Err(TarError::Empty),
                    (false, _) => Ok(None),
                };
            }
            let header = Header(&block);
            if header.is_zero() {
                return if is_extended {
                    Err(TarError::Truncated("a member: its header is missing"))
                } else {
                    Ok(None)
                };
            }
            if !header.has_right_checksum() {
                return Err(if at == 0 { TarError::NotTar(guess(&block)) } else { TarError::Checksum(at) });
            }
            is_extended = true;
            match header.kind() {
                Type::LongName => long_name = Some(text(&self.extension(&header, at)?).to_vec()),
                Type::LongLink => long_link = Some(text(&self.extension(&header, at)?).to_vec()),
                Type::Extended => {
                    let records = self.extension(&header, at)?;
                    extensions.take(&records).map_err(|problem| TarError::Field { what: "a record", at, problem })?;
                }
                Type::Global => {
                    let records = self.extension(&header, at)?;
                    self.all.take(&records).map_err(|problem| TarError::Field { what: "a record", at, problem })?;
                    is_extended = false;
                }
                Type::Label => {
                    let size = size(&header, None, at)?;
                    self.skip(padded(size), "a label")?;
                    is_extended = false;
                }
                Type::Continued => return Err(TarError::Unsupported("the rest of a file from another volume")),
                kind @ (Type::Member(_) | Type::Sparse | Type::ListedFolder) => {
                    extensions.path = extensions.path.or(long_name);
                    extensions.link = extensions.link.or(long_link);
                    return self.member(kind, &header, extensions.over(&self.all), at).map(Some);
                }
            }
        }
    }

    /// Reads of the present member's content; nothing at its end.
    ///
    /// # Errors
    /// [`TarError::Truncated`] where the stream ends before that.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = read_some(&mut self.source, &mut buffer[..wanted])?;
        if read == 0 {
            return Err(TarError::Truncated("a file's content"));
        }
        self.taken(read as u64);
        Ok(read)
    }

    /// What is left of the present member's content.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Where the content comes from, for whoever can take it in a better way, and then says by
    /// [`Reader::taken`] how much (at most what is [`left`](Reader::left)).
    pub fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// So many bytes of content were taken from [`Reader::source`].
    pub fn taken(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.at += bytes;
    }

    fn member(&mut self, kind: Type, header: &Header<'_>, known: Extensions, at: u64) -> Result<Entry, TarError> {
        let field = |what, problem| TarError::Field { what, at, problem };
        let id = |value: Option<i128>, what| {
            u64::try_from(value.ok_or_else(|| field(what, "no number"))?).map_err(|_| field(what, "negative"))
        };
        let member = match kind {
            Type::Member(kind) => kind,
            Type::Sparse => Kind::File,
            _ => Kind::Folder,
        };
        let mut entry = Entry::new(member, known.path.unwrap_or_else(|| header.path()));
        entry.link = known.link.unwrap_or_else(|| header.link());
        entry.mode = u32::try_from(header.mode().ok_or_else(|| field("the mode", "no number"))? & 0o7777).unwrap_or(0);
        entry.uid = known.uid.map_or_else(|| id(header.uid(), "the owner"), Ok)?;
        entry.gid = known.gid.map_or_else(|| id(header.gid(), "the group"), Ok)?;
        entry.mtime = match known.mtime {
            Some(time) => time,
            None => {
                let seconds = header.mtime().and_then(|seconds| i64::try_from(seconds).ok());
                Time { seconds: seconds.ok_or_else(|| field("the time", "no number"))?, nanoseconds: 0 }
            }
        };
        entry.xattrs = known.xattrs;
        if matches!(member, Kind::Character | Kind::Block) {
            entry.device = header.device().ok_or_else(|| field("the device", "no number"))?;
        }
        // Whatever the size says, nothing else has content.
        let has_content = member == Kind::File || kind == Type::ListedFolder;
        let size = if has_content { size(header, known.size, at)? } else { 0 };

        let pieces = if kind == Type::Sparse {
            let (real_size, pieces) = self.old_map(header, at)?;
            Some((real_size, pieces, size))
        } else {
            None
        };
        self.left = size;
        self.padding = padded(size) - size;
        let pieces = match pieces {
            None if member == Kind::File && known.sparse.is_in_content => {
                let pieces = self.map_in_content(at)?;
                Some((known.sparse.real_size.unwrap_or(0), pieces, self.left))
            }
            None if member == Kind::File && known.sparse.real_size.is_some() => {
                Some((known.sparse.real_size.unwrap_or(0), known.sparse.segments, size))
            }
            pieces => pieces,
        };
        if let Some((real_size, pieces, content)) = pieces {
            let pieces = sparse::checked(pieces, real_size, content)
                .map_err(|error| field("the list of a sparse file's pieces", error.into()))?;
            entry.sparse = Some((real_size, pieces));
            entry.path = known.sparse.name.unwrap_or(entry.path);
        }
        entry.size = self.left;
        Ok(entry)
    }

    /// GNU's old list: in the header, and in blocks behind it.
    fn old_map(&mut self, header: &Header<'_>, at: u64) -> Result<(u64, Vec<Segment>), TarError> {
        let wrong = || TarError::Field { what: "the list of a sparse file's pieces", at, problem: "no number" };
        let (real_size, mut pieces, mut goes_on) = header.sparse().ok_or_else(wrong)?;
        while goes_on {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(TarError::Truncated("the list of a sparse file's pieces"));
            }
            let (more, goes_on_after) = more_segments(&block).ok_or_else(wrong)?;
            if pieces.len() + more.len() > MAX_SEGMENTS || more.is_empty() && goes_on_after {
                return Err(wrong());
            }
            pieces.extend(more);
            goes_on = goes_on_after;
        }
        Ok((real_size, pieces))
    }

    fn map_in_content(&mut self, at: u64) -> Result<Vec<Segment>, TarError> {
        let mut map = MapReader::default();
        loop {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || !self.block(&mut block)? {
                return Err(TarError::Truncated("the list of a sparse file's pieces"));
            }
            self.left -= BLOCK as u64;
            let done = map.take(&block);
            let what = "the list of a sparse file's pieces";
            if let Some(pieces) = done.map_err(|error| TarError::Field { what, at, problem: error.into() })? {
                return Ok(pieces);
            }
        }
    }

    /// What follows an extension's header.
    fn extension(&mut self, header: &Header<'_>, at: u64) -> Result<Vec<u8>, TarError> {
        let bytes = size(header, None, at)?;
        if bytes > MAX_EXTENSION {
            return Err(TarError::TooLarge { what: "an extension header", bytes, limit: MAX_EXTENSION });
        }
        let mut text = Vec::new();
        let read = Read::by_ref(&mut self.source).take(bytes).read_to_end(&mut text)? as u64;
        self.at += read;
        if read < bytes {
            return Err(TarError::Truncated("an extension header"));
        }
        self.skip(padded(bytes) - bytes, "an extension header")?;
        Ok(text)
    }

    /// Reads a whole block; `false` where the stream ends before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.source, &mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 if self.at == 0 => return Err(TarError::NotTar(guess(block))),
                0 => return Err(TarError::Truncated("a header")),
                read => filled += read,
            }
        }
        self.at += BLOCK as u64;
        Ok(true)
    }

    fn skip(&mut self, bytes: u64, what: &'static str) -> Result<(), TarError> {
        if bytes == 0 {
            return Ok(());
        }
        let mut left = bytes;
        let mut scratch = [0; SKIPPED];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(SKIPPED).min(SKIPPED);
            match read_some(&mut self.source, &mut scratch[..wanted])? {
                0 => return Err(TarError::Truncated(what)),
                read => {
                    left -= read as u64;
                    self.at += read as u64;
                }
            }
        }
        Ok(())
    }
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn size(header: &Header<'_>, known: Option<u64>, at: u64) -> Result<u64, TarError> {
    let wrong = |problem| TarError::Field { what: "the size", at, problem };
    let size = match known {
        Some(size) => size,
        None => u64::try_from(header.size().ok_or_else(|| wrong("no number"))?).map_err(|_| wrong("negative"))?,
    };
    // The largest file that there can be; so that sums of sizes stay in range.
    if size > i64::MAX as u64 - BLOCK as u64 { Err(wrong("larger than any file")) } else { Ok(size) }
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

/// What people stream by mistake.
fn guess(block: &[u8]) -> &'static str {
    let known: [(&[u8], &str); 6] = [
        (b"\x28\xb5\x2f\xfd", ": it is compressed with zstd, of which only gzip is unpacked here"),
        (b"\xfd7zXZ\0", ": it is compressed with xz, of which only gzip is unpacked here"),
        (b"BZh", ": it is compressed with bzip2, of which only gzip is unpacked here"),
        (b"PK\x03\x04", ": it is a zip file"),
        (b"{", ": it looks like JSON"),
        (b"<", ": it looks like HTML"),
    ];
    known.iter().find(|(magic, _)| block.starts_with(magic)).map_or("", |(_, words)| words)
}
