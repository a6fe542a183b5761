//! A containerd of our own: started, watched, and left running when gardend ends.
//!
//! For: nodes where no containerd is there to be used. It has its own configuration, root, state
//! and socket below our folders, runs in a session of its own, and is started again, with growing
//! pauses, when it dies. Where gardend is in a pod, that is outside of the pod's cgroup, by programs
//! that were copied to the host ([`settle`]). Its containers and shims outlive it, and it outlives us: the next gardend
//! finds it by its pid file and command line and goes on watching it; it is never started twice
//! (a lock holds off a second gardend, and the pid is noted down before the exec).
//!
//! ```text
//! found, answers ------------------> running --- ended ---> pause, then started
//! found, does not answer: killed,       ^                       |
//! or not found: started ----------------+-----------------------+
//! ```
//!
//! Leaves to others: whether it is healthy in any other sense than answering.

mod config;
mod install;
mod logs;
mod process;

pub use install::settle;

use super::cgroups::{TOP, open_to_join, remove_joined};
use super::connection::Connection;
use super::labels::OwnerMark;
use super::listening::{self, Expected};
use super::{NAMESPACE, searchable};
use crate::node::place::Folders;
use crate::own;
use process::Process;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From its start until it answers. It may have to open a large database first.
const STARTS: Duration = Duration::from_secs(30);
/// How long one that was left running may take to answer before it is taken for hung.
const ANSWERS: Duration = Duration::from_secs(10);
/// The pause before the first new start, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that ran for this long has started well: pauses begin anew.
const WELL: Duration = Duration::from_secs(60);
/// As in unix(7), with the NUL, less what containerd appends for its other socket.
const LONGEST_SOCKET: usize = 107 - ".ttrpc".len();

/// Why a managed containerd does not run.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// A folder or a file of it cannot be used.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// Another gardend has these folders.
    #[error("another gardend runs a containerd in {}; give this one a --run-dir of its own", .0.display())]
    Taken(PathBuf),
    /// The program is missing or cannot be run.
    #[error("cannot run {}: {source}; install containerd, or name it with --containerd-binary", binary.display())]
    Program {
        /// The program.
        binary: PathBuf,
        /// errno.
        source: io::Error,
    },
    /// It does not answer.
    #[error("{} was started but {reason}; its last words ({}): {words}", binary.display(), log.display())]
    DoesNotAnswer {
        /// The program.
        binary: PathBuf,
        /// What was seen.
        reason: String,
        /// Where its log is.
        log: PathBuf,
        /// The log's last lines.
        words: String,
    },
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ManagedError {
    let path = path.to_owned();
    move |source| ManagedError::File { doing, path, source }
}

/// Where a managed containerd's files are.
#[derive(Clone, Debug)]
struct Places {
    root: PathBuf,
    state: PathBuf,
    socket: PathBuf,
    config: PathBuf,
    pid_file: PathBuf,
    lock: PathBuf,
    log: PathBuf,
    /// Its cgroup below those of all hierarchies, where ours is a pod's.
    group: Option<PathBuf>,
}

/// The socket's name in its folder.
const SOCKET: &str = "containerd.sock";

impl Places {
    fn new(folders: &Folders) -> Self {
        let (root, state) = (folders.state().join("containerd"), folders.run().join("containerd"));
        Self {
            socket: state.join(SOCKET),
            config: state.join("config.toml"),
            pid_file: state.join("containerd.pid"),
            lock: state.join("lock"),
            log: root.join("containerd.log"),
            root,
            state,
            group: None,
        }
    }

    /// The same, with a group that is not the pod's.
    fn apart_from_pod(self, folders: &Folders) -> io::Result<Self> {
        if !own::is_away()? {
            return Ok(self);
        }
        let owner = OwnerMark::of(folders.state(), folders.run())?;
        Ok(Self { group: Some(Path::new(TOP).join(format!("containerd-{owner}"))), ..self })
    }
}

/// Where the managed containerd of these folders listens, while it runs.
pub fn socket_of(folders: &Folders) -> PathBuf {
    Places::new(folders).socket
}

/// A managed containerd that answers. Dropped, it goes on without us.
#[derive(Debug)]
pub struct Managed {
    places: Places,
    pid: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    logs: JoinHandle<()>,
}

impl Managed {
    /// Finds the containerd that an earlier gardend left running, or starts one, and returns when
    /// it answers.
    ///
    /// # Errors
    /// Where it cannot be started or does not answer, with its last words.
    pub async fn start(binary: &Path, folders: &Folders) -> Result<Self, ManagedError> {
        let places = Places::new(folders);
        for folder in [folders.state(), folders.run(), &places.root, &places.state] {
            searchable(folder).map_err(file("cannot make", folder))?;
        }
        let places = places.apart_from_pod(folders).map_err(file("cannot look at", folders.state()))?;
        if places.socket.as_os_str().len() > LONGEST_SOCKET {
            let reason = io::Error::other(format!(
                "a socket's path has at most {LONGEST_SOCKET} bytes; choose a shorter --run-dir"
            ));
            return Err(file("cannot listen on", &places.socket)(reason));
        }
        let lock = lock(&places)?;
        write_config(&places)?;
        drop(logs::writer(&places.log).map_err(file("cannot write", &places.log))?);
        let tail = logs::Tail::new(&places.log).map_err(file("cannot read", &places.log))?;
        let logs = tokio::spawn(tail.run());
        let process = match first_process(binary, &places).await {
            Ok(process) => process,
            Err(error) => {
                logs.abort();
                return Err(error);
            }
        };
        let (tell_pid, pid) = watch::channel(Some(process.pid));
        let stop = CancellationToken::new();
        let supervisor =
            Supervisor { binary: binary.to_owned(), places: places.clone(), tell_pid, stop: stop.clone(), _lock: lock };
        Ok(Self { places, pid, stop, supervisor: tokio::spawn(supervisor.run(process)), logs })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.places.socket
    }

