//! Files in and out of containers, for as long as they flow.

use crate::error::Error;
use crate::grace::Busy;
use crate::ports::{FileStream, FilesError};
use crate::record::SandboxId;
use crate::service::Controller;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;

/// How long a transfer may take for what is left once nothing flows any more: what is in the pipe
/// (which gzip makes a thousand times as much of, at most), and the times of folders.
const FINISH: Duration = Duration::from_secs(300);

/// A tar stream that flows into or out of a container, which is in use until this is dropped.
pub struct Transfer {
    outcome: Pin<Box<dyn Future<Output = Result<(), FilesError>> + Send>>,
    ended: Option<Result<(), FilesError>>,
    wrap: fn(FilesError) -> Error,
    _busy: Busy,
}

impl Transfer {
    /// Waits until it has ended, also while its client still sends. Cancel-safe, and answers any
    /// number of times.
    pub async fn ended(&mut self) {
        if self.ended.is_none() {
            self.ended = Some(self.outcome.as_mut().await);
        }
    }

    /// How it ended: after the pipe was closed (in) or gave its last byte (out). Bounded in time.
    ///
    /// # Errors
    /// [`Error::StreamIn`], [`Error::StreamOut`]: what was moved is not all.
    pub async fn outcome(&mut self) -> Result<(), Error> {
        // Cancel-safe, as it says.
        if timeout(FINISH, self.ended()).await.is_err() {
            let reason = format!("it was not done {FINISH:?} after the stream");
            return Err((self.wrap)(FilesError::NoAnswer { reason }));
        }
        self.ended.clone().unwrap_or(Err(FilesError::Killed)).map_err(self.wrap)
    }
}

impl Controller {
    /// Unpacks a tar stream, which is to be written to the non-blocking pipe that comes back, and
    /// ended by closing it. No user: root. A relative destination begins at the user's home.
    ///
    /// # Errors
    /// [`Error::StreamIn`] where it cannot begin; [`Error::NotReady`].
    pub async fn stream_in(&self, handle: &str, user: &str, destination: &str) -> Result<(OwnedFd, Transfer), Error> {
        let _pass = self.shared.gate.enter()?;
        let (busy, sandbox) = self.place_for_files(handle)?;
        let stream = self.shared.node.files.stream_in(&sandbox, user, destination).await;
        begun(stream, busy, Error::StreamIn)
    }

    /// Packs a file, a folder, or (where `source` ends in a slash) a folder's contents into a tar
    /// stream, which comes out of the non-blocking pipe that comes back.
    ///
    /// # Errors
    /// [`Error::StreamOut`] where it cannot begin; [`Error::NotReady`].
    pub async fn stream_out(&self, handle: &str, user: &str, source: &str) -> Result<(OwnedFd, Transfer), Error> {
        let _pass = self.shared.gate.enter()?;
        let (busy, sandbox) = self.place_for_files(handle)?;
        let stream = self.shared.node.files.stream_out(&sandbox, user, source).await;
        begun(stream, busy, Error::StreamOut)
    }

    fn place_for_files(&self, handle: &str) -> Result<(Busy, SandboxId), Error> {
        let busy = Busy::on(&self.shared, handle)?;
        let sandbox = self.shared.state().holder(handle)?.ready_place()?.clone();
        Ok((busy, sandbox))
    }
}

fn begun(
    stream: Result<FileStream, FilesError>,
    busy: Busy,
    wrap: fn(FilesError) -> Error,
) -> Result<(OwnedFd, Transfer), Error> {
    let FileStream { pipe, outcome } = stream.map_err(wrap)?;
    Ok((pipe, Transfer { outcome, ended: None, wrap, _busy: busy }))
}
