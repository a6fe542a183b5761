//! Work that several wait for and that is done once.
//!
//! Whoever comes while it is done waits with the others; it is given up when the last of them has
//! gone, and whoever comes after that begins anew.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

struct Flight<T> {
    outcome: watch::Receiver<Option<T>>,
    cancelled: CancellationToken,
    /// Held by everybody who waits.
    waiting: Arc<()>,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        let (outcome, cancelled) = (self.outcome.clone(), self.cancelled.clone());
        Self { outcome, cancelled, waiting: Arc::clone(&self.waiting) }
    }
}

type Known<K, T> = Arc<Mutex<HashMap<K, Flight<T>>>>;

/// What is being done, by what it is.
pub(crate) struct Flights<K, T>(Known<K, T>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

fn lock<K, T>(known: &Known<K, T>) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    /// Whether it is being done.
    pub(crate) fn knows(&self, key: &K) -> bool {
        lock(&self.0).contains_key(key)
    }

    /// Waits for what is being done for `key`, or does it. `None` where it ended in a panic.
    /// What `begin` makes is told when nobody waits any more, and tidies up then.
    pub(crate) async fn join<F>(&self, key: K, begin: impl FnOnce(CancellationToken) -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut known = lock(&self.0);
            match known.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (tell, outcome) = watch::channel(None);
                    let cancelled = CancellationToken::new();
                    let flight = Flight { outcome, cancelled: cancelled.clone(), waiting: Arc::default() };
                    known.insert(key.clone(), flight.clone());
                    let (work, all, key) = (begin(cancelled.clone()), Arc::clone(&self.0), key.clone());
                    tokio::spawn(async move {
                        let outcome = work.await;
                        // One that was given up is not known any more, and another may be.
                        if !cancelled.is_cancelled() {
                            lock(&all).remove(&key);
                        }
                        tell.send_replace(Some(outcome));
                    });
                    flight
                }
            }
        };
        let mut outcome = flight.outcome.clone();
        let _passenger = Passenger { flight, key, known: Arc::clone(&self.0) };
        // Cancel-safe: it only waits.
        let outcome = outcome.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| outcome.clone())
    }
}

/// Gives up what nobody waits for any more.
struct Passenger<K: Eq + Hash, T> {
    flight: Flight<T>,
    key: K,
    known: Known<K, T>,
}

impl<K: Eq + Hash, T> Drop for Passenger<K, T> {
    fn drop(&mut self) {
        let mut known = lock(&self.known);
        let mine = known.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.waiting, &self.flight.waiting));
        // The table's own, and ours.
        if mine && Arc::strong_count(&self.flight.waiting) == 2 {
            known.remove(&self.key);
            self.flight.cancelled.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_several_wait_for_is_done_once_and_told_to_all() {
        let flights = Flights::<&str, usize>::default();
        let done = Arc::new(AtomicUsize::new(0));
        let join = || {
            let done = Arc::clone(&done);
            flights.join("key", |_| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                done.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        assert_eq!(tokio::join!(join(), join(), join()), (Some(1), Some(1), Some(1)));
        assert_eq!(join().await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_away_leaves_it_to_the_others_and_the_last_ends_it() {
        let flights = Flights::<&str, bool>::default();
        let ended = Arc::new(AtomicUsize::new(0));
        let join = || {
            let ended = Arc::clone(&ended);
            flights.join("key", |cancelled| async move {
                tokio::select! {
                    () = cancelled.cancelled() => { ended.fetch_add(1, Ordering::Relaxed); false }
                    () = tokio::time::sleep(Duration::from_secs(10)) => true,
                }
            })
        };
        let impatient = tokio::time::timeout(Duration::from_secs(1), join());
        let (patient, gone) = tokio::join!(join(), impatient);
        assert!(patient == Some(true) && gone.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(1), join()).await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert_eq!(join().await, Some(true));
    }
}
