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

/// What images may take, by age and by space.
#[derive(Clone, Copy)]
struct Bounds {
    max_age: Option<Duration>,
    max_bytes: Option<u64>,
}

/// Which of them go, by their places in `kept`, the one used longest ago first. `kept` begins with
/// the one used last, and says which are in use.
fn leaving(kept: &[Kept], which: Collect, bounds: Bounds, now: SystemTime) -> Vec<usize> {
    let mut total: u64 = kept.iter().map(|one| one.seen.bytes).sum();
    let mut leaving = Vec::new();
    for (index, one) in kept.iter().enumerate().rev().filter(|(_, one)| !one.seen.in_use) {
        let age = now.duration_since(one.seen.last_used).unwrap_or_default();
        let too_old = bounds.max_age.is_some_and(|max| age > max);
        let too_much = bounds.max_bytes.is_some_and(|max| total > max);
        // What has no name any more is found by nobody.
        if which == Collect::Unused || too_old || too_much || one.seen.names.is_empty() {
            total -= one.seen.bytes.min(total);
            leaving.push(index);
        }
    }
    leaving
}

impl Inner {
    /// By manifests, the one used last first.
    async fn kept(&self) -> Result<Vec<Kept>, CallError> {
        let mut kept: BTreeMap<ImageDigest, Kept> = BTreeMap::new();
        let used = |manifest: &ImageDigest, written: SystemTime| {
            self.state().used.get(manifest).copied().unwrap_or(written).max(written)
        };
        let begin = |written: Written, used: SystemTime| Kept {
            seen: ImageSeen {
                names: Vec::new(),
                digest: written.manifest,
                bytes: written.bytes,
                last_used: used,
                in_use: false,
            },
            chain: written.chain,
            written: written.last_used,
        };
        for named in self.connection.images().await? {
            let Some(written) = self.names.read(&named.labels) else { continue };
            let (last_used, used) = (written.last_used, used(&written.manifest, written.last_used));
            let one = kept.entry(written.manifest.clone()).or_insert_with(|| begin(written, used));
            one.seen.names.push(named.name);
            one.seen.last_used = one.seen.last_used.max(used);
            one.written = one.written.max(last_used);
        }
        // What lost its name while something used it.
        for lease in self.connection.leases(LEASE, self.names.owner()).await? {
            let Some(chain) = self.names.held(&lease.id) else { continue };
            let written = self.names.read(&lease.labels).filter(|written| !kept.contains_key(&written.manifest));
            if let Some(written) = written.filter(|_| kept.values().all(|one| one.chain != chain)) {
                let used = used(&written.manifest, written.last_used);
                kept.insert(written.manifest.clone(), begin(written, used));
            }
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
        let mut kept = self.kept().await?;
        self.mark(&mut kept, &self.used(in_use));
        Ok(kept.into_iter().map(|one| one.seen).collect())
    }

    /// See the port.
    pub(super) async fn surplus(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, CallError> {
        let mut kept = self.kept().await?;
        self.mark(&mut kept, &self.used(in_use));
        let leaving = leaving(&kept, which, self.bounds(), SystemTime::now());
        Ok(leaving.into_iter().map(|index| kept[index].seen.clone()).collect())
    }

    /// Says which are in use. By manifest, or by layers: those of several manifests may be the same.
    fn mark(&self, kept: &mut [Kept], used: &BTreeSet<ImageDigest>) {
        for one in kept {
            one.seen.in_use =
                used.contains(&one.seen.digest) || (one.seen.names.is_empty() && used.contains(&one.chain));
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds { max_age: self.max_age, max_bytes: self.max_bytes }
    }

    /// See the port.
    pub(super) async fn collect(&self, which: Collect, in_use: InUse<'_>) -> Result<Vec<ImageSeen>, CallError> {
        if which == Collect::Routine {
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
        let now = SystemTime::now();
        let used = self.used(in_use);
        let mut state = self.state();
        self.mark(kept, &used);
        for one in &mut *kept {
            // Pinned, or pinned and recorded, since its users were asked for.
            let since = state.used.get(&one.seen.digest).is_some_and(|used| *used >= now);
            one.seen.in_use |= since || state.is_pinned(&one.seen.digest);
            if one.seen.in_use {
                state.used.insert(one.seen.digest.clone(), now);
            }
        }
        let leaving = leaving(kept, which, self.bounds(), now);
        for manifest in leaving.iter().map(|index| &kept[*index].seen.digest) {
            state.leaving.insert(manifest.clone());
            state.known.retain(|_, image| image.digest != *manifest);
            state.used.remove(manifest);
        }
        // From the end on, so that places stay what they are.
        leaving.into_iter().map(|index| kept.remove(index)).collect()
    }

    async fn remove(&self, leaving: &[Kept], kept: &[Kept], in_use: InUse<'_>) -> Result<(), CallError> {
        for name in leaving.iter().flat_map(|one| &one.seen.names) {
            self.connection.forget_image(name, Collection::Later).await?;
        }
        // Chains that nobody needs: those of what leaves, and of what others have removed by name.
        let leases = self.connection.leases(LEASE, self.names.owner()).await?;
        let mut needed: HashSet<ImageDigest> = kept.iter().map(|one| one.chain.clone()).collect();
        needed.extend(self.used(in_use));
        let idle = leases.iter().filter_map(|lease| self.names.held(&lease.id));
        let mut removed = !leaving.is_empty();
        for chain in idle.filter(|chain| !needed.contains(chain)) {
            removed |= self.let_go(&chain, in_use).await?;
        }
        if removed {
            // One that is not there: what was removed is freed when this is answered.
            let lease = self.names.pull();
            self.connection.create_lease(&lease, self.names.lease_labels(), None).await?;
            self.connection.delete_lease(&lease, Collection::Now).await?;
        }
        Ok(())
    }

    /// Takes away what holds a chain of layers, unless somebody has begun to use it; says which.
    async fn let_go(&self, chain: &ImageDigest, in_use: InUse<'_>) -> Result<bool, CallError> {
        let name = self.names.hold(chain);
        let turn = self.turns.of(&name);
        let _held = turn.lock().await;
        {
            // Who comes after this finds it not held, and waits for the turn.
            let mut state = self.state();
            if state.pins_chain(chain) {
                return Ok(false);
            }
            state.held.remove(chain);
        }
        if in_use().contains(chain) {
            return Ok(false);
        }
        self.connection.remove_snapshot(&name).await?;
        self.connection.delete_lease(&name, Collection::Later).await?;
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Of (seconds since it was used, bytes, whether it is in use, whether it has a name).
    fn kept(of: &[(u64, u64, bool, bool)]) -> Vec<Kept> {
        let one = |(index, &(age, bytes, in_use, named)): (usize, &(u64, u64, bool, bool))| {
            let digest = ImageDigest::new(format!("sha256:{index:064x}")).unwrap();
            let names = if named { vec![index.to_string()] } else { Vec::new() };
            let seen = ImageSeen { names, digest: digest.clone(), bytes, last_used: at(NOW - age), in_use };
            Kept { seen, chain: digest, written: at(0) }
        };
        let mut kept: Vec<Kept> = of.iter().enumerate().map(one).collect();
        kept.sort_by_key(|one| std::cmp::Reverse(one.seen.last_used));
        kept
    }

    fn bounds(max_age: Option<u64>, max_bytes: Option<u64>) -> Bounds {
        Bounds { max_age: max_age.map(Duration::from_secs), max_bytes }
    }

    #[test]
    fn what_is_too_old_too_much_or_nameless_goes_and_nothing_that_is_used() {
        let all = kept(&[(10, 5, false, true), (20, 5, true, true), (30, 5, false, true), (40, 5, false, true)]);
        let which = |which, bounds| leaving(&all, which, bounds, at(NOW));
        assert_eq!(which(Collect::Surplus, bounds(None, None)), [0; 0]);
        assert_eq!(which(Collect::Surplus, bounds(Some(25), None)), [3, 2]);
        assert_eq!(which(Collect::Surplus, bounds(None, Some(12))), [3, 2]);
        assert_eq!(which(Collect::Unused, bounds(None, None)), [3, 2, 0]);
        let nameless = kept(&[(1, 5, false, false), (2, 5, true, false)]);
        assert_eq!(leaving(&nameless, Collect::Routine, bounds(None, None), at(NOW)), [0]);
    }

    proptest! {
        #[test]
        fn space_is_kept_to_unless_what_is_used_takes_it_and_no_more_goes_than_that_needs(
            of in prop::collection::vec((0u64..100, 0u64..50, any::<bool>(), Just(true)), 0..12),
            max in 0u64..300,
        ) {
            let all = kept(&of);
            let gone = leaving(&all, Collect::Surplus, bounds(None, Some(max)), at(NOW));
            prop_assert!(gone.iter().all(|index| !all[*index].seen.in_use));
            let total: u64 = all.iter().map(|one| one.seen.bytes).sum();
            let freed: u64 = gone.iter().map(|index| all[*index].seen.bytes).sum();
            let unused = all.iter().filter(|one| !one.seen.in_use).count();
            prop_assert!(total - freed <= max || gone.len() == unused);
            if let Some(last) = gone.last() {
                prop_assert!(total - freed + all[*last].seen.bytes > max);
            }
        }
    }
}
