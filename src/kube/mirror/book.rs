//! What the API server is known to have, and which objects wait for a look.
//!
//! A plain structure without I/O, and time only as it is told. For each object there is at most one
//! entry that waits, whatever happened to it meanwhile: the look reads what is true by then.
//!
//! What comes late does no harm: of two versions of an object the newer one counts, whether it
//! came by a watch or as the answer to a write.

use gardend_controller::record::ContainerUid;
use gardend_crds::{Condition, GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// An object, as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// As Kubernetes counts versions; 0 where it does not say.
    pub version: u64,
    pub uid: Option<String>,
    pub generation: Option<i64>,
    pub spec: Value,
    pub status: Value,
    pub conditions: Vec<Condition>,
    /// It is being deleted.
    pub going: bool,
}

impl Seen {
    /// `None` for one that is not a mirror's.
    pub(super) fn of(object: &GardenContainer) -> Option<Self> {
        let origin = object.metadata.labels.as_ref().and_then(|labels| labels.get(ORIGIN_LABEL));
        if origin.map(String::as_str) != Some(ORIGIN_GARDEN) {
            return None;
        }
        Some(Self {
            version: version(object),
            uid: object.metadata.uid.clone(),
            generation: object.metadata.generation,
            spec: serde_json::to_value(&object.spec).unwrap_or_default(),
            status: serde_json::to_value(&object.status).unwrap_or_default(),
            conditions: object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default(),
            going: object.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// Versions of one kind are numbers that grow (Kubernetes 1.35 promises it, and etcd always did so).
pub(super) fn version(object: &GardenContainer) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[derive(Default)]
struct Entry {
    /// The container that it stands for, while there is one.
    container: Option<ContainerUid>,
    seen: Option<Seen>,
    /// The newest version that was heard of, of a deleted one too.
    version: u64,
    /// When it is looked at next.
    due: Option<Instant>,
    /// Not to be written before.
    not_before: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<String, Entry>,
    names: HashMap<ContainerUid, String>,
    waiting: BTreeSet<(Instant, String)>,
}

impl Book {
    /// Something of a container may be another than before. `name` is its object's, while there is
    /// such a container.
    pub(super) fn container_changed(&mut self, uid: &ContainerUid, name: Option<String>, now: Instant) {
        match (name, self.names.get(uid).cloned()) {
            (Some(name), known) => {
                if known.as_ref() != Some(&name) {
                    self.names.insert(uid.clone(), name.clone());
                    self.entries.entry(name.clone()).or_default().container = Some(uid.clone());
                }
                self.look(&name, now);
            }
            (None, Some(name)) => {
                self.names.remove(uid);
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.container = None;
                }
                // Else those that live a moment would pile up for as long as the API server is away.
                // An object that was written, and of which no answer came, is heard of in time.
                if !self.forget_if_unheard_of(&name) {
                    self.look(&name, now);
                }
            }
            // It came and went between two looks.
            (None, None) => {}
        }
    }

    /// The API server has this object, of which `version` is known even where it is not a mirror's.
    pub(super) fn heard(&mut self, name: &str, seen: Option<Seen>, version: u64, now: Instant) {
        if seen.is_none() && !self.entries.contains_key(name) {
            return;
        }
        let entry = self.entries.entry(name.to_owned()).or_default();
        if version != 0 && version <= entry.version {
            return;
        }
        entry.version = version;
        if entry.seen != seen {
            entry.seen = seen;
            self.look(name, now);
        }
    }

    /// It has it no more.
    pub(super) fn deleted(&mut self, name: &str, version: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if version != 0 && version < entry.version {
            return;
        }
        entry.version = version;
        let was_there = entry.seen.take().is_some();
        if entry.container.is_none() {
            self.forget(name);
        } else if was_there {
            self.look(name, now);
        }
    }

    /// All that it has.
    pub(super) fn listed(&mut self, objects: Vec<(String, Seen)>, now: Instant) {
        let mut listed: HashMap<String, Seen> = objects.into_iter().collect();
        let known: Vec<String> = self.entries.keys().cloned().collect();
        for name in known {
            match listed.remove(&name) {
                Some(seen) => {
                    let version = seen.version;
                    self.heard(&name, Some(seen), version, now);
                }
                None => {
                    if let Some(entry) = self.entries.get_mut(&name) {
                        entry.seen = None;
                    }
                }
            }
            self.look(&name, now);
        }
        for (name, seen) in listed {
            let version = seen.version;
            self.heard(&name, Some(seen), version, now);
        }
    }

    /// A write was answered with this object.
    pub(super) fn written(&mut self, name: &str, seen: Option<Seen>, version: u64) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.refusals = 0;
        // The same version where the write changed nothing.
        if version == 0 || version >= entry.version {
            entry.version = version;
            entry.seen = seen;
        }
    }

    /// A delete was answered. The entry stays until the watch has told of it: what it tells before
    /// is older.
    pub(super) fn removed(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.seen = None;
            entry.refusals = 0;
        }
    }

    /// It was not where it was thought to be.
    pub(super) fn missing(&mut self, name: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.seen = None;
            self.look(name, now);
        }
    }

