//! Accepts connections until told to stop.

use super::Garden;
use super::answer::Refusal;
use super::connection;
use super::router::router;
use super::socket::Socket;
use super::wire::GardenError;
use crate::net::{Listener, Listeners, Stream};
use rustix::net::sockopt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long requests may go on once the server is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(3500);
/// Connections beyond the limit that are told so at a time; further ones are just closed.
const REFUSED_AT_A_TIME: usize = 64;
/// The pauses after an accept that failed for want of something.
const ACCEPT_PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(1);

/// Serves Garden's API on listeners until `shutdown` resolves; then stops listening, lets requests
/// finish for a few seconds, ends streams (their processes go on), and returns.
///
/// A connection that cannot be accepted is never the end: it is tried again.
pub async fn serve(listeners: Vec<Listener>, garden: Garden, shutdown: impl Future<Output = ()>) {
    let stop = CancellationToken::new();
    let places = Arc::new(Semaphore::new(garden.max_connections));
    let refusals = Arc::new(Semaphore::new(REFUSED_AT_A_TIME));
    let full =
        format!("gardend has its limit of {} connections open; close some or ask again later", garden.max_connections);
    let router = router(garden);
    let mut listeners = Listeners::from(listeners);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut pause = *ACCEPT_PAUSES.start();
    loop {
        // An accept that is dropped has taken nothing off a queue (it is cancel-safe), nor has
        // `join_next`; `shutdown` is pinned and goes on.
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listeners.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted");
                continue;
            }
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                // Dropped at shutdown, with nothing lost.
                tokio::select! {
                    () = &mut shutdown => break,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(*ACCEPT_PAUSES.end());
                continue;
            }
        };
        pause = *ACCEPT_PAUSES.start();
        if let Stream::Tcp(tcp) = &stream
            && let Err(error) = prepare(tcp)
        {
            debug!(%error, "a connection's options cannot be set");
        }
        if let Ok(place) = places.clone().try_acquire_owned() {
            let (router, stop) = (router.clone(), stop.clone());
            connections.spawn(async move {
                connection::serve(stream, router, stop).await;
                drop(place);
            });
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            warn!("{full}");
            let refusal = Refusal::from(GardenError::unavailable(full.clone()));
            connections.spawn(async move {
                connection::turn_away(Socket::new(stream), &refusal).await;
                drop(place);
            });
        }
    }
    drop(listeners);
    stop.cancel();
    let finished = timeout(SHUTDOWN_GRACE, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if finished.await.is_err() {
        warn!(connections = connections.len(), "requests did not finish in time; their connections are cut");
        connections.shutdown().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; this is a bug in gardend");
    }
}

/// Whether an accept failed because of the connection that was to be accepted. accept(2) hands
/// down the network's errors too.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

/// Small messages go at once, and a client whose machine is gone is noticed within two minutes.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}
