//! The node's own object: what its gardend tells of the node.

use crate::kube::options::NodeFacts;
use crate::kube::shown::{condition, keep_times};
use gardend_controller::{NodeView, Shortage};
use gardend_crds::{Capacity, Condition, ConditionStatus, Counts, GardenNodeStatus, Pool, Time};
use std::time::Duration;

/// Of a disk with less than this part free, one in so many, it is said.
const PRESSURE: u64 = 20;
/// A mirror that is behind for longer says so.
const BEHIND: Duration = Duration::from_secs(60);

/// The node's status, each condition since when it is so. `behind`: for how long what is due waits.
pub(super) fn status(
    view: &NodeView,
    facts: &NodeFacts,
    behind: Duration,
    started_at: Time,
    before: &[Condition],
) -> GardenNodeStatus {
    let mut conditions = vec![
        ready(view),
        reachable(view),
        disk_pressure(view, facts),
        memory_pressure(view),
        draining(view),
        current(behind),
    ];
    keep_times(&mut conditions, before);
    let number = |many: usize| i64::try_from(many).unwrap_or(i64::MAX);
    let bytes = |many: u64| i64::try_from(many).unwrap_or(i64::MAX);
    GardenNodeStatus {
        conditions,
        versions: Some(facts.versions.clone()),
        capacity: Some(Capacity {
            containers: number(view.max_containers),
            memory_bytes: facts.memory_bytes.map(bytes),
            disk_bytes: facts.disk_bytes.map(bytes),
        }),
        containers: Some(Counts {
            total: number(view.creating + view.ready + view.stopped + view.destroying),
            creating: number(view.creating),
            ready: number(view.ready),
            stopped: number(view.stopped),
            destroying: number(view.destroying),
            stuck: number(view.stuck),
        }),
        pool: Some(Pool { size: number(view.pool_size), ready: number(view.pool_ready) }),
        draining: Some(view.draining),
        drained: Some(view.drained),
        started_at: Some(started_at),
    }
}

fn ready(view: &NodeView) -> Condition {
    match &view.unavailable {
        None => condition("Ready", ConditionStatus::True, "Serving", ""),
        Some(why) => condition("Ready", ConditionStatus::False, "RuntimeUnreachable", why),
    }
}

fn reachable(view: &NodeView) -> Condition {
    match &view.unavailable {
        None => condition("RuntimeReachable", ConditionStatus::True, "Answers", ""),
        Some(why) => condition("RuntimeReachable", ConditionStatus::False, "DoesNotAnswer", why),
    }
}

/// By what containers are refused for, where an operator says what is too little.
fn disk_pressure(view: &NodeView, facts: &NodeFacts) -> Condition {
    match &view.pressure.disk {
        None => little_free(facts),
        Some(looked) => refused("DiskPressure", looked),
    }
}

fn memory_pressure(view: &NodeView) -> Condition {
    match &view.pressure.memory {
        None => condition("MemoryPressure", ConditionStatus::Unknown, "NotWatched", "--min-free-memory is not set"),
        Some(looked) => refused("MemoryPressure", looked),
    }
}

fn refused(kind: &str, looked: &Result<(), Shortage>) -> Condition {
    match looked {
        Ok(()) => condition(kind, ConditionStatus::False, "EnoughFree", ""),
        Err(shortage) => {
            let words = format!("{shortage}: new containers are refused");
            condition(kind, ConditionStatus::True, "CreatesRefused", &words)
        }
    }
}

fn draining(view: &NodeView) -> Condition {
    match (view.draining, view.drained) {
        (false, _) => condition("Draining", ConditionStatus::False, "TakesContainers", ""),
        (true, false) => {
            let words = "new containers are refused; some of those that there are are left";
            condition("Draining", ConditionStatus::True, "ContainersLeft", words)
        }
        (true, true) => condition("Draining", ConditionStatus::True, "Drained", "nothing is left of its containers"),
    }
}

