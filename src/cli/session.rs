//! A process and this terminal, joined until one of them leaves.
//!
//! ```text
//! stdin --(detach keys)--> process          process --> stdout, stderr
//! Ctrl-C: TERM, again: KILL, a third time: leave it     (as docker run; Garden has these two)
//! a lost connection: attach again, where no byte of stdin can have been lost
//! ```
//! Promises: the local terminal is restored whichever way this ends; every byte of output that
//! the server sent is written before the exit status is answered; a signal is never queued
//! behind stdin that the process does not read.

use super::client::{Client, ClientError, GardenErrorKind, Output, Outputs, Process, io_reason};
use super::feed::{Fed, Feed, Sent, follow_size};
use super::local::{Stdin, Stream, Text, Writer};
use super::outcome::{Failure, Status};
use super::output::note;
use super::signals::{Ending, Endings, TerminalChanges};
use super::terminal::{self, DetachKeys, Raw, Typed};
use gardend_controller::ports::Signal;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a process has for a TERM after its terminal went away, before the KILL.
const HANGUP_GRACE: Duration = Duration::from_secs(3);
/// How long a server may be away before a session gives up.
const AWAY: Duration = Duration::from_secs(30);
/// Ctrl-C, as a raw terminal has it.
const INTERRUPT_KEY: u8 = 0x03;

/// What this side's stdin is to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StdinMode {
    /// Sent, with its end.
    Send,
    /// Ended at once.
    End,
    /// Left as it is.
    Leave,
}

/// What a Ctrl-C, or another signal that ends a client, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnSignal {
    /// It is passed on to the process.
    PassOn,
    /// It leaves the process to itself.
    Leave,
}

/// What becomes of the process when nobody reads this side's stdout any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnBrokenPipe {
    /// It is ended, as writing to a broken pipe would have.
    Terminate,
    /// It goes on.
    Leave,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub(super) struct SessionOptions {
    pub(super) stdin: StdinMode,
    /// The process has a terminal: this one is raw meanwhile.
    pub(super) tty: bool,
    pub(super) on_signal: OnSignal,
    pub(super) on_broken_pipe: OnBrokenPipe,
    pub(super) detach_keys: DetachKeys,
}

impl SessionOptions {
    /// A terminal carries stdout and stderr as one.
    pub(super) fn outputs(&self) -> Outputs {
        if self.tty { Outputs::Stdout } else { Outputs::Both }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The process ended.
    Exited(i32),
    /// The detach keys were typed. The process runs.
    Detached,
    /// A signal was not to be waited for any longer. The process may run.
    Signalled(i32),
}

impl Left {
    /// The status to exit with; tells where a process was left running.
    pub(super) fn conclude(self, handle: &str, process: &str) -> Status {
        if !matches!(self, Self::Exited(_)) {
            note(&format!(
                "left process '{process}' of '{handle}'; `gardend attach {handle} {process}` comes back to it"
            ));
        }
        match self {
            Self::Exited(status) => Status::Process(status),
            Self::Detached => Status::Process(0),
            Self::Signalled(signal) => Status::Signal(signal),
        }
    }
}

/// The time before a session: signals are held for the process that is about to be there, so
/// that none is left running behind the back of whoever pressed Ctrl-C.
pub(super) struct Opening {
    endings: Endings,
    on_signal: OnSignal,
    /// Held.
    first: Option<Ending>,
}

impl Opening {
    pub(super) fn begin(options: &SessionOptions) -> Result<Self, Failure> {
        let endings = Endings::listen().map_err(|error| local_failure(&error))?;
        Ok(Self { endings, on_signal: options.on_signal, first: None })
    }

