//! Tar streams in and out of the fake node's places. Real descriptors, so that front ends can be
//! tried on it. What is streamed in is kept as it is, if it looks like a tar stream.

use super::Call;
use super::ports::Life;
use super::programs::knows_user;
use crate::ports::{FileStream, Files, FilesError, NodeError, NodeErrorKind};
use crate::record::SandboxId;
use async_trait::async_trait;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use tokio::sync::oneshot;

/// A tar stream is made of these.
const BLOCK: usize = 512;

impl Life {
    /// What is asked of a call before its stream flows.
    async fn begin_stream(&self, call: Call, sandbox: &SandboxId, user: &str) -> Result<(), FilesError> {
        let user = Some(user).filter(|user| !user.is_empty()).unwrap_or("root");
        let begun = self.plain(call, |world| match world.places.get(sandbox) {
            Some(place) if place.running => Ok(knows_user(user)),
            _ => Err(NodeError::new(NodeErrorKind::Unavailable, format!("no init answers in place {sandbox}"))),
        });
        match begun.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(FilesError::UnknownUser { user: user.to_owned() }),
            Err(error) => Err(FilesError::NoAnswer { reason: error.message }),
        }
    }
}

#[async_trait]
impl Files for Life {
    async fn stream_in(&self, sandbox: &SandboxId, user: &str, destination: &str) -> Result<FileStream, FilesError> {
        self.begin_stream(Call::StreamIn, sandbox, user).await?;
        let (ours, mut theirs) = pair()?;
        let (done, outcome) = oneshot::channel();
        let (world, key) = (self.shared_world(), (sandbox.clone(), destination.trim_end_matches('/').to_owned()));
        std::thread::spawn(move || {
            let mut stream = Vec::new();
            let mut chunk = vec![0; 64 * 1024];
            let result = loop {
                match theirs.read(&mut chunk) {
                    // As the real ones do, at the first block already.
                    Ok(read) if read > 0 => {
                        stream.extend_from_slice(&chunk[..read]);
                        if stream.len() >= BLOCK && !looks_like_tar(&stream) {
                            break Err(FilesError::Stream("this does not look like a tar stream".into()));
                        }
                    }
                    Ok(_) if looks_like_tar(&stream) && stream.ends_with(&[0; BLOCK]) => break Ok(()),
                    Ok(_) => break Err(FilesError::Stream("the stream ends in the middle".into())),
                    Err(error) => break Err(FilesError::Other(error.to_string())),
                }
            };
            let result = result.and_then(|()| {
                let mut world = world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if !world.places.get(&key.0).is_some_and(|place| place.running) {
                    return Err(FilesError::Killed);
                }
                world.files.insert(key, stream);
                Ok(())
            });
            // Nobody may be waiting any more.
            let _ = done.send(result);
        });
        Ok(flow(ours, outcome))
    }

    async fn stream_out(&self, sandbox: &SandboxId, user: &str, source: &str) -> Result<FileStream, FilesError> {
        self.begin_stream(Call::StreamOut, sandbox, user).await?;
        let key = (sandbox.clone(), source.trim_end_matches('/').to_owned());
        let kept = self.world().files.get(&key).cloned();
        let Some(stream) = kept.filter(|_| source.ends_with('/')) else {
            let reason = "No such file or directory".to_owned();
            return Err(FilesError::File { action: "open".into(), path: source.to_owned(), reason });
        };
        let (ours, mut theirs) = pair()?;
        let (done, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let written = theirs.write_all(&stream).map_err(|error| FilesError::Other(error.to_string()));
            // Before its end is seen.
            let _ = done.send(written);
        });
        Ok(flow(ours, outcome))
    }
}

fn looks_like_tar(stream: &[u8]) -> bool {
    let is_end = stream.len() >= BLOCK && stream[..BLOCK].iter().all(|byte| *byte == 0);
    is_end || stream.get(257..262) == Some(b"ustar")
}

fn pair() -> Result<(UnixStream, UnixStream), FilesError> {
    let failed = |error: std::io::Error| FilesError::Other(error.to_string());
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((ours, theirs))
}

fn flow(ours: UnixStream, outcome: oneshot::Receiver<Result<(), FilesError>>) -> FileStream {
    let outcome = async { outcome.await.unwrap_or(Err(FilesError::Killed)) };
    FileStream { pipe: ours.into(), outcome: Box::pin(outcome) }
}
