//! One command in a pod, over the websocket that pods/exec becomes (v5.channel.k8s.io): its streams
//! as they were cut into messages, the sizes of its terminal, its exit status.
//!
//! Both directions flow beside each other, so that a command that does not read its stdin until
//! somebody reads its stdout is no deadlock. A server from which nothing comes is given up, unless
//! it may be waiting for the command to read: then the kernel's own time for what is not
//! acknowledged counts.

use super::status::{Ended, ended};
use crate::cli::local::{Stream, Writer};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream as Messages, StreamExt};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::{Error as WebsocketError, Message};

/// How often the server is asked to show that it is there.
const PING: Duration = Duration::from_secs(15);
/// A server that shows nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the streams may take to end after the status.
const REST: Duration = Duration::from_secs(5);

// Channels: the first byte of a message.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What goes to the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Bytes of its stdin.
    Stdin(Vec<u8>),
    /// There are no more. Its outputs go on.
    EndOfStdin,
    /// Columns and rows of its terminal.
    Size(u16, u16),
}

impl Input {
    fn message(&self) -> Message {
        let mut bytes = BytesMut::new();
        match self {
            Self::Stdin(piece) => {
                bytes.reserve(piece.len() + 1);
                bytes.put_u8(STDIN);
                bytes.put_slice(piece);
            }
            Self::EndOfStdin => bytes.put_slice(&[CLOSE, STDIN]),
            Self::Size(columns, rows) => {
                bytes.put_u8(RESIZE);
                bytes.put_slice(format!(r#"{{"Width":{columns},"Height":{rows}}}"#).as_bytes());
            }
        }
        Message::Binary(bytes.freeze())
    }
}

/// Where outputs go.
pub(super) enum Outputs {
    /// To this process's own.
    Own {
        /// Its stdout.
        stdout: Writer,
        /// Its stderr.
        stderr: Writer,
    },
    /// Kept, up to a number of bytes together.
    Kept {
        /// What came on stdout.
        stdout: Vec<u8>,
        /// What came on stderr.
        stderr: Vec<u8>,
        /// At most.
        most: usize,
    },
}

impl Outputs {
    async fn take(&mut self, stream: Stream, piece: Bytes) -> io::Result<()> {
        match (self, stream) {
            (Self::Own { stdout, .. }, Stream::Stdout) => stdout.write(piece).await,
            (Self::Own { stderr, .. }, Stream::Stderr) => {
                // What was for a stderr that is gone is lost on nobody.
                let _ = stderr.write(piece).await;
                Ok(())
            }
            (Self::Kept { stdout, stderr, most }, stream) => {
                if stdout.len() + stderr.len() + piece.len() > *most {
                    return Err(io::Error::other(format!("the command wrote more than {most} bytes")));
                }
                let kept = if stream == Stream::Stdout { stdout } else { stderr };
                kept.extend_from_slice(&piece);
                Ok(())
            }
        }
    }
}

/// Why a command's end is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The connection ended before the command did.
    #[error("{0}")]
    Cut(String),
    /// What it wrote cannot be written here.
    #[error("{0}")]
    Output(#[source] io::Error),
}

/// Carries everything both ways until the command has ended.
///
/// # Errors
/// [`ChannelError`]; the command may run on.
pub(super) async fn carry<S>(
    websocket: S,
    inputs: mpsc::Receiver<Input>,
    outputs: &mut Outputs,
) -> Result<Ended, ChannelError>
where
    S: Messages<Item = Result<Message, WebsocketError>> + Sink<Message, Error = WebsocketError>,
{
    let (sender, receiver) = websocket.split();
    let server_may_wait = AtomicBool::new(false);
    // Whichever comes first decides; both hold nothing that is needed afterwards.
    tokio::select! {
        ended = receive(receiver, outputs, &server_may_wait) => ended,
        cut = send(sender, inputs, &server_may_wait) => Err(cut),
    }
}

/// Sends what comes in, and pings; ends where that cannot be sent.
async fn send(
    mut server: impl Sink<Message, Error = WebsocketError> + Unpin,
    mut inputs: mpsc::Receiver<Input>,
    server_may_wait: &AtomicBool,
) -> ChannelError {
    let mut pings = interval_at(Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both are cancel-safe: what was not received stays where it is.
        let message = tokio::select! {
            Some(input) = inputs.recv() => {
                if matches!(input, Input::Stdin(_)) {
                    server_may_wait.store(true, Ordering::Relaxed);
                }
                input.message()
            }
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        if let Err(error) = server.send(message).await {
            return cut(&error);
        }
    }
}

async fn receive(
    mut server: impl Messages<Item = Result<Message, WebsocketError>> + Unpin,
    outputs: &mut Outputs,
    server_may_wait: &AtomicBool,
) -> Result<Ended, ChannelError> {
    let mut end: Option<Ended> = None;
    loop {
        let patience = if end.is_some() { REST } else { SILENCE };
        let message = match (timeout(patience, server.next()).await, end.take()) {
            (Ok(Some(Ok(message))), known) => {
                end = known;
                message
            }
            // After the status nothing is missing that could still be had.
            (_, Some(ended)) => return Ok(ended),
            (Ok(Some(Err(error))), None) => return Err(cut(&error)),
            (Ok(None), None) => return Err(ChannelError::Cut("the server ended the connection".to_owned())),
            (Err(_), None) if server_may_wait.load(Ordering::Relaxed) => continue,
            (Err(_), None) => {
                return Err(ChannelError::Cut(format!("nothing came from the server for {} s", SILENCE.as_secs())));
            }
        };
        server_may_wait.store(false, Ordering::Relaxed);
        let Message::Binary(mut bytes) = message else { continue };
        if bytes.len() < 2 {
            // Channels are announced by their number alone.
            continue;
        }
        let channel = bytes.split_to(1)[0];
        let taken = match channel {
            STDOUT => outputs.take(Stream::Stdout, bytes).await,
            STDERR => outputs.take(Stream::Stderr, bytes).await,
            STATUS => {
                end = Some(ended(&bytes).map_err(ChannelError::Cut)?);
                Ok(())
            }
            _ => Ok(()),
        };
        taken.map_err(ChannelError::Output)?;
    }
}

fn cut(error: &WebsocketError) -> ChannelError {
    ChannelError::Cut(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// The pod's side: what is sent arrives in one channel, what it says is taken from another.
    struct Pair {
        sent: mpsc::Sender<Message>,
        said: mpsc::Receiver<Message>,
        waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
    }

    impl Messages for Pair {
        type Item = Result<Message, WebsocketError>;
        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.said.poll_recv(context).map(|message| message.map(Ok))
        }
    }

    impl Sink<Message> for Pair {
        type Error = WebsocketError;
        fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), WebsocketError>> {
            let sent = self.sent.clone();
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { drop(sent.reserve().await) }));
            let ready = waiting.as_mut().poll(context);
            if ready.is_ready() {
                self.waiting = None;
            }
            ready.map(Ok)
        }
        fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), WebsocketError> {
            self.sent.try_send(message).map_err(|_| WebsocketError::ConnectionClosed)
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WebsocketError>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WebsocketError>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Pod {
        says: mpsc::Sender<Message>,
        hears: mpsc::Receiver<Message>,
    }

    fn pair() -> (Pair, Pod) {
        let ((sent, hears), (says, said)) = (mpsc::channel(1), mpsc::channel(1));
        (Pair { sent, said, waiting: None }, Pod { says, hears })
    }

    fn kept() -> Outputs {
        Outputs::Kept { stdout: Vec::new(), stderr: Vec::new(), most: 1 << 20 }
    }

    fn on(channel: u8, bytes: &[u8]) -> Message {
        Message::Binary([&[channel], bytes].concat().into())
    }

    const SUCCESS: &[u8] = br#"{"status":"Success"}"#;

    #[tokio::test]
    async fn a_command_that_echoes_more_than_fits_anywhere_is_carried_to_its_end() {
        let (websocket, mut pod) = pair();
        let (stdin, inputs) = mpsc::channel(1);
        let echo = async move {
            while let Some(message) = pod.hears.recv().await {
                let mut bytes = message.into_data();
                match bytes.split_to(1)[0] {
                    STDIN => pod.says.send(on(STDOUT, &bytes)).await.unwrap(),
                    CLOSE => break,
                    _ => {}
                }
            }
            pod.says.send(on(STATUS, SUCCESS)).await.unwrap();
        };
        let typing = async move {
            for number in 0..=255 {
                stdin.send(Input::Stdin(vec![number; 100])).await.unwrap();
            }
            stdin.send(Input::EndOfStdin).await.unwrap();
        };
        let mut outputs = kept();
        let (ended, (), ()) = tokio::join!(carry(websocket, inputs, &mut outputs), echo, typing);
        assert_eq!(ended.unwrap(), Ended::Exited(0));
        let Outputs::Kept { stdout, .. } = outputs else { unreachable!() };
        assert_eq!(stdout, (0..=255).flat_map(|number| [number; 100]).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn what_comes_after_the_status_is_not_lost_and_a_status_ends_it_without_a_close() {
        let (websocket, pod) = pair();
        let (_stdin, inputs) = mpsc::channel(1);
        let speak = async {
            for message in [on(STDOUT, b"a"), on(STDERR, b"e"), on(STATUS, SUCCESS), on(STDOUT, b"b")] {
                pod.says.send(message).await.unwrap();
            }
        };
        let mut outputs = kept();
        tokio::time::pause();
        let (ended, ()) = tokio::join!(carry(websocket, inputs, &mut outputs), speak);
        assert_eq!(ended.unwrap(), Ended::Exited(0));
        let Outputs::Kept { stdout, stderr, .. } = outputs else { unreachable!() };
        assert_eq!((stdout, stderr), (b"ab".to_vec(), b"e".to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_or_falls_silent_before_the_command_ends_has_cut_it() {
        let (websocket, pod) = pair();
        let (_stdin, inputs) = mpsc::channel(1);
        drop(pod.says);
        let ended = carry(websocket, inputs, &mut kept()).await;
        assert!(matches!(ended, Err(ChannelError::Cut(why)) if why.contains("ended the connection")));

        let (websocket, mut pod) = pair();
        let (_stdin, inputs) = mpsc::channel(1);
        let listen = async {
            let mut heard = Vec::new();
            while let Some(message) = pod.hears.recv().await {
                heard.push(message);
            }
            heard
        };
        let mut outputs = kept();
        let (ended, heard) = tokio::join!(carry(websocket, inputs, &mut outputs), listen);
        assert!(matches!(ended, Err(ChannelError::Cut(why)) if why.contains("60 s")));
        assert!(!heard.is_empty() && heard.iter().all(Message::is_ping), "{heard:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_read_its_stdin_is_waited_for() {
        let (websocket, mut pod) = pair();
        let (stdin, inputs) = mpsc::channel(4);
        for _ in 0..4 {
            stdin.send(Input::Stdin(vec![1])).await.unwrap();
        }
        let late = async {
            tokio::time::sleep(SILENCE * 5).await;
            while pod.hears.try_recv().is_ok() {}
            pod.says.send(on(STATUS, SUCCESS)).await.unwrap();
        };
        let mut outputs = kept();
        let (ended, ()) = tokio::join!(carry(websocket, inputs, &mut outputs), late);
        assert_eq!(ended.unwrap(), Ended::Exited(0));
    }

    #[test]
    fn sizes_and_the_end_of_stdin_are_said_as_kubelet_reads_them() {
        assert_eq!(Input::Size(80, 24).message(), on(RESIZE, br#"{"Width":80,"Height":24}"#));
        assert_eq!(Input::EndOfStdin.message(), on(CLOSE, &[STDIN]));
        assert_eq!(Input::Stdin(vec![0, 255]).message(), on(STDIN, &[0, 255]));
    }

    #[tokio::test]
    async fn more_output_than_is_kept_is_an_error() {
        let (websocket, pod) = pair();
        let (_stdin, inputs) = mpsc::channel(1);
        let mut outputs = Outputs::Kept { stdout: Vec::new(), stderr: Vec::new(), most: 3 };
        let speak = async { pod.says.send(on(STDOUT, b"four")).await.unwrap() };
        let (ended, ()) = tokio::join!(carry(websocket, inputs, &mut outputs), speak);
        assert!(matches!(ended, Err(ChannelError::Output(_))));
    }
}