    /// It is left alone for a while, and looked at then where `again` says so.
    pub(super) fn settle(&mut self, name: &str, until: Instant, again: bool) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.not_before = Some(until);
        let again = again || entry.due.is_some();
        if let Some(due) = entry.due.take() {
            self.waiting.remove(&(due, name.to_owned()));
        }
        if again {
            self.look(name, until);
        }
    }

    /// Refused: how often in a row.
    pub(super) fn refused(&mut self, name: &str) -> u32 {
        self.entries.get_mut(name).map_or(0, |entry| {
            entry.refusals = entry.refusals.saturating_add(1);
            entry.refusals
        })
    }

    /// It is to be looked at.
    pub(super) fn look(&mut self, name: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if entry.due.is_some() {
            return;
        }
        let due = entry.not_before.map_or(now, |not_before| not_before.max(now));
        entry.due = Some(due);
        self.waiting.insert((due, name.to_owned()));
    }

    /// Everything is to be looked at.
    pub(super) fn look_at_all(&mut self, now: Instant) {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        names.iter().for_each(|name| self.look(name, now));
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// The next that is due: its name, and its container while there is one.
    pub(super) fn take(&mut self, now: Instant) -> Option<(String, Option<ContainerUid>)> {
        let (due, name) = self.waiting.first().cloned()?;
        if due > now {
            return None;
        }
        self.waiting.remove(&(due, name.clone()));
        let entry = self.entries.get_mut(&name)?;
        entry.due = None;
        Some((name, entry.container.clone()))
    }

    /// What the API server has of it.
    pub(super) fn seen(&self, name: &str) -> Option<&Seen> {
        self.entries.get(name)?.seen.as_ref()
    }

    /// The object of a container.
    pub(super) fn object_of(&self, uid: &ContainerUid) -> Option<(&String, Option<&Seen>)> {
        let name = self.names.get(uid)?;
        Some((name, self.seen(name)))
    }

    /// Containers whose objects are known.
    pub(super) fn containers(&self) -> Vec<ContainerUid> {
        self.names.keys().cloned().collect()
    }

    /// Nothing of it is anywhere any more, unless its deletion is still to be heard of. Whether it
    /// was forgotten.
    pub(super) fn forget_if_unheard_of(&mut self, name: &str) -> bool {
        let unheard_of = |entry: &Entry| entry.container.is_none() && entry.seen.is_none() && entry.version == 0;
        let forgotten = self.entries.get(name).is_some_and(unheard_of);
        if forgotten {
            self.forget(name);
        }
        forgotten
    }

    fn forget(&mut self, name: &str) {
        if let Some(due) = self.entries.remove(name).and_then(|entry| entry.due) {
            self.waiting.remove(&(due, name.to_owned()));
        }
    }

    /// How many wait, and how many the API server has.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.entries.values().filter(|entry| entry.seen.is_some()).count())
    }

    /// Since when the one that waits longest does.
    pub(super) fn behind(&self, now: Instant) -> Duration {
        self.next_due().map_or(Duration::ZERO, |due| now.saturating_duration_since(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: u64) -> Seen {
        Seen {
            version,
            uid: None,
            generation: Some(1),
            spec: version.into(),
            status: Value::Null,
            conditions: Vec::new(),
            going: false,
        }
    }

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn a_container_that_came_and_went_between_two_looks_leaves_nothing() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, None, now);
        assert_eq!((book.take(now), book.counts()), (None, (0, 0)));
        book.container_changed(&uid, Some("a".into()), now);
        book.container_changed(&uid, None, now);
        assert_eq!((book.take(now), book.counts()), (None, (0, 0)));
        assert!(book.entries.is_empty() && book.names.is_empty());
    }

    #[test]
    fn an_object_of_a_container_that_is_gone_is_looked_at_once_it_is_heard_of() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, Some("a".into()), now);
        // It was written, and no answer came.
        book.take(now);
        book.container_changed(&uid, None, now);
        assert_eq!(book.take(now), None);
        book.heard("a", Some(seen(7)), 7, now);
        assert_eq!(book.take(now), Some(("a".into(), None)));
    }

    #[test]
    fn any_number_of_changes_waits_as_one() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        (0..100).for_each(|_| book.container_changed(&uid, Some("a".into()), now));
        assert_eq!(book.take(now), Some(("a".into(), Some(uid))));
        assert_eq!(book.take(now), None);
    }

    #[test]
    fn an_object_that_was_written_is_left_alone_for_a_while_and_then_looked_at() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, Some("a".into()), now);
        book.take(now);
        book.written("a", Some(seen(5)), 5);
        book.settle("a", later(now, 2), false);
        book.container_changed(&uid, Some("a".into()), now);
        assert_eq!(book.take(later(now, 1)), None);
        assert!(book.take(later(now, 2)).is_some());
    }

    #[test]
    fn what_the_watch_tells_late_is_not_believed() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, Some("a".into()), now);
        book.written("a", Some(seen(5)), 5);
        book.take(now);
        for version in [3, 5] {
            book.heard("a", Some(seen(version)), version, now);
            assert_eq!(book.take(now), None, "{version}");
        }
        book.heard("a", Some(seen(6)), 6, now);
        assert!(book.take(now).is_some());
        book.removed("a");
        book.container_changed(&uid, None, now);
        book.take(now);
        book.heard("a", Some(seen(4)), 4, now);
        assert_eq!((book.take(now), book.seen("a")), (None, None));
        book.deleted("a", 7, now);
        assert!(book.entries.is_empty());
    }

    #[test]
    fn an_object_that_somebody_deleted_is_looked_at() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, Some("a".into()), now);
        book.take(now);
        book.written("a", Some(seen(5)), 5);
        book.deleted("a", 6, now);
        assert_eq!((book.take(now), book.seen("a")), (Some(("a".into(), Some(uid))), None));
    }

    #[test]
    fn a_list_tells_of_strangers_and_of_what_is_missing() {
        let (mut book, now, uid) = (Book::default(), Instant::now(), ContainerUid::generate());
        book.container_changed(&uid, Some("mine".into()), now);
        book.take(now);
        book.written("mine", Some(seen(5)), 5);
        book.listed(vec![("stray".into(), seen(9))], now);
        let mut looks = [book.take(now).unwrap(), book.take(now).unwrap()];
        looks.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(looks, [("mine".into(), Some(uid)), ("stray".into(), None)]);
        assert!(book.seen("mine").is_none() && book.seen("stray").is_some());
    }
}
