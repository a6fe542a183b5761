//! Containers that are declared, and their processes, which are kept running.

mod common;

use common::{Machine, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::{NodeErrorKind, Signal};
use gardend_controller::record::{
    Declaration, DeclaredBy, DeclaredProcess, Limits, PortInAsked, ProcessId, RestartPolicy,
};
use gardend_controller::{Controller, Error, IncidentKind, KeptView, NetworkOptions, Options, Redeclaration};
use std::collections::BTreeMap;
use std::time::Duration;

fn by() -> DeclaredBy {
    DeclaredBy { namespace: "shop".into(), name: "web".into(), uid: "u1".into() }
}

fn kept(id: &str, words: &str, restart: RestartPolicy, revision: i64) -> DeclaredProcess {
    DeclaredProcess { id: ProcessId::new(id).unwrap(), spec: named(id, words), restart, revision }
}

fn declaration(processes: Vec<DeclaredProcess>) -> Declaration {
    Declaration { by: by(), generation: 1, source: "one".into(), processes, runs: BTreeMap::new() }
}

fn redeclaration(processes: Vec<DeclaredProcess>) -> Redeclaration {
    Redeclaration {
        generation: 2,
        source: "two".into(),
        processes,
        limits: None,
        grace_time: None,
        properties: BTreeMap::new(),
        without_properties: Vec::new(),
        without_ports: Vec::new(),
        ports: Vec::new(),
    }
}

async fn declare(garden: &Controller, processes: Vec<DeclaredProcess>) {
    garden.declare(request("c"), declaration(processes)).await.unwrap();
    sleep(0.1).await;
}

fn view(garden: &Controller, id: &str) -> KeptView {
    let uid = garden.declared().remove(0).uid;
    let declared = garden.view(&uid).unwrap().declared.unwrap();
    declared.processes.into_iter().find(|process| process.id.as_str() == id).unwrap()
}

fn running(garden: &Controller) -> Vec<String> {
    garden.info("c").unwrap().process_ids
}

async fn kill(garden: &Controller, id: &str) {
    garden.attach("c", id).await.unwrap().signal(Signal::Kill).await.unwrap();
    sleep(0.1).await;
}

#[test]
fn a_process_that_does_not_last_is_started_again_later_and_later() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let mut follower = garden.follow();
        declare(&garden, vec![kept("main", "exit 3", RestartPolicy::Always, 1)]).await;
        // At once, and then after 10, 20, 40, 80, 160 and 300 s.
        let mut seen = vec![machine.fake.calls(Call::Spawn)];
        for wait in [9.0, 2.0, 18.0, 3.0, 36.0, 5.0, 76.0, 5.0, 155.0, 8.0, 290.0, 12.0, 288.0, 14.0] {
            sleep(wait).await;
            seen.push(machine.fake.calls(Call::Spawn));
        }
        assert_eq!(seen, [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9]);
        let main = view(&garden, "main");
        assert_eq!((main.restarts, main.last_end.unwrap().status.unwrap().as_garden()), (8, 3));
        assert!(main.next_start.is_some() && !main.done);
        let incidents = follower.news().await.incidents;
        assert!(incidents.iter().all(|incident| incident.kind == IncidentKind::ProcessRestarted));
        assert_eq!(incidents[0].message, "process 'main' ended with status 3 and is started again (restart 1)");
        assert_eq!((incidents.len(), incidents[0].declared_by.clone()), (8, Some(by())));
        // One record, however often it ran.
        assert_eq!(machine.ledger.load().await.unwrap().processes.len(), 1);
        garden.undeclare(&by()).await.unwrap();
        sleep(60.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn the_policy_says_what_is_started_again() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let processes = vec![
            kept("done", "true", RestartPolicy::OnFailure, 1),
            kept("failed-once", "exit 1", RestartPolicy::Never, 1),
            kept("again", "true", RestartPolicy::Always, 1),
        ];
        declare(&garden, processes).await;
        sleep(100_000.0).await;
        assert_eq!((view(&garden, "done").restarts, view(&garden, "done").done), (0, true));
        assert_eq!((view(&garden, "failed-once").restarts, view(&garden, "failed-once").done), (0, true));
        assert!(view(&garden, "again").restarts > 300);
        // However long ago, and whoever has seen it, an end counts.
        let failed = garden.attach("c", "failed-once").await.unwrap();
        failed.outcome().await;
        drop(failed);
        sleep(100_000.0).await;
        assert_eq!(view(&garden, "failed-once").restarts, 0);
        assert_eq!(view(&garden, "failed-once").last_end.unwrap().status.unwrap().as_garden(), 1);
    });
}

