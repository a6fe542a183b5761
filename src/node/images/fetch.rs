//! An image from where it is into containerd: documents and layers stored, layers unpacked one
//! above the other, all under one lease, and at the end a name.
//!
//! Promises: nothing of it is seen before it is whole; whatever ends it early, its lease goes, and
//! with it what nothing else holds. Layers come several at once, and each is unpacked as soon as
//! those below it are.

use super::error::ImageError;
use super::manifest::{Config, Descriptor, Document, Manifest, Platform, media_type};
use super::names::{Names, REF_CONTENT, REF_SNAPSHOT, SOURCE, UNCOMPRESSED};
use super::source::Source;
use super::transfer::{MAX_LAYER, Progress, Transfer, Turns};
use crate::node::containerd::content::{CHUNK, Opened};
use crate::node::containerd::images::Blob;
use crate::node::containerd::snapshots::{SNAPSHOTTER, Usage};
use crate::node::containerd::{CallErrorKind, Connection};
use futures_util::stream::{self, StreamExt};
use gardend_controller::ports::PullProgress;
use gardend_controller::record::{ImageDigest, ResolvedImage};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Layers that come at once.
const AT_ONCE: usize = 3;
/// Indexes within indexes.
const MAX_DEPTH: usize = 3;
/// How often a pull that goes on says so.
const TELL: Duration = Duration::from_secs(5);

/// What a fetch needs.
pub(super) struct Fetch {
    pub(super) connection: Connection,
    pub(super) names: Names,
    pub(super) platform: Platform,
    pub(super) turns: Turns,
    pub(super) source: Arc<Source>,
    /// As people know it, for the log.
    pub(super) shown: String,
    /// What was asked for: a manifest or an index.
    pub(super) top: ImageDigest,
    pub(super) lease: String,
    pub(super) progress: Arc<Progress>,
    pub(super) cancelled: CancellationToken,
}

/// What is on the node afterwards, held by the lease.
pub(super) struct Fetched {
    pub(super) image: ResolvedImage,
    /// What a name is given to.
    pub(super) target: Blob,
    /// What came from elsewhere.
    pub(super) bytes: u64,
}

/// A document and what it refers to.
struct Stored {
    digest: ImageDigest,
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
}

impl Fetch {
    /// Fetches it.
    pub(super) async fn run(&self) -> Result<Fetched, ImageError> {
        let begin = Instant::now();
        let (mut documents, manifest_digest, manifest) = self.documents().await?;
        let config_bytes = self.source_config(&manifest.config).await?;
        let config = Config::parse(&config_bytes, manifest.layers.len(), &self.platform)?;
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > MAX_LAYER) {
            let said = format!(
                "its layer {} is {} bytes large, by its manifest; the limit is {MAX_LAYER}",
                layer.digest, layer.size
            );
            return Err(ImageError::Unfit(said));
        }
        let chain = config.chain();
        let last = chain.last().cloned().ok_or_else(|| ImageError::Unfit("it has no layers".into()))?;
        let labels = [(REF_SNAPSHOT.to_owned(), last.to_string())].into();
        documents.push(Stored { digest: manifest.config.digest.clone(), bytes: config_bytes, labels });
        // What refers to others is stored after them, as containerd's own clients do.
        for document in documents.iter().rev() {
            self.store(document).await?;
        }

