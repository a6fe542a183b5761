//! What to do next for one container.
//!
//! [`next_step`] compares what is wanted with what is known and names one step. The reconciler
//! does it, looks again and asks again, until the answer is [`Step::Rest`] or [`Step::Wait`].
//!
//! ```text
//!   Present:  Nothing ──▶ Recorded ──▶ Made ──▶ Furnished ──▶ Connected ──▶ confirmed
//!                ▲  a place of the pool ──▲ │                                │
//!                └──────── killed ◀── Spoilt ◀───── its init is gone ────────┘
//!   Absent :  any of these ──▶ absence recorded ──▶ killed ──▶ network released ──▶ freed (the
//!             handle can be used again) ──▶ released (layers) ──▶ forgotten (row deleted)
//! ```
//!
//! Guarantees
//! - Pure: no clock, no I/O, no randomness. The same arguments give the same step.
//! - From every observation the steps reach rest if each succeeds once.
//! - A place whose furnishing was not confirmed is never furnished again; it is replaced.
//! - Nothing is killed before that is recorded, nor given back before it is dead and cut off.
//!
//! Leaves to others: deadlines (`queue`), doing a step (`reconcile`), who may ask (`service`).

use crate::record::StopMode;

/// How far a container's place is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// It has none.
    Nothing,
    /// One is recorded; whether it is there is not known.
    Recorded,
    /// Blank, and its init listens.
    Made,
    /// Of no further use: half made, half furnished, or its init is gone.
    Spoilt,
    /// Furnished; whether its init answers is not known.
    Furnished,
    /// Furnished, and its init answers.
    Connected,
}

/// A stop that has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// How, by now: a grace that is over makes a `Terminate` a `Kill`.
    pub mode: StopMode,
    /// What was last sent to its processes for this stop.
    pub sent: Option<StopMode>,
    /// Whether something runs, where that was looked at since.
    pub occupied: Option<bool>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It shall be there.
    Present,
    /// It shall be gone.
    Absent,
}

/// What is known of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its place.
    pub place: Place,
    /// Its image is still being pulled, so that it cannot have its files yet.
    pub awaits_image: bool,
    /// The ledger says that it is ready, in this place.
    pub confirmed: bool,
    /// A stop that is not finished.
    pub stop: Option<Stopping>,
    /// A crash now would not bring it back: the ledger says Absent, or that nobody was told.
    pub absence_recorded: bool,
    /// Something of its network may be on the node.
    pub networked: bool,
    /// Its handle can be used again.
    pub freed: bool,
    /// Nothing of its files is left.
    pub released: bool,
}

/// One thing to do. Each is safe to repeat, but for `Furnish`, which [`Place::Spoilt`] replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record a place: one of the pool, or one to be made.
    TakePlace,
    /// Make what is recorded.
    MakePlace,
    /// Give the blank place its files, limits and network.
    Furnish,
    /// Take over what runs there.
    Connect,
    /// Record that it is ready, and answer.
    Confirm,
    /// Send this to everything that runs.
    Signal(StopMode),
    /// See whether anything runs.
    Look,
    /// Record that it is stopped, and answer.
    FinishStop,
    /// Record that it is not wanted.
    RecordAbsence,
    /// Kill its place and leave the remains to be removed.
    Kill,
    /// Take its network away.
    ReleaseNetwork,
    /// Give the handle back, and answer.
    Free,
    /// Remove what is left of its files.
    Release,
    /// Delete its rows.
    Forget,
    /// Nothing, until something runs no more or time has passed.
    Wait,
    /// Nothing.
    Rest,
}

impl Step {
    /// In a word, for figures and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::TakePlace => "take_place",
            Self::MakePlace => "make_place",
            Self::Furnish => "furnish",
            Self::Connect => "connect",
            Self::Confirm => "confirm",
            Self::Signal(_) => "signal",
            Self::Look => "look",
            Self::FinishStop => "finish_stop",
            Self::RecordAbsence => "record_absence",
            Self::Kill => "kill",
            Self::ReleaseNetwork => "release_network",
            Self::Free => "free",
            Self::Release => "release",
            Self::Forget => "forget",
            Self::Wait => "wait",
            Self::Rest => "rest",
        }
    }
}

/// The next step towards `wanted` from `observed`.
pub fn next_step(wanted: Wanted, observed: &Observed) -> Step {
    match wanted {
        Wanted::Present => towards_ready(observed),
        Wanted::Absent => towards_gone(observed),
    }
}

