//! One client's connection to one process: messages from the client to the process, and last how
//! the process ended.
//!
//! The client's messages are acted on in their order, as the reference does: what stands behind
//! data for a full pipe waits with it. A connection that ends, or that says what is no message,
//! detaches; the process goes on.

use super::frames::{Frames, Malformed};
use crate::garden::linger::linger;
use crate::garden::socket::{Peer, Socket};
use crate::garden::wire::json::WrongJson;
use crate::garden::wire::{Message, Payload};
use bytes::{Bytes, BytesMut};
use gardend_controller::{Attachment, Outcome};
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Read at a time at first, and at most once much is coming.
const READ_SIZES: std::ops::RangeInclusive<usize> = 4 * 1024..=256 * 1024;
/// How long what a vanished client still said may wait for a process that does not read it.
const FULL_PIPE_AFTER_CLIENT: Duration = Duration::from_secs(60);
/// How long a client may take to receive a message of ours.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// Why a client is detached before its process has ended.
#[derive(Debug, thiserror::Error)]
enum Detached {
    #[error("the client closed its connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Failed(#[from] io::Error),
    #[error("the client sent what is no message: {0}")]
    NoMessage(#[from] Malformed),
    #[error("the client sent what is no message: {0}")]
    WrongMessage(#[from] WrongJson),
    #[error("the client is gone and the process does not read what it sent")]
    FullPipe,
}

/// Speaks with the client until the process has ended or the client is gone. `early` is what the
/// client sent before the connection was taken over.
pub(crate) async fn serve_process(mut socket: Socket, early: Bytes, attachment: Attachment) {
    let process_id = attachment.process_id().to_string();
    let started = Payload::Started { process_id: &process_id, stream_id: attachment.stream_id() };
    if let Err(error) = send(&mut socket, &started).await {
        return debug!(%error, "detached: the client did not take the first message");
    }
    // Neither future is polled again once the other is done, so it does not matter where it
    // stopped. How the process ended comes first: it is the more useful of two truths.
    let ended = tokio::select! {
        biased;
        outcome = attachment.outcome() => Ok(outcome),
        detached = obey(socket.clone(), early, &attachment) => Err(detached),
    };
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(reason) => return debug!(%reason, "detached"),
    };
    let last = match &outcome {
        Outcome::Exited(status) => Payload::Exited { process_id: &process_id, exit_status: status.as_garden() },
        Outcome::Failed(why) => Payload::Failed { process_id: &process_id, error: why },
    };
    match send(&mut socket, &last).await {
        Ok(()) => {
            // The stream id's time runs from the end of the conversation, not of the connection.
            drop(attachment);
            linger(socket).await;
        }
        Err(error) => debug!(%error, "the client did not take how its process ended"),
    }
}

async fn send(socket: &mut Socket, payload: &Payload<'_>) -> io::Result<()> {
    timeout(SEND_DEADLINE, socket.write_all(&payload.line())).await.map_err(io::Error::from)?
}

/// Does what the client says until it stops.
async fn obey(mut reader: Socket, early: Bytes, attachment: &Attachment) -> Detached {
    let peer = reader.peer();
    let mut buffer = BytesMut::from(early);
    let mut frames = Frames::default();
    let mut read_size = *READ_SIZES.start();
    loop {
        if let Err(reason) = obey_all(&mut frames, &mut buffer, attachment, &peer).await {
            return reason;
        }
        buffer.reserve(read_size);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return Detached::Closed,
            Ok(read) if read >= read_size => read_size = (read_size * 2).min(*READ_SIZES.end()),
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}

async fn obey_all(
    frames: &mut Frames,
    buffer: &mut BytesMut,
    attachment: &Attachment,
    peer: &Peer,
) -> Result<(), Detached> {
    while let Some(message) = frames.next(buffer)? {
        match Message::parse(&message)? {
            Message::Stdin(data) => feed(attachment, data.as_bytes(), peer).await?,
            Message::EndOfStdin => attachment.close_stdin().await,
            Message::Resize(size) => attachment.resize(size).await,
            Message::Signal(signal) => {
                if let Err(error) = attachment.signal(signal).await {
                    debug!(%error, ?signal, "signal not delivered");
                }
            }
            Message::Unknown => debug!(bytes = message.len(), "a message that says nothing known is ignored"),
        }
    }
    Ok(())
}

/// Waits as long as the process takes to read, but not for ever for a client that is gone: the
/// container would never count as unused.
async fn feed(attachment: &Attachment, data: &[u8], peer: &Peer) -> Result<(), Detached> {
    let mut written = pin!(attachment.write_stdin(data));
    // The future goes on from where it stopped.
    if timeout(Duration::from_secs(1), &mut written).await.is_ok() {
        return Ok(());
    }
    let abandoned = async {
        peer.gone().await;
        sleep(FULL_PIPE_AFTER_CLIENT).await;
    };
    // Only the loser is dropped; a write that loses belongs to nobody any more.
    tokio::select! {
        biased;
        () = written => Ok(()),
        () = abandoned => Err(Detached::FullPipe),
    }
}
