//! `gardend check --leaks`: the census with the options of `serve`.

use anyhow::{Result, bail};
use gardend::cli::check::{CensusRows, OwnerRow, ThingRow};
use gardend::config::{Containerd, NetworkMeans, ServeConfig};
use gardend::net::Address;
use gardend::node::census::{self, Owner, Subject, Thing};
use gardend::node::containerd::managed::socket_of;
use gardend::node::place::Folders;
use ipnet::IpNet;

/// Counts everything of the gardend that has these options.
pub async fn census(config: ServeConfig) -> Result<CensusRows> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() && config.backend == gardend::config::Backend::Containerd {
        bail!("gardend check --leaks runs as uid {}, which does not see everything; run it as root", uid.as_raw());
    }
    let found = census::look(&subject(&config)).await?;
    let leaks = found.leaks().count();
    Ok(CensusRows { leaks, things: found.things.into_iter().map(row).collect(), unseen: found.unseen })
}

fn subject(config: &ServeConfig) -> Subject {
    let folders = Folders::new(&config.state_dir, &config.run_dir);
    let containerd = match (&config.backend, &config.containerd) {
        (gardend::config::Backend::Host, _) => None,
        (_, Containerd::Socket(socket)) => Some(socket.clone()),
        (_, Containerd::Managed { .. }) => Some(socket_of(&folders)),
    };
    let listen = config.listen.iter().chain(&config.metrics_listen);
    let sockets = listen.filter_map(|address| match address {
        Address::Unix(path) => Some(path.clone()),
        _ => None,
    });
    let pools: Vec<IpNet> = match config.network.as_ref().map(|network| &network.means) {
        Some(NetworkMeans::Builtin { pool, pool6, .. }) => {
            std::iter::once((*pool).into()).chain(pool6.map(Into::into)).collect()
        }
        _ => Vec::new(),
    };
    Subject { sockets: sockets.collect(), folders, containerd, pools }
}

fn row(Thing { kind, name, owner }: Thing) -> ThingRow {
    let (owner, handle, uid) = match owner {
        Owner::Container { handle, uid } => (OwnerRow::Container, Some(handle), Some(uid.to_string())),
        Owner::Pool => (OwnerRow::Pool, None, None),
        Owner::Gardend => (OwnerRow::Gardend, None, None),
        Owner::Nobody => (OwnerRow::Nobody, None, None),
    };
    ThingRow { kind: kind.name().to_owned(), name, owner, handle, uid }
}