#[test]
fn who_ran_for_long_is_started_again_at_once() {
    let machine = Machine::new();
    machine.life(async |garden| {
        declare(&garden, vec![kept("main", "sleep", RestartPolicy::Always, 1)]).await;
        for _ in 0..3 {
            kill(&garden, "main").await;
            sleep(60.0).await;
        }
        kill(&garden, "main").await;
        assert!(running(&garden).is_empty() && view(&garden, "main").next_start.is_some());
        sleep(700.0).await;
        assert_eq!(running(&garden), ["main"]);
        sleep(601.0).await;
        kill(&garden, "main").await;
        assert_eq!((running(&garden), view(&garden, "main").restarts), (vec!["main".to_owned()], 5));
    });
}

#[test]
fn clients_see_and_use_what_is_declared_and_do_not_end_it() {
    let options = Options { pool_size: 0, default_grace_time: Some(Duration::from_secs(5)), ..Options::default() };
    let machine = Machine::with(options);
    machine.life(async |garden| {
        declare(&garden, vec![kept("main", "sleep", RestartPolicy::Always, 1)]).await;
        assert_eq!(common::handles(&garden), ["c"]);
        assert_eq!(running(&garden), ["main"]);
        garden.run("c", named("mine", "true")).await.unwrap().outcome().await;
        let taken = garden.run("c", named("main", "true")).await.map(drop).unwrap_err();
        assert!(matches!(taken, Error::ProcessIdInUse(_)));
        let refused = garden.destroy("c").await.unwrap_err().to_string();
        assert!(refused.contains("kubectl --namespace shop delete gctr web"), "{refused}");
        let stop = garden.stop("c", gardend_controller::record::StopMode::Kill).await.unwrap_err();
        assert!(matches!(stop, Error::Declared { .. }));
        garden.set_grace_time("c", Duration::from_secs(1)).await.unwrap();
        sleep(100_000.0).await;
        assert_eq!(running(&garden), ["main"]);
        // Nor does another object of the same name.
        garden.undeclare(&DeclaredBy { uid: "u2".into(), ..by() }).await.unwrap();
        assert_eq!(common::handles(&garden), ["c"]);
        garden.undeclare(&by()).await.unwrap();
        garden.undeclare(&by()).await.unwrap();
        assert!(garden.declared().is_empty());
        garden.create(request("c")).await.unwrap();
        assert!(garden.declared().is_empty());
        garden.destroy("c").await.unwrap();
    });
}

