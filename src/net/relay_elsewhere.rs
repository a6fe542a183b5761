//! Two connections joined, where the kernel cannot do it: by reading and writing.

use super::Stream;
use std::io;

/// Moves bytes both ways until both sides have ended. One that breaks breaks the other.
///
/// # Errors
/// Why it broke. Both connections are gone then.
pub async fn relay(mut one: Stream, mut other: Stream) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut one, &mut other).await.map(drop)
}
