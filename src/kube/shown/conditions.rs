//! A container's conditions: what of it holds, since when.

use super::parts::cut;
use gardend_controller::ContainerView;
use gardend_controller::plan::Place;
use gardend_controller::record::Phase;
use gardend_crds::{Condition, ConditionStatus, Time};

const MAX_MESSAGE: usize = 1024;

/// All of them, as if they had just become so.
pub(super) fn of(view: &ContainerView) -> Vec<Condition> {
    let place = matches!(view.place, Place::Made | Place::Furnished | Place::Connected);
    let furnished = matches!(view.place, Place::Furnished | Place::Connected);
    let waits = view.failure.as_deref().unwrap_or("");
    let network = match (&view.addresses, furnished) {
        (None, _) => condition("NetworkReady", ConditionStatus::True, "OwnLoopback", "it has its own loopback alone"),
        (Some(_), true) => condition("NetworkReady", ConditionStatus::True, "Connected", ""),
        (Some(_), false) => condition("NetworkReady", ConditionStatus::False, "NotYet", ""),
    };
    let stuck = match &view.stuck {
        Some(why) => condition("Stuck", ConditionStatus::True, "DoesNotGo", why),
        None => condition("Stuck", ConditionStatus::False, "None", ""),
    };
    vec![
        ready(view),
        yes_or_no("SandboxReady", place, ("Made", ""), ("NotYet", waits)),
        yes_or_no("RootfsReady", furnished, ("Furnished", ""), ("NotYet", waits)),
        network,
        stuck,
    ]
}

fn ready(view: &ContainerView) -> Condition {
    let why_not = view.failure.as_deref().unwrap_or("");
    match view.phase {
        Phase::Ready if view.place == Place::Connected => condition("Ready", ConditionStatus::True, "Ready", ""),
        Phase::Stopping | Phase::Stopped if view.place == Place::Connected => {
            condition("Ready", ConditionStatus::True, "Stopped", "its processes were stopped on request")
        }
        Phase::Ready | Phase::Stopping | Phase::Stopped => {
            condition("Ready", ConditionStatus::False, "MadeAgain", why_not)
        }
        Phase::Pending | Phase::Creating => condition("Ready", ConditionStatus::False, "Creating", why_not),
        Phase::Destroying | Phase::Gone => condition("Ready", ConditionStatus::False, "Destroying", why_not),
    }
}

fn yes_or_no(kind: &str, holds: bool, yes: (&str, &str), no: (&str, &str)) -> Condition {
    let (status, (reason, message)) = if holds { (ConditionStatus::True, yes) } else { (ConditionStatus::False, no) };
    condition(kind, status, reason, message)
}

/// One that has just become so.
pub(in crate::kube) fn condition(kind: &str, status: ConditionStatus, reason: &str, message: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: cut(message, MAX_MESSAGE),
        last_transition_time: Time::now(),
        observed_generation: None,
    }
}

/// What has the status that it had keeps its time.
pub(in crate::kube) fn keep_times(conditions: &mut [Condition], before: &[Condition]) {
    for condition in conditions {
        let same = |old: &&Condition| old.kind == condition.kind && old.status == condition.status;
        if let Some(old) = before.iter().find(same) {
            condition.last_transition_time = old.last_transition_time;
        }
    }
}