#[test]
fn processes_outlive_gardend_and_are_kept_by_the_next_one() {
    let mut machine = Machine::new();
    machine.life(async |garden| {
        let once = kept("once", "exit 5", RestartPolicy::Never, 1);
        declare(&garden, vec![kept("main", "sleep", RestartPolicy::Always, 1), once]).await;
        kill(&garden, "main").await;
        assert_eq!(running(&garden), ["main"]);
    });
    machine.life(async |garden| {
        sleep(5.0).await;
        assert_eq!((running(&garden), machine.fake.calls(Call::Spawn)), (vec!["main".to_owned()], 3));
        assert_eq!(view(&garden, "main").restarts, 1);
        // Its place dies, and it with it.
        let (place, _) = machine.fake.furnished().remove(0);
        machine.fake.kill_init(&place);
        sleep(30.0).await;
        assert_eq!((running(&garden), view(&garden, "main").restarts), (vec!["main".to_owned()], 2));
        assert_eq!(view(&garden, "once").restarts, 0);
        assert!(view(&garden, "main").last_end.unwrap().why.is_some());
    });
    machine.boot = "22222222-2222-2222-2222-222222222222".into();
    machine.life(async |garden| {
        sleep(60.0).await;
        assert_eq!((running(&garden), view(&garden, "main").restarts), (vec!["main".to_owned()], 3));
        assert_eq!(view(&garden, "once").last_end.unwrap().status.unwrap().as_garden(), 5);
        garden.undeclare(&by()).await.unwrap();
        sleep(60.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn one_that_cannot_be_started_says_why_and_is_tried_again() {
    let machine = Machine::new();
    machine.life(async |garden| {
        declare(&garden, vec![kept("main", "/bin/nope", RestartPolicy::OnFailure, 1)]).await;
        let why = view(&garden, "main").last_end.unwrap().why.unwrap();
        assert!(why.contains("could not be started") && why.contains("/bin/nope"), "{why}");
        assert_eq!((view(&garden, "main").restarts, machine.fake.calls(Call::Spawn)), (1, 2));
        sleep(11.0).await;
        assert_eq!(machine.fake.calls(Call::Spawn), 3);
        garden.redeclare(&by(), redeclaration(vec![kept("main", "sleep", RestartPolicy::Never, 2)])).await.unwrap();
        sleep(1.0).await;
        assert_eq!((running(&garden), view(&garden, "main").restarts), (vec!["main".to_owned()], 0));
    });
}

#[test]
fn an_edit_replaces_the_processes_that_are_others_and_leaves_the_rest_alone() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let same = kept("same", "sleep", RestartPolicy::Always, 1);
        let before = vec![same.clone(), kept("changed", "stubborn", RestartPolicy::Never, 1)];
        declare(&garden, [before, vec![kept("removed", "sleep", RestartPolicy::Always, 1)]].concat()).await;
        let pid = |garden: &Controller, id: &str| {
            let view = garden.view(&garden.declared()[0].uid).unwrap();
            view.processes.into_iter().find(|process| process.id.as_str() == id).map(|process| process.state)
        };
        let (same_before, changed_before) = (pid(&garden, "same"), pid(&garden, "changed"));
        let after = vec![
            same,
            kept("changed", "sleep", RestartPolicy::Never, 2),
            kept("new", "sleep", RestartPolicy::Always, 2),
        ];
        garden.redeclare(&by(), redeclaration(after)).await.unwrap();
        sleep(5.0).await;
        // It does not end by TERM.
        assert_eq!(pid(&garden, "changed"), changed_before);
        sleep(10.0).await;
        assert_eq!(running(&garden), ["changed", "new", "same"]);
        assert_eq!((pid(&garden, "same"), pid(&garden, "removed")), (same_before, None));
        assert_ne!(pid(&garden, "changed"), changed_before);
        let record = &machine.ledger.load().await.unwrap().containers[0];
        let declaration = record.origin.declaration().unwrap();
        assert_eq!((declaration.generation, declaration.source.as_str(), declaration.runs.len()), (2, "two", 3));
    });
}

#[test]
fn limits_properties_and_ports_change_in_place() {
    let options = Options { pool_size: 0, network: Some(NetworkOptions::default()), ..Options::default() };
    let machine = Machine::with(options);
    machine.life(async |garden| {
        let port = |host: u16, inner: u16| PortInAsked {
            host_port: host.try_into().ok(),
            container_port: inner.try_into().ok(),
        };
        let main = vec![kept("main", "sleep", RestartPolicy::Always, 1)];
        let mut asked = request("c");
        asked.spec.limits.memory_bytes = 1 << 28;
        asked.properties = BTreeMap::from([("a".into(), "1".into()), ("b".into(), "1".into())]);
        asked.ports_in = vec![port(61_500, 80), port(0, 443)];
        garden.declare(asked, declaration(main.clone())).await.unwrap();
        sleep(1.0).await;
        let uid = garden.declared()[0].uid.clone();
        let place = garden.view(&uid).unwrap().sandbox;
        let change = Redeclaration {
            limits: Some(Limits { memory_bytes: 1 << 29, cpu_weight: 5, bandwidth_rate: 1000, ..Limits::default() }),
            properties: BTreeMap::from([("a".into(), "2".into())]),
            without_properties: vec!["b".into()],
            without_ports: vec![port(61_500, 80)],
            ports: vec![port(61_600, 81)],
            ..redeclaration(main)
        };
        machine.fake.fail(Call::Limit, Fault::Before(NodeErrorKind::Failed), 1);
        garden.redeclare(&by(), change.clone()).await.unwrap_err();
        assert_eq!(garden.declared()[0].declaration.generation, 1);
        garden.redeclare(&by(), change).await.unwrap();
        let view = garden.view(&uid).unwrap();
        assert_eq!((view.sandbox, view.limits.memory_bytes), (place, 1 << 29));
        assert_eq!(view.properties, BTreeMap::from([("a".into(), "2".into())]));
        let inner: Vec<_> = view.ports_in.iter().map(|port| port.container_port).collect();
        assert_eq!(inner, [443, 81]);
        assert_eq!(machine.fake.limits()[0].1.cpu_weight, 5);
        let network = &machine.fake.networks()[0];
        assert_eq!((network.bandwidth_rate, &network.ports_in), (1000, &view.ports_in));
        // The port that was given back is anybody's.
        let mut other = request("other");
        other.ports_in = vec![port(61_500, 80)];
        garden.create(other).await.unwrap();
        assert_eq!(running(&garden), ["main"]);
        assert_eq!(garden.declared()[0].declaration.generation, 2);
        machine.assert_converged().await;
    });
}

#[test]
fn an_edit_that_failed_half_way_is_tried_again_as_a_whole() {
    let options = Options { pool_size: 0, network: Some(NetworkOptions::default()), ..Options::default() };
    let machine = Machine::with(options);
    machine.life(async |garden| {
        declare(&garden, Vec::new()).await;
        let port = |host: u16, inner: u16| PortInAsked {
            host_port: host.try_into().ok(),
            container_port: inner.try_into().ok(),
        };
        machine.fake.listen(61_700, true);
        let change = Redeclaration { ports: vec![port(0, 80), port(61_700, 81)], ..redeclaration(Vec::new()) };
        // A program of the node has the second.
        garden.redeclare(&by(), change.clone()).await.unwrap_err();
        garden.redeclare(&by(), change.clone()).await.unwrap_err();
        machine.fake.listen(61_700, false);
        garden.redeclare(&by(), change).await.unwrap();
        let view = garden.view(&garden.declared()[0].uid).unwrap();
        let inner: Vec<_> = view.ports_in.iter().map(|port| port.container_port).collect();
        assert_eq!(inner, [80, 81]);
        machine.assert_converged().await;
    });
}