fn towards_ready(observed: &Observed) -> Step {
    match observed.place {
        Place::Nothing => Step::TakePlace,
        Place::Recorded => Step::MakePlace,
        // Whoever pulls it wakes us.
        Place::Made if observed.awaits_image => Step::Rest,
        Place::Made => Step::Furnish,
        Place::Spoilt => Step::Kill,
        Place::Furnished => Step::Connect,
        Place::Connected if !observed.confirmed => Step::Confirm,
        Place::Connected => observed.stop.map_or(Step::Rest, towards_stopped),
    }
}

fn towards_stopped(stop: Stopping) -> Step {
    let escalated = stop.mode == StopMode::Kill && stop.sent != Some(StopMode::Kill);
    match (stop.sent, stop.occupied) {
        (Some(_), Some(false)) => Step::FinishStop,
        (None, _) => Step::Signal(stop.mode),
        (Some(_), _) if escalated => Step::Signal(StopMode::Kill),
        (Some(_), None) => Step::Look,
        (Some(_), Some(true)) => Step::Wait,
    }
}

fn towards_gone(observed: &Observed) -> Step {
    if !observed.absence_recorded {
        Step::RecordAbsence
    } else if observed.place != Place::Nothing {
        Step::Kill
    } else if observed.networked {
        Step::ReleaseNetwork
    } else if !observed.freed {
        Step::Free
    } else if !observed.released {
        Step::Release
    } else {
        Step::Forget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRESH: Observed = Observed {
        place: Place::Nothing,
        awaits_image: false,
        confirmed: false,
        stop: None,
        absence_recorded: true,
        networked: true,
        freed: false,
        released: false,
    };

    #[test]
    fn a_place_whose_furnishing_failed_is_replaced_not_resumed() {
        let seen = Observed { place: Place::Spoilt, ..FRESH };
        assert_eq!(next_step(Wanted::Present, &seen), Step::Kill);
    }

    #[test]
    fn nothing_is_killed_before_its_absence_is_recorded() {
        let seen = Observed { place: Place::Connected, confirmed: true, absence_recorded: false, ..FRESH };
        assert_eq!(next_step(Wanted::Absent, &seen), Step::RecordAbsence);
    }

    #[test]
    fn files_are_released_only_after_the_place_was_killed() {
        for place in PLACES {
            let seen = Observed { place, ..FRESH };
            let step = next_step(Wanted::Absent, &seen);
            assert_eq!(step == Step::Kill, place != Place::Nothing, "{place:?} leads to {step:?}");
        }
    }

    #[test]
    fn a_place_is_made_beside_the_pull_of_its_image_and_furnished_after_it() {
        let step = |place| next_step(Wanted::Present, &Observed { place, awaits_image: true, ..FRESH });
        assert_eq!(
            [Place::Nothing, Place::Recorded, Place::Made].map(step),
            [Step::TakePlace, Step::MakePlace, Step::Rest]
        );
        let pulled = Observed { place: Place::Made, ..FRESH };
        assert_eq!(next_step(Wanted::Present, &pulled), Step::Furnish);
    }

    #[test]
    fn the_network_goes_after_what_ran_and_before_the_handle() {
        let seen = Observed { place: Place::Connected, ..FRESH };
        assert_eq!(next_step(Wanted::Absent, &seen), Step::Kill);
        assert_eq!(next_step(Wanted::Absent, &FRESH), Step::ReleaseNetwork);
        assert_eq!(next_step(Wanted::Absent, &Observed { networked: false, ..FRESH }), Step::Free);
        // A create that an earlier gardend did not answer has given its handle back already.
        assert_eq!(next_step(Wanted::Absent, &Observed { freed: true, ..FRESH }), Step::ReleaseNetwork);
    }

    #[test]
    fn a_place_that_is_replaced_keeps_its_network() {
        let seen = Observed { place: Place::Spoilt, ..FRESH };
        let seen = after(next_step(Wanted::Present, &seen), seen);
        assert_eq!((next_step(Wanted::Present, &seen), seen.networked), (Step::TakePlace, true));
    }

    #[test]
    fn a_kill_overtakes_a_terminate_that_waits() {
        let stop = Stopping { mode: StopMode::Kill, sent: Some(StopMode::Terminate), occupied: Some(true) };
        let seen = Observed { place: Place::Connected, confirmed: true, stop: Some(stop), ..FRESH };
        assert_eq!(next_step(Wanted::Present, &seen), Step::Signal(StopMode::Kill));
    }

    const PLACES: [Place; 6] =
        [Place::Nothing, Place::Recorded, Place::Made, Place::Spoilt, Place::Furnished, Place::Connected];

    /// What is known after a step that succeeded.
    fn after(step: Step, seen: Observed) -> Observed {
        let stop = |change: fn(&mut Stopping, StopMode), mode| {
            let mut stop = seen.stop;
            stop.iter_mut().for_each(|stop| change(stop, mode));
            stop
        };
        match step {
            Step::TakePlace => Observed { place: Place::Recorded, confirmed: false, ..seen },
            Step::MakePlace => Observed { place: Place::Made, ..seen },
            Step::Furnish => Observed { place: Place::Furnished, ..seen },
            Step::Connect => Observed { place: Place::Connected, ..seen },
            Step::Confirm => Observed { confirmed: true, ..seen },
            Step::Signal(mode) => Observed {
                stop: stop(
                    |stop, mode| {
                        stop.sent = Some(mode);
                        stop.occupied = None;
                    },
                    mode,
                ),
                ..seen
            },
            Step::Look => Observed { stop: stop(|stop, _| stop.occupied = Some(false), StopMode::Kill), ..seen },
            Step::FinishStop => Observed { stop: None, ..seen },
            Step::RecordAbsence => Observed { absence_recorded: true, ..seen },
            Step::Kill => Observed { place: Place::Nothing, confirmed: false, ..seen },
            Step::ReleaseNetwork => Observed { networked: false, ..seen },
            Step::Free => Observed { freed: true, ..seen },
            Step::Release => Observed { released: true, ..seen },
            Step::Forget | Step::Wait | Step::Rest => seen,
        }
    }

    fn any_stop() -> impl Strategy<Value = Option<Stopping>> {
        let mode = || prop::sample::select(vec![StopMode::Terminate, StopMode::Kill]);
        let stop = (mode(), prop::option::of(mode()), any::<Option<bool>>());
        prop::option::of(stop.prop_map(|(mode, sent, occupied)| Stopping { mode, sent, occupied }))
    }

    fn any_observed() -> impl Strategy<Value = Observed> {
        let place = prop::sample::select(PLACES.to_vec());
        let bits = any::<[bool; 3]>();
        (place, any::<bool>(), any::<bool>(), any_stop(), any::<bool>(), bits).prop_map(
            |(place, awaits_image, confirmed, stop, absence_recorded, [networked, freed, released])| Observed {
                place,
                awaits_image,
                confirmed,
                stop,
                absence_recorded,
                networked,
                freed,
                released,
            },
        )
    }

    proptest! {
        #[test]
        fn every_observation_comes_to_rest(mut seen in any_observed(), absent: bool) {
            let wanted = if absent { Wanted::Absent } else { Wanted::Present };
            let rested = (0..16).any(|_| {
                let step = next_step(wanted, &seen);
                seen = after(step, seen);
                matches!(step, Step::Rest | Step::Forget | Step::Wait)
            });
            prop_assert!(rested, "{seen:?}");
        }

        #[test]
        fn only_a_blank_place_is_furnished_and_only_for_who_is_wanted(seen in any_observed(), absent: bool) {
            let wanted = if absent { Wanted::Absent } else { Wanted::Present };
            if next_step(wanted, &seen) == Step::Furnish {
                prop_assert!(seen.place == Place::Made && wanted == Wanted::Present && !seen.awaits_image);
            }
        }

        #[test]
        fn a_row_goes_last(seen in any_observed()) {
            if next_step(Wanted::Absent, &seen) == Step::Forget {
                prop_assert!(seen.place == Place::Nothing && seen.released && seen.freed && !seen.networked);
            }
        }

        #[test]
        fn a_network_is_only_taken_from_the_dead_and_nothing_is_given_back_before(seen in any_observed(), absent: bool) {
            let wanted = if absent { Wanted::Absent } else { Wanted::Present };
            match next_step(wanted, &seen) {
                Step::ReleaseNetwork => prop_assert!(absent && seen.place == Place::Nothing && seen.absence_recorded),
                Step::Free | Step::Release | Step::Forget => prop_assert!(!seen.networked),
                _ => {}
            }
        }
    }
}
