//! What init knows of its processes.
//!
//! ```text
//!   Spawn ─▶ starting ──(exec)──▶ running ──(reaped)──▶ ended ─▶ Forget
//!               └──(report, or its asker is gone)──▶ nothing
//! ```

use crate::child::Report;
use crate::packet::{self, Packet};
use crate::wire::{self, Event, Exit, ProcessKey, SpawnFailure, Streams};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The descriptors that init keeps of a process.
#[derive(Debug)]
pub enum Held {
    /// The outer ends of its pipes.
    Pipes {
        /// Stdin's write end, until it is closed.
        stdin: Option<OwnedFd>,
        /// Stdout's and stderr's read ends.
        outputs: [OwnedFd; 2],
    },
    /// A terminal's.
    Terminal {
        /// `None` until the process has made it.
        master: Option<OwnedFd>,
        /// The relay's write end and read end.
        relay: [OwnedFd; 2],
    },
}

/// A process that runs or has ended.
#[derive(Debug)]
pub struct Process {
    /// Ours until it is reaped.
    pub pid: i32,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// What is kept of it.
    pub held: Held,
    /// The present connection knows of it, and so is to hear of its end.
    pub is_announced: bool,
}

/// A process on its way to its exec.
#[derive(Debug)]
pub struct Starting {
    /// The number of the connection that asked for it.
    pub asker: u64,
    /// Its number.
    pub pid: i32,
    /// For the asker.
    pub pidfd: OwnedFd,
    /// Where it reports; exec closes the other end.
    pub status: OwnedFd,
    /// What is kept of it.
    pub held: Held,
    /// What it reported; it is about to end.
    pub failure: Option<SpawnFailure>,
    /// Nobody wants it any more, and it was killed.
    pub is_abandoned: bool,
    /// It waits to be released: should it end now, it has never run.
    pub is_held: bool,
}

/// How far a process on its way has got.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is known yet.
    Pending,
    /// Its exec has succeeded.
    Runs,
    /// It has reported a failure; it is over when it is reaped.
    Fails,
}

impl Starting {
    /// Reads what it has reported.
    pub fn progress(&mut self, buffer: &mut Vec<u8>) -> Progress {
        loop {
            if self.failure.is_some() {
                return Progress::Fails;
            }
            match packet::recv(self.status.as_fd(), buffer) {
                Ok(Packet::Message(fds)) => match (wire::decode(buffer), &mut self.held) {
                    (Ok(Report::Terminal), Held::Terminal { master, .. }) => *master = fds.into_iter().next(),
                    (Ok(Report::Failed(failure)), _) => self.failure = Some(failure),
                    _ => self.failure = Some(SpawnFailure::Malformed { reason: "a report out of place".into() }),
                },
                Ok(Packet::End) if self.is_held => {
                    let failure = SpawnFailure::System { call: "wait to be released".into(), errno: libc::ECANCELED };
                    self.failure = Some(failure);
                }
                Ok(Packet::End) => return Progress::Runs,
                Err(error) if error.would_block() => return Progress::Pending,
                // No descriptor was left for the terminal's master.
                Err(_) => {
                    self.failure = Some(SpawnFailure::System { call: "recvmsg".into(), errno: libc::EMFILE });
                }
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Processes {
    /// On their way.
    pub starting: BTreeMap<ProcessKey, Starting>,
    known: BTreeMap<ProcessKey, Process>,
    by_pid: BTreeMap<i32, ProcessKey>,
}

impl Processes {
    /// How many are kept.
    pub fn len(&self) -> usize {
        self.starting.len() + self.known.len()
    }

    /// The key is taken.
    pub fn contains(&self, key: &ProcessKey) -> bool {
        self.starting.contains_key(key) || self.known.contains_key(key)
    }

    /// One that is on its way.
    pub fn begin(&mut self, key: ProcessKey, starting: Starting) {
        self.by_pid.insert(starting.pid, key);
        self.starting.insert(key, starting);
    }

    /// One that was on its way runs.
    pub fn run(&mut self, key: ProcessKey, process: Process) {
        self.known.insert(key, process);
    }

    /// Which process of ours this was, whose number is now free for others.
    pub fn reaped(&mut self, pid: i32) -> Option<ProcessKey> {
        self.by_pid.remove(&pid)
    }

    /// One that runs or has ended.
    pub fn get_mut(&mut self, key: &ProcessKey) -> Option<&mut Process> {
        self.known.get_mut(key)
    }

    /// The number of one that has not been reaped yet.
    pub fn pid(&self, key: &ProcessKey) -> Option<i32> {
        let running = self.known.get(key).filter(|process| process.exit.is_none()).map(|process| process.pid);
        running.or_else(|| self.starting.get(key).map(|starting| starting.pid))
    }

    /// Drops one that has ended; what was kept of it is the caller's.
    pub fn forget(&mut self, key: &ProcessKey) -> Option<Held> {
        self.known.get(key)?.exit?;
        self.known.remove(key).map(|process| process.held)
    }

    /// For a new connection: all that run or have ended, none of them announced to it.
    pub fn list(&mut self) -> VecDeque<ProcessKey> {
        self.known.values_mut().for_each(|process| process.is_announced = false);
        self.known.keys().copied().collect()
    }

    /// The connection has been told of it.
    pub fn announce(&mut self, key: &ProcessKey) {
        if let Some(process) = self.known.get_mut(key) {
            process.is_announced = true;
        }
    }

    /// How a new connection is told of it, with what is kept of it.
    pub fn known(&self, key: &ProcessKey) -> Option<(Event, Vec<BorrowedFd<'_>>)> {
        let process = self.known.get(key)?;
        let (streams, fds) = match &process.held {
            Held::Pipes { stdin, outputs } => {
                let fds = stdin.iter().chain(outputs).map(AsFd::as_fd).collect();
                (Streams::Pipes { stdin: stdin.is_some() }, fds)
            }
            Held::Terminal { master: Some(master), relay: [write, read] } => {
                (Streams::Terminal, vec![master.as_fd(), write.as_fd(), read.as_fd()])
            }
            Held::Terminal { master: None, .. } => (Streams::None, Vec::new()),
        };
        let pid = if process.exit.is_some() { 0 } else { process.pid };
        Some((Event::Known { key: *key, pid, exit: process.exit, streams }, fds))
    }
}
