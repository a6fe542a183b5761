//! How much of a disk a folder takes.
//!
//! Without quotas only a walk tells. It goes on beside whoever asks, one at a time; who asks waits
//! for a bounded time and otherwise gets what was found last. What is found is good for a while
//! that grows with what the walk took, so that walking never takes more than a small part of a
//! processor, however often somebody asks and however large a folder is.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// What is found is good for at least so long, and for so many times what it took to find.
const GOOD_FOR: Duration = Duration::from_secs(1);
const GOOD_FOR_TIMES: u32 = 30;
/// Folders within folders, at most; each takes a descriptor on the way down.
const MAX_DEPTH: usize = 256;

/// Bytes on the disk, and files of any kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Size {
    pub bytes: u64,
    pub inodes: u64,
}

/// Measures folders.
#[derive(Clone, Debug)]
pub struct Meter {
    found: Arc<Mutex<HashMap<PathBuf, Entry>>>,
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entry {
    size: watch::Sender<Option<Size>>,
    walking: bool,
    good_until: Instant,
    asked: Instant,
}

impl Default for Meter {
    fn default() -> Self {
        Self { found: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// A folder that nobody has asked about for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

impl Meter {
    /// What the folder takes; what it took when it was last measured, where it cannot be measured
    /// by `deadline`; nothing where it never was. A folder that is not there takes nothing.
    pub async fn size(&self, folder: &Path, deadline: Instant) -> Size {
        let mut size = self.ask(folder);
        // Cancel-safe: the walk goes on and is found by whoever asks next.
        let waited = tokio::time::timeout_at(deadline, size.changed_since_asked()).await;
        drop(waited);
        let known = *size.receiver.borrow();
        known.unwrap_or_default()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<PathBuf, Entry>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, folder: &Path) -> Asked {
        let now = Instant::now();
        let mut entries = self.entries();
        if !entries.contains_key(folder) {
            entries.retain(|_, entry| entry.walking || now.duration_since(entry.asked) < FORGOTTEN);
        }
        let entry = entries.entry(folder.to_owned()).or_insert_with(|| Entry {
            size: watch::Sender::new(None),
            walking: false,
            good_until: now,
            asked: now,
        });
        entry.asked = now;
        let receiver = entry.size.subscribe();
        let stale = entry.good_until <= now;
        if stale && !entry.walking {
            entry.walking = true;
            tokio::spawn(self.clone().walk(folder.to_owned()));
        }
        Asked { receiver, wait: stale }
    }

    async fn walk(self, folder: PathBuf) {
        // Never closed.
        let permit = self.turn.acquire().await;
        let began = Instant::now();
        let of = folder.clone();
        let walked = tokio::task::spawn_blocking(move || measure(&of)).await;
        drop(permit);
        let took = began.elapsed();
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&folder) else { return };
        entry.walking = false;
        entry.good_until = Instant::now() + GOOD_FOR.max(took * GOOD_FOR_TIMES);
        match walked {
            Ok(Ok(size)) => drop(entry.size.send_replace(Some(size))),
            Ok(Err(error)) => {
                tracing::debug!(%error, folder = %folder.display(), "a folder was not measured");
                let before = *entry.size.borrow();
                entry.size.send_replace(before);
            }
            Err(_) => {}
        }
    }
}

struct Asked {
    receiver: watch::Receiver<Option<Size>>,
    wait: bool,
}

impl Asked {
    async fn changed_since_asked(&mut self) {
        if self.wait {
            // It fails when the entry is gone; then there is nothing to wait for.
            let _ = self.receiver.changed().await;
        }
    }
}

/// Walks through a folder, never out of it nor onto another file system.
///
/// # Errors
/// Where the folder itself cannot be read. One that is not there takes nothing.
pub fn measure(folder: &Path) -> io::Result<Size> {
    let root = match rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(root) => root,
        Err(rustix::io::Errno::NOENT) => return Ok(Size::default()),
        Err(error) => return Err(error.into()),
    };
    let seen = fstat(&root)?;
    let mut walk = Walk { device: seen.st_dev, size: Size::default(), linked: HashSet::new() };
    walk.count(seen.st_blocks);
    walk.descend(root.as_fd(), c".", 0);
    Ok(walk.size)
}

struct Walk {
    device: u64,
    size: Size,
    /// Files of several names, counted once.
    linked: HashSet<u64>,
}

impl Walk {
    #[allow(clippy::unnecessary_cast, reason = "not every architecture has it as the same type")]
    fn count(&mut self, blocks: impl Into<i64>) {
        self.size.inodes += 1;
        // In units of 512 bytes, whatever the file system's own.
        self.size.bytes += u64::try_from(blocks.into()).unwrap_or(0) * 512;
    }

    /// What vanishes or cannot be read meanwhile is passed over.
    fn descend(&mut self, parent: std::os::fd::BorrowedFd<'_>, name: &CStr, depth: usize) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(folder) = openat(parent, name, flags, Mode::empty()) else { return };
        let Ok(entries) = Dir::read_from(&folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entry(&folder, name, depth);
            }
        }
    }

    fn entry(&mut self, folder: &OwnedFd, name: &CStr, depth: usize) {
        let Ok(seen) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        if seen.st_dev != self.device {
            return;
        }
        let is_folder = FileType::from_raw_mode(seen.st_mode) == FileType::Directory;
        if !is_folder && seen.st_nlink > 1 && !self.linked.insert(seen.st_ino) {
            return;
        }
        self.count(seen.st_blocks);
        if is_folder && depth < MAX_DEPTH {
            self.descend(folder.as_fd(), name, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        fs::write(folder.path().join("d/file"), vec![1; 1 << 20]).unwrap();
        folder
    }

    #[test]
    fn files_count_once_links_by_themselves_and_nothing_outside() {
        let folder = tree();
        let before = measure(folder.path()).unwrap();
        assert_eq!(before.inodes, 3);
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&before.bytes), "{before:?}");
        fs::hard_link(folder.path().join("d/file"), folder.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("out")).unwrap();
        let after = measure(folder.path()).unwrap();
        assert_eq!(after.inodes, 4);
        assert_eq!(measure(&folder.path().join("missing")).unwrap(), Size::default());
    }

    #[tokio::test]
    async fn what_is_found_is_told_again_until_it_is_old() {
        let folder = tree();
        let meter = Meter::default();
        let ask = || meter.size(folder.path(), Instant::now() + Duration::from_secs(10));
        let first = ask().await;
        assert_eq!(first, measure(folder.path()).unwrap());
        fs::write(folder.path().join("more"), "x").unwrap();
        assert_eq!(ask().await, first);
        tokio::time::pause();
        tokio::time::advance(GOOD_FOR * 2).await;
        tokio::time::resume();
        assert_eq!(ask().await.inodes, 4);
    }

    #[tokio::test]
    async fn who_cannot_wait_gets_what_is_known() {
        let folder = tree();
        let meter = Meter::default();
        let held = meter.turn.clone().acquire_owned().await.unwrap();
        assert_eq!(meter.size(folder.path(), Instant::now()).await, Size::default());
        drop(held);
        let known = meter.size(folder.path(), Instant::now() + Duration::from_secs(10)).await;
        assert_eq!(known.inodes, 3);
    }
}
