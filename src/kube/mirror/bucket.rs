//! A token bucket: so many at once, so many a second on and on.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

pub(in crate::kube) struct Bucket {
    each: Duration,
    burst: u32,
    /// When it would be full, if nothing more is taken.
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(in crate::kube) fn new(a_second: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        Self { each: Duration::from_secs(1) / a_second.get(), burst: burst.get(), full_at: now }
    }

    /// When there is one to take.
    pub(in crate::kube) fn ready_at(&self) -> Instant {
        // Full but for all of the burst: one more would be too many.
        let spent = self.each.saturating_mul(self.burst - 1);
        self.full_at.checked_sub(spent).unwrap_or(self.full_at)
    }

    /// Takes one, where there is one.
    pub(in crate::kube) fn take(&mut self, now: Instant) -> bool {
        if now < self.ready_at() {
            return false;
        }
        self.full_at = self.full_at.max(now) + self.each;
        true
    }
}

/// A bucket that several share. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(in crate::kube) struct Budget(Arc<Mutex<Bucket>>);

impl Budget {
    /// A full one.
    pub(in crate::kube) fn new(a_second: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(a_second, burst, now))))
    }

    /// When there is one to take, unless somebody else is faster.
    pub(in crate::kube) fn ready_at(&self) -> Instant {
        self.bucket().ready_at()
    }

    /// Waits for one and takes it.
    pub(in crate::kube) async fn spend(&self) {
        loop {
            let ready_at = {
                let mut bucket = self.bucket();
                if bucket.take(Instant::now()) {
                    return;
                }
                bucket.ready_at()
            };
            sleep_until(ready_at).await;
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_one_gives_its_burst_and_then_one_at_a_time() {
        let now = Instant::now();
        let mut bucket = Bucket::new(number(5), number(20), now);
        assert_eq!((0..100).filter(|_| bucket.take(now)).count(), 20);
        assert_eq!(bucket.ready_at(), now + Duration::from_millis(200));
        assert!(bucket.take(now + Duration::from_millis(200)));
        assert!(!bucket.take(now + Duration::from_millis(399)));
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), 20);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_the_time_gives(
            rate in 1_u32..50, burst in 1_u32..50, waits in prop::collection::vec(0_u64..2000, 0..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(number(rate), number(burst), start);
            let (mut now, mut taken) = (start, 0_u32);
            for wait in waits {
                now += Duration::from_millis(wait);
                while bucket.take(now) {
                    taken += 1;
                }
                prop_assert!(bucket.ready_at() > now);
                let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(rate);
                prop_assert!(f64::from(taken) <= most + 0.001, "{taken} > {most}");
            }
        }
    }
}
