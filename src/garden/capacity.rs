//! What the machine has, for the capacity call.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

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

    /// What one share of the processors is worth, in parts of a processor: as if the shares of all
    /// containers were the machine's memory in MiB. Does not block, and does not change.
    fn cpu_share(&self) -> f64;
}

/// The machine that we run on: memory from /proc/meminfo, or what containers together may have of
/// it; disk of the file system that holds a folder.
#[derive(Clone)]
pub struct Machine {
    folder: PathBuf,
    memory_limit: Arc<dyn Fn() -> Option<u64> + Send + Sync>,
    cpu_share: f64,
}

impl Machine {
    /// Containers write beneath `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text)).unwrap_or(0);
        Self { folder: folder.into(), memory_limit: Arc::new(|| None), cpu_share: share(processors, memory) }
    }

    /// `limit` tells how much memory all containers together may have, in bytes; asked each time,
    /// since who runs the machine may change it.
    #[must_use]
    pub fn with_memory_limit(self, limit: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Self {
        Self { memory_limit: Arc::new(limit), ..self }
    }
}

impl FactSource for Machine {
    fn facts(&self) -> io::Result<Facts> {
        let meminfo = fs::read_to_string("/proc/meminfo")
            .map_err(|error| io::Error::other(format!("/proc/meminfo cannot be read: {error}")))?;
        let memory_bytes =
            total_memory(&meminfo).ok_or_else(|| io::Error::other("/proc/meminfo has no line MemTotal in kB"))?;
        let disk = rustix::fs::statvfs(&self.folder)
            .map_err(|error| io::Error::other(format!("statvfs of {}: {error}", self.folder.display())))?;
        let reserved = disk.f_bfree.saturating_sub(disk.f_bavail);
        Ok(Facts {
            memory_bytes: (self.memory_limit)().map_or(memory_bytes, |limit| limit.min(memory_bytes)),
            disk_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            schedulable_disk_bytes: disk.f_blocks.saturating_sub(reserved).saturating_mul(disk.f_frsize),
        })
    }

    fn cpu_share(&self) -> f64 {
        self.cpu_share
    }
}

/// As if the shares of all containers came to the machine's memory in MiB, which is how Cloud
/// Foundry gives them.
fn share(processors: usize, memory_bytes: u64) -> f64 {
    processors as f64 / (memory_bytes >> 20).max(1) as f64
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
    fn what_containers_together_may_have_is_what_there_is() {
        let limited = Machine::new("/").with_memory_limit(|| Some(1 << 20));
        assert_eq!(limited.facts().unwrap().memory_bytes, 1 << 20);
        let generous = Machine::new("/").with_memory_limit(|| Some(u64::MAX));
        assert_eq!(generous.facts().unwrap(), Machine::new("/").facts().unwrap());
        assert!((share(2, 4096 << 20) - 2.0 / 4096.0).abs() < f64::EPSILON);
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
