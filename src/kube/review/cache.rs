//! What was found out of tokens, for a short time; of what several ask for at once, one finds out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Tokens that are remembered at most. What strangers send beyond that is found out anew each time.
const MOST: usize = 4096;

/// The SHA-256 of a token.
pub(super) type Key = [u8; 32];

/// What is known, and how long that counts.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) until: Instant,
}

/// Empty until the first one has found out.
pub(super) type Entry<T> = Arc<OnceCell<Kept<T>>>;

/// See the module.
pub(super) struct Cache<T>(Mutex<HashMap<Key, Entry<T>>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<T> Cache<T> {
    /// What is known of this one, or a place for it.
    pub(super) fn entry(&self, key: Key) -> Entry<T> {
        let now = Instant::now();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&key).filter(|entry| counts(entry, now)) {
            return entry.clone();
        }
        // What nobody found out, since they failed or went away, goes too.
        entries.retain(|_, entry| counts(entry, now) && (entry.initialized() || Arc::strong_count(entry) > 1));
        let entry = Entry::default();
        if entries.len() < MOST {
            entries.insert(key, entry.clone());
        }
        entry
    }
}

fn counts<T>(entry: &Entry<T>, now: Instant) -> bool {
    entry.get().is_none_or(|kept| now < kept.until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(number: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    async fn find_out(cache: &Cache<u32>, number: usize, value: u32) -> u32 {
        let entry = cache.entry(key(number));
        let kept = async || Kept { value, until: Instant::now() + Duration::from_secs(10) };
        entry.get_or_init(kept).await.value
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_counts_for_its_time_and_no_longer() {
        let cache = Cache::default();
        assert_eq!(find_out(&cache, 1, 1).await, 1);
        assert_eq!(find_out(&cache, 2, 7).await, 7);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(find_out(&cache, 1, 2).await, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(find_out(&cache, 1, 3).await, 3);
        assert_eq!(cache.0.lock().unwrap().len(), 1, "what has run out is not kept");
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_answer_and_what_failed_is_asked_again() {
        let cache: Cache<u32> = Cache::default();
        let (one, other) = (cache.entry(key(1)), cache.entry(key(1)));
        assert!(Arc::ptr_eq(&one, &other));
        one.get_or_try_init(async || Err::<Kept<u32>, ()>(())).await.unwrap_err();
        assert!(!other.initialized());
        drop((one, other));
        cache.entry(key(2));
        assert_eq!(cache.0.lock().unwrap().len(), 1, "what nobody found out is not kept");
    }

    #[tokio::test]
    async fn what_strangers_send_fills_it_to_its_bound() {
        let cache = Cache::default();
        for number in 0..MOST + 10 {
            find_out(&cache, number, 1).await;
        }
        assert_eq!(cache.0.lock().unwrap().len(), MOST);
        assert_eq!(find_out(&cache, 1, 2).await, 1);
        assert_eq!(find_out(&cache, MOST + 1, 2).await, 2);
    }
}
