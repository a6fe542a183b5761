//! One header block, as it is.

use super::number::parse;
use super::sparse::Segment;
use super::{BLOCK, Kind};

/// What a header is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A member.
    Member(Kind),
    /// GNU: a regular file with holes.
    Sparse,
    /// GNU: a folder with a list of what was in it.
    ListedFolder,
    /// GNU: what follows is the next member's name.
    LongName,
    /// GNU: what follows is where the next member leads.
    LongLink,
    /// PAX, for the next member.
    Extended,
    /// PAX, for all that follow.
    Global,
    /// GNU: a volume's label.
    Label,
    /// GNU: the rest of a file that began on another volume.
    Continued,
}

/// See the module.
pub struct Header<'a>(pub &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Nothing: the end of the stream.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The sum of all bytes, its own field taken as blanks. Some writers had signed bytes.
    pub fn has_right_checksum(&self) -> bool {
        let (mut unsigned, mut signed) = (8 * 32_i64, 8 * 32_i64);
        for (at, &byte) in self.0.iter().enumerate() {
            if !(148..156).contains(&at) {
                unsigned += i64::from(byte);
                signed += i64::from(byte.cast_signed());
            }
        }
        let claimed = parse(&self.0[148..156]);
        claimed == Some(unsigned.into()) || claimed == Some(signed.into())
    }

    /// What it is about. POSIX wants a type that nobody knows taken as a regular file.
    pub fn kind(&self) -> Type {
        match self.0[156] {
            b'1' => Type::Member(Kind::HardLink),
            b'2' => Type::Member(Kind::Symlink),
            b'3' => Type::Member(Kind::Character),
            b'4' => Type::Member(Kind::Block),
            b'5' => Type::Member(Kind::Folder),
            b'6' => Type::Member(Kind::Fifo),
            b'S' => Type::Sparse,
            b'D' => Type::ListedFolder,
            b'L' => Type::LongName,
            b'K' => Type::LongLink,
            b'x' | b'X' => Type::Extended,
            b'g' => Type::Global,
            b'V' => Type::Label,
            b'M' => Type::Continued,
            // The oldest format has no other mark for folders.
            0 if self.name().ends_with(b"/") => Type::Member(Kind::Folder),
            _ => Type::Member(Kind::File),
        }
    }

    fn name(&self) -> &'a [u8] {
        text(&self.0[..100])
    }

    /// With ustar's prefix, where the header is ustar's.
    pub fn path(&self) -> Vec<u8> {
        let prefix = text(&self.0[345..500]);
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", self.name()].concat();
        }
        self.name().to_vec()
    }

    pub fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub fn mode(&self) -> Option<i128> {
        parse(&self.0[100..108])
    }

    pub fn uid(&self) -> Option<i128> {
        parse(&self.0[108..116])
    }

    pub fn gid(&self) -> Option<i128> {
        parse(&self.0[116..124])
    }

    pub fn size(&self) -> Option<i128> {
        parse(&self.0[124..136])
    }

    pub fn mtime(&self) -> Option<i128> {
        parse(&self.0[136..148])
    }

    pub fn device(&self) -> Option<(u32, u32)> {
        let number = |field| u32::try_from(parse(field)?).ok();
        Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }

    /// GNU: a sparse file's size, its first pieces, and whether blocks with more follow.
    pub fn sparse(&self) -> Option<(u64, Vec<Segment>, bool)> {
        let real_size = u64::try_from(parse(&self.0[483..495])?).ok()?;
        Some((real_size, segments(&self.0[386..482])?, self.0[482] != 0))
    }
}

/// GNU: the pieces in a block that follows a sparse file's header, and whether more follow.
pub fn more_segments(block: &[u8; BLOCK]) -> Option<(Vec<Segment>, bool)> {
    Some((segments(&block[..504])?, block[504] != 0))
}

fn segments(table: &[u8]) -> Option<Vec<Segment>> {
    let (rows, _) = table.as_chunks::<24>();
    let used = rows.iter().take_while(|row| row[0] != 0);
    let number = |field| u64::try_from(parse(field)?).ok();
    used.map(|row| Some(Segment { offset: number(&row[..12])?, length: number(&row[12..])? })).collect()
}

/// Up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
