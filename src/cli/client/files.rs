//! Tar streams into and out of a container. They have no deadline as a whole, only each of their
//! steps: nothing is known here of how much is coming.

use super::Client;
use super::error::ClientError;
use super::transport::{self, Answer, Request};
use bytes::Bytes;
use http::Method;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a server may neither take nor give a byte. The server's own patience with a container is 120 s.
const STALL: Duration = Duration::from_secs(180);
/// How long it may unpack what it has got; the server's own limit is 300 s.
const UNPACK: Duration = Duration::from_secs(330);

/// Pieces of a stream on its way in. One that failed makes the stream one that did not end.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// A stream on its way out.
pub struct TarStream {
    answer: Answer,
}

impl Client {
    /// Unpacks a tar stream at `destination`, as `user` (empty: root), and answers once it is there.
    ///
    /// # Errors
    /// The server says what cannot be unpacked; or the stream itself failed.
    pub async fn stream_in(
        &self,
        handle: &str,
        user: &str,
        destination: &str,
        pieces: Pieces,
    ) -> Result<(), ClientError> {
        let request = files(Method::PUT, handle, user).query("destination", destination);
        transport::send_stream(self.target(), request, pieces, STALL, UNPACK).await
    }

    /// A tar stream of `source`: by its base name, or its contents where it ends in `/`.
    ///
    /// # Errors
    /// The server says why there is none.
    pub async fn stream_out(&self, handle: &str, user: &str, source: &str) -> Result<TarStream, ClientError> {
        let request = files(Method::GET, handle, user).query("source", source);
        Ok(TarStream { answer: transport::receive_stream(self.target(), request).await? })
    }
}

fn files(method: Method, handle: &str, user: &str) -> Request {
    let request = super::container(method, handle, "/files", STALL);
    if user.is_empty() { request } else { request.query("user", user) }
}

impl TarStream {
    /// The next piece; `None` once all has come. Cancel-safe.
    ///
    /// # Errors
    /// The stream is not whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        match timeout(STALL, self.answer.next()).await {
            Ok(piece) => piece,
            Err(_) => Err(self.answer.timed_out(STALL)),
        }
    }
}
