//! Files with holes: which pieces of them a stream holds.

use super::number::decimal;
use super::{BLOCK, MAX_SEGMENTS};

/// A piece of a file that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// In the file.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// What is wrong with a list of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Longer than is taken.
    TooMany,
    /// No number where one belongs.
    NoNumber,
    /// They overlap, or do not fit the file or the stream.
    Senseless,
}

impl From<MapError> for &'static str {
    fn from(error: MapError) -> Self {
        match error {
            MapError::TooMany => "more pieces of a sparse file than are taken",
            MapError::NoNumber => "no number in the list of a sparse file's pieces",
            MapError::Senseless => "a list of a sparse file's pieces that does not fit the file",
        }
    }
}

/// The pieces without those that hold nothing, where they can be true of a file of `real_size` of
/// which the stream holds `content`.
pub fn checked(mut pieces: Vec<Segment>, real_size: u64, content: u64) -> Result<Vec<Segment>, MapError> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in &pieces {
        let behind = piece.offset.checked_add(piece.length).ok_or(MapError::Senseless)?;
        if piece.offset < end || behind > real_size {
            return Err(MapError::Senseless);
        }
        end = behind;
        sum += piece.length;
    }
    // Old writers pad the last piece to a whole block of content.
    if sum > content || content - sum >= BLOCK as u64 {
        return Err(MapError::Senseless);
    }
    pieces.retain(|piece| piece.length > 0);
    Ok(pieces)
}

/// Reads the list that version 1.0 has in front of the content, a block at a time.
#[derive(Debug, Default)]
pub struct MapReader {
    numbers: usize,
    wanted: Option<usize>,
    digits: Vec<u8>,
    offset: Option<u64>,
    pieces: Vec<Segment>,
}

impl MapReader {
    /// Takes the next block; answers the pieces once that was the last.
    pub fn take(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, MapError> {
        for &byte in block {
            if byte != b'\n' {
                // No number has more digits than this.
                if self.digits.len() == 20 {
                    return Err(MapError::NoNumber);
                }
                self.digits.push(byte);
                continue;
            }
            let number = decimal(&self.digits).ok_or(MapError::NoNumber)?;
            self.digits.clear();
            match (self.wanted, self.offset.take()) {
                (None, _) => {
                    let count = usize::try_from(number).ok().filter(|count| *count <= MAX_SEGMENTS);
                    self.wanted = Some(2 * count.ok_or(MapError::TooMany)?);
                }
                (Some(_), None) => {
                    self.offset = Some(number);
                    self.numbers += 1;
                }
                (Some(_), Some(offset)) => {
                    self.pieces.push(Segment { offset, length: number });
                    self.numbers += 1;
                }
            }
            if self.wanted == Some(self.numbers) {
                return Ok(Some(std::mem::take(&mut self.pieces)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn only_what_fits_the_file_is_taken() {
        assert_eq!(checked(vec![piece(0, 3), piece(10, 0)], 10, 3), Ok(vec![piece(0, 3)]));
        assert_eq!(checked(vec![], 10, 0), Ok(vec![]));
        for (pieces, real_size, content) in [
            (vec![piece(0, 3), piece(2, 3)], 10, 6),
            (vec![piece(8, 3)], 10, 3),
            (vec![piece(5, 1), piece(0, 1)], 10, 2),
            (vec![piece(0, 3)], 10, 2),
            (vec![piece(0, 3)], 10, 600),
            (vec![piece(u64::MAX, 3)], u64::MAX, 3),
        ] {
            assert_eq!(checked(pieces.clone(), real_size, content), Err(MapError::Senseless), "{pieces:?}");
        }
    }

    #[test]
    fn a_list_may_go_over_blocks() {
        let mut map = MapReader::default();
        assert_eq!(map.take(b"2\n0\n5\n1"), Ok(None));
        assert_eq!(map.take(b"00\n7\n\0\0\0"), Ok(Some(vec![piece(0, 5), piece(100, 7)])));
        assert_eq!(MapReader::default().take(b"0\n\0\0"), Ok(Some(vec![])));
        assert_eq!(MapReader::default().take(b"x\n"), Err(MapError::NoNumber));
        assert_eq!(MapReader::default().take(b"999999999\n"), Err(MapError::TooMany));
        assert_eq!(MapReader::default().take(&[0; 512]), Err(MapError::NoNumber));
    }

    proptest! {
        #[test]
        fn any_blocks_are_a_list_or_not(blocks in any::<Vec<Vec<u8>>>()) {
            let mut map = MapReader::default();
            for block in blocks {
                if map.take(&block).is_err() {
                    break;
                }
            }
        }
    }
}
