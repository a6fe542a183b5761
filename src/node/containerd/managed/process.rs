//! A managed containerd as a process: found, started, ended.

use super::super::pidfd;
use super::super::sys;
use super::Places;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long it may take to end when it is asked to, before it is killed.
const ENDS: Duration = Duration::from_secs(10);

/// A containerd of ours that was running when this was made.
pub(super) struct Process {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// It is our child, and so ours to reap.
    child: Option<Child>,
}

impl Process {
    /// The one that an earlier gardend noted down, if it runs. Told by its command line: it names
    /// our configuration file.
    pub fn find(places: &Places) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(&places.pid_file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let ours = runs_with(pid, &places.config) && !pidfd::has_ended(&pidfd)?;
        Ok(ours.then_some(Self { pid, pidfd, child: None }))
    }

    /// Starts one, detached from us, its output in the log.
    pub fn start(binary: &Path, places: &Places) -> io::Result<Self> {
        let log = super::logs::writer(&places.log)?;
        // A stale one would look like one that is about to listen.
        match fs::remove_file(&places.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut command = Command::new(binary);
        command.arg("--config").arg(&places.config).current_dir("/");
        command.env("PATH", path_with(binary)?);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let groups = places.group.as_deref().map(super::open_to_join).transpose()?;
        sys::detach(&mut command, File::create(&places.pid_file)?, groups.unwrap_or_default());
        let child = command.spawn()?;
        let pid = child.id();
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("odd pid"))?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd, child: Some(child) })
    }

    /// Returns when it has ended. Cancel-safe: it only looks.
    pub async fn ended(&self) -> io::Result<()> {
        pidfd::ended(&self.pidfd).await
    }

    /// Ends it: asks, waits, kills. Containers and shims go on.
    pub async fn end(mut self) -> io::Result<()> {
        send(&self.pidfd, Signal::TERM)?;
        if tokio::time::timeout(ENDS, self.ended()).await.is_err() {
            tracing::warn!(pid = self.pid, "containerd does not end; killing it");
            self.kill().await?;
        }
        self.reap();
        Ok(())
    }

    /// Ends it at once.
    pub async fn kill(&mut self) -> io::Result<()> {
        send(&self.pidfd, Signal::KILL)?;
        tokio::time::timeout(ENDS, self.ended()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.reap();
        Ok(())
    }

    /// Takes its exit status, where it has ended and is our child: "exit status: 1".
    pub fn reap(&mut self) -> Option<String> {
        self.child.take().and_then(|mut child| child.wait().ok()).map(|status| status.to_string())
    }
}

fn send(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn runs_with(pid: u32, config: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command_line.split(|&byte| byte == 0).any(|argument| argument == config.as_os_str().as_bytes())
}

/// Our PATH, before it the folder of containerd, where its shim is looked for first.
fn path_with(binary: &Path) -> io::Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let own = binary.parent().filter(|folder| folder.is_absolute()).map(Path::to_owned);
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&path))).map_err(io::Error::other)
}
