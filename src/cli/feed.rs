//! What goes up to a process: this side's stdin, and its terminal's size.

use super::client::ProcessInput;
use super::local::{Stdin, Text};
use super::session::StdinMode;
use super::signals::TerminalChanges;
use super::terminal::{self, DetachKeys, Raw, Typed};

/// What has gone to the process's stdin so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) bytes: bool,
    pub(super) end: bool,
}

/// How feeding stdin ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// There is no more, or the process takes no more.
    All,
    /// The detach keys were typed.
    Detach,
}

/// What feeding needs.
pub(super) struct Feed<'a> {
    pub(super) stdin: Option<&'a mut Stdin>,
    pub(super) mode: StdinMode,
    /// Looked for on a terminal.
    pub(super) keys: Option<&'a mut DetachKeys>,
    pub(super) text: &'a mut Text,
    pub(super) sent: &'a mut Sent,
}

impl Feed<'_> {
    /// A message that cannot be sent means a lost connection, which the process's outcome tells.
    pub(super) async fn run(mut self, input: &ProcessInput) -> Fed {
        if self.mode == StdinMode::End || self.sent.end {
            self.end(input).await;
            return Fed::All;
        }
        let Some(stdin) = self.stdin.take() else { return Fed::All };
        while let Some(piece) = stdin.next().await {
            let (piece, detach) = match self.keys.as_mut().map(|keys| keys.feed(&piece)) {
                Some(Typed::Keys(keys)) => (keys, false),
                Some(Typed::Detach(keys)) => (keys, true),
                None => (piece, false),
            };
            let words = self.text.of(&piece);
            if !words.is_empty() {
                self.sent.bytes = true;
                let sent = input.write_stdin(&words).await;
                // On a terminal the detach keys are looked for on.
                if sent.is_err() && self.keys.is_none() {
                    return Fed::All;
                }
            }
            if detach {
                return Fed::Detach;
            }
        }
        let rest = self.text.rest();
        if !rest.is_empty() {
            self.sent.bytes = true;
            let _ = input.write_stdin(&rest).await;
        }
        self.end(input).await;
        Fed::All
    }

    async fn end(&mut self, input: &ProcessInput) {
        self.sent.end = true;
        let _ = input.close_stdin().await;
    }
}

/// Tells the process's terminal every size that this one takes, the present one first.
pub(super) async fn follow_size(changes: &mut TerminalChanges, input: &ProcessInput, raw: Option<&Raw>) {
    let mut told = None;
    loop {
        let size = terminal::size();
        if let Some(size) = size.filter(|_| size != told) {
            told = Some(size);
            // A connection that is lost shows in the outcome.
            let _ = input.resize(size).await;
        }
        changes.next().await;
        if let Some(raw) = raw {
            raw.again();
        }
    }
}