    /// Waits for the process.
    ///
    /// # Errors
    /// A second signal came first, or one that is not to be passed on.
    pub(super) async fn wait<T>(&mut self, process: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::pin!(process);
        loop {
            // The same future all along, and a receiver: nothing is lost.
            tokio::select! {
                process = &mut process => return Ok(process),
                ending = self.endings.next() => {
                    if self.first.is_some() || self.on_signal == OnSignal::Leave {
                        return Err(Failure::Told(Status::Signal(ending.0)));
                    }
                    note("waiting for the process to start, to end it; once more leaves at once");
                    self.first = Some(ending);
                }
            }
        }
    }
}

pub(super) fn local_failure(error: &io::Error) -> Failure {
    Failure::Words(format!("cannot use this terminal: {}", io_reason(error)))
}

/// Joins a process and this terminal.
///
/// # Errors
/// The connection was lost for good, the server cannot say how the process ended, or stdout
/// cannot be written.
pub(super) async fn attend(
    client: &Client,
    handle: &str,
    process: Process,
    opening: Opening,
    options: SessionOptions,
) -> Result<Left, Failure> {
    let local = |error: io::Error| local_failure(&error);
    let takes_keyboard = options.tty && options.stdin == StdinMode::Send && terminal::stdin_is_terminal();
    let mut session = Session {
        client,
        handle,
        process: process.id.clone(),
        raw: if takes_keyboard { Some(Raw::enter().map_err(local)?) } else { None },
        stdin: if options.stdin == StdinMode::Send { Some(Stdin::open().map_err(local)?) } else { None },
        stdout: Writer::open(Stream::Stdout).map_err(local)?,
        stderr: Writer::open(Stream::Stderr).map_err(local)?,
        endings: opening.endings,
        pending: opening.first,
        changes: TerminalChanges::listen().map_err(local)?,
        text: Text::default(),
        sent: Sent::default(),
        asked: opening.first.map_or(0, |_| 1),
        deadline: None,
        options,
    };
    let left = session.attend(process).await;
    // Restored before anything is told.
    drop(session.raw.take());
    if session.text.replaced() {
        note("stdin held bytes that are no UTF-8 text; Garden carries text alone, so they were replaced");
    }
    let left = left?;
    let Left::Exited(_) = left else { return Ok(left) };
    let Session { stdout, stderr, mut endings, .. } = session;
    let written = async {
        // What was for a stderr that is gone is lost on nobody.
        let (written, _) = tokio::join!(stdout.finish(), stderr.finish());
        written.map_err(|error| Failure::writing(&error))
    };
    // Whichever comes first decides; what is cancelled is not needed any more.
    tokio::select! {
        written = written => written.map(|()| left),
        ending = endings.next() => Ok(Left::Signalled(ending.0)),
    }
}

struct Session<'a> {
    client: &'a Client,
    handle: &'a str,
    process: String,
    options: SessionOptions,
    raw: Option<Raw>,
    stdin: Option<Stdin>,
    stdout: Writer,
    stderr: Writer,
    endings: Endings,
    changes: TerminalChanges,
    text: Text,
    sent: Sent,
    /// Came before the session.
    pending: Option<Ending>,
    /// How often this client was asked to end.
    asked: u32,
    /// When a process whose terminal went away is killed and left.
    deadline: Option<Instant>,
}

/// How one connection ended.
enum Held {
    Left(Left),
    Lost(ClientError),
}

