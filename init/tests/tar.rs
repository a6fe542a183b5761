//! Tar streams as bytes: what is written is read again, and whatever is read is a member, an end or
//! an error.

use garden_init::tar::{BLOCK, END, Entry, Kind, MAX_EXTENSION, Reader, TarError, Time, head, padding};
use proptest::prelude::*;
use std::io::Read;

/// All members with their contents.
fn read(stream: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(stream);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        let mut chunk = [0; 999];
        loop {
            match reader.read_content(&mut chunk)? {
                0 => break,
                read => content.extend_from_slice(&chunk[..read]),
            }
        }
        all.push((entry, content));
    }
    Ok(all)
}

fn write(members: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (entry, content) in members {
        head(entry, &mut stream);
        stream.extend_from_slice(content);
        stream.extend_from_slice(padding(content.len() as u64));
    }
    stream.extend(END);
    stream
}

/// A bare header of this type and size.
fn header(letter: u8, size: &[u8; 12]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..4].copy_from_slice(b"name");
    for field in [100..107, 108..115, 116..123, 136..147] {
        block[field].fill(b'0');
    }
    block[124..136].copy_from_slice(size);
    block[148..156].fill(b' ');
    block[156] = letter;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(1..=255_u8, 1..20),
        proptest::collection::vec(1..=255_u8, 90..300),
        "([a-z]{1,40}/){0,8}[a-z]{1,120}".prop_map(String::into_bytes),
    ]
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::HardLink),
        Just(Kind::Symlink),
        Just(Kind::Character),
        Just(Kind::Folder),
        Just(Kind::Fifo)
    ];
    let numbers = (0..0o10000_u32, 0..u64::from(u32::MAX), 0..u64::from(u32::MAX));
    let time = (-10_000_000_000..20_000_000_000_i64, prop_oneof![Just(0), 0..1_000_000_000_u32]);
    let xattrs = proptest::collection::vec(("user\\.[a-z=%]{1,9}", any::<Vec<u8>>()), 0..3);
    let content = proptest::collection::vec(any::<u8>(), 0..2000);
    (kind, name(), name(), numbers, time, xattrs, content).prop_map(
        |(kind, path, link, (mode, uid, gid), (seconds, nanoseconds), xattrs, content)| {
            let mut entry = Entry::new(kind, path);
            (entry.mode, entry.uid, entry.gid) = (mode, uid, gid);
            entry.mtime = Time { seconds, nanoseconds };
            for (name, value) in xattrs {
                if entry.xattrs.iter().all(|(known, _)| *known != name.as_bytes()) {
                    entry.xattrs.push((name.into_bytes(), value));
                }
            }
            if matches!(kind, Kind::HardLink | Kind::Symlink) {
                entry.link = link;
            }
            if kind == Kind::Character {
                entry.device = (mode, 0xf_ffff);
            }
            let content = if kind == Kind::File { content } else { Vec::new() };
            entry.size = content.len() as u64;
            (entry, content)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(members in proptest::collection::vec(any_entry(), 1..6)) {
        prop_assert_eq!(read(&write(&members)).unwrap(), members);
    }

    #[test]
    fn a_stream_that_is_cut_is_an_error_or_ends_between_members(
        members in proptest::collection::vec(any_entry(), 1..4), at in any::<proptest::sample::Index>()
    ) {
        let stream = write(&members);
        let cut = at.index(stream.len());
        match read(&stream[..cut]) {
            Err(_) => {}
            Ok(some) => {
                let whole = write(&some).len() - END.len();
                prop_assert!(cut >= whole && (cut == whole || some.len() == members.len()), "{} of {}", cut, whole);
                prop_assert_eq!(&some[..], &members[..some.len()]);
            }
        }
    }

    #[test]
    fn a_damaged_stream_is_an_error_or_reads(
        members in proptest::collection::vec(any_entry(), 1..4), at in any::<proptest::sample::Index>(), by in 1..=255_u8
    ) {
        let mut stream = write(&members);
        let at = at.index(stream.len());
        stream[at] ^= by;
        if let Ok(some) = read(&stream) {
            let bytes: usize = some.iter().map(|(_, content)| content.len()).sum();
            prop_assert!(bytes <= stream.len());
        }
    }

    #[test]
    fn any_bytes_are_a_stream_or_not(bytes in any::<Vec<u8>>(), letter in any::<u8>(), size in any::<[u8; 12]>()) {
        let _ = read(&bytes);
        let _ = read(&[&header(letter, &size)[..], &bytes].concat());
    }
}

#[test]
fn an_extension_that_claims_to_be_huge_is_refused_before_it_is_read() {
    /// Never ends, and tells how much was taken.
    struct Endless<'a>(Vec<u8>, &'a mut usize);
    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = (&self.0[..]).read(buffer)?;
            self.0.drain(..read);
            *self.1 += buffer.len();
            Ok(if read > 0 { read } else { buffer.len() })
        }
    }
    for letter in [b'L', b'K', b'x', b'g'] {
        let mut taken = 0;
        let stream = Endless(header(letter, b"00077777777\0").to_vec(), &mut taken);
        let refused = Reader::new(stream).next_entry();
        assert!(matches!(refused, Err(TarError::TooLarge { limit: MAX_EXTENSION, .. })), "{refused:?}");
        assert!(taken < 10_000, "{taken}");
    }
}

#[test]
fn a_size_in_an_extension_is_the_next_file_s_and_no_other_header_s() {
    // Otherwise two readers would see different members in the same stream.
    let mut stream = Vec::new();
    stream.extend(header(b'x', b"00000000015\0"));
    stream.extend(b"13 size=1024\n");
    stream.extend(padding(13));
    stream.extend(header(b'L', b"00000000004\0"));
    stream.extend(b"long");
    stream.extend(padding(4));
    stream.extend(header(b'0', b"00000000000\0"));
    stream.extend([7; 1024]);
    stream.extend(END);
    let all = read(&stream).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].0.path[..], all[0].1.len()), (&b"long"[..], 1024));
}

#[test]
fn links_and_folders_have_no_content_whatever_their_size_says() {
    for letter in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let mut stream = header(letter, b"00000001000\0").to_vec();
        let mut file = Vec::new();
        head(&Entry::new(Kind::File, b"after".to_vec()), &mut file);
        stream.extend(file);
        stream.extend(END);
        assert_eq!(read(&stream).unwrap().len(), 2, "{}", char::from(letter));
    }
}
