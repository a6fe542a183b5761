//! Our processes: the shims of our places' groups, and the inits, with their network namespaces.

use super::{Found, Kind, Of, Subject};
use crate::node::containerd::labels::OwnerMark;
use crate::node::containerd::shims::shims_of;
use crate::node::containerd::{Cgroups, PlaceCgroups};
use crate::node::network::seen::inside;
use crate::node::place::InitProcess;
use gardend_controller::record::SandboxId;
use std::fs;
use std::io;
use std::path::Path;

/// The name of an init's program, and of one that prepares a process with an image.
const INIT: &str = "garden-init";

pub(super) fn look(found: &mut Found, subject: &Subject, mark: &OwnerMark) {
    if let Some(socket) = &subject.containerd {
        shims(found, socket);
    }
    inits(found, subject, mark);
}

/// A group's shim is its places'. One whose group is not known may be another gardend's, where
/// others use the same containerd.
fn shims(found: &mut Found, socket: &Path) {
    let Some(shims) = found.miss("shims", shims_of(socket)) else { return };
    for (pid, founder) in shims {
        let places = found.groups.get(&founder).cloned();
        if places.is_none() && found.is_shared {
            continue;
        }
        found.see(Kind::Shim, format!("pid {pid} of group {founder}"), Of::Places(places.unwrap_or_default()));
    }
}

/// Found by their places' folders and by their cgroups: one may be gone.
fn inits(found: &mut Found, subject: &Subject, mark: &OwnerMark) {
    let groups = Cgroups::of(mark.clone());
    let listed = found.miss("cgroups of places", groups.list()).unwrap_or_default();
    for id in listed {
        let processes = groups.tree(&id).and_then(|tree: PlaceCgroups| tree.processes());
        for pid in found.miss("processes of a place", processes).unwrap_or_default() {
            if is_init(pid) {
                init(found, pid, &id);
            }
        }
    }
    let folders = fs::read_dir(subject.folders.places()).into_iter().flatten().flatten();
    let ids = folders.filter_map(|entry| SandboxId::parse(entry.file_name().to_str()?));
    for id in ids.collect::<Vec<_>>() {
        let running = InitProcess::read(&subject.folders.place(&id)).and_then(|init| match init {
            Some(init) => Ok(init.open()?.map(|_| init.pid)),
            None => Ok(None),
        });
        if let Some(Some(pid)) = found.miss("an init", running) {
            init(found, pid, &id);
            // It may be gone by now, and then so is its link.
            if inside(&subject.folders.place(&id)).unwrap_or(false) {
                found.see(Kind::Link, format!("the end in place {id}"), Of::Place(id));
            }
        }
    }
}

fn init(found: &mut Found, pid: u32, id: &SandboxId) {
    found.see(Kind::Init, format!("pid {pid} in place {id}"), Of::Place(id.clone()));
    let (Ok(theirs), Ok(ours)) = (namespace(&pid.to_string()), namespace("self")) else { return };
    if theirs != ours {
        found.see(Kind::NetworkNamespace, theirs, Of::Place(id.clone()));
    }
}

fn namespace(process: &str) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/{process}/ns/net"))?.display().to_string())
}

fn is_init(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == INIT)
}
