//! Being told that a group wants memory that it may not have.
//!
//! It only says when to look: who was killed is counted by the kernel ([`super::usage::oom_kills`]).
//! On v1 the kernel tells before it has chosen whom to kill, on v2 after.

use super::{Controller, Place, Version, sys, write};
use rustix::event::{EventfdFlags, eventfd};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A group that is watched. Holds one or two descriptors.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    folder: PathBuf,
}

#[derive(Debug)]
enum Source {
    /// v1: the kernel counts it up.
    Event(AsyncFd<OwnedFd>),
    /// v2: ready when its figures have changed.
    File(AsyncFd<OwnedFd>),
}

impl Watch {
    /// Watches a group that may have a limit of memory; `None` where it is not there.
    ///
    /// # Errors
    /// The kernel's; too many open files, most often.
    pub fn begin(of: &Place<'_>) -> io::Result<Option<Self>> {
        let Some(group) = of.existing(Controller::Memory) else { return Ok(None) };
        let source = match group.version {
            Version::V1 => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let control = File::open(group.folder.join("memory.oom_control"))?;
                let pair = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
                write(&group.folder, "cgroup.event_control", &pair)?;
                Source::Event(sys::watched(event, Interest::READABLE)?)
            }
            Version::V2 => Source::File(watched_file(&group.folder.join("memory.events"))?),
        };
        Ok(Some(Self { source, folder: group.folder }))
    }

    /// Waits until there is a reason to look; false once the group is gone. Cancel-safe.
    pub async fn next(&self) -> bool {
        let told = match &self.source {
            Source::Event(event) => counted(event).await,
            Source::File(file) => changed(file).await,
        };
        // The end of a group is told in the same way.
        told.is_ok() && self.folder.is_dir()
    }
}

fn watched_file(path: &std::path::Path) -> io::Result<AsyncFd<OwnedFd>> {
    let file = File::open(path)?;
    read_again(file.as_fd())?;
    sys::watched(file.into(), Interest::PRIORITY)
}

async fn counted(event: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = event.readable().await?;
        let mut count = [0; 8];
        match rustix::io::read(event, &mut count) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn changed(file: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = file.ready(Interest::PRIORITY).await?;
    // Before it is read: what changes after that is told again.
    ready.clear_ready();
    read_again(file.as_fd())
}

/// The kernel tells of changes since it was read last.
fn read_again(file: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [0; 512];
    rustix::io::pread(file, &mut buffer, 0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cgroup::Layout;
    use std::time::Duration;

    /// A group of this test's own in a hierarchy of this machine; gone with it.
    struct Own(PathBuf);

    impl Own {
        /// `None` where this process may not make groups there.
        fn make(mount: &std::path::Path) -> Option<Self> {
            let folder = mount.join(format!("gardend-test-{}-{:p}", std::process::id(), &mount));
            std::fs::create_dir(&folder).ok().map(|()| Self(folder))
        }
    }

    impl Drop for Own {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[tokio::test]
    async fn files_of_v2_tell_of_their_changes() {
        let Some((mount, _)) = Layout::of_machine().unwrap().v2 else {
            eprintln!("skipped: this machine has no cgroup2");
            return;
        };
        let Some(group) = Own::make(&mount) else {
            eprintln!("skipped: no group can be made in {}", mount.display());
            return;
        };
        // The memory controller may be on v1 here; every file that tells does so in one way.
        let file = watched_file(&group.0.join("cgroup.events")).unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(50), changed(&file)).await;
        assert!(nothing.is_err(), "it tells before anything has changed");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        super::super::join(child.id(), std::slice::from_ref(&group.0)).unwrap();
        tokio::time::timeout(Duration::from_secs(10), changed(&file)).await.expect("it tells").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        tokio::time::timeout(Duration::from_secs(10), changed(&file)).await.expect("it tells again").unwrap();
    }
}
