//! How long to wait before something is tried again.

use std::time::Duration;

/// The first wait, and the longest: an API server that is back has everybody again within this.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Twice as long with each failure in a row, between half of that and all of it by chance.
pub(super) fn backoff(failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    whole.mul_f64(0.5 + chance() / 2.0)
}

/// Some part of a time, by chance.
pub(super) fn part_of(time: Duration) -> Duration {
    time.mul_f64(chance())
}

/// A time, and up to a tenth more.
pub(super) fn about(time: Duration) -> Duration {
    time.mul_f64(1.0 + chance() / 10.0)
}

/// From 0 to 1. Without chance things are only less spread.
fn chance() -> f64 {
    getrandom::u32().map_or(0.5, |word| f64::from(word) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        for (failures, longest) in [(1, 500), (2, 1000), (3, 2000), (20, 15_000), (u32::MAX, 15_000)] {
            for _ in 0..100 {
                let wait = backoff(failures).as_millis();
                assert!(wait >= longest / 2 && wait <= longest, "{failures}: {wait}");
            }
        }
        let waits: std::collections::HashSet<_> = (0..20).map(|_| backoff(5)).collect();
        assert!(waits.len() > 10);
    }
}
