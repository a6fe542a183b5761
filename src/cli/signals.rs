//! Signals that reach this client, for a session to act on.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that asks this client to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending(pub(crate) i32);

impl Ending {
    /// The terminal is gone.
    pub(crate) fn is_hangup(self) -> bool {
        self.0 == libc::SIGHUP
    }
}

/// The signals that ask this client to end.
pub(crate) struct Endings {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    quit: Option<Signal>,
    hangup: Option<Signal>,
}

impl Endings {
    /// Takes them over, but for those that our parent had us ignore (nohup, `&` in a script).
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored_signals();
        let take = |number: i32| {
            let is_ignored = ignored >> (number - 1) & 1 == 1;
            if is_ignored { Ok(None) } else { signal(SignalKind::from_raw(number)).map(Some) }
        };
        Ok(Self {
            interrupt: take(libc::SIGINT)?,
            terminate: take(libc::SIGTERM)?,
            quit: take(libc::SIGQUIT)?,
            hangup: take(libc::SIGHUP)?,
        })
    }

    /// The next one. Cancel-safe: nothing but the signals' own receivers is awaited.
    pub(crate) async fn next(&mut self) -> Ending {
        // Each arm only receives, which tokio documents as cancel-safe.
        let number = tokio::select! {
            () = receive(&mut self.interrupt) => libc::SIGINT,
            () = receive(&mut self.terminate) => libc::SIGTERM,
            () = receive(&mut self.quit) => libc::SIGQUIT,
            () = receive(&mut self.hangup) => libc::SIGHUP,
        };
        Ending(number)
    }
}

async fn receive(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The mask of ignored signals that the kernel shows.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What changes the terminal: its size, or a shell that puts it back while we are stopped.
pub(crate) struct TerminalChanges {
    resized: Signal,
    continued: Signal,
}

impl TerminalChanges {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            continued: signal(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    /// The next one. Cancel-safe, as [`Endings::next`].
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.resized.recv() => {}
            _ = self.continued.recv() => {}
        }
    }
}
