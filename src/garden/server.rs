//! Accepts connections until told to stop.

use super::Garden;
use super::answer::Refusal;
use super::connection;
use super::router::router;
use super::socket::Socket;
use super::wire::GardenError;
use crate::net::secure::{Identity, Secure};
use crate::net::{Arrival, Listener, Listeners, Stream};
use axum::Router;
use rustix::net::sockopt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long requests may go on once the server is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(3500);
/// Connections beyond the limit that are told so at a time; further ones are just closed.
const REFUSED_AT_A_TIME: usize = 64;
/// Clients at `tls://` addresses that may be agreeing on TLS at a time.
const STRANGERS_AT_A_TIME: usize = 256;
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
    let strangers = Arc::new(Semaphore::new(STRANGERS_AT_A_TIME));
    let secure = garden.secure.clone();
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
        let arrival = match accepted {
            Ok(arrival) => arrival,
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
        let tcp = match &arrival {
            Arrival::Trusted(Stream::Tcp(tcp)) | Arrival::Unproven(tcp) => Some(tcp),
            Arrival::Trusted(Stream::Unix(_)) => None,
        };
        if let Some(Err(error)) = tcp.map(prepare) {
            debug!(%error, "a connection's options cannot be set");
        }
        let stream = match (arrival, &secure) {
            (Arrival::Trusted(stream), _) => stream,
            (Arrival::Unproven(tcp), Some(secure)) => {
                // Beyond the limit it is just closed: who fills it is nobody to be told anything.
                if let Ok(stranger) = strangers.clone().try_acquire_owned() {
                    let (secure, places) = (secure.clone(), places.clone());
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(welcome(tcp, secure, places, stranger, router, stop));
                }
                continue;
            }
            (Arrival::Unproven(_), None) => continue,
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let (router, stop) = (router.clone(), stop.clone());
            connections.spawn(async move {
                connection::serve(stream, Identity::Trusted, router, stop).await;
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

/// Lets one in that came to a `tls://` address, once it has agreed on TLS.
async fn welcome(
    tcp: TcpStream,
    secure: Secure,
    places: Arc<Semaphore>,
    stranger: OwnedSemaphorePermit,
    router: Router,
    stop: CancellationToken,
) {
    // A handshake that is dropped is a connection that is closed.
    let accepted = tokio::select! {
        accepted = secure.accept(tcp) => accepted,
        () = stop.cancelled() => return,
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return debug!(%error, "a client at a tls:// address was not let in"),
    };
    let Ok(_place) = places.try_acquire_owned() else { return };
    drop(stranger);
    let serving = connection::serve(accepted.stream.into(), accepted.identity, router, stop);
    accepted.relay.during(serving).await;
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
