//! What is shown of containers, field by field.

use super::*;
use gardend_controller::plan::Place;
use gardend_controller::record::{
    BindMount as RecordedMount, ContainerUid, ExitStatus, Handle, ImageReference, ProcessId, Properties,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn view() -> ContainerView {
    ContainerView {
        uid: ContainerUid::generate(),
        handle: Handle::new("h").unwrap(),
        rootfs: RootfsSource::image("docker:///busybox:1".parse::<ImageReference>().unwrap()),
        bind_mounts: Vec::new(),
        privileged: false,
        limits: Limits::default(),
        network: None,
        properties: Properties::new(),
        grace_time: None,
        created_at: UNIX_EPOCH + Duration::from_secs(1000),
        phase: Phase::Ready,
        failure: None,
        sandbox: None,
        place: Place::Connected,
        addresses: None,
        ports_in: Vec::new(),
        stuck: None,
        last_oom: None,
        processes: Vec::new(),
        declared: None,
    }
}

fn process(id: &str, state: ProcessState, at: u64) -> ProcessView {
    let time = |at| Some(UNIX_EPOCH + Duration::from_secs(at));
    let ended = matches!(state, ProcessState::Exited(_) | ProcessState::Lost { .. });
    ProcessView {
        id: ProcessId::new(id).unwrap(),
        path: "/bin/x".into(),
        args: vec!["--password".into(), "hunter2".into()],
        user: None,
        state,
        created_at: time(at),
        ended_at: if ended { time(at + 1) } else { None },
    }
}

fn shown(view: &ContainerView, policy: &ShownPolicy) -> Shown {
    show(view, &"n1".parse().unwrap(), policy)
}

#[test]
fn arguments_are_shown_where_the_operator_says_so_and_nowhere_else() {
    let mut view = view();
    view.processes = vec![process("p", ProcessState::Running { pid: 7 }, 1)];
    let hidden = shown(&view, &ShownPolicy::default());
    assert!(!format!("{hidden:?}").contains("hunter2"));
    assert_eq!(hidden.status(None, &[])["processes"][0]["args"], Value::Null);
    let policy = ShownPolicy { arguments: Some(ArgumentsAllowed::by_operator()), ..ShownPolicy::default() };
    assert_eq!(shown(&view, &policy).status(None, &[])["processes"][0]["args"][1], "hunter2");
}

#[test]
fn properties_are_shown_that_are_named_and_none_of_our_own() {
    let mut view = view();
    for (key, value) in [("team", "a"), ("token", "hunter2"), ("gardend.message", "x")] {
        view.properties.insert(key.into(), value.into());
    }
    view.properties.insert("long".into(), "ä".repeat(5000));
    let named = ["team", "long", "gardend.message", "absent"].map(str::to_owned);
    let policy = ShownPolicy { properties: Arc::new(named.into()), arguments: None };
    let spec = shown(&view, &policy).spec();
    assert_eq!(spec["properties"]["team"], "a");
    assert_eq!(spec["properties"]["long"].as_str().unwrap().chars().count(), 1024);
    assert_eq!(spec["properties"].as_object().unwrap().len(), 2);
}

#[test]
fn running_processes_come_before_ended_ones_and_the_latest_of_these() {
    let mut view = view();
    let ended = |n: u64| process(&format!("e{n:03}"), ProcessState::Exited(ExitStatus::Signal(9)), n);
    view.processes = (0..100).map(ended).collect();
    view.processes.push(process("old-and-running", ProcessState::Running { pid: 9 }, 0));
    let status = shown(&view, &ShownPolicy::default()).status(Some(2), &[]);
    let ids: Vec<_> = status["processes"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.contains(&"old-and-running") && ids.contains(&"e099") && !ids.contains(&"e050"), "{ids:?}");
    assert!(ids.is_sorted());
    assert_eq!((&status["processesOmitted"], &status["runningProcesses"]), (&51.into(), &1.into()));
    assert_eq!(status["processes"][0]["exitCode"], 137);
    assert_eq!(status["observedGeneration"], 2);
}

#[test]
fn what_the_definitions_would_refuse_is_not_shown() {
    let mut view = view();
    let mount = |source: &str, target: &str, mode| RecordedMount {
        source: source.into(),
        target: target.into(),
        mode,
        origin: BindOrigin::Host,
    };
    view.bind_mounts = vec![
        mount("/a", "/t", BindMode::ReadOnly),
        mount("/b", "/t", BindMode::ReadWrite),
        mount("relative", "/u", BindMode::ReadOnly),
    ];
    view.limits =
        Limits { disk_byte_soft: 9, disk_byte_hard: 5, bandwidth_burst: 3, pids_max: u64::MAX, ..view.limits };
    view.network = Some("nonsense".into());
    view.grace_time = Some(Duration::from_millis(1500));
    let spec = shown(&view, &ShownPolicy::default()).spec();
    assert_eq!(spec["bindMounts"], serde_json::json!([{ "source": "/b", "target": "/t", "mode": "ReadWrite" }]));
    assert_eq!(spec["limits"], serde_json::json!({ "diskBytesHard": 5, "pids": i64::MAX }));
    assert_eq!((&spec["network"], &spec["graceTime"]), (&Value::Null, &"1500ms".into()));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let view = view();
    let mut before: Vec<Condition> =
        serde_json::from_value(shown(&view, &ShownPolicy::default()).status(None, &[])["conditions"].clone()).unwrap();
    let long_ago: Time = SystemTime::UNIX_EPOCH.into();
    before.iter_mut().for_each(|condition| condition.last_transition_time = long_ago);
    let unchanged = shown(&view, &ShownPolicy::default()).status(None, &before);
    assert_eq!(unchanged["conditions"], serde_json::to_value(&before).unwrap());
    let gone = ContainerView { phase: Phase::Destroying, stuck: Some("it is frozen".into()), ..view };
    let changed = shown(&gone, &ShownPolicy::default()).status(None, &before);
    let of = |kind: &str| {
        let all = changed["conditions"].as_array().unwrap();
        all.iter().find(|condition| condition["type"] == kind).unwrap().clone()
    };
    assert_eq!((&of("Ready")["status"], &of("Stuck")["message"]), (&"False".into(), &"it is frozen".into()));
    assert_ne!(of("Ready")["lastTransitionTime"], serde_json::to_value(long_ago).unwrap());
    assert_eq!(of("RootfsReady")["lastTransitionTime"], serde_json::to_value(long_ago).unwrap());
}

#[test]
fn what_is_shown_is_what_the_custom_resource_holds() {
    let mut view = view();
    view.processes = vec![process("p", ProcessState::Lost { why: "x".into() }, 1)];
    view.limits.memory_bytes = 5;
    let shown = shown(&view, &ShownPolicy::default());
    let spec: crds::GardenContainerSpec = serde_json::from_value(shown.spec()).unwrap();
    assert_eq!(serde_json::to_value(spec).unwrap(), shown.spec());
    let status = shown.status(Some(1), &[]);
    let read: crds::GardenContainerStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), status);
}
