//! Which images are there, and the removal of those that nobody uses: by age and by space, the one
//! used longest ago first, or all of them where that is asked for.
//!
//! Only images that carry our mark are looked at. What is removed are their names, and what holds
//! their layers; blobs and snapshots go by containerd's own collection, unless something else
//! refers to them.

use super::Inner;
use super::names::{LAST_USED, LEASE, Written, seconds};
use crate::node::containerd::CallError;
use crate::node::containerd::leases::Collection;
use gardend_controller::ports::{Collect, ImageSeen, InUse};
use gardend_controller::record::ImageDigest;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant, SystemTime};

/// How often what is too much is looked for.
const EVERY: Duration = Duration::from_secs(60);
/// How often it is written down that an image is still in use.
const WRITES: Duration = Duration::from_secs(600);

/// An image under all its names.
struct Kept {
    seen: ImageSeen,
    chain: ImageDigest,
    /// What is written on it, which may be older than what is known.
    written: SystemTime,
}

impl Inner {
    /// By manifests, the one used last first.
    async fn kept(&self) -> Result<Vec<Kept>, CallError> {
        let mut kept: BTreeMap<ImageDigest, Kept> = BTreeMap::new();
        for named in self.connection.images().await? {
            let Some(Written { manifest, chain, bytes, last_used, .. }) = self.names.read(&named) else { continue };
            let used = self.state().used.get(&manifest).copied().unwrap_or(last_used).max(last_used);
            let one = kept.entry(manifest.clone()).or_insert_with(|| Kept {
                seen: ImageSeen { names: Vec::new(), digest: manifest, bytes, last_used: used, in_use: false },
                chain,
                written: last_used,
            });
            one.seen.names.push(named.name);
            one.seen.last_used = one.seen.last_used.max(used);
            one.written = one.written.max(last_used);
        }
        let mut kept: Vec<Kept> = kept.into_values().collect();
        kept.sort_by_key(|one| std::cmp::Reverse(one.seen.last_used));
        Ok(kept)
    }

    /// Manifests and chains in use, by pins and by whoever knows.
    fn used(&self, in_use: InUse<'_>) -> BTreeSet<ImageDigest> {
        // Pins first: what is let go of meanwhile is in use by then.
        let mut used: BTreeSet<ImageDigest> = {
            let state = self.state();
            let pinned = state.pins.iter().filter(|(_, pin)| pin.strong_count() > 0);
            pinned.map(|(manifest, _)| manifest.clone()).collect()
        };
        used.extend(in_use());
        used
    }

    /// See the port.
    pub(super) async fn list(&self, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, CallError> {
        let kept = self.kept().await?;
        let used = self.used(in_use);
        let seen = kept.into_iter().map(|mut one| {
            one.seen.in_use = used.contains(&one.seen.digest);
            one.seen
        });
        Ok(seen.collect())
    }

    /// See the port.
    pub(super) async fn collect(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, CallError> {
        if which == Collect::Surplus {
            let mut state = self.state();
            if state.collected.is_some_and(|last| last.elapsed() < EVERY) {
                return Ok(Vec::new());
            }
            state.collected = Some(Instant::now());
        }
        self.settle().await?;
        let mut kept = self.kept().await?;
        let leaving = self.choose(&mut kept, which, in_use);
        let removed = self.remove(&leaving, &kept, in_use).await;
        {
            let mut state = self.state();
            for one in &leaving {
                state.leaving.remove(&one.seen.digest);
            }
        }
        self.left.notify_waiters();
        removed?;
        self.note_use(&kept).await?;
        Ok(leaving.into_iter().map(|one| one.seen).collect())
    }

    /// Takes out those that go, and marks them: whoever asks for one now waits until it has gone.
    fn choose(&self, kept: &mut Vec<Kept>, which: Collect, in_use: InUse<'_>) -> Vec<Kept> {
        let mut leaving = Vec::new();
        let used = self.used(in_use);
        let now = SystemTime::now();
        let mut state = self.state();
        let mut total: u64 = kept.iter().map(|one| one.seen.bytes).sum();
        // The one used longest ago first.
        for index in (0..kept.len()).rev() {
            let one = &mut kept[index];
            let pinned = state.pins.get(&one.seen.digest).is_some_and(|pin| pin.strong_count() > 0);
            one.seen.in_use = pinned || used.contains(&one.seen.digest);
            if one.seen.in_use {
                state.used.insert(one.seen.digest.clone(), now);
                continue;
            }
            let age = now.duration_since(one.seen.last_used).unwrap_or_default();
            let too_old = self.max_age.is_some_and(|max| age > max);
            let too_much = self.max_bytes.is_some_and(|max| total > max);
            if which == Collect::Unused || too_old || too_much {
                total -= one.seen.bytes.min(total);
                state.leaving.insert(one.seen.digest.clone());
                let manifest = &one.seen.digest;
                state.known.retain(|_, image| image.digest != *manifest);
                state.used.remove(manifest);
                leaving.push(kept.remove(index));
            }
        }
        leaving
    }

    async fn remove(&self, leaving: &[Kept], kept: &[Kept], in_use: InUse<'_>) -> Result<(), CallError> {
        for name in leaving.iter().flat_map(|one| &one.seen.names) {
            self.connection.forget_image(name, Collection::Later).await?;
        }
        // Chains that nobody needs: those of what leaves, and of what others have removed by name.
        let leases = self.connection.leases(LEASE, self.names.owner()).await?;
        let mut needed: HashSet<ImageDigest> = kept.iter().map(|one| one.chain.clone()).collect();
        needed.extend(self.used(in_use));
        {
            // What is pulled just now is in no list yet.
            let state = self.state();
            let pinned = |manifest: &ImageDigest| state.pins.get(manifest).is_some_and(|pin| pin.strong_count() > 0);
            needed.extend(state.known.values().filter(|image| pinned(&image.digest)).map(|image| image.chain.clone()));
        }
        let idle: Vec<_> = leases.iter().filter_map(|lease| self.names.held(lease)).collect();
        let idle: Vec<_> = idle.into_iter().filter(|chain| !needed.contains(chain)).collect();
        for chain in &idle {
            let name = self.names.hold(chain);
            let turn = self.turns.of(&name);
            let _held = turn.lock().await;
            self.state().held.remove(chain);
            self.connection.remove_snapshot(&name).await?;
            self.connection.delete_lease(&name, Collection::Later).await?;
        }
        if !leaving.is_empty() || !idle.is_empty() {
            // One that is not there: what was removed is freed when this is answered.
            let lease = self.names.pull();
            self.connection.create_lease(&lease, self.names.lease_labels(), None).await?;
            self.connection.delete_lease(&lease, Collection::Now).await?;
        }
        Ok(())
    }

    /// Writes down when what is in use was used, so that the next gardend knows.
    async fn note_use(&self, kept: &[Kept]) -> Result<(), CallError> {
        for one in kept {
            let used = self.state().used.get(&one.seen.digest).copied();
            let Some(used) = used.filter(|used| used.duration_since(one.written).unwrap_or_default() > WRITES) else {
                continue;
            };
            for name in &one.seen.names {
                match self.connection.label_image(name, LAST_USED, seconds(used)).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
