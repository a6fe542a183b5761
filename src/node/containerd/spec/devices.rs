//! The host's devices: all of them for privileged places, those that an operator names for the others.

use super::allowed_device::AllowedDevice;
use super::oci::{Device, DeviceRule};
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
    if metadata.is_dir() && depth < MAX_DEPTH {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| collect(&entry.path(), depth + 1, into));
    }
    into.extend(path.to_str().and_then(|path| described(path, &metadata)));
}

fn described(path: &str, metadata: &fs::Metadata) -> Option<Device> {
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => 'c',
        (_, true) => 'b',
        _ => return None,
    };
    Some(Device {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        file_mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// What is wrong with a device that containers are to use: they are others there than its owner.
pub(super) fn fault(path: &str, access: &str) -> Option<String> {
    let node = fs::metadata(path).ok().and_then(|metadata| described(path, &metadata));
    let Some(node) = node else { return Some(format!("{path} is not there, or no device: containers do without it")) };
    let needed = access.chars().map(|letter| match letter {
        'r' => 0o4,
        'w' => 0o2,
        _ => 0,
    });
    let needed = needed.fold(0, |all, bit| all | bit);
    let mode = node.file_mode;
    (mode & needed != needed).then(|| {
        format!("{path} has mode {mode:04o}: in a user namespace nobody is its owner; let others open it (chmod o+rw)")
    })
}

/// The nodes and rules of what an operator allows. A node that is not there (yet) is left out: a
/// machine without it makes containers all the same.
pub(super) fn allowed(devices: &[AllowedDevice]) -> (Vec<Device>, Vec<DeviceRule>) {
    let (mut nodes, mut rules) = (Vec::new(), Vec::new());
    for device in devices {
        match device {
            AllowedDevice::Rule { kind, major, minor, access } => rules.push(DeviceRule {
                allow: true,
                kind: Some(*kind),
                major: *major,
                minor: *minor,
                access: access.clone(),
            }),
            AllowedDevice::Node { path, access } => {
                let Some(node) = fs::metadata(path).ok().and_then(|metadata| described(path, &metadata)) else {
                    continue;
                };
                rules.push(DeviceRule {
                    allow: true,
                    kind: Some(node.kind),
                    major: Some(node.major),
                    minor: Some(node.minor),
                    access: access.clone(),
                });
                nodes.push(node);
            }
        }
    }
    (nodes, rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_also_in_folders_and_what_the_runtime_makes_is_not() {
        let devices = of_host(Path::new("/dev")).unwrap();
        assert!(devices.iter().all(|device| !["/dev/null", "/dev/tty"].contains(&device.path.as_str())));
        assert!(devices.iter().all(|device| !device.path.starts_with("/dev/pts/")));
        assert!(devices.iter().any(|device| device.path == "/dev/kmsg" && device.kind == 'c' && device.major == 1));
    }

    #[test]
    fn what_an_operator_allows_is_a_node_with_a_rule_or_a_rule_alone() {
        let devices = ["/dev/null:r", "/dev/not/there", "/dev/shm", "b 7:* rwm"].map(|device| device.parse().unwrap());
        let (nodes, rules) = allowed(&devices);
        assert_eq!(nodes.iter().map(|node| node.path.as_str()).collect::<Vec<_>>(), ["/dev/null"]);
        assert_eq!(
            serde_json::to_value(rules).unwrap(),
            serde_json::json!([
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
                {"allow": true, "type": "b", "major": 7, "access": "rwm"},
            ])
        );
    }

    #[test]
    fn a_device_that_containers_cannot_open_is_told() {
        assert_eq!(fault("/dev/null", "rwm"), None);
        assert!(fault("/dev/not/there", "r").unwrap().contains("is not there"));
        assert!(fault("/dev/shm", "r").unwrap().contains("no device"));
        let closed = fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            let found = fs::symlink_metadata(path).unwrap();
            found.file_type().is_char_device() && found.mode() & 0o7 == 0
        });
        if let Some(closed) = closed {
            assert!(fault(closed.to_str().unwrap(), "r").unwrap().contains("let others open it"), "{closed:?}");
        }
    }
}
