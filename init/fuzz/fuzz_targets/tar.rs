//! A tar stream of any content, given in pieces of any size: members, an end or an error, in bounded
//! memory, and never more content than there were bytes.
#![no_main]

use garden_init::tar::{MAX_SEGMENTS, Reader};
use libfuzzer_sys::fuzz_target;
use std::io::Read;

/// Gives a few bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = self.1.max(1).min(buffer.len());
        self.0.read(&mut buffer[..most])
    }
}

fuzz_target!(|input: (u16, &[u8])| {
    let (piece, bytes) = input;
    let mut reader = Reader::new(Pieces(bytes, piece.into()));
    let mut total = 0;
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        if let Some((size, pieces)) = &entry.sparse {
            assert!(pieces.len() <= MAX_SEGMENTS);
            assert!(pieces.iter().all(|piece| piece.offset + piece.length <= *size));
        }
        let mut chunk = [0; 777];
        while let Ok(read @ 1..) = reader.read_content(&mut chunk) {
            total += read;
        }
        assert!(total <= bytes.len());
    }
});
