//! `gardend proxy`: a port in front of a server that listens where some clients cannot go.
//!
//! Each connection is joined with one of its own to the server, in the kernel, for as long as both
//! want it: Garden's streams have no end that could be told from outside.

use super::client::{Credentials, Target, dial};
use super::outcome::Failure;
use super::output::{Ui, note};
use super::signals::Endings;
use crate::net::{Access, Address, AddressError, Arrival, Claim, Listener, Listeners, Stream, relay};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The pause after a connection that could not be accepted for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "For clients that only speak TCP, such as Concourse's web node and fly. Prints one line with \
                        `ready` once it listens; ends with SIGTERM or Ctrl-C.\n\n\
                        Examples:\n  gardend proxy --to unix:///run/gardend/garden.sock\n  \
                        gardend proxy --listen 127.0.0.1:7778 --to worker-3:7777")]
pub struct ProxyArgs {
    /// Where to listen: a loopback address or a unix socket; may be repeated
    #[arg(long, value_name = "ADDR:PORT|unix:///PATH", default_value = "127.0.0.1:7777", value_delimiter = ',', value_parser = parse_listen)]
    listen: Vec<Address>,

    /// The server: unix:///path, host:port or https://host:port
    #[arg(long, value_name = "ADDR")]
    to: Target,
}

pub(super) async fn proxy(ui: &Ui, args: ProxyArgs, credentials: Credentials) -> Result<ExitCode, Failure> {
    let target = args.to.with(credentials);
    let mut endings = Endings::listen().map_err(|error| Failure::Words(format!("cannot take signals: {error}")))?;
    raise_descriptor_limit();
    let listeners = args.listen.iter().map(listen).collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address().to_string()).collect();
    ui.line(&format!("ready {}", addresses.join(" ")))?;
    let mut listeners = Listeners::from(listeners);
    let mut connections = JoinSet::new();
    loop {
        // `accept` and `next` are cancel-safe, and so is `join_next`.
        let accepted = tokio::select! {
            accepted = listeners.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = endings.next() => break,
        };
        match accepted {
            Ok(Arrival::Trusted(stream)) => drop(connections.spawn(pass_on(stream, target.clone()))),
            // Refused as an address to listen on.
            Ok(Arrival::Unproven(_)) => {}
            Err(error) => {
                note(&format!("cannot accept a connection: {error}; trying again"));
                // Either may be dropped: nothing is lost.
                tokio::select! {
                    () = sleep(ACCEPT_PAUSE) => {}
                    _ = endings.next() => break,
                }
            }
        }
    }
    // Clients attach again; their processes go on.
    drop(listeners);
    connections.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

fn parse_listen(text: &str) -> Result<Address, String> {
    match text.parse().map_err(|error: AddressError| error.to_string())? {
        Address::Tls(_) => {
            Err("a proxy listens on loopback or a unix socket: what it leads to is open to whoever reaches it"
                .to_owned())
        }
        address => Ok(address),
    }
}

fn listen(address: &Address) -> Result<Listener, Failure> {
    let owner_and_group = Access { mode: rustix::fs::Mode::from_raw_mode(0o660), group: None };
    let listener = Claim::new(address).and_then(|claim| claim.listen(owner_and_group));
    listener.map_err(|error| Failure::Words(error.to_string()))
}

async fn pass_on(client: Stream, target: Target) {
    prepare(&client);
    match dial(&target).await {
        Ok(server) => {
            prepare(&server);
            // A connection that breaks is its two ends' to tell.
            let _ = relay(client, server).await;
        }
        Err(error) => note(&error.to_string()),
    }
}

/// Small messages go at once, and a client or server whose machine is gone is noticed.
fn prepare(stream: &Stream) {
    if let Stream::Tcp(stream) = stream {
        // Options of a connection that is gone already are nothing to tell.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(60));
    }
}

/// A connection takes six descriptors.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer, fewer connections are served at a time.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