impl Session<'_> {
    async fn attend(&mut self, mut process: Process) -> Result<Left, Failure> {
        loop {
            match self.hold(process).await? {
                Held::Left(left) => return Ok(left),
                Held::Lost(_) if self.can_come_back() => match self.come_back().await? {
                    Ok(again) => process = again,
                    Err(left) => return Ok(left),
                },
                Held::Lost(error) => return Err(self.lost_for_good(&error)),
            }
        }
    }

    /// Text that was on its way when the server died is gone: a process that reads data must not
    /// be given the rest as if nothing were missing. On a terminal a person sees and types again.
    fn can_come_back(&self) -> bool {
        self.options.tty || !self.sent.bytes
    }

    fn lost_for_good(&self, error: &ClientError) -> Failure {
        let (handle, process) = (self.handle, &self.process);
        Failure::Words(match error.kind() {
            Some(GardenErrorKind::ContainerNotFound | GardenErrorKind::ProcessNotFound) => {
                format!("the connection was lost, and process '{process}' of '{handle}' is no longer known: {error}")
            }
            _ => format!("{error}; the process may run on: `gardend attach {handle} {process}` comes back to it"),
        })
    }

    /// Attaches again once the server is back, or leaves where that is asked for meanwhile.
    async fn come_back(&mut self) -> Result<Result<Process, Left>, Failure> {
        note("the connection was lost; attaching again when gardend is back");
        let remote = Remote { client: self.client, handle: self.handle, process: &self.process };
        // Whichever comes first decides; an attempt that is given up holds but its connection.
        let again = tokio::select! {
            again = remote.come_back(self.options.outputs()) => again,
            ending = self.endings.next() => return Ok(Err(Left::Signalled(ending.0))),
            left = leaving_keys(self.stdin.as_mut(), &mut self.options) => return Ok(Err(left)),
        };
        again.map(Ok).map_err(|error| self.lost_for_good(&error))
    }

    /// Keeps one connection until the process has ended and its output is written, somebody
    /// leaves, or it is lost.
    async fn hold(&mut self, process: Process) -> Result<Held, Failure> {
        let Process { input, stdout, stderr, mut outcome, .. } = process;
        let remote = Remote { client: self.client, handle: self.handle, process: &self.process };
        let (tty, on_signal, on_broken_pipe) = (self.options.tty, self.options.on_signal, self.options.on_broken_pipe);

        let flow = flow(&mut self.stdout, stdout, &mut self.stderr, stderr);
        let feed = Feed {
            stdin: self.stdin.as_mut(),
            mode: self.options.stdin,
            keys: tty.then_some(&mut self.options.detach_keys),
            text: &mut self.text,
            sent: &mut self.sent,
        };
        let feed = feed.run(&input);
        let sizes = async {
            if tty {
                follow_size(&mut self.changes, &input, self.raw.as_ref()).await;
            } else {
                pending().await
            }
        };
        tokio::pin!(flow, feed, sizes);

        let (mut exit, mut flowed, mut fed) = (None, false, false);
        let mut step = self.pending.take().map(|ending| on_ending(ending, self.asked, on_signal, tty));
        loop {
            if flowed && let Some(exit) = exit {
                return Ok(match exit {
                    Ok(status) => Held::Left(Left::Exited(status)),
                    Err(error) => Held::Lost(error),
                });
            }
            match step.take() {
                None => {}
                Some(Step::Signal(signal)) => remote.signal_beside(signal),
                Some(Step::HangUp) => {
                    remote.signal_beside(Signal::Terminate);
                    self.deadline.get_or_insert(Instant::now() + HANGUP_GRACE);
                }
                Some(Step::Leave(signal)) => return Ok(Held::Left(Left::Signalled(signal))),
            }
            let deadline = self.deadline;
            let hangup_over = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // Cancel-safe by its own word: a message that was read in part is kept.
                ended = outcome.wait(), if exit.is_none() => exit = match ended {
                    Err(error) if !error.is_disconnection() => return Err(error.into()),
                    // Lost: what the server still sent goes out first.
                    ended => Some(ended),
                },
                // The same future all along: nothing is cancelled.
                written = &mut flow, if !flowed => match written {
                    Ok(()) => flowed = true,
                    Err(error) if tty && error.raw_os_error() == Some(libc::EIO) => {
                        flowed = true;
                        self.asked += 1;
                        step = Some(on_ending(Ending(libc::SIGHUP), self.asked, on_signal, tty));
                    }
                    Err(error) => {
                        if on_broken_pipe == OnBrokenPipe::Terminate && exit.is_none() {
                            remote.signal(Signal::Terminate).await;
                        }
                        return Err(Failure::writing(&error));
                    }
                },
                // The same future all along.
                end = &mut feed, if !fed => match end {
                    Fed::All => fed = true,
                    Fed::Detach => return Ok(Held::Left(Left::Detached)),
                },
                // The same future all along; it does not end.
                () = &mut sizes => {}
                // Cancel-safe: it only receives.
                ending = self.endings.next() => {
                    self.asked += 1;
                    step = Some(on_ending(ending, self.asked, on_signal, tty));
                }
                // Cancel-safe: a point in time.
                () = hangup_over => {
                    remote.signal(Signal::Kill).await;
                    return Ok(Held::Left(Left::Signalled(libc::SIGHUP)));
                }
            }
        }
    }
}