fn little_free(facts: &NodeFacts) -> Condition {
    let (Some(free), Some(all)) = (facts.disk_free, facts.disk_bytes) else {
        return condition("DiskPressure", ConditionStatus::Unknown, "NotKnown", "the disk's size is not known");
    };
    if free < all / PRESSURE {
        // Without the figure, which is another at each look.
        let words = format!("less than {} of {all} bytes are free where layers are kept", all / PRESSURE);
        return condition("DiskPressure", ConditionStatus::True, "LittleFree", &words);
    }
    condition("DiskPressure", ConditionStatus::False, "EnoughFree", "")
}

fn current(behind: Duration) -> Condition {
    if behind > BEHIND {
        let words = "containers' objects wait for their writes for more than a minute";
        return condition("MirrorCurrent", ConditionStatus::False, "Behind", words);
    }
    condition("MirrorCurrent", ConditionStatus::True, "Current", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::{Pressure, Resource};

    fn of<'a>(status: &'a GardenNodeStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.kind == kind).unwrap()
    }

    #[test]
    fn a_node_says_what_is_wrong_with_it_and_since_when() {
        let well = NodeView { max_containers: 250, ready: 3, destroying: 1, stuck: 1, ..NodeView::default() };
        let facts = NodeFacts { disk_bytes: Some(1000), disk_free: Some(60), ..NodeFacts::default() };
        let fresh = Duration::ZERO;
        let start: Time = std::time::UNIX_EPOCH.into();
        let mut before = status(&well, &facts, fresh, start, &[]);
        let told: Vec<_> = before.conditions.iter().map(|one| (one.kind.as_str(), one.status)).collect();
        use ConditionStatus::{False, True};
        let wanted = [
            ("Ready", True),
            ("RuntimeReachable", True),
            ("DiskPressure", False),
            ("MemoryPressure", ConditionStatus::Unknown),
            ("Draining", False),
            ("MirrorCurrent", True),
        ];
        assert_eq!(told, wanted);
        assert_eq!(
            before.containers.as_ref().map(|counts| (counts.total, counts.ready, counts.stuck)),
            Some((4, 3, 1))
        );
        before.conditions.iter_mut().for_each(|condition| condition.last_transition_time = start);
        let ill = NodeView { unavailable: Some("no socket".into()), ..well };
        let full = NodeFacts { disk_free: Some(49), ..facts };
        let late = Duration::from_secs(300);
        let after = status(&ill, &full, late, start, &before.conditions);
        assert_eq!((of(&after, "Ready").status, of(&after, "Ready").message.as_str()), (False, "no socket"));
        assert_eq!(of(&after, "DiskPressure").status, True);
        assert!(of(&after, "MirrorCurrent").message.contains("more than a minute"));
        let same = status(&ill, &full, fresh, start, &before.conditions);
        assert_eq!(of(&same, "MirrorCurrent").last_transition_time, start);
        assert_ne!(of(&same, "Ready").last_transition_time, start);
    }

    #[test]
    fn a_node_says_that_it_is_drained_and_what_it_refuses_containers_for() {
        let shortage = Shortage { resource: Resource::Memory, threshold: 100 };
        let pressure = Pressure { memory: Some(Err(shortage)), disk: Some(Ok(())) };
        let mut view = NodeView { draining: true, pressure, ..NodeView::default() };
        let facts = NodeFacts { disk_bytes: Some(1000), disk_free: Some(1), ..NodeFacts::default() };
        let told = |view: &NodeView| status(view, &facts, Duration::ZERO, std::time::UNIX_EPOCH.into(), &[]);
        let left = told(&view);
        assert_eq!((left.draining, left.drained), (Some(true), Some(false)));
        assert_eq!(of(&left, "Draining").reason, "ContainersLeft");
        assert_eq!(of(&left, "DiskPressure").status, ConditionStatus::False, "the operator says what is too little");
        let memory = of(&left, "MemoryPressure");
        let words = "less than 100 bytes of memory are available: new containers are refused";
        assert_eq!((memory.status, memory.message.as_str()), (ConditionStatus::True, words));
        view.drained = true;
        let drained = told(&view);
        assert_eq!((drained.drained, of(&drained, "Draining").reason.as_str()), (Some(true), "Drained"));
    }
}
