//! One call of one plugin: its program with an environment of its own, the configuration on its stdin,
//! JSON on its stdout. It has a deadline; at it, its process group is killed.
//!
//! What a plugin and its helpers write to stderr goes to a file that is locked (`Turn`). The lock goes
//! with the descriptor, which they all inherit: who has the lock knows that nothing is left of an earlier
//! gardend's call, and finds and ends what is, before it undoes what that did.

use super::config::Plugin;
use crate::node::program::{self, Heard, Outcome};
use serde::Deserialize;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// What a plugin may answer, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;
/// What is told of its stderr, in bytes.
const SHOWN: usize = 500;
/// How long what an earlier gardend started may take to end when it is killed.
const ENDING: Duration = Duration::from_secs(5);

/// What a plugin shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Version,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }
}

/// Why a plugin did not do it.
#[derive(Debug, thiserror::Error)]
#[error("plugin {plugin}: {verb}: {reason}", verb = verb.as_str())]
pub struct PluginError {
    plugin: String,
    verb: Verb,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("there is no such program in {0}; install it, or name its folder with --cni-bin-dir")]
    Missing(String),
    #[error("cannot be started: {0}")]
    Start(io::Error),
    #[error("{message} (code {code}){}", if details.is_empty() { String::new() } else { format!(": {details}") })]
    Said { code: i64, message: String, details: String },
    #[error("its answer is no JSON as CNI has it: {0}")]
    Garbage(String),
    #[error("its answer is longer than {LONGEST_ANSWER} bytes")]
    Long,
    #[error("it ended with {0}")]
    Ended(String),
    #[error("it was not done within {} s, and was killed", .0.as_secs_f32())]
    Late(Duration),
}

/// Where programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub folders: Vec<PathBuf>,
}

impl Programs {
    pub fn find(&self, kind: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(kind)).find(|path| path.is_file())
    }

    /// CNI_PATH.
    fn path(&self) -> OsString {
        // A folder with a colon in its name is found by us, and not by plugins.
        std::env::join_paths(&self.folders).unwrap_or_default()
    }
}

/// What a call is about: CNI_CONTAINERID and the like.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub container: String,
    /// Empty: it is gone.
    pub netns: OsString,
    pub interface: &'static str,
    pub args: String,
}

/// See the module.
pub(super) struct Turn {
    log: File,
}

impl Turn {
    /// Ends what an earlier gardend's call has left. It blocks.
    ///
    /// # Errors
    /// Where the file cannot be had, or what holds it does not end.
    pub fn take(path: &Path) -> io::Result<Self> {
        let log = File::options().read(true).append(true).create(true).truncate(false).open(path)?;
        let deadline = Instant::now() + ENDING;
        while rustix::fs::flock(&log, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            end_holders(&log, path, deadline)?;
        }
        Ok(Self { log })
    }

    fn stderr(&self) -> io::Result<OwnedFd> {
        self.log.set_len(0)?;
        Ok(self.log.try_clone()?.into())
    }

    /// The last of what was written.
    fn said(&self) -> String {
        let mut log = &self.log;
        let mut bytes = Vec::new();
        let from = self.log.metadata().map_or(0, |meta| meta.len().saturating_sub(SHOWN as u64));
        // It is only to explain.
        let _ = log.seek(SeekFrom::Start(from)).and_then(|_| log.take(SHOWN as u64).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

/// Kills who has this file open, and waits for their ends.
fn end_holders(log: &File, path: &Path, deadline: Instant) -> io::Result<()> {
    let stuck =
        |what: &str| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} is held: {what}", path.display())));
    let own = log.metadata()?;
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { continue };
        let holds = || has_open(&entry.path(), &own);
        if pid == rustix::process::getpid() || !holds() {
            continue;
        }
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { continue };
        // Once more: the pid may have become another's.
        if !holds() {
            continue;
        }
        tracing::warn!(pid = pid.as_raw_nonzero().get(), file = %path.display(), "what an earlier gardend left of a plugin is killed");
        let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        killed += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        let left =
            rustix::event::Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut wait = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut wait, Some(&left)))? == 0 {
            return stuck(&format!("pid {} does not end", pid.as_raw_nonzero()));
        }
    }
    if killed == 0 && Instant::now() > deadline {
        return stuck("by whom cannot be told");
    }
    std::thread::yield_now();
    Ok(())
}

