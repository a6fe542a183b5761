//! PAX extension headers: records `LENGTH KEY=VALUE\n`, each of which counts before what the header
//! that follows says.

use super::number::{decimal, time};
use super::sparse::{MapError, Segment};
use super::{MAX_SEGMENTS, Time};

/// Where GNU tar, star and most others have extended attributes.
pub const XATTR: &[u8] = b"SCHILY.xattr.";

/// What is known of a member before its header comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU tar's way to say that a file has holes, in its three versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Versions 0.0 and 0.1: the pieces are here.
    pub segments: Vec<Segment>,
    /// Version 1.0: they are in front of the content.
    pub is_in_content: bool,
    /// Version 0.0: an offset whose length is still to come.
    offset: Option<u64>,
}

/// What is wrong with a record.
pub type Problem = &'static str;

impl Extensions {
    /// Takes an extension header's records.
    pub fn take(&mut self, mut text: &[u8]) -> Result<(), Problem> {
        while !text.is_empty() {
            // Some writers fill up with NULs.
            if text.iter().all(|byte| *byte == 0) {
                break;
            }
            let (key, value, rest) = record(text).ok_or("no PAX record")?;
            self.set(key, value)?;
            text = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let text = |value: &[u8]| {
            if value.contains(&0) { Err("a name with a NUL byte") } else { Ok(Some(value.to_vec())) }
        };
        // An empty value takes back what an earlier header said.
        let number = |value: &[u8]| {
            if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or("no number") }
        };
        match key {
            b"path" => self.path = text(value)?.filter(|path| !path.is_empty()),
            b"linkpath" => self.link = text(value)?.filter(|path| !path.is_empty()),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value).ok_or("no time")?),
            b"GNU.sparse.name" => self.sparse.name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = number(value)?,
            b"GNU.sparse.major" => self.sparse.is_in_content = value == b"1",
            b"GNU.sparse.offset" => self.sparse.offset = number(value)?,
            b"GNU.sparse.numbytes" => {
                let (Some(offset), Some(length)) = (self.sparse.offset.take(), number(value)?) else {
                    return Err("half a piece of a sparse file");
                };
                self.add_segment(Segment { offset, length })?;
            }
            b"GNU.sparse.map" => {
                self.sparse.segments.clear();
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next().filter(|_| !value.is_empty()) {
                    let length = numbers.next().ok_or("half a piece of a sparse file")?;
                    let (offset, length) = (number(offset)?, number(length)?);
                    let (Some(offset), Some(length)) = (offset, length) else { return Err("no number") };
                    self.add_segment(Segment { offset, length })?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.is_empty()) {
                    self.set_xattr(unescaped(name), value);
                }
            }
        }
        Ok(())
    }

    fn add_segment(&mut self, segment: Segment) -> Result<(), Problem> {
        if self.sparse.segments.len() == MAX_SEGMENTS {
            return Err(MapError::TooMany.into());
        }
        self.sparse.segments.push(segment);
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: &[u8]) {
        self.xattrs.retain(|(known, _)| *known != name);
        self.xattrs.push((name, value.to_vec()));
    }

    /// These over what holds for all members.
    pub fn over(self, all: &Self) -> Self {
        Self {
            path: self.path,
            link: self.link,
            size: self.size,
            uid: self.uid.or(all.uid),
            gid: self.gid.or(all.gid),
            mtime: self.mtime.or(all.mtime),
            xattrs: if self.xattrs.is_empty() { all.xattrs.clone() } else { self.xattrs },
            sparse: self.sparse,
        }
    }
}

/// The first record's key and value, and what follows it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&text[..blank])?).ok()?;
    let body = text.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &text[length..]))
}

/// Adds a record to an extension header.
pub fn add(text: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    text.extend_from_slice(length.to_string().as_bytes());
    for part in [&b" "[..], key, b"=", value, b"\n"] {
        text.extend_from_slice(part);
    }
}

/// The key of an extended attribute; `=` would end it.
pub fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            other => key.push(*other),
        }
    }
    key
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let (next, skipped) = match after {
            [b'3', b'D', ..] if byte == b'%' => (b'=', 2),
            [b'2', b'5', ..] if byte == b'%' => (b'%', 2),
            _ => (byte, 0),
        };
        plain.push(next);
        rest = &after[skipped..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(text: &[u8]) -> Result<Extensions, Problem> {
        let mut all = Extensions::default();
        all.take(text).map(|()| all)
    }

    #[test]
    fn records_say_what_the_header_cannot() {
        let all = taken(b"12 path=a/b\n16 size=1234567\n10 uid=70\n14 mtime=1.25\n8 foo=x\n").unwrap();
        assert_eq!(all.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!((all.size, all.uid, all.gid), (Some(1_234_567), Some(70), None));
        assert_eq!(all.mtime, Some(Time { seconds: 1, nanoseconds: 250_000_000 }));
    }

    #[test]
    fn a_later_record_counts_and_an_empty_one_takes_back() {
        assert_eq!(taken(b"9 uid=70\n9 uid=71\n").unwrap().uid, Some(71));
        assert_eq!(taken(b"9 uid=70\n7 uid=\n").unwrap().uid, None);
    }

    #[test]
    fn what_is_no_record_is_said() {
        for junk in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b",
            b"7 a=b\n",
            b"6 ab c\n",
            b"99 a=b\n",
            b"0 a=b\n",
            b"9 uid=x0\n",
            b"11 path=\0x\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(taken(junk).is_err(), "{junk:?}");
        }
    }

    #[test]
    fn holes_are_told_in_each_way() {
        let pieces = [Segment { offset: 0, length: 5 }, Segment { offset: 512, length: 1 }];
        let map = taken(b"30 GNU.sparse.map=0,5,512,1\n\n").map(|all| all.sparse.segments);
        assert!(map.is_err(), "a length that lies");
        let mut text = Vec::new();
        add(&mut text, b"GNU.sparse.map", b"0,5,512,1");
        add(&mut text, b"GNU.sparse.size", b"600");
        let all = taken(&text).unwrap();
        assert_eq!((all.sparse.segments, all.sparse.real_size), (pieces.to_vec(), Some(600)));
        let mut text = Vec::new();
        for (offset, length) in [("0", "5"), ("512", "1")] {
            add(&mut text, b"GNU.sparse.offset", offset.as_bytes());
            add(&mut text, b"GNU.sparse.numbytes", length.as_bytes());
        }
        assert_eq!(taken(&text).unwrap().sparse.segments, pieces);
        let mut text = Vec::new();
        add(&mut text, b"GNU.sparse.map", b"0,5,512");
        assert!(taken(&text).is_err());
    }

    proptest! {
        #[test]
        fn a_record_comes_back(key in "[a-z]{1,200}", value in any::<Vec<u8>>()) {
            let mut text = Vec::new();
            add(&mut text, key.as_bytes(), &value);
            let (got_key, got_value, rest) = record(&text).unwrap();
            prop_assert_eq!((got_key, got_value, rest), (key.as_bytes(), &value[..], &b""[..]));
        }

        #[test]
        fn an_attribute_s_name_comes_back(name in proptest::collection::vec(1..=255_u8, 1..20), value in any::<Vec<u8>>()) {
            let mut text = Vec::new();
            add(&mut text, &xattr_key(&name), &value);
            prop_assert_eq!(taken(&text).unwrap().xattrs, vec![(name, value)]);
        }

        #[test]
        fn any_text_is_records_or_not(text in any::<Vec<u8>>()) {
            let _ = taken(&text);
        }
    }
}
