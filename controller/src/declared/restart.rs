//! When a process that is declared is started, started again, or ended.
//!
//! ```text
//!   never ran ──▶ Start            runs, as declared ──▶ Rest
//!   ended ──▶ by its policy: Rest, or Wait and then Start
//!   another is declared by now, or none ──▶ Stop what runs ──▶ Start, or Forget
//! ```
//! The first start after an end comes at once, the next ones wait: 10 s, twice as long each time, up
//! to 5 minutes, as kubelet has it. Who ran for 10 minutes begins anew.
//!
//! Guarantees: pure; nothing is started while something of the same id runs; a wait is never longer
//! than [`Backoff::longest`]. Leaves to others: clocks, starting and ending.

use crate::record::RestartPolicy;
use std::time::Duration;

/// How long restarts wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The second restart in a row.
    pub first: Duration,
    /// Any.
    pub longest: Duration,
    /// Who ran so long begins anew.
    pub forgiven_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first: seconds(10), longest: seconds(300), forgiven_after: seconds(600) }
    }
}

impl Backoff {
    /// What a start waits for after so many that did not last.
    pub fn wait(&self, quick: u32) -> Duration {
        match quick {
            0 => Duration::ZERO,
            quick => self.first.saturating_mul(1 << (quick - 1).min(16)).min(self.longest),
        }
    }

    /// How many did not last, once one has ended after this time.
    pub fn quick_after(&self, quick: u32, ran: Duration) -> u32 {
        if ran >= self.forgiven_after { 0 } else { quick }
    }
}

/// What is declared of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// Which version of it.
    pub revision: i64,
}

/// What is known of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or only that it was about to be started.
    Nothing,
    /// It runs.
    Runs {
        /// Which version; `None`: not one of the declared.
        revision: Option<i64>,
    },
    /// It has ended.
    Ended {
        /// Which version; `None`: not one of the declared.
        revision: Option<i64>,
        /// With 0.
        succeeded: bool,
        /// How long it had run.
        ran: Duration,
        /// How long ago that was.
        ago: Duration,
        /// Starts in a row before it that did not last.
        quick: u32,
    },
}

/// What to do about one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Rest,
    /// Nothing before this time has passed.
    Wait(Duration),
    /// Start it; so many in a row did not last then, should this one not.
    Start {
        /// See [`crate::record::Run::quick`].
        quick: u32,
    },
    /// End what runs.
    Stop,
    /// Drop what is known.
    Forget,
}

