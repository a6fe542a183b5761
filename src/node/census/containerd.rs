//! What containerd holds: containers, tasks, images, leases, and the snapshots that have our mark.
//! Layers have nobody's: containerd keeps them for as long as an image or a lease names them, and
//! collects them afterwards.

use super::records::Records;
use super::{Found, Kind, Of};
use crate::node::containerd::labels::OWNER;
use crate::node::containerd::{Calls, Connection, NAMESPACE, OwnerMark};
use crate::node::images::Marked;
use gardend_controller::record::SandboxId;
use std::path::Path;

pub(super) async fn look(found: &mut Found, socket: &Path, mark: &OwnerMark, records: &Records) {
    // A managed containerd that does not run has no socket.
    if !socket.exists() {
        return;
    }
    let connection = Connection::counted(socket, NAMESPACE, Calls::default());
    let seen = match connection.seen(mark).await {
        Ok(seen) => seen,
        Err(error) => return found.miss_call(&error),
    };
    found.is_shared = !seen.others.is_empty();
    let of_place = |id: &str| SandboxId::parse(id).map_or(Of::Nobody, Of::Place);
    for (id, group) in &seen.containers {
        found.see(Kind::Container, id, of_place(id));
        if let (Some(group), Some(id)) = (group, SandboxId::parse(id)) {
            found.groups.entry(group.clone()).or_default().insert(id);
        }
    }
    for id in seen.tasks {
        let ours = seen.containers.iter().any(|(container, _)| *container == id);
        let known = SandboxId::parse(&id).is_some_and(|id| records.knows(&id));
        if ours || known || (!found.is_shared && SandboxId::parse(&id).is_some()) {
            let of = of_place(&id);
            found.see(Kind::Task, id, of);
        }
    }
    let marked = Marked::of(mark.clone());
    let mut chains = records.chains();
    for image in seen.images.iter().filter(|image| image.labels.get(OWNER).is_some_and(|owner| owner == mark.as_str()))
    {
        chains.extend(marked.chain(&image.labels));
        found.see(Kind::Image, &image.name, Of::Gardend);
    }
    for lease in &seen.leases {
        let of = match marked.held(&lease.id) {
            Some(chain) if !chains.contains(&chain) => Of::Nobody,
            _ if marked.is_ours(&lease.id) => Of::Gardend,
            _ => Of::Nobody,
        };
        found.see(Kind::Lease, &lease.id, of);
    }
    for snapshot in seen.snapshots.iter().filter(|name| marked.is_ours(name)) {
        let of = match marked.held(snapshot) {
            Some(_) if !seen.leases.iter().any(|lease| lease.id == *snapshot) => Of::Nobody,
            _ => Of::Gardend,
        };
        found.see(Kind::Snapshot, snapshot, of);
    }
}
