//! One layer from where it is to containerd's store.
//!
//! Promises: it is stored once, whoever asks for it at the same time; what breaks is gone on with
//! where it broke, also by the next gardend; what is not what its digest says is never kept;
//! what fails for good leaves nothing.

use super::error::ImageError;
use super::registry::{RegistryError, pause};
use super::source::Source;
use crate::node::containerd::content::{CHUNK, Opened, Writer};
use crate::node::containerd::images::Blob;
use crate::node::containerd::{CallErrorKind, Connection};
use gardend_controller::ports::PullProgress;
use gardend_controller::record::ImageDigest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Failures in a row, without a byte between them.
const ATTEMPTS: u32 = 6;
/// How long a writer whose stream has ended may hold on to what it wrote.
const LETS_GO: Duration = Duration::from_secs(20);
/// A layer may be so large at most: 64 GiB.
pub(crate) const MAX_LAYER: u64 = 64 << 30;

/// Who stores which blob at the moment.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>);

impl Turns {
    pub(crate) fn of(&self, what: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(what).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            turns.insert(what.to_owned(), Arc::downgrade(&turn));
            turn
        })
    }
}

/// How far a pull is.
#[derive(Default)]
pub(crate) struct Progress {
    /// Bytes of layers that came from elsewhere.
    pub(crate) fetched: AtomicU64,
    /// Bytes of layers that were here before.
    pub(crate) present: AtomicU64,
    /// Bytes of layers in all.
    pub(crate) total: AtomicU64,
    /// Layers in all.
    pub(crate) layers: AtomicU64,
    /// Layers that are unpacked.
    pub(crate) unpacked: AtomicU64,
}

impl Progress {
    /// As others are told.
    pub(crate) fn seen(&self) -> PullProgress {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let total = read(&self.total);
        PullProgress {
            // What broke, or was wrong, is fetched once more.
            bytes: (read(&self.fetched) + read(&self.present)).min(total),
            total,
            layers: read(&self.layers),
            unpacked: read(&self.unpacked),
        }
    }
}

/// Stores one blob.
pub(crate) struct Transfer<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) source: &'a Source,
    pub(crate) lease: &'a str,
    pub(crate) digest: &'a ImageDigest,
    pub(crate) blob: Blob,
    /// By which containerd knows what is written of it.
    pub(crate) reference: String,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) progress: &'a Progress,
    pub(crate) cancelled: &'a CancellationToken,
}

impl Transfer<'_> {
    /// Returns when it is stored and held by the lease.
    pub(crate) async fn run(mut self, turns: &Turns) -> Result<(), ImageError> {
        let turn = turns.of(&self.reference);
        let cancelled = self.cancelled.clone();
        let _held = tokio::select! {
            // Cancel-safe: whoever waits in a mutex's queue can leave it.
            held = turn.lock() => held,
            () = cancelled.cancelled() => return Err(ImageError::GivenUp),
        };
        let stored = tokio::select! {
            // Dropped at any instant: what was written stays in containerd, until it is aborted below.
            stored = self.store() => stored,
            () = cancelled.cancelled() => Err(ImageError::GivenUp),
        };
        if stored.is_err()
            && let Err(error) = self.connection.abort_content(&self.reference).await
        {
            // It is no longer held by a lease, so that containerd collects it.
            tracing::debug!(%error, "a part of a layer is left to containerd's collection");
        }
        stored
    }

    async fn store(&mut self) -> Result<(), ImageError> {
        let mut failures = 0;
        let mut lied = false;
        let mut first = true;
        loop {
            let opened = self.open().await?;
            if std::mem::take(&mut first) {
                let present = match &opened {
                    Opened::There => self.blob.size,
                    Opened::Missing(writer) => writer.offset,
                };
                self.progress.present.fetch_add(present, Ordering::Relaxed);
            }
            let Opened::Missing(mut writer) = opened else { return Ok(()) };
            let before = writer.offset;
            match self.fill(&mut writer).await {
                Ok(()) => {
                    let mut labels = HashMap::new();
                    std::mem::swap(&mut labels, &mut self.labels);
                    let kept = labels.clone();
                    match writer.commit(labels).await {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind == CallErrorKind::Precondition => {
                            self.connection.abort_content(&self.reference).await?;
                            self.labels = kept;
                            // What an earlier gardend wrote may be at fault: once more, from the beginning.
                            if lied {
                                return Err(ImageError::Unfit(format!(
                                    "its layer {} is something else than its digest says: {}",
                                    self.digest, error.reason
                                )));
                            }
                            lied = true;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(ImageError::Registry(error)) if error.is_transient() => {
                    failures = if writer.offset > before { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        return Err(error.into());
                    }
                    // So that containerd gives the reference free.
                    drop(writer);
                    pause(failures, &error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// An earlier writer, of ours or of a gardend that was killed, may not have let go yet.
    async fn open(&self) -> Result<Opened, ImageError> {
        let end = Instant::now() + LETS_GO;
        loop {
            match self.connection.open_content(self.lease, &self.reference, &self.blob).await {
                Err(error) if error.reason.contains("locked") && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                opened => return Ok(opened?),
            }
        }
    }

    /// Writes what is missing.
    async fn fill(&self, writer: &mut Writer) -> Result<(), ImageError> {
        let size = self.blob.size;
        if writer.offset > size {
            writer.truncate().await?;
        }
        if writer.offset == size {
            return Ok(());
        }
        let mut flow = self.source.blob(self.digest, writer.offset).await?;
        if flow.offset() == 0 {
            writer.truncate().await?;
        }
        // It may begin before the place that was asked for.
        let mut skipped = writer.offset - flow.offset().min(writer.offset);
        let mut pending: Vec<u8> = Vec::new();
        loop {
            let next = flow.next().await;
            if let Ok(Some(chunk)) = &next {
                let skip = usize::try_from(skipped).unwrap_or(usize::MAX).min(chunk.len());
                skipped -= skip as u64;
                pending.extend_from_slice(&chunk[skip..]);
            }
            let more = matches!(next, Ok(Some(_)));
            if writer.offset + pending.len() as u64 > size {
                return Err(ImageError::Unfit(format!(
                    "its layer {} is larger than the {size} bytes that its manifest says",
                    self.digest
                )));
            }
            while pending.len() >= CHUNK || (!more && !pending.is_empty()) {
                let rest = pending.split_off(pending.len().min(CHUNK));
                let chunk = std::mem::replace(&mut pending, rest);
                self.progress.fetched.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                writer.write(chunk).await?;
            }
            next?;
            if !more {
                break;
            }
        }
        if writer.offset < size {
            let said = format!("layer {} ends after {} of {size} bytes", self.digest, writer.offset);
            return Err(RegistryError::Broken { host: "the registry".into(), said }.into());
        }
        Ok(())
    }
}
