//! Finds the messages in a stream of JSON values, newline-separated or back to back.
//!
//! Only where a value ends is found here, not whether it is good JSON; each byte is looked at once,
//! however the stream is cut into reads.
//!
//! A message of stdin may be of any size: Go's client sends all that it has at once where it has it
//! in memory (`io.Copy` from a `bytes.Reader`). So a long one is cut, where that changes nothing,
//! into several with the same head, and memory stays bounded. Any other message is bounded.

use crate::garden::wire::Message;
use bytes::{Buf, Bytes, BytesMut};

/// From this size on a message of stdin is cut.
const LONG: usize = 256 * 1024;
/// The largest message that is taken in one piece.
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
#[derive(Debug)]
pub(super) struct Frames {
    long: usize,
    /// Bytes of the buffer that were looked at.
    seen: usize,
    /// Brackets that are open.
    depth: usize,
    place: Place,
    /// Where the content of the last string begins.
    string: usize,
    /// Of the string that begins there: whether it can be cut.
    judged: Option<(usize, bool)>,
}

impl Default for Frames {
    fn default() -> Self {
        Self::cutting_at(LONG)
    }
}

impl Frames {
    fn cutting_at(long: usize) -> Self {
        Self { long, seen: 0, depth: 0, place: Place::Structure, string: 0, judged: None }
    }

    /// Takes the next whole message off the buffer; `None` where more bytes are needed.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        if self.depth == 0 {
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            buffer.advance(blank);
            match buffer.first() {
                None => return Ok(None),
                Some(b'{') => *self = Self { seen: 1, depth: 1, ..Self::cutting_at(self.long) },
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
        if self.depth > 0 {
            let cut = if buffer.len() >= self.long { self.cut(buffer) } else { None };
            let too_large = cut.is_none() && buffer.len() > MAX_MESSAGE;
            return if too_large { Err(Malformed::TooLarge) } else { Ok(cut) };
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
                    self.string = self.seen + at + 1;
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

impl Frames {
    /// Takes a message off the front of an unfinished one, where its last string is stdin's data
    /// and what follows it goes well behind the same head.
    fn cut(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        if self.place == Place::Structure || self.depth != 1 || !self.is_stdin(buffer) {
            return None;
        }
        let whole = whole_characters(&buffer[self.string..]);
        if whole == 0 {
            return None;
        }
        let mut message = buffer.split_to(self.string + whole);
        let mut rest = BytesMut::from(&message[..self.string]);
        rest.extend_from_slice(buffer);
        *buffer = rest;
        (self.seen, self.place) = (self.string, Place::String);
        message.extend_from_slice(b"\"}");
        Some(message.freeze())
    }

    /// Whether an empty string in this one's place would make an empty message of stdin.
    fn is_stdin(&mut self, buffer: &[u8]) -> bool {
        if let Some((string, verdict)) = self.judged
            && string == self.string
        {
            return verdict;
        }
        let empty = [&buffer[..self.string], b"\"}"].concat();
        let verdict = matches!(Message::parse(&empty), Ok(Message::Stdin(data)) if data.is_empty());
        self.judged = Some((self.string, verdict));
        verdict
    }
}

/// How much of a string's beginning ends neither within a character nor within an escape, nor
/// between the two escapes of one character.
fn whole_characters(content: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &content[at..]) {
        let escape = &content[at + found..];
        let length = match escape {
            [_, b'u', b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..] => 12,
            [_, b'u', ..] => 6,
            _ => 2,
        };
        if escape.len() < length {
            return at + found;
        }
        // A first half that is followed by no second one is the JSON parser's to refuse.
        at += found + length;
    }
    let tail = content[at..].iter().rev().take(3).position(|byte| *byte >= 0xc0);
    match tail {
        Some(back) if character_length(content[content.len() - 1 - back]) > back + 1 => content.len() - 1 - back,
        _ => content.len(),
    }
}

fn character_length(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
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

    /// All data of a stream of stdin that arrives in these pieces, and the longest message.
    fn data<'a>(long: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, usize) {
        let (mut frames, mut buffer) = (Frames::cutting_at(long), BytesMut::new());
        let (mut all, mut longest) = (String::new(), 0);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(message) = frames.next(&mut buffer).unwrap() {
                longest = longest.max(message.len());
                match Message::parse(&message).unwrap() {
                    Message::Stdin(data) => all.push_str(&data),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(buffer.is_empty());
        (all, longest)
    }

    #[test]
    fn stdin_of_any_size_is_taken_in_bounded_memory() {
        let text = "more than fits\n".repeat(1_500_000);
        let message = format!("{{\"process_id\":\"p\",\"source\":0,\"data\":{}}}\n", serde_json::json!(text));
        let (all, longest) = data(LONG, message.as_bytes().chunks(65_536));
        assert!(all == text);
        assert!(longest < 2 * LONG, "{longest}");
    }

    #[test]
    fn only_stdin_is_cut() {
        for start in
            [r#"{"source":0,"data":"x","more":""#, r#"{"data":""#, r#"{"source":1,"data":""#, r#"{"source":0,"data":["#]
        {
            let chunk = vec![b'x'; 1 << 20];
            let pieces = std::iter::once(start.as_bytes()).chain(std::iter::repeat_n(chunk.as_slice(), 17));
            assert_eq!(messages(pieces), Err(Malformed::TooLarge), "{start}");
        }
        let with_more = format!(r#"{{"data":"","source":0,"more":"{}"}}"#, "x".repeat(3 * LONG));
        assert_eq!(data(LONG, [with_more.as_bytes()]).0, "");
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
        let start: &[u8] = br#"{"more":""#;
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
        fn how_a_long_message_is_cut_makes_no_difference(
            text in "(.|[\\x00-\\x1f\"\\\\\u{e9}\u{20ac}\u{1f600}]){0,200}",
            ascii in any::<bool>(),
            long in 30..120usize,
            size in 1..40usize,
        ) {
            let mut message = serde_json::json!({"source": 0, "data": text}).to_string();
            if ascii {
                let escape = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect::<String>();
                message = message.chars().map(|c| if c.is_ascii() { c.to_string() } else { escape(c) }).collect();
            }
            // serde_json sorts the names; stdin is cut only where its data comes after its source.
            let message = format!("{{\"source\":0,{}", &message[1..]).replace(",\"source\":0}", "}");
            prop_assert_eq!(data(long, message.as_bytes().chunks(size)).0, text);
        }

        #[test]
        fn nothing_panics(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let _ = messages(pieces.iter().map(Vec::as_slice));
            let (mut frames, mut buffer) = (Frames::cutting_at(8), BytesMut::from(&br#"{"source":0,"data":""#[..]));
            for piece in pieces {
                buffer.extend_from_slice(&piece);
                while let Ok(Some(message)) = frames.next(&mut buffer) {
                    let _ = Message::parse(&message);
                }
            }
        }
    }
}
