//! `ProcessPayload`: the messages on a process's connection.

use super::json;
use gardend_controller::ports::Signal;
use gardend_controller::record;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What gardend sends.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Payload<'a> {
    /// First.
    Started { process_id: &'a str, stream_id: &'a str },
    /// Last, of a process that ended.
    Exited { process_id: &'a str, exit_status: i32 },
    /// Last, of a process whose end is not known.
    Failed { process_id: &'a str, error: &'a str },
}

impl Payload<'_> {
    /// One line.
    pub(crate) fn line(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TtySpec {
    pub(crate) window_size: Option<WindowSize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WindowSize {
    columns: u16,
    rows: u16,
}

impl TtySpec {
    /// The size that was named; 0 by 0, which Go sends for none, names none.
    pub(crate) fn size(self) -> Option<record::WindowSize> {
        let WindowSize { columns, rows } = self.window_size?;
        (columns != 0 || rows != 0).then_some(record::WindowSize { columns, rows })
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Bytes for stdin.
    Stdin(Cow<'a, str>),
    /// No more of them.
    EndOfStdin,
    /// A new size for the terminal.
    Resize(record::WindowSize),
    /// A signal for the process.
    Signal(Signal),
    /// Nothing that we know; ignored, as unknown fields are everywhere.
    Unknown,
}

/// As Go's client writes it. Borrows, and takes nothing else: any other spelling (other cases,
/// duplicates, unknown fields) goes the slow way, which takes all that Go takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Incoming<'a> {
    #[serde(rename = "process_id")]
    _process_id: IgnoredAny,
    source: Option<i64>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    tty: Option<TtySpec>,
    signal: Option<i64>,
}

/// Serde borrows a `Cow` only as a field of its own, not within an `Option`.
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IncomingAsGo {
    source: Option<i64>,
    data: Option<String>,
    tty: Option<TtySpec>,
    signal: Option<i64>,
}

const STDIN: i64 = 0;

impl<'a> Message<'a> {
    /// Reads one message.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, json::WrongJson> {
        // Serde would read an array as the fields in their order.
        let fast = if text.starts_with(b"{") { serde_json::from_slice::<Incoming<'a>>(text).ok() } else { None };
        if let Some(incoming) = fast {
            return Ok(Self::from_fields(incoming));
        }
        let IncomingAsGo { source, data, tty, signal } = json::parse(text, "a message")?;
        let data = data.map(|data| Text(Cow::Owned(data)));
        Ok(Self::from_fields(Incoming { source, data, tty, signal, ..Incoming::default() }))
    }

    fn from_fields(incoming: Incoming<'a>) -> Self {
        match incoming {
            Incoming { tty: Some(tty), .. } => tty.size().map_or(Self::Unknown, Self::Resize),
            Incoming { source: Some(STDIN), data: Some(Text(data)), .. } => Self::Stdin(data),
            Incoming { source: Some(STDIN), data: None, .. } => Self::EndOfStdin,
            Incoming { source: None, signal: Some(0), .. } => Self::Signal(Signal::Terminate),
            Incoming { source: None, signal: Some(1), .. } => Self::Signal(Signal::Kill),
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Message<'_> {
        Message::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn every_message_of_the_go_client_is_understood() {
        assert_eq!(parse(r#"{"process_id":"p","source":0,"data":"a\u003cb\n"}"#), Message::Stdin("a<b\n".into()));
        assert_eq!(parse(r#"{"process_id":"p","source":0,"data":""}"#), Message::Stdin("".into()));
        assert_eq!(parse(r#"{"process_id":"p","source":0}"#), Message::EndOfStdin);
        assert_eq!(parse(r#"{"process_id":"p","source":0,"data":null}"#), Message::EndOfStdin);
        let size = record::WindowSize { columns: 10, rows: 20 };
        assert_eq!(parse(r#"{"tty":{"window_size":{"columns":10,"rows":20}}}"#), Message::Resize(size));
        assert_eq!(parse(r#"{"signal":0}"#), Message::Signal(Signal::Terminate));
        assert_eq!(parse(r#"{"signal":1}"#), Message::Signal(Signal::Kill));
    }

    #[test]
    fn unusual_spellings_are_understood_too() {
        assert_eq!(parse(r#"{"Source":0,"DATA":"x"}"#), Message::Stdin("x".into()));
        assert_eq!(parse(r#"{"source":0,"data":"x","data":"y"}"#), Message::Stdin("y".into()));
        assert_eq!(parse(r#"{"source":0,"Data":"x"}"#), Message::Stdin("x".into()));
        assert_eq!(parse(r#"{"source":0,"more":[1.5],"data":"x"}"#), Message::Stdin("x".into()));
        let size = record::WindowSize { columns: 1, rows: 2 };
        assert_eq!(parse(r#"{"TTY":{"Window_Size":{"columns":1,"Rows":2,"x":3}}}"#), Message::Resize(size));
        assert_eq!(Message::parse(b"{\"source\":0,\"data\":\"\xff\"}").unwrap(), Message::Stdin("\u{fffd}".into()));
    }

    #[test]
    fn what_is_not_known_is_ignored_and_what_is_wrong_is_an_error() {
        for text in [r#"{}"#, r#"{"signal":9}"#, r#"{"source":1,"data":"x"}"#, r#"{"tty":{}}"#, r#"{"data":"x"}"#] {
            assert_eq!(parse(text), Message::Unknown, "{text}");
        }
        for text in [r#"{"signal":"TERM"}"#, r#"{"source":0,"data":5}"#, "[]", "[null,0,\"x\"]", "5", "{", ""] {
            assert!(Message::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_sent_is_one_line_each() {
        let started = Payload::Started { process_id: "p", stream_id: "1" };
        assert_eq!(started.line(), b"{\"process_id\":\"p\",\"stream_id\":\"1\"}\n");
        let exited = Payload::Exited { process_id: "p", exit_status: 143 };
        assert_eq!(exited.line(), b"{\"process_id\":\"p\",\"exit_status\":143}\n");
        let failed = Payload::Failed { process_id: "p", error: "a\nb" };
        assert_eq!(failed.line(), b"{\"process_id\":\"p\",\"error\":\"a\\nb\"}\n");
    }
}
