//! What the node has left: memory as the kernel reckons it, and the file systems of our folders.

use super::place::Folders;
use gardend_controller::ports::{Headroom, NodeError, NodeErrorKind, Room};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is left now. Asks beside the async threads: a disk may be a network's.
pub async fn left(folders: &Folders) -> Result<Headroom, NodeError> {
    let folders = folders.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let memory = memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        disks([folders.state(), folders.run()]).map(|disks| Headroom { memory, disks })
    });
    match asked.await {
        Ok(left) => left.map_err(|error| NodeError::new(NodeErrorKind::Failed, error.to_string())),
        Err(_) => Err(NodeError::new(NodeErrorKind::Unavailable, "gardend is shutting down")),
    }
}

/// The kernel's own reckoning of what can be had without swapping (`MemAvailable`).
fn memory(meminfo: &str) -> Option<Room> {
    let line = |name: &str| -> Option<u64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Room { free: line("MemAvailable:")?, total: line("MemTotal:")? })
}

/// Each file system once, without what is reserved for root.
fn disks<const N: usize>(folders: [&Path; N]) -> io::Result<Vec<(String, Room)>> {
    let (mut seen, mut disks) = (Vec::new(), Vec::new());
    for folder in folders {
        let failed = |error: io::Error| io::Error::other(format!("asking the disk of {}: {error}", folder.display()));
        let device = fs::metadata(folder).map_err(failed)?.dev();
        if seen.contains(&device) {
            continue;
        }
        seen.push(device);
        let disk = rustix::fs::statvfs(folder).map_err(|error| failed(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        let total = disk.f_blocks.saturating_sub(disk.f_bfree.saturating_sub(disk.f_bavail));
        disks.push((folder.display().to_string(), Room { free: bytes(disk.f_bavail), total: bytes(total) }));
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says_is_available() {
        let text = "MemTotal:        2048 kB\nMemFree:          10 kB\nMemAvailable:     1024 kB\n";
        assert_eq!(memory(text), Some(Room { free: 1 << 20, total: 2 << 20 }));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_file_system_is_named_once() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        let found = disks([folder.path(), &below]).unwrap();
        let [(name, room)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*name, folder.path().display().to_string());
        assert!(room.total >= room.free && room.total > 0);
    }
}
