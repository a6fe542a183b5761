//! The host's devices, for privileged places.

use super::oci::Device;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Made in every place by the runtime itself, or of the place's own mounts.
const NOT_TAKEN: [&str; 13] =
    ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd", "core"];
/// Folders below folders below /dev (`/dev/bus/usb/001`) hold the deepest ones.
const MAX_DEPTH: usize = 4;

/// Every device node below `dev`, but those that the runtime makes anyway.
///
/// # Errors
/// Where the folder cannot be read. A node that goes meanwhile is left out.
pub(super) fn of_host(dev: &Path) -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir(dev)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_none_or(|name| name.starts_with('.') || NOT_TAKEN.contains(&name)) {
            collect(&entry.path(), 0, &mut devices);
        }
    }
    devices.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(devices)
}

fn collect(path: &Path, depth: usize, into: &mut Vec<Device>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let kind = metadata.file_type();
    if kind.is_dir() && depth < MAX_DEPTH {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| collect(&entry.path(), depth + 1, into));
    }
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => "c",
        (_, true) => "b",
        _ => return,
    };
    let Some(path) = path.to_str() else { return };
    into.push(Device {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        file_mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_also_in_folders_and_what_the_runtime_makes_is_not() {
        let devices = of_host(Path::new("/dev")).unwrap();
        assert!(devices.iter().all(|device| !["/dev/null", "/dev/tty"].contains(&device.path.as_str())));
        assert!(devices.iter().all(|device| !device.path.starts_with("/dev/pts/")));
        assert!(devices.iter().any(|device| device.path == "/dev/kmsg" && device.kind == "c" && device.major == 1));
    }
}