        let progress = &*self.progress;
        progress.total.store(manifest.layers.iter().map(|layer| layer.size).sum(), Ordering::Relaxed);
        progress.layers.store(manifest.layers.len() as u64, Ordering::Relaxed);
        tracing::info!(
            image = %self.shown, manifest = %manifest_digest, layers = manifest.layers.len(),
            bytes = progress.total.load(Ordering::Relaxed), "pulling an image"
        );
        let stored = watch::Sender::new(vec![false; manifest.layers.len()]);
        let work = async {
            let transfer = self.transfer_all(&manifest.layers, &stored, progress);
            let unpack = self.unpack_all(&manifest.layers, &config, &chain, &stored, progress);
            tokio::try_join!(transfer, unpack).map(|((), ())| ())
        };
        tokio::select! {
            // Its parts hear of a cancellation themselves, and tidy up.
            done = work => done?,
            () = self.tell(progress) => {}
        }
        let usage = self.measure(&chain).await?;
        let top = &documents[0];
        let target =
            Blob { media_type: media_type(&top.bytes), digest: top.digest.to_string(), size: top.bytes.len() as u64 };
        let bytes = progress.fetched.load(Ordering::Relaxed);
        tracing::info!(image = %self.shown, bytes, took = ?begin.elapsed(), "an image was pulled");
        let image = ResolvedImage {
            digest: manifest_digest,
            chain: last,
            env: config.env,
            bytes: usage.bytes,
            inodes: usage.inodes,
        };
        Ok(Fetched { image, target, bytes })
    }

    /// From what was asked for down to a manifest for this machine.
    async fn documents(&self) -> Result<(Vec<Stored>, ImageDigest, Manifest), ImageError> {
        let mut documents = Vec::new();
        let mut digest = self.top.clone();
        for _ in 0..=MAX_DEPTH {
            let bytes = match self.connection.read_content(digest.as_str(), super::registry::MAX_DOCUMENT).await? {
                Some(bytes) => bytes,
                None => self.unless_cancelled(self.source.manifest(&digest)).await?,
            };
            match Document::parse(&bytes)? {
                Document::Index(entries) => {
                    let chosen = self.platform.choose(&entries)?.digest.clone();
                    let labels = [(format!("{REF_CONTENT}.m.0"), chosen.to_string())].into();
                    documents.push(Stored { digest, bytes, labels });
                    digest = chosen;
                }
                Document::Manifest(manifest) => {
                    let layers = manifest.layers.iter().enumerate();
                    let layers = layers.map(|(n, layer)| (format!("{REF_CONTENT}.l.{n}"), layer.digest.to_string()));
                    let config = (format!("{REF_CONTENT}.config"), manifest.config.digest.to_string());
                    let labels = layers.chain(std::iter::once(config)).collect();
                    documents.push(Stored { digest: digest.clone(), bytes, labels });
                    return Ok((documents, digest, manifest));
                }
            }
        }
        Err(ImageError::Unfit(format!("it is an index of indexes, more than {MAX_DEPTH} deep")))
    }

    async fn source_config(&self, config: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self.connection.read_content(config.digest.as_str(), super::registry::MAX_DOCUMENT).await? {
            Some(bytes) => Ok(bytes),
            None => self.unless_cancelled(self.source.config(&config.digest)).await,
        }
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, ImageError>>) -> Result<T, ImageError> {
        tokio::select! {
            // Cancel-safe: what was asked for is kept nowhere yet.
            done = work => done,
            () = self.cancelled.cancelled() => Err(ImageError::GivenUp),
        }
    }

    /// Labels that say where a blob came from, for containerd's own clients.
    fn source_label(&self) -> Option<(String, String)> {
        match &*self.source {
            Source::Registry { host, name, .. } => Some((format!("{SOURCE}.{host}"), name.clone())),
            Source::Layout(_) => None,
        }
    }

    async fn store(&self, document: &Stored) -> Result<(), ImageError> {
        let mut labels = document.labels.clone();
        // A host with a port of IPv6 makes no label.
        labels.extend(self.source_label().filter(|(key, _)| !key.contains(['[', ']'])));
        let blob =
            Blob { media_type: String::new(), digest: document.digest.to_string(), size: document.bytes.len() as u64 };
        let reference = self.names.writing(&document.digest);
        let turn = self.turns.of(&reference);
        let _held = turn.lock().await;
        match self.connection.open_content(&self.lease, &reference, &blob).await? {
            Opened::There => self.connection.label_content(document.digest.as_str(), labels).await?,
            Opened::Missing(mut writer) => {
                writer.truncate().await?;
                for chunk in document.bytes.chunks(CHUNK) {
                    writer.write(chunk.to_vec()).await?;
                }
                writer.commit(labels).await?;
            }
        }
        Ok(())
    }

    async fn transfer_all(
        &self,
        layers: &[Descriptor],
        stored: &watch::Sender<Vec<bool>>,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        type Work<'a> = Pin<Box<dyn Future<Output = (usize, ImageDigest, Result<(), ImageError>)> + Send + 'a>>;
        let mut work: Vec<Work<'_>> = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let labels = self.source_label().filter(|(key, _)| !key.contains(['[', ']'])).into_iter().collect();
            let transfer = Transfer {
                connection: &self.connection,
                source: &self.source,
                lease: &self.lease,
                digest: &layer.digest,
                blob: blob_of(layer),
                reference: self.names.writing(&layer.digest),
                labels,
                progress,
                cancelled: &self.cancelled,
            };
            let digest = layer.digest.clone();
            work.push(Box::pin(async move {
                let done = transfer.run(&self.turns).await;
                (index, digest, done)
            }));
        }
        let mut transfers = stream::iter(work).buffer_unordered(AT_ONCE);
        let mut failure = None;
        // To the end also where one fails: each tidies up after itself.
        while let Some((index, digest, done)) = transfers.next().await {
            match done {
                Ok(()) => stored.send_modify(|stored| stored[index] = true),
                Err(error) => {
                    tracing::debug!(layer = %digest, %error, "a layer was not stored");
                    self.cancelled.cancel();
                    // What is given up because of it says less.
                    failure = Some(failure.unwrap_or(error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn unpack_all(
        &self,
        layers: &[Descriptor],
        config: &Config,
        chain: &[ImageDigest],
        stored: &watch::Sender<Vec<bool>>,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let mut stored = stored.subscribe();
        let mut parent = "";
        for (index, layer) in layers.iter().enumerate() {
            tokio::select! {
                // Cancel-safe: it only waits. The sender outlives this.
                _ = stored.wait_for(|stored| stored[index]) => {}
                // Whoever cancelled it says why.
                () = self.cancelled.cancelled() => return Ok(()),
            }
            self.unpack(layer, &config.diff_ids[index], &chain[index], parent).await?;
            progress.unpacked.fetch_add(1, Ordering::Relaxed);
            parent = chain[index].as_str();
        }
        Ok(())
    }

    /// Unpacks one layer above those below, where that was not done before.
    async fn unpack(
        &self,
        layer: &Descriptor,
        diff: &ImageDigest,
        name: &ImageDigest,
        parent: &str,
    ) -> Result<(), ImageError> {
        let turn = self.turns.of(name.as_str());
        let _held = turn.lock().await;
        // Held first, so that what is found stays.
        self.connection.hold_snapshot(&self.lease, SNAPSHOTTER, name.as_str()).await?;
        if self.connection.has_snapshot(name.as_str()).await? {
            return Ok(());
        }
        let key = self.names.unpacking();
        let filled = async {
            let mounts = self.connection.prepare_snapshot(&self.lease, &key, parent).await?;
            let seen = self.connection.apply(&packed(layer), &mounts).await.map_err(|error| match error.kind {
                CallErrorKind::Unavailable => ImageError::from(error),
                _ => ImageError::Unfit(format!("its layer {} cannot be unpacked: {}", layer.digest, error.reason)),
            })?;
            if seen != diff.as_str() {
                return Err(ImageError::Unfit(format!(
                    "its layer {} holds {seen} and its configuration says {diff}",
                    layer.digest
                )));
            }
            let labels = [(UNCOMPRESSED.to_owned(), diff.to_string())].into();
            self.connection.label_content(layer.digest.as_str(), labels).await?;
            self.connection.commit_snapshot(&self.lease, name.as_str(), &key).await?;
            Ok(())
        };
        let filled = filled.await;
        // Committed it has another name; where another was faster it is of no use.
        if let Err(error) = self.connection.remove_snapshot(&key).await {
            tracing::debug!(%error, "a half-filled snapshot is left to containerd's collection");
        }
        filled
    }

    async fn measure(&self, chain: &[ImageDigest]) -> Result<Usage, ImageError> {
        let mut sum = Usage::default();
        for name in chain {
            let one = self.connection.snapshot_usage(name.as_str()).await?;
            sum = Usage { bytes: sum.bytes + one.bytes, inodes: sum.inodes + one.inodes };
        }
        Ok(sum)
    }

    /// Says how far it is, until it is dropped.
    async fn tell(&self, progress: &Progress) {
        loop {
            tokio::time::sleep(TELL).await;
            let PullProgress { bytes, total, layers, unpacked } = progress.seen();
            tracing::info!(image = %self.shown, bytes, of = total, unpacked, layers, "still pulling an image");
        }
    }
}

fn blob_of(layer: &Descriptor) -> Blob {
    Blob { media_type: layer.media_type.clone(), digest: layer.digest.to_string(), size: layer.size }
}

/// The same in words that every containerd's differ knows: 1.6 has none for Docker's zstd.
fn packed(layer: &Descriptor) -> Blob {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
        known => known,
    };
    Blob { media_type: media_type.to_owned(), ..blob_of(layer) }
}
