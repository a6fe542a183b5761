//! The status of a declared container's object: what is shown of any container, and how its
//! processes are kept, and whether it is what is declared by now.
//!
//! Conditions of the container speak of the version that is in force, so that who waits for Ready
//! after an edit waits for the edit. Current speaks of the object as it is.

use super::problem::Problem;
use super::wanted::generation;
use crate::kube::options::Options;
use crate::kube::shown::{condition, cut, keep_times, show};
use gardend_controller::{ContainerView, KeptView};
use gardend_crds::{
    Condition, ConditionStatus, ContainerPhase, GardenContainer, GardenContainerStatus, ProcessEnd, ProcessState,
    ProcessStatus,
};

/// Processes that a status holds at most.
const MAX_PROCESSES: usize = 50;
const MAX_MESSAGE: usize = 1024;

/// How a declaration stands beside its container.
pub(super) enum Standing<'a> {
    /// In force, or being put so.
    Well,
    /// It is not, for this.
    Problem(&'a Problem),
    /// The container is made again, for these fields.
    Recreating(&'a [&'static str]),
}

/// All of it.
pub(super) fn status(
    object: &GardenContainer,
    view: Option<&ContainerView>,
    standing: &Standing<'_>,
    options: &Options,
) -> GardenContainerStatus {
    let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let mut status = match view {
        Some(view) => of_container(object, view, options),
        None => of_none(object, standing),
    };
    let in_force = view.and_then(|view| view.declared.as_ref()).map(|declared| declared.generation);
    status.conditions.push(current(object, in_force, standing));
    keep_times(&mut status.conditions, before);
    status.observed_generation = Some(generation(object));
    status
}

/// Whether the object, as it is, is in force.
fn current(object: &GardenContainer, in_force: Option<i64>, standing: &Standing<'_>) -> Condition {
    let no = |reason: &str, message: &str| condition("Current", ConditionStatus::False, reason, message);
    let mut current = match standing {
        Standing::Problem(problem) => no(problem.reason, &problem.message),
        Standing::Recreating(fields) => no(
            "Recreating",
            &format!("the container is made again, since this cannot be changed in place: {}", fields.join(", ")),
        ),
        Standing::Well if object.metadata.deletion_timestamp.is_some() => no("Deleted", ""),
        Standing::Well if in_force == Some(generation(object)) => {
            condition("Current", ConditionStatus::True, "InForce", "")
        }
        Standing::Well if in_force.is_some() => no("Updating", "this version is being put in force"),
        Standing::Well => no("Creating", ""),
    };
    current.observed_generation = Some(generation(object));
    current
}

/// There is no container.
fn of_none(object: &GardenContainer, standing: &Standing<'_>) -> GardenContainerStatus {
    let (reason, message) = match standing {
        Standing::Problem(problem) => (problem.reason, problem.message.as_str()),
        Standing::Recreating(_) => ("Recreating", ""),
        Standing::Well => ("Creating", ""),
    };
    let no = |kind: &str| Condition {
        observed_generation: Some(generation(object)),
        ..condition(kind, ConditionStatus::False, reason, message)
    };
    GardenContainerStatus {
        phase: Some(ContainerPhase::Pending),
        conditions: vec![no("Ready"), no("ProcessesRunning")],
        running_processes: Some(0),
        ..GardenContainerStatus::default()
    }
}

fn of_container(object: &GardenContainer, view: &ContainerView, options: &Options) -> GardenContainerStatus {
    let shown = show(view, &options.node, &options.policy).status(None, &[]);
    // It was made by the same definitions.
    let mut status: GardenContainerStatus = serde_json::from_value(shown).unwrap_or_default();
    let Some(declared) = &view.declared else { return status };
    status.conditions.push(processes_running(&status, &declared.processes));
    for condition in &mut status.conditions {
        condition.observed_generation = Some(declared.generation.min(generation(object)));
    }
    for kept in &declared.processes {
        if let Some(process) = status.processes.iter_mut().find(|process| process.id == kept.id.as_str()) {
            fill(process, kept);
        } else if status.processes.len() < MAX_PROCESSES {
            let mut process = not_recorded(kept);
            fill(&mut process, kept);
            status.processes.push(process);
        } else {
            status.processes_omitted = Some(status.processes_omitted.unwrap_or(0) + 1);
        }
    }
    status.processes.sort_by(|one, other| one.id.cmp(&other.id));
    status
}

/// One that never ran, or whose record is not kept any more.
fn not_recorded(kept: &KeptView) -> ProcessStatus {
    let ended = kept.last_end.as_ref();
    let exit_code = ended.and_then(|end| end.status).map(|status| status.as_garden().clamp(0, 255));
    let state = match (ended, exit_code) {
        (None, _) => ProcessState::Pending,
        (Some(_), Some(_)) => ProcessState::Exited,
        (Some(_), None) => ProcessState::Lost,
    };
    ProcessStatus {
        id: kept.id.to_string(),
        path: Some(cut(&kept.path, 4096)),
        args: None,
        user: kept.user.as_deref().map(|user| cut(user, 256)),
        state,
        pid: None,
        exit_code,
        started: None,
        finished: ended.map(|end| end.at.into()),
        restarts: None,
        last_end: None,
        next_start: None,
    }
}

fn fill(process: &mut ProcessStatus, kept: &KeptView) {
    process.restarts = Some(kept.restarts.into());
    process.next_start = kept.next_start.map(Into::into);
    process.last_end = kept.last_end.as_ref().map(|end| ProcessEnd {
        exit_code: end.status.map(|status| status.as_garden().clamp(0, 255)),
        message: end.why.as_deref().map(|why| cut(why, MAX_MESSAGE)),
        finished: end.at.into(),
    });
}

fn processes_running(status: &GardenContainerStatus, kept: &[KeptView]) -> Condition {
    let runs = |kept: &&KeptView| {
        let running = |process: &&ProcessStatus| process.state == ProcessState::Running;
        status.processes.iter().filter(running).any(|process| process.id == kept.id.as_str())
    };
    let missing: Vec<&str> =
        kept.iter().filter(|kept| !kept.done && !runs(kept)).map(|kept| kept.id.as_str()).collect();
    let (holds, reason, message) = match (kept.is_empty(), missing.is_empty()) {
        (true, _) => (ConditionStatus::True, "NoneDeclared", String::new()),
        (false, true) => (ConditionStatus::True, "Running", String::new()),
        (false, false) => (ConditionStatus::False, "NotRunning", format!("does not run: {}", missing.join(", "))),
    };
    condition("ProcessesRunning", holds, reason, &message)
}
