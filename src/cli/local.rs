//! This process's own stdio, as a session needs it.
//!
//! Reads and writes block, and cannot be called off: each has a thread of its own that nobody
//! waits for, so that leaving never depends on a key being pressed or on a reader that sleeps.

use super::client::Output;
use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::borrow::Cow;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

/// As the Go client cuts it.
const PIECE: usize = 32 << 10;
/// Output is moved in pieces of this size.
const OUTPUT_PIECE: usize = 64 << 10;

/// What comes in on stdin.
pub(crate) struct Stdin {
    pieces: mpsc::Receiver<Vec<u8>>,
}

impl Stdin {
    /// Reads from now on; a bounded way ahead.
    pub(crate) fn open() -> io::Result<Self> {
        let (sender, pieces) = mpsc::channel(16);
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || read_stdin(&sender))?;
        Ok(Self { pieces })
    }

    /// The next piece; `None` at its end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }
}

fn read_stdin(pieces: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if pieces.blocking_send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
            Err(Errno::INTR) => {}
            // Somebody who shares it made it so.
            Err(Errno::AGAIN) => wait_for(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)),
            // Closed, or a terminal that is gone: its end.
            Err(_) => return,
        }
    }
}

fn wait_for(fd: PollFd<'_>) {
    // An error shows in the read or write that follows.
    let _ = poll(&mut [fd], None);
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Where output goes.
pub(crate) struct Writer {
    pieces: mpsc::Sender<Bytes>,
    end: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    pub(crate) fn open(stream: Stream) -> io::Result<Self> {
        let (pieces, queue) = mpsc::channel(4);
        let (ended, end) = oneshot::channel();
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // The session may have ended; then nobody asks.
            let _ = ended.send(write_pieces(stream, queue));
        })?;
        Ok(Self { pieces, end })
    }

    /// Copies an output to its end, or until it cannot be written any more. A connection that
    /// breaks is its end too: the process's own connection tells the story.
    pub(crate) async fn copy(&mut self, mut output: Output) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(OUTPUT_PIECE);
            match output.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => self.write(buffer.split().freeze()).await?,
            }
        }
    }

    /// Hands a piece over. An error is one of an earlier piece.
    pub(crate) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        match self.pieces.send(piece).await {
            Ok(()) => Ok(()),
            Err(_) => (&mut self.end).await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Waits until all is written.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        self.end.await.unwrap_or(Ok(()))
    }
}

fn write_pieces(stream: Stream, mut queue: mpsc::Receiver<Bytes>) -> io::Result<()> {
    let fd = match stream {
        Stream::Stdout => rustix::stdio::stdout(),
        Stream::Stderr => rustix::stdio::stderr(),
    };
    while let Some(mut piece) = queue.blocking_recv() {
        while !piece.is_empty() {
            match rustix::io::write(fd, &piece) {
                Ok(length) => drop(piece.split_to(length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_for(PollFd::from_borrowed_fd(fd, PollFlags::OUT)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Makes text of bytes that come in pieces: a character that is cut is put together again, and
/// what is no text is replaced, as Garden's JSON wants it.
#[derive(Debug, Default)]
pub(crate) struct Text {
    held: Vec<u8>,
    replaced: bool,
}

impl Text {
    /// The text of what is whole by now.
    pub(crate) fn of<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, str> {
        if self.held.is_empty()
            && let Ok(text) = std::str::from_utf8(piece)
        {
            return text.into();
        }
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let cut = cut_character(&bytes);
        self.held = bytes.split_off(bytes.len() - cut);
        self.lossy(&bytes).into()
    }

    /// What is left at the end.
    pub(crate) fn rest(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        self.lossy(&held)
    }

    /// Something was no text.
    pub(crate) fn replaced(&self) -> bool {
        self.replaced
    }

    fn lossy(&mut self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        self.replaced |= matches!(text, Cow::Owned(_));
        text.into_owned()
    }
}

/// How many bytes at the end are the beginning of a character.
fn cut_character(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(pieces: &[&[u8]]) -> (String, bool) {
        let mut text = Text::default();
        let mut all: String = pieces.iter().map(|piece| text.of(piece).into_owned()).collect();
        all.push_str(&text.rest());
        (all, text.replaced())
    }

    proptest! {
        #[test]
        fn text_that_is_cut_anywhere_is_whole_again(text in ".{0,40}", cuts in prop::collection::vec(0usize..160, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(through(&pieces), (text.clone(), false));
        }

        #[test]
        fn bytes_that_are_no_text_are_replaced_and_that_is_known(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let (text, replaced) = through(&[head, tail]);
            prop_assert_eq!(replaced, std::str::from_utf8(&bytes).is_err());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
