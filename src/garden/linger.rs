//! Closing so that the client gets our last bytes.
//!
//! A socket that is closed while it holds bytes that nobody read sends RST, and the client loses
//! what it has not read yet: its typed error, the exit status. So: FIN, then read what still comes
//! and drop it, within bounds, until the client closes too.

use super::socket::Socket;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};

/// For how long at most.
const TOTAL: Duration = Duration::from_secs(10);
/// For how long without a byte.
const IDLE: Duration = Duration::from_secs(2);
/// For how many bytes.
const MAX_BYTES: usize = 1 << 30;
const READ_SIZE: usize = 64 * 1024;

/// Ends our side, waits for the client's end, closes.
pub(super) async fn linger(mut socket: Socket) {
    if socket.end().is_err() {
        return;
    }
    let deadline = Instant::now() + TOTAL;
    let drained = timeout_at(deadline, async {
        let (mut scratch, mut dropped) = (vec![0; READ_SIZE], 0);
        while dropped < MAX_BYTES {
            match timeout(IDLE, socket.read(&mut scratch)).await {
                Ok(Ok(read)) if read > 0 => dropped += read,
                _ => return,
            }
        }
    });
    if drained.await.is_err() {
        tracing::debug!("a client was still sending when its connection was closed");
    }
}
