//! What the machine has, for the capacity call.

use std::io;
use std::path::PathBuf;

/// What the machine has for containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Memory in all.
    pub memory_bytes: u64,
    /// Size of the file system that containers write to.
    pub disk_bytes: u64,
    /// What of it can be used, without what is reserved for root.
    pub schedulable_disk_bytes: u64,
}

/// Where [`Facts`] come from. May block for a moment; called off the async threads.
pub trait FactSource: Send + Sync + 'static {
    /// What the machine has now.
    ///
    /// # Errors
    /// Where the machine does not say; the text names what was asked.
    fn facts(&self) -> io::Result<Facts>;
}

/// The machine that we run on: memory from /proc/meminfo, disk of the file system that holds a
/// folder.
#[derive(Clone, Debug)]
pub struct Machine {
    folder: PathBuf,
}

impl Machine {
    /// Containers write beneath `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl FactSource for Machine {
    fn facts(&self) -> io::Result<Facts> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")
            .map_err(|error| io::Error::other(format!("/proc/meminfo cannot be read: {error}")))?;
        let memory_bytes =
            total_memory(&meminfo).ok_or_else(|| io::Error::other("/proc/meminfo has no line MemTotal in kB"))?;
        let disk = rustix::fs::statvfs(&self.folder)
            .map_err(|error| io::Error::other(format!("statvfs of {}: {error}", self.folder.display())))?;
        let reserved = disk.f_bfree.saturating_sub(disk.f_bavail);
        Ok(Facts {
            memory_bytes,
            disk_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            schedulable_disk_bytes: disk.f_blocks.saturating_sub(reserved).saturating_mul(disk.f_frsize),
        })
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_disk() {
        let facts = Machine::new("/").facts().unwrap();
        assert!(facts.memory_bytes > 1 << 20);
        assert!(facts.disk_bytes >= facts.schedulable_disk_bytes && facts.schedulable_disk_bytes > 0);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = Machine::new("/no/such/folder").facts().unwrap_err().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }

    #[test]
    fn total_memory_is_in_bytes_or_not_there() {
        assert_eq!(total_memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert_eq!(total_memory("MemTotal: x kB"), None);
    }
}