/// Whether a process has this file open, by whatever name.
fn has_open(process: &Path, file: &Metadata) -> bool {
    let same = |seen: Metadata| (seen.dev(), seen.ino()) == (file.dev(), file.ino());
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    // What is closed meanwhile is not open.
    open.into_iter().any(|entry| std::fs::metadata(entry.path()).is_ok_and(same))
}

/// What a plugin is asked.
pub(super) struct Call<'a> {
    pub(super) plugin: &'a Plugin,
    pub(super) verb: Verb,
    pub(super) subject: Subject,
    pub(super) stdin: Value,
    pub(super) deadline: Duration,
}

/// Calls a plugin; what it answered, `Null` for nothing.
pub(super) async fn call(programs: &Programs, call: &Call<'_>, turn: &Turn) -> Result<Value, PluginError> {
    let called = run(programs, call, turn).await;
    called.map_err(|reason| PluginError { plugin: call.plugin.kind.clone(), verb: call.verb, reason })
}

async fn run(programs: &Programs, call: &Call<'_>, turn: &Turn) -> Result<Value, Reason> {
    let Call { plugin, verb, subject, stdin, deadline } = call;
    let (verb, deadline) = (*verb, *deadline);
    let missing = || {
        let folders = programs.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
        Reason::Missing(folders.join(", "))
    };
    let program = programs.find(&plugin.kind).ok_or_else(missing)?;
    let mut command = Command::new(program);
    command.env_clear().env("CNI_COMMAND", verb.as_str()).env("CNI_PATH", programs.path());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    if verb != Verb::Gc {
        command
            .env("CNI_CONTAINERID", &subject.container)
            .env("CNI_NETNS", &subject.netns)
            .env("CNI_IFNAME", subject.interface)
            .env("CNI_ARGS", &subject.args);
    }
    command.current_dir("/").stderr(turn.stderr().map_err(Reason::Start)?);
    let input = stdin.to_string().into_bytes();
    let done =
        program::run(&mut command, input, Heard::Answer(LONGEST_ANSWER), deadline).await.map_err(Reason::Start)?;
    let (status, answer) = match done {
        Outcome::Ended(status, answer) => (status, answer),
        Outcome::Late => return Err(Reason::Late(deadline)),
        Outcome::TooLong => return Err(Reason::Long),
    };
    if !status.success() {
        return Err(failure(status, &answer, &turn.said()));
    }
    if answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer).map_err(|error| Reason::Garbage(format!("{error}: {}", shown(&answer))))
}

/// A failure as plugins tell it.
#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: i64,
    msg: String,
    #[serde(default)]
    details: String,
}

fn failure(status: std::process::ExitStatus, answer: &[u8], stderr: &str) -> Reason {
    if let Ok(Failure { code, msg, details }) = serde_json::from_slice(answer) {
        return Reason::Said { code, message: msg, details };
    }
    let said = if answer.iter().all(u8::is_ascii_whitespace) { stderr.to_owned() } else { shown(answer) };
    let status = program::ended_with(status);
    Reason::Ended(if said.is_empty() { format!("{status}, without a word") } else { format!("{status}: {said}") })
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).trim().to_owned()
}

/// What a plugin says that it speaks.
pub(super) async fn versions(
    programs: &Programs,
    plugin: &Plugin,
    deadline: Duration,
    turn: &Turn,
) -> Result<Vec<String>, PluginError> {
    // Some look at these before they look at the command.
    let subject =
        Subject { container: "version".into(), netns: "/dev/null".into(), interface: "eth0", args: String::new() };
    let stdin = serde_json::json!({ "cniVersion": "1.0.0" });
    let version = Call { plugin, verb: Verb::Version, subject, stdin, deadline };
    let answer = call(programs, &version, turn).await?;
    let listed = answer.get("supportedVersions").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| {
        let reason = Reason::Garbage("it has no \"supportedVersions\"".to_owned());
        PluginError { plugin: plugin.kind.clone(), verb: Verb::Version, reason }
    })?;
    Ok(listed.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}
