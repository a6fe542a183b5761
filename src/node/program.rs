//! Programs of the node's that gardend asks something: it writes to their stdin, reads what they write to
//! stdout, and waits for their end, all by one deadline. At it, the program is killed with its process group.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How long one that is killed may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// It ended, and had written this.
    Ended(ExitStatus, Vec<u8>),
    /// It was killed at its deadline.
    Late,
    /// It wrote more than was asked for, and was killed.
    TooLong,
}

/// What is heard of a program.
#[derive(Clone, Copy, Debug)]
pub enum Heard {
    /// What it writes to stdout: so many bytes at most. Its stderr is the caller's.
    Answer(u64),
    /// The first bytes of what it writes to stderr, and no more; nobody reads its stdout.
    Complaint(u64),
}

/// Runs a program that is given this to read.
///
/// # Errors
/// Where it cannot be started, or talked to.
pub async fn run(command: &mut Command, input: Vec<u8>, heard: Heard, deadline: Duration) -> io::Result<Outcome> {
    command.process_group(0).kill_on_drop(true).stdin(Stdio::piped());
    match heard {
        Heard::Answer(_) => command.stdout(Stdio::piped()),
        Heard::Complaint(_) => command.stdout(Stdio::null()).stderr(Stdio::piped()),
    };
    let mut child = command.spawn()?;
    // As long as anybody is in its group, nobody else's has this number.
    let group = child.id();
    let done = tokio::time::timeout(deadline, converse(&mut child, input, heard)).await;
    let Ok(done) = done else {
        end(&mut child, group).await;
        return Ok(Outcome::Late);
    };
    let (status, answer) = done?;
    if let Heard::Answer(longest) = heard
        && answer.len() as u64 > longest
    {
        end(&mut child, group).await;
        return Ok(Outcome::TooLong);
    }
    Ok(Outcome::Ended(status, answer))
}

/// Writes what it reads, reads what it writes, and waits for its end.
async fn converse(child: &mut Child, input: Vec<u8>, heard: Heard) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that reads nothing says by its answer what it thinks of that.
            let _ = stdin.write_all(&input).await;
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        match (heard, stdout, stderr) {
            (Heard::Answer(longest), Some(stdout), _) => {
                stdout.take(longest + 1).read_to_end(&mut bytes).await?;
            }
            (Heard::Complaint(shown), _, Some(mut stderr)) => {
                (&mut stderr).take(shown).read_to_end(&mut bytes).await?;
                tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
            }
            _ => {}
        }
        io::Result::Ok(bytes)
    };
    let ((), answer, status) = tokio::join!(write, read, child.wait());
    Ok((status?, answer?))
}

/// Kills it with all that it started.
async fn end(child: &mut Child, group: Option<u32>) {
    let pid = group.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
        tracing::warn!(?pid, "a program that was killed does not end");
    }
}

/// How a program ended, in words.
#[must_use]
pub fn ended_with(status: ExitStatus) -> String {
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}
