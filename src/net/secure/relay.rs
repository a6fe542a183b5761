//! A connection by TLS joined with a socket of our own.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;

/// What is moved at once, each way.
const CHUNK: usize = 64 * 1024;
/// How long a peer may take what is left, once nothing more will come.
pub(super) const LAST_BYTES: Duration = Duration::from_secs(30);

/// Moves bytes both ways until both sides have ended, or one breaks; both are closed then.
pub(super) async fn relay(mut tls: impl AsyncRead + AsyncWrite + Unpin, mut inner: UnixStream) -> io::Result<()> {
    copy_bidirectional_with_sizes(&mut tls, &mut inner, CHUNK, CHUNK).await.map(drop)
}