    /// Its process just now; `None` while it is dead.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Changes whenever [`Managed::pid`] does.
    pub fn watch_pid(&self) -> watch::Receiver<Option<u32>> {
        self.pid.clone()
    }

    /// Ends containerd. Containers and their shims go on; a later containerd finds them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // It ends by itself within containerd's own deadlines.
        let _ = (&mut self.supervisor).await;
        if let Some(group) = &self.places.group
            && let Err(error) = remove_joined(group)
        {
            tracing::info!(%error, "the managed containerd's cgroup stays: shims of containers are in it");
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.supervisor.abort();
        self.logs.abort();
    }
}

struct Supervisor {
    binary: PathBuf,
    places: Places,
    tell_pid: watch::Sender<Option<u32>>,
    stop: CancellationToken,
    /// Held for as long as somebody watches.
    _lock: File,
}

impl Supervisor {
    async fn run(self, mut process: Process) {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            // Cancel-safe, both: they only look.
            tokio::select! {
                () = self.stop.cancelled() => {
                    if let Err(error) = process.end().await {
                        tracing::error!(%error, "containerd could not be ended");
                    }
                    return;
                }
                ended = process.ended() => if let Err(error) = ended {
                    tracing::error!(%error, "containerd can no longer be watched; it goes on by itself");
                    return;
                },
            }
            self.tell_pid.send_replace(None);
            let how = process.reap().unwrap_or_else(|| "it was not our child".into());
            pause = if since.elapsed() >= WELL { FIRST_PAUSE } else { pause };
            tracing::warn!(
                pid = process.pid,
                how,
                pause_ms = pause.as_millis(),
                "containerd has died; starting it again"
            );
            process = loop {
                // Cancel-safe, both: nothing is under way.
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match Process::start(&self.binary, &self.places) {
                    Ok(process) => break process,
                    Err(error) => {
                        tracing::error!(%error, binary = %self.binary.display(), "containerd cannot be started")
                    }
                }
            };
            self.tell_pid.send_replace(Some(process.pid));
        }
    }
}

async fn first_process(binary: &Path, places: &Places) -> Result<Process, ManagedError> {
    if let Some(mut process) = Process::find(places).map_err(file("cannot look for", &places.pid_file))? {
        match answers(&process, places, ANSWERS).await {
            Ok(version) => {
                tracing::info!(pid = process.pid, version, "found containerd running");
                return Ok(process);
            }
            Err(reason) => {
                tracing::warn!(
                    pid = process.pid,
                    reason,
                    "containerd was left running but does not answer; killing it"
                );
                process.kill().await.map_err(file("cannot kill the containerd of", &places.pid_file))?;
            }
        }
    }
    let started = Process::start(binary, places);
    let mut process = started.map_err(|source| ManagedError::Program { binary: binary.to_owned(), source })?;
    match answers(&process, places, STARTS).await {
        Ok(version) => {
            tracing::info!(pid = process.pid, version, "started containerd");
            Ok(process)
        }
        Err(reason) => {
            // It is of no use, and the next attempt must not find it in its way.
            if let Err(error) = process.kill().await {
                tracing::warn!(%error, pid = process.pid, "a containerd that does not answer could not be killed");
            }
            let (binary, log, words) = (binary.to_owned(), places.log.clone(), logs::last_lines(&places.log));
            Err(ManagedError::DoesNotAnswer { binary, reason, log, words })
        }
    }
}

async fn answers(process: &Process, places: &Places, deadline: Duration) -> Result<String, String> {
    let expected = Expected { folder: &places.state, name: SOCKET, kind: rustix::net::SocketType::STREAM };
    listening::wait(expected, &process.pidfd, deadline).await.map_err(|error| error.to_string())?;
    Connection::lazy(&places.socket, NAMESPACE).version().await.map_err(|error| error.to_string())
}

fn lock(places: &Places) -> Result<File, ManagedError> {
    let lock = File::create(&places.lock).map_err(file("cannot make", &places.lock))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ManagedError::Taken(places.state.clone())),
        Err(error) => Err(file("cannot lock", &places.lock)(error.into())),
    }
}

fn write_config(places: &Places) -> Result<(), ManagedError> {
    let write = || {
        let paths = config::Paths { root: &places.root, state: &places.state, socket: &places.socket };
        let temporary = places.config.with_extension("toml.new");
        fs::write(&temporary, config::text(&paths)?)?;
        fs::rename(temporary, &places.config)
    };
    write().map_err(file("cannot write", &places.config))
}
