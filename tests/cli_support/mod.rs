//! What the command line's tests share: a small scripted Garden server, the real binary, and a
//! pseudo-terminal to run it on.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod files;
pub mod garden;
pub mod pty;
mod sys;

use garden::Garden;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing in these tests takes this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The real binary, as it is called by somebody whose environment says nothing about it.
pub fn gardend(server: &Garden, args: &[&str]) -> Command {
    gardend_at(&server.target(), args)
}

/// The same with any server.
pub fn gardend_at(target: &str, args: &[&str]) -> Command {
    let mut command = bare(args);
    command.env("GARDEND_TARGET", target);
    command
}

/// The same without a server.
pub fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gardend"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GARDEND_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NO_COLOR").env("TERM", "xterm-test").args(args).stdin(Stdio::null());
    sys::with_default_signals(&mut command);
    command
}

/// What a finished command said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
pub fn said(server: &Garden, args: &[&str]) -> Said {
    finished(gardend(server, args))
}

/// Runs a command to its end.
pub fn finished(mut command: Command) -> Said {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    outcome(child)
}

/// Waits for a command; one that hangs is killed, and the test fails.
pub fn outcome(child: Child) -> Said {
    let pid = rustix::process::Pid::from_child(&child);
    let (done, waited) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || done.send(child.wait_with_output()));
    match waited.recv_timeout(DEADLINE) {
        Ok(output) => {
            let _ = waiter.join();
            output.expect("its output can be read").into()
        }
        Err(_) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("gardend hangs; so far: {:?}", waited.recv_timeout(DEADLINE).map(|output| output.map(Said::from)));
        }
    }
}

/// Looks again and again until something is so.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