/// Both outputs to their ends.
async fn flow(
    to_stdout: &mut Writer,
    stdout: Option<Output>,
    to_stderr: &mut Writer,
    stderr: Option<Output>,
) -> io::Result<()> {
    let out = async {
        match stdout {
            Some(output) => to_stdout.copy(output).await,
            None => Ok(()),
        }
    };
    let err = async {
        // A stderr that cannot be written is no reason to end the process.
        if let Some(output) = stderr {
            let _ = to_stderr.copy(output).await;
        }
        Ok(())
    };
    tokio::try_join!(out, err).map(drop)
}

/// Keys that leave while there is no server to pass any on to. The others are dropped.
async fn leaving_keys(stdin: Option<&mut Stdin>, options: &mut SessionOptions) -> Left {
    let Some(stdin) = stdin.filter(|_| options.tty) else { return pending().await };
    while let Some(piece) = stdin.next().await {
        if piece.contains(&INTERRUPT_KEY) {
            return Left::Signalled(libc::SIGINT);
        }
        if let Typed::Detach(_) = options.detach_keys.feed(&piece) {
            return Left::Detached;
        }
    }
    pending().await
}

/// What to do about a signal that asks this client to end.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Signal(Signal),
    HangUp,
    Leave(i32),
}

/// `asked`: how often by now.
fn on_ending(ending: Ending, asked: u32, on_signal: OnSignal, tty: bool) -> Step {
    match (on_signal, asked) {
        (OnSignal::Leave, _) => Step::Leave(ending.0),
        // An interactive shell ignores TERM, and nobody is left to press a key.
        (OnSignal::PassOn, _) if ending.is_hangup() && tty => Step::HangUp,
        (OnSignal::PassOn, 1) => Step::Signal(Signal::Terminate),
        (OnSignal::PassOn, 2) => Step::Signal(Signal::Kill),
        (OnSignal::PassOn, _) => Step::Leave(ending.0),
    }
}

/// A process by its name: signals take a connection of their own.
#[derive(Clone, Copy)]
struct Remote<'a> {
    client: &'a Client,
    handle: &'a str,
    process: &'a str,
}

impl Remote<'_> {
    async fn come_back(self, outputs: Outputs) -> Result<Process, ClientError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            match self.client.attach(self.handle, self.process, outputs).await {
                Err(error) if error.is_disconnection() && started.elapsed() < AWAY => {
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                result => return result,
            }
        }
    }

    async fn signal(self, signal: Signal) {
        if let Err(error) = self.client.signal(self.handle, self.process, signal).await {
            // It ended by itself meanwhile: as wished.
            if error.kind() != Some(GardenErrorKind::ProcessNotFound) {
                note(&format!("cannot signal process '{}': {error}", self.process));
            }
        }
    }

    /// Without waiting: a server that does not answer must not keep the next Ctrl-C from its work.
    fn signal_beside(self, signal: Signal) {
        let (client, handle, process) = (self.client.clone(), self.handle.to_owned(), self.process.to_owned());
        tokio::spawn(
            async move { Remote { client: &client, handle: &handle, process: &process }.signal(signal).await },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_asked_then_killed_then_left() {
        let steps = [1, 2, 3].map(|asked| on_ending(Ending(libc::SIGINT), asked, OnSignal::PassOn, false));
        assert_eq!(steps, [Step::Signal(Signal::Terminate), Step::Signal(Signal::Kill), Step::Leave(libc::SIGINT)]);
    }

    #[test]
    fn a_terminal_that_goes_away_takes_its_process_along_unless_that_was_only_watched() {
        assert_eq!(on_ending(Ending(libc::SIGHUP), 1, OnSignal::PassOn, true), Step::HangUp);
        assert_eq!(on_ending(Ending(libc::SIGHUP), 1, OnSignal::Leave, true), Step::Leave(libc::SIGHUP));
    }
}
