//! What a stream is written from: headers, padding, and an end.

use super::number::{format, format_time};
use super::{BLOCK, Entry, Kind, pax};

/// What a stream ends in.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What a member's content of so many bytes is followed by.
pub fn padding(size: u64) -> &'static [u8] {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { &[] } else { &END[..BLOCK - over] }
}

/// Adds a member's header, with an extension header before it where it does not fit alone.
pub fn head(entry: &Entry, to: &mut Vec<u8>) {
    let mut records = Vec::new();
    let mut block = [0; BLOCK];
    if !set_path(&mut block, &entry.path) {
        pax::add(&mut records, b"path", &entry.path);
        let end = entry.path.len().min(100);
        block[..end].copy_from_slice(&entry.path[..end]);
    }
    if entry.link.len() > 100 {
        pax::add(&mut records, b"linkpath", &entry.link);
    }
    let end = entry.link.len().min(100);
    block[157..157 + end].copy_from_slice(&entry.link[..end]);
    let mut number = |field: std::ops::Range<usize>, key: &[u8], value: u64| {
        if !format(&mut block[field.clone()], value) {
            format(&mut block[field], 0);
            pax::add(&mut records, key, value.to_string().as_bytes());
        }
    };
    number(108..116, b"uid", entry.uid);
    number(116..124, b"gid", entry.gid);
    number(124..136, b"size", entry.size);
    let seconds = u64::try_from(entry.mtime.seconds).ok();
    let fits = format(&mut block[136..148], seconds.unwrap_or(0));
    if seconds.is_none() || !fits || entry.mtime.nanoseconds != 0 {
        if !fits {
            format(&mut block[136..148], 0);
        }
        pax::add(&mut records, b"mtime", format_time(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        pax::add(&mut records, &pax::xattr_key(name), value);
    }
    format(&mut block[100..108], u64::from(entry.mode & 0o7777));
    block[156] = letter(entry.kind);
    if matches!(entry.kind, Kind::Character | Kind::Block) {
        // A minor number may have 20 bits, for which seven octal digits are enough.
        format(&mut block[329..337], u64::from(entry.device.0));
        format(&mut block[337..345], u64::from(entry.device.1));
    }
    if !records.is_empty() {
        add_extension(&records, to);
    }
    add_block(block, to);
}

fn add_extension(records: &[u8], to: &mut Vec<u8>) {
    let mut block = [0; BLOCK];
    let name = b"././@PaxHeader";
    block[..name.len()].copy_from_slice(name);
    format(&mut block[100..108], 0o644);
    format(&mut block[108..116], 0);
    format(&mut block[116..124], 0);
    // No set of records is as large as eleven octal digits can tell.
    format(&mut block[124..136], records.len() as u64);
    format(&mut block[136..148], 0);
    block[156] = b'x';
    add_block(block, to);
    to.extend_from_slice(records);
    to.extend_from_slice(padding(records.len() as u64));
}

fn add_block(mut block: [u8; BLOCK], to: &mut Vec<u8>) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    format(&mut block[148..155], sum);
    to.extend_from_slice(&block);
}

/// As a name, or as a prefix and a name.
fn set_path(block: &mut [u8; BLOCK], path: &[u8]) -> bool {
    if path.len() <= 100 {
        block[..path.len()].copy_from_slice(path);
        return true;
    }
    // The name keeps something in front of a slash at its end.
    let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let split = slashes.rfind(|at| (1..=155).contains(at) && (2..=101).contains(&(path.len() - at)));
    let Some(at) = split else { return false };
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    block[..name.len()].copy_from_slice(name);
    block[345..345 + prefix.len()].copy_from_slice(prefix);
    true
}

fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Character => b'3',
        Kind::Block => b'4',
        Kind::Folder => b'5',
        Kind::Fifo => b'6',
    }
}
