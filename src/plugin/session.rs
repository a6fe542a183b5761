//! gardend's command line in a pod and this terminal, joined until one of them leaves.
//!
//! Promises: the terminal is as it was found whichever way this ends; every byte of output that came
//! is written before the status is answered.

use super::args::Line;
use super::channel::{Input, Outputs, carry};
use super::cluster::Cluster;
use super::exec::{ExecError, Mode, concluded};
use super::nodes::GardendPod;
use crate::cli::local::{Stdin, Stream, Writer};
use crate::cli::outcome::{Failure, Status};
use crate::cli::output::report_error;
use crate::cli::signals::{Endings, TerminalChanges};
use crate::cli::terminal::{self, Raw};
use std::future::pending;
use std::io;
use tokio::sync::mpsc;

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Self {
        match &error {
            ExecError::Output(source) => Self::writing(source),
            ExecError::Cut { .. } => {
                report_error(&error.to_string());
                Self::Told(Status::Lost)
            }
            ExecError::Forbidden(_) | ExecError::Unreachable(_) | ExecError::Failed { .. } => {
                Self::Words(error.to_string())
            }
        }
    }
}

/// Runs a command in a pod as if it were here.
///
/// # Errors
/// It could not be run, or its end is not known.
pub(super) async fn attend(cluster: &Cluster, pod: &GardendPod, line: &Line, mode: Mode) -> Result<Status, Failure> {
    let local = |error: io::Error| Failure::Words(format!("cannot use this terminal: {error}"));
    let mut endings = Endings::listen().map_err(local)?;
    // Whichever comes first decides; a connection that is given up is closed.
    let websocket = tokio::select! {
        opened = cluster.open(pod, line, mode) => opened?,
        ending = endings.next() => return Err(Failure::Told(Status::Signal(ending.0))),
    };
    let raw = if mode.tty && mode.stdin { Some(Raw::enter().map_err(local)?) } else { None };
    let side = Side {
        stdin: if mode.stdin { Some(Stdin::open().map_err(local)?) } else { None },
        changes: if mode.tty { Some(TerminalChanges::listen().map_err(local)?) } else { None },
        raw: raw.as_ref(),
    };
    let (stdout, stderr) = (Writer::open(Stream::Stdout).map_err(local)?, Writer::open(Stream::Stderr).map_err(local)?);
    let mut outputs = Outputs::Own { stdout, stderr };
    let (inputs, received) = mpsc::channel(4);
    // Whichever comes first decides; nothing that is cancelled is needed afterwards.
    let ended = tokio::select! {
        ended = carry(websocket, received, &mut outputs) => Some(ended),
        () = side.feed(&inputs) => None,
        ending = endings.next() => return Err(Failure::Told(Status::Signal(ending.0))),
    };
    // Restored before anything is told.
    drop(raw);
    let written = match outputs {
        Outputs::Own { stdout, stderr } => {
            let written = async {
                // What was for a stderr that is gone is lost on nobody.
                let (written, _) = tokio::join!(stdout.finish(), stderr.finish());
                written
            };
            // A reader that sleeps is not waited for when this is to end.
            tokio::select! {
                written = written => written,
                ending = endings.next() => return Err(Failure::Told(Status::Signal(ending.0))),
            }
        }
        Outputs::Kept { .. } => Ok(()),
    };
    let Some(ended) = ended else { return pending().await };
    let status = concluded(pod, ended)?;
    written.map_err(|error| Failure::writing(&error))?;
    Ok(Status::Process(status))
}

/// This side of it.
struct Side<'a> {
    stdin: Option<Stdin>,
    changes: Option<TerminalChanges>,
    raw: Option<&'a Raw>,
}

impl Side<'_> {
    /// Passes on what is typed and how large the terminal is. It does not end.
    async fn feed(self, inputs: &mpsc::Sender<Input>) {
        let Self { stdin, changes, raw } = self;
        // Who does not receive any more has ended, and is about to say so.
        let typed = async {
            let Some(mut stdin) = stdin else { return pending().await };
            while let Some(piece) = stdin.next().await {
                let _ = inputs.send(Input::Stdin(piece)).await;
            }
            let _ = inputs.send(Input::EndOfStdin).await;
        };
        let sized = async {
            let Some(mut changes) = changes else { return pending().await };
            loop {
                if let Some(size) = terminal::size() {
                    let _ = inputs.send(Input::Size(size.columns, size.rows)).await;
                }
                changes.next().await;
                if let Some(raw) = raw {
                    raw.again();
                }
            }
        };
        tokio::join!(typed, sized);
        pending().await
    }
}
