//! Two connections joined: what comes from one goes to the other, in the kernel, until both have
//! said all they have to say.

use super::Stream;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;

/// What one call moves at most, and what the pipe between holds where it may.
const CHUNK: usize = 256 * 1024;

/// Moves bytes both ways until both sides have ended. A side that ends is ended for the other, which
/// can go on; one that breaks breaks the other, so that nobody takes a part for the whole.
///
/// # Errors
/// Why it broke. Both connections are gone then.
pub async fn relay(one: Stream, other: Stream) -> io::Result<()> {
    let moved = tokio::try_join!(one_way(&one, &other), one_way(&other, &one));
    if moved.is_err() {
        for stream in [&one, &other] {
            if let Stream::Tcp(stream) = stream {
                // Closed with a reset. A unix socket knows none, and just ends.
                let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            }
        }
    }
    moved.map(drop)
}

async fn one_way(from: &Stream, to: &Stream) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Smaller where the user has too many already.
    let _ = fcntl_setpipe_size(&into, CHUNK);
    loop {
        let filled = once_ready(from, Interest::READABLE, || move_bytes(from, &into, CHUNK)).await?;
        if filled == 0 {
            return match to.end() {
                // It has ended by itself, in both directions.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                ended => ended,
            };
        }
        drain(&out, to, filled).await?;
    }
}

async fn drain(pipe: &OwnedFd, to: &Stream, mut left: usize) -> io::Result<()> {
    while left > 0 {
        left -= once_ready(to, Interest::WRITABLE, || move_bytes(pipe, to, left)).await?;
    }
    Ok(())
}

/// Does something as soon as the socket lets it.
async fn once_ready(stream: &Stream, interest: Interest, act: impl Fn() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        stream.ready(interest).await?;
        match stream.try_io(interest, &act) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, count, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    async fn tcp() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0.into(), client.into())
    }

    /// A client's end of TCP and a server's end of a unix socket, joined.
    async fn joined() -> (Stream, Stream, tokio::task::JoinHandle<io::Result<()>>) {
        let (one, client) = tcp().await;
        let (other, server) = UnixStream::pair().unwrap();
        (client, server.into(), tokio::spawn(relay(one, other.into())))
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[tokio::test]
    async fn every_byte_arrives_both_ways_at_once() {
        let (client, server, relay) = joined().await;
        let all = bytes(8 << 20);
        let exchange = async |stream: Stream| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let (mut got, sent) = (Vec::new(), all.clone());
            let write = async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(reader.read_to_end(&mut got), write);
            read.unwrap();
            got
        };
        let (at_client, at_server) = tokio::join!(exchange(client), exchange(server));
        assert!(at_client == all && at_server == all, "{} and {} bytes", at_client.len(), at_server.len());
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_side_that_has_ended_still_gets_the_answer() {
        let (mut client, mut server, relay) = joined().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_breaks_breaks_the_other() {
        let (one, client) = tcp().await;
        let (other, mut server) = tcp().await;
        let relay = tokio::spawn(relay(one, other));
        if let Stream::Tcp(client) = &client {
            rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        assert!(relay.await.unwrap().is_err());
        let broken = server.read(&mut [0]).await.unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
    }
}
