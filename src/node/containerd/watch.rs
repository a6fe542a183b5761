//! Being told by the kernel that a file or a folder has changed.

use super::sys;
use rustix::fs::inotify;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// A watch on one path. What changed it does not tell: look.
pub(super) struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Entries that appear in a folder.
    pub fn entries(folder: &Path) -> io::Result<Self> {
        Self::new(folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)
    }

    /// Bytes that are written to a file.
    pub fn content(file: &Path) -> io::Result<Self> {
        Self::new(file, inotify::WatchFlags::MODIFY)
    }

    fn new(path: &Path, what: inotify::WatchFlags) -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, path, what)?;
        Ok(Self { events: sys::watched(events)? })
    }

    /// Returns when something has changed since it last returned, or since the watch was made.
    /// Cancel-safe: events are taken only right before it returns.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut ready = self.events.readable().await?;
            let mut any = false;
            while rustix::io::read(self.events.get_ref(), &mut buffer).is_ok_and(|bytes| bytes > 0) {
                any = true;
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}
