//! What lies in our folders, is mounted there, and the cgroups of our places.

use super::{Found, Kind, Of, Subject};
use crate::node::containerd::labels::OwnerMark;
use crate::node::containerd::remains::runtime_state;
use crate::node::containerd::{Cgroups, NAMESPACE};
use crate::node::place::Folders;
use garden_init::wire::SOCKET_NAME;
use gardend_controller::record::{ContainerUid, ProcessUid, SandboxId};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn look(found: &mut Found, subject: &Subject, mark: &OwnerMark) {
    let folders = &subject.folders;
    for place in names_in(found, &folders.places()) {
        let of = SandboxId::parse(&place).map_or(Of::Nobody, Of::Place);
        let folder = folders.places().join(&place);
        if folder.join(SOCKET_NAME).exists() {
            found.see(Kind::Socket, shown(&folder.join(SOCKET_NAME)), of.clone());
        }
        if let (Ok(group), Some(id)) = (fs::read_to_string(folder.join("group")), SandboxId::parse(&place)) {
            found.groups.entry(group.trim().to_owned()).or_default().insert(id);
        }
        found.see(Kind::File, shown(&folder), of);
    }
    each(found, &runtime_state(folders).join(NAMESPACE), |name| SandboxId::parse(name).map(Of::Place));
    each(found, &folders.spools(), |name| ProcessUid::parse(name).map(Of::Process));
    each(found, &folders.hook_bundles(), |name| ContainerUid::parse(name).map(Of::Container));
    each(found, &folders.attachments(), |name| {
        ContainerUid::parse(name.strip_suffix(".json").unwrap_or(name)).map(Of::Container)
    });
    layers(found, folders);
    each(found, &folders.host_containers(), |name| ContainerUid::parse(name).map(Of::Container));
    for socket in &subject.sockets {
        if socket.exists() {
            found.see(Kind::Socket, shown(socket), Of::Gardend);
        }
    }
    for ledger in names_in(found, folders.state()).iter().filter(|name| name.starts_with(Folders::LEDGER)) {
        found.see(Kind::File, shown(&folders.state().join(ledger)), Of::Gardend);
    }
    mounts(found, folders);
    cgroups(found, mark);
}

fn layers(found: &mut Found, folders: &Folders) {
    let of_processes = folders.all_process_layers();
    for name in names_in(found, &folders.layers()) {
        let layer = folders.layers().join(&name);
        if layer != of_processes {
            found.see(Kind::File, shown(&layer), ContainerUid::parse(&name).map_or(Of::Nobody, Of::Container));
        }
    }
    for place in names_in(found, &of_processes) {
        let of_place = of_processes.join(&place);
        found.see(Kind::File, shown(&of_place), SandboxId::parse(&place).map_or(Of::Nobody, Of::Place));
        each(found, &of_place, |name| ProcessUid::parse(name).map(Of::Process));
    }
}

/// Whatever is in a folder where everything is named after somebody.
fn each(found: &mut Found, folder: &Path, of: impl Fn(&str) -> Option<Of>) {
    for name in names_in(found, folder) {
        let of = of(&name).unwrap_or(Of::Nobody);
        found.see(Kind::File, shown(&folder.join(name)), of);
    }
}

/// Mount points of ours: of a place or a container where a part of the path is its name.
fn mounts(found: &mut Found, folders: &Folders) {
    let Some(table) = found.miss("mounts", fs::read_to_string("/proc/thread-self/mountinfo")) else { return };
    let roots = [folders.state(), folders.run()].map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.into()));
    let managed = [folders.state().join("containerd"), folders.run().join("containerd")];
    for point in table.lines().filter_map(mount_point) {
        let below = |root: &PathBuf| point.starts_with(root) && point != *root;
        if !roots.iter().any(below) {
            continue;
        }
        let parts = point.iter().filter_map(|part| part.to_str());
        let of = parts.rev().find_map(|part| {
            let container = || ContainerUid::parse(part.strip_suffix(".json").unwrap_or(part)).map(Of::Container);
            SandboxId::parse(part).map(Of::Place).or_else(container)
        });
        let of = of.unwrap_or_else(|| match managed.iter().any(|folder| point.starts_with(folder)) {
            true => Of::Gardend,
            false => Of::Nobody,
        });
        found.see(Kind::Mount, shown(&point), of);
    }
}

/// Field 5 of proc_pid_mountinfo(5), its octal escapes undone.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut path = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        path.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok())?;
        path.push(code.into());
        rest = &after[3..];
    }
    path.push_str(rest);
    Some(path.into())
}

fn cgroups(found: &mut Found, mark: &OwnerMark) {
    let groups = Cgroups::of(mark.clone());
    let Some(own) = found.miss("cgroups", groups.folders()) else { return };
    for parent in own.parents {
        found.see(Kind::Cgroup, shown(&parent), Of::Gardend);
    }
    for (folder, name) in own.places {
        found.see(Kind::Cgroup, shown(&folder), SandboxId::parse(&name).map_or(Of::Nobody, Of::Place));
    }
}

fn names_in(found: &mut Found, folder: &Path) -> Vec<String> {
    let read = || -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    found.miss(&shown(folder), read()).unwrap_or_default()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_with_what_the_kernel_escapes() {
        let line = r"36 35 98:0 / /run/a\040b\134c rw,noatime shared:1 - ext4 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/run/a b\c")));
    }
}
