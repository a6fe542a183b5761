//! Finds the messages in a stream of JSON values, newline-separated or back to back.
//!
//! Each byte is looked at once, however the stream is cut into reads; only where a value ends is
//! found here, not whether it is good JSON.

use bytes::{Buf, Bytes, BytesMut};

/// The largest message that is taken. Go's client sends 32 KiB of stdin at a time, which grows at
/// most sixfold as JSON.
pub(super) const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Why no message can be found any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Something other than an object.
    #[error("expected a JSON object, found the byte {0:#04x}")]
    NoObject(u8),
    /// A `}` or `]` too many, or one of the wrong sort, is left to the JSON parser; this is size.
    #[error("a message is larger than {MAX_MESSAGE} bytes")]
    TooLarge,
}

/// Where in a value the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Structure,
    String,
    /// In a string, after a backslash.
    Escape,
}

/// How far the first value of the buffer has been looked at.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the buffer that were looked at.
    seen: usize,
    /// Brackets that are open.
    depth: usize,
    place: Place,
}

impl Frames {
    /// Takes the next whole message off the buffer; `None` where more bytes are needed.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        if self.depth == 0 {
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            buffer.advance(blank);
            match buffer.first() {
                None => return Ok(None),
                Some(b'{') => (self.seen, self.depth) = (1, 1),
                Some(other) => return Err(Malformed::NoObject(*other)),
            }
        }
        while self.depth > 0 && self.seen < buffer.len() {
            let rest = &buffer[self.seen..];
            self.seen += match self.place {
                Place::Structure => self.skip_structure(rest),
                Place::String => self.skip_string(rest),
                Place::Escape => {
                    self.place = Place::String;
                    1
                }
            };
        }
        if self.seen > MAX_MESSAGE {
            return Err(Malformed::TooLarge);
        }
        if self.depth > 0 {
            return Ok(None);
        }
        let message = buffer.split_to(self.seen).freeze();
        self.seen = 0;
        Ok(Some(message))
    }

    /// How many bytes of the string, up to its end and that one too.
    fn skip_string(&mut self, rest: &[u8]) -> usize {
        let mut at = 0;
        while let Some(found) = rest.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            at += found + 1;
            if rest[at - 1] == b'"' {
                self.place = Place::Structure;
                return at;
            }
            if at == rest.len() {
                self.place = Place::Escape;
                return at;
            }
            at += 1;
        }
        rest.len()
    }

    /// How many bytes up to a string's start or the value's end, and that one too.
    fn skip_structure(&mut self, rest: &[u8]) -> usize {
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                b'"' => {
                    self.place = Place::String;
                    return at + 1;
                }
                b'{' | b'[' => self.depth += 1,
                // Whether each closes its own sort is left to the JSON parser.
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return at + 1;
                    }
                }
                _ => {}
            }
        }
        rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All messages of a stream that arrives in these pieces.
    fn messages<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Bytes>, Malformed> {
        let (mut frames, mut buffer, mut found) = (Frames::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(message) = frames.next(&mut buffer)? {
                found.push(message);
            }
        }
        Ok(found)
    }

    #[test]
    fn messages_are_found_with_and_without_newlines_between() {
        let stream = br#" {"a":1}
{"b":"}\"{"}{"c":[{"d":"\\"}]}  {"unfinished":"#;
        let found = messages([stream.as_slice()]).unwrap();
        assert_eq!(found, [&br#"{"a":1}"#[..], br#"{"b":"}\"{"}"#, br#"{"c":[{"d":"\\"}]}"#]);
    }

    #[test]
    fn a_message_is_there_as_soon_as_its_last_byte_is() {
        assert_eq!(messages([&br#"{"signal":1"#[..], b"}"]).unwrap(), [&br#"{"signal":1}"#[..]]);
    }

    #[test]
    fn anything_but_an_object_is_malformed() {
        for stream in ["[1]", "5", "\"x\"", "}", "{}]", "\0"] {
            assert!(matches!(messages([stream.as_bytes()]), Err(Malformed::NoObject(_))), "{stream}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_before_its_end() {
        let chunk = vec![b'x'; 1 << 20];
        let start: &[u8] = br#"{"data":""#;
        let pieces = std::iter::once(start).chain(std::iter::repeat_n(chunk.as_slice(), 17));
        assert_eq!(messages(pieces), Err(Malformed::TooLarge));
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_makes_no_difference(
            texts in proptest::collection::vec(".{0,20}", 1..6),
            cuts in proptest::collection::vec(1..12usize, 1..8),
            separator in "[ \n\t\r]{0,2}",
        ) {
            let sent: Vec<String> = texts.iter().map(|t| serde_json::json!({"data": t, "x": [{"y": t}]}).to_string()).collect();
            let stream = sent.join(&separator).into_bytes();
            let (mut pieces, mut rest) = (Vec::new(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let found = messages(pieces).unwrap();
            prop_assert_eq!(found, sent);
        }

        #[test]
        fn nothing_panics(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let _ = messages(pieces.iter().map(Vec::as_slice));
        }
    }
}