/// The next thing to do.
pub fn next(declared: Option<Declared>, known: Known, backoff: &Backoff) -> Act {
    let Some(declared) = declared else {
        return match known {
            Known::Nothing => Act::Rest,
            Known::Runs { .. } => Act::Stop,
            Known::Ended { .. } => Act::Forget,
        };
    };
    match known {
        Known::Nothing => Act::Start { quick: 0 },
        Known::Runs { revision } if revision == Some(declared.revision) => Act::Rest,
        Known::Runs { .. } => Act::Stop,
        Known::Ended { revision, .. } if revision != Some(declared.revision) => Act::Start { quick: 0 },
        Known::Ended { succeeded, ran, ago, quick, .. } => {
            let again = match declared.policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => !succeeded,
                RestartPolicy::Never => false,
            };
            let quick = backoff.quick_after(quick, ran);
            let left = backoff.wait(quick).saturating_sub(ago);
            match (again, left) {
                (false, _) => Act::Rest,
                (true, Duration::ZERO) => Act::Start { quick: quick.saturating_add(1) },
                (true, left) => Act::Wait(left),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALWAYS: Declared = Declared { policy: RestartPolicy::Always, revision: 1 };

    fn ended(succeeded: bool, ran: u64, ago: u64, quick: u32) -> Known {
        let seconds = Duration::from_secs;
        Known::Ended { revision: Some(1), succeeded, ran: seconds(ran), ago: seconds(ago), quick }
    }

    #[test]
    fn the_first_restart_comes_at_once_and_the_next_ones_wait_longer_and_longer() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|quick| backoff.wait(quick).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(next(Some(ALWAYS), ended(false, 1, 0, 0), &backoff), Act::Start { quick: 1 });
        assert_eq!(next(Some(ALWAYS), ended(false, 1, 4, 1), &backoff), Act::Wait(Duration::from_secs(6)));
        assert_eq!(next(Some(ALWAYS), ended(false, 1, 10, 1), &backoff), Act::Start { quick: 2 });
    }

    #[test]
    fn who_ran_for_long_begins_anew() {
        let backoff = Backoff::default();
        assert_eq!(next(Some(ALWAYS), ended(false, 600, 0, 7), &backoff), Act::Start { quick: 1 });
        assert_eq!(next(Some(ALWAYS), ended(false, 599, 0, 7), &backoff), Act::Wait(Duration::from_secs(300)));
    }

    #[test]
    fn the_policy_says_after_which_ends() {
        for (policy, after_success, after_failure) in [
            (RestartPolicy::Always, true, true),
            (RestartPolicy::OnFailure, false, true),
            (RestartPolicy::Never, false, false),
        ] {
            let starts = |succeeded| {
                let act = next(Some(Declared { policy, revision: 1 }), ended(succeeded, 1, 0, 0), &Backoff::default());
                act == Act::Start { quick: 1 }
            };
            assert_eq!((starts(true), starts(false)), (after_success, after_failure), "{policy:?}");
        }
    }

    #[test]
    fn another_version_ends_what_runs_and_starts_at_once_whatever_the_policy() {
        let newer = Some(Declared { policy: RestartPolicy::Never, revision: 2 });
        let backoff = Backoff::default();
        assert_eq!(next(newer, Known::Runs { revision: Some(1) }, &backoff), Act::Stop);
        assert_eq!(next(newer, ended(true, 1, 0, 9), &backoff), Act::Start { quick: 0 });
        assert_eq!(next(None, Known::Runs { revision: Some(1) }, &backoff), Act::Stop);
        assert_eq!(next(None, ended(true, 1, 0, 0), &backoff), Act::Forget);
    }

    fn any_known() -> impl Strategy<Value = Known> {
        let revision = || prop::option::of(0_i64..3);
        prop_oneof![
            Just(Known::Nothing),
            revision().prop_map(|revision| Known::Runs { revision }),
            (revision(), any::<bool>(), 0_u64..5000, 0_u64..5000, any::<u32>()).prop_map(
                |(revision, succeeded, ran, ago, quick)| Known::Ended {
                    revision,
                    succeeded,
                    ran: Duration::from_secs(ran),
                    ago: Duration::from_secs(ago),
                    quick,
                }
            ),
        ]
    }

    fn any_declared() -> impl Strategy<Value = Option<Declared>> {
        let policy = prop::sample::select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
        prop::option::of((policy, 0_i64..3).prop_map(|(policy, revision)| Declared { policy, revision }))
    }

    proptest! {
        #[test]
        fn nothing_is_started_beside_what_runs_and_no_wait_is_too_long(declared in any_declared(), known in any_known()) {
            let backoff = Backoff::default();
            match (next(declared, known, &backoff), known) {
                (Act::Start { .. }, known) => {
                    prop_assert!(declared.is_some());
                    let runs = matches!(known, Known::Runs { .. });
                    prop_assert!(!runs);
                }
                (Act::Wait(wait), _) => prop_assert!(wait > Duration::ZERO && wait <= backoff.longest),
                (Act::Stop, known) => {
                    let runs = matches!(known, Known::Runs { .. });
                    prop_assert!(runs);
                }
                (Act::Forget, _) => prop_assert!(declared.is_none()),
                (Act::Rest, _) => {}
            }
        }

        #[test]
        fn what_waits_is_started_once_the_time_has_passed(known in any_known()) {
            let backoff = Backoff::default();
            if let (Act::Wait(wait), Known::Ended { revision, succeeded, ran, ago, quick }) =
                (next(Some(ALWAYS), known, &backoff), known)
            {
                let later = Known::Ended { revision, succeeded, ran, ago: ago + wait, quick };
                let started = matches!(next(Some(ALWAYS), later, &backoff), Act::Start { .. });
                prop_assert!(started);
            }
        }
    }
}
