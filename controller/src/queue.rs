//! Keys that want to be looked at: deduplicated, one worker a key, failures with backoff.
//!
//! ```text
//!   (absent) ──wake──▶ ready ──take──▶ running ──finish──▶ (absent), ready again or delayed
//!                        ▲                                               │
//!                        └────────────── due, or woken ──────────────────┘
//! ```
//!
//! Guarantees
//! - A key that was woken is taken at least once after that, however it stood.
//! - A key is never taken while it runs.
//! - A wake has a reason of its own: it ends a delay and forgets earlier failures. A nudge does
//!   neither.
//!
//! Pure: time and chance are arguments. Leaves to others: running anything.

use crate::counts::QueueCounts;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// The delay after a first failure, doubled with each further one.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest delay.
pub const BACKOFF_MOST: Duration = Duration::from_secs(10);

/// What a worker says of the key that it looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is left to do.
    Rest,
    /// To be looked at again after this time, or sooner if woken.
    After(Duration),
    /// Something failed: to be tried again, each time later.
    Failed,
}

#[derive(Debug)]
enum State {
    Ready,
    Delayed { at: Instant, ticket: u64 },
    Running { woken: bool },
}

#[derive(Debug)]
struct Entry {
    state: State,
    failures: u32,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<K> {
    entries: HashMap<K, Entry>,
    ready: VecDeque<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    tickets: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), ready: VecDeque::new(), delayed: BTreeMap::new(), tickets: 0 }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// There is news for this key.
    pub fn wake(&mut self, key: K) {
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key.clone(), Entry { state: State::Ready, failures: 0 });
            self.ready.push_back(key);
            return;
        };
        entry.failures = 0;
        match &mut entry.state {
            State::Ready => {}
            State::Running { woken } => *woken = true,
            State::Delayed { at, ticket } => {
                self.delayed.remove(&(*at, *ticket));
                entry.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// A look would do no harm: only a key that is not queued at all is.
    pub fn nudge(&mut self, key: K) {
        if !self.entries.contains_key(&key) {
            self.wake(key);
        }
    }

    /// The next key to look at; it runs from now on.
    pub fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.state = State::Ready;
                self.ready.push_back(key);
            }
        }
        let key = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.state = State::Running { woken: false };
        }
        Some(key)
    }

    /// How many keys there are of each sort.
    pub fn counts(&self) -> QueueCounts {
        let (ready, delayed) = (self.ready.len(), self.delayed.len());
        QueueCounts { ready, delayed, running: self.entries.len() - ready - delayed }
    }

    /// When the next delay is over.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }

    /// The key runs no more. `chance` (0 to 1) spreads the delays of keys that failed together.
    pub fn finish(&mut self, key: &K, verdict: Verdict, now: Instant, chance: f64) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Running { woken } = entry.state else { return };
        let delay = match verdict {
            _ if woken => None,
            Verdict::Rest => {
                self.entries.remove(key);
                return;
            }
            Verdict::After(delay) => {
                entry.failures = 0;
                Some(delay)
            }
            Verdict::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                Some(backoff(entry.failures, chance))
            }
        };
        match delay {
            None => {
                entry.state = State::Ready;
                self.ready.push_back(key.clone());
            }
            Some(delay) => {
                self.tickets += 1;
                entry.state = State::Delayed { at: now + delay, ticket: self.tickets };
                self.delayed.insert((now + delay, self.tickets), key.clone());
            }
        }
    }
}

/// The delay after `failures` in a row: between half and all of the doubled one.
pub fn backoff(failures: u32, chance: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MOST).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    #[derive(Clone, Debug)]
    enum Act {
        Wake(u8),
        Nudge(u8),
        Take,
        Finish(u8, Verdict),
        Pass(u64),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        let verdict = prop_oneof![
            Just(Verdict::Rest),
            Just(Verdict::Failed),
            (0..500u64).prop_map(|ms| Verdict::After(Duration::from_millis(ms)))
        ];
        prop_oneof![
            (0..4u8).prop_map(Act::Wake),
            (0..4u8).prop_map(Act::Nudge),
            Just(Act::Take),
            ((0..4u8), verdict).prop_map(|(key, verdict)| Act::Finish(key, verdict)),
            (1..20_000u64).prop_map(Act::Pass),
        ]
    }

    proptest! {
        /// Against the plainest model: which keys run, and which are owed a look.
        #[test]
        fn every_wake_is_followed_by_a_look_and_no_key_runs_twice(acts in prop::collection::vec(any_act(), 1..200)) {
            let mut now = Instant::now();
            let mut queue = Queue::default();
            let mut running = HashSet::new();
            let mut owed: HashMap<u8, bool> = HashMap::new();
            for act in acts {
                match act {
                    Act::Wake(key) => {
                        queue.wake(key);
                        owed.insert(key, true);
                    }
                    Act::Nudge(key) => queue.nudge(key),
                    Act::Take => {
                        if let Some(key) = queue.take(now) {
                            prop_assert!(running.insert(key), "{key} runs twice");
                            owed.insert(key, false);
                        }
                    }
                    Act::Finish(key, verdict) => {
                        queue.finish(&key, verdict, now, 0.3);
                        running.remove(&key);
                    }
                    Act::Pass(ms) => now += Duration::from_millis(ms),
                }
            }
            for key in running.clone() {
                queue.finish(&key, Verdict::Rest, now, 0.3);
            }
            // Without time passing: a wake ends every delay.
            while let Some(key) = queue.take(now) {
                owed.insert(key, false);
                queue.finish(&key, Verdict::Rest, now, 0.3);
            }
            prop_assert!(owed.values().all(|owed| !owed), "{owed:?}");
            // What was only delayed comes with time, and then nothing is left.
            now += Duration::from_secs(60);
            while let Some(key) = queue.take(now) {
                queue.finish(&key, Verdict::Rest, now, 0.3);
            }
            prop_assert!(queue.entries.is_empty() && queue.delayed.is_empty() && queue.ready.is_empty());
        }
    }

    #[test]
    fn failures_wait_longer_each_time_until_there_is_news() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.wake(1);
        let mut delays = Vec::new();
        let mut at = now;
        for _ in 0..10 {
            queue.take(at).unwrap();
            queue.finish(&1, Verdict::Failed, at, 1.0);
            let due = queue.next_due().unwrap();
            delays.push(due - at);
            at = due;
        }
        assert!(delays.is_sorted());
        assert_eq!((delays[0], delays[9]), (BACKOFF_FIRST, BACKOFF_MOST));
        queue.wake(1);
        assert_eq!(queue.take(at), Some(1));
        queue.finish(&1, Verdict::Failed, at, 1.0);
        assert_eq!(queue.next_due().unwrap() - at, BACKOFF_FIRST);
    }

    #[test]
    fn a_nudge_does_not_shorten_a_delay() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.wake(1);
        queue.take(now);
        queue.finish(&1, Verdict::Failed, now, 1.0);
        queue.nudge(1);
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + BACKOFF_MOST), Some(1));
    }
}
