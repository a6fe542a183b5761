//! What happens when gardend, an init, or the node dies.

mod common;

use common::{Machine, command, handles, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::ExitStatus;
use gardend_controller::{Error, Options, Outcome};
use std::time::Duration;
use tokio::time::Instant;

#[test]
fn processes_go_on_over_a_crash_and_those_that_ended_meanwhile_are_known() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", named("runs", "sleep")).await.unwrap();
        machine.fake.lose_events(true);
        for code in 0..100 {
            garden.run("c", named(&format!("e{code}"), &format!("exit {code}"))).await.unwrap();
        }
    });
    machine.fake.lose_events(false);
    machine.life(async |garden| {
        assert_eq!(garden.info("c").unwrap().process_ids, ["runs"]);
        for code in 0..100 {
            let process = garden.attach("c", &format!("e{code}")).await.unwrap();
            assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(code)));
        }
        garden.attach("c", "runs").await.unwrap();
        assert_eq!(machine.fake.spawned(), 101);
        machine.assert_converged().await;
    });
}

#[test]
fn a_create_that_was_answered_is_there_after_a_crash_and_one_that_was_not_is_gone() {
    for call in [Call::Check, Call::Ensure, Call::Furnish, Call::Connect] {
        let machine = Machine::new();
        machine.life(async |garden| {
            garden.create(request("answered")).await.unwrap();
            machine.fake.delay(call, Duration::from_secs(3));
            let dying = garden.create(request("unanswered"));
            assert!(tokio::time::timeout(Duration::from_secs(1), dying).await.is_err());
        });
        machine.fake.delay(call, Duration::ZERO);
        machine.life(async |garden| {
            sleep(60.0).await;
            assert_eq!(handles(&garden), ["answered"], "{call:?}");
            machine.assert_converged().await;
            garden.create(request("unanswered")).await.unwrap();
            garden.run("answered", command("true")).await.unwrap();
        });
    }
}

#[test]
fn a_container_that_was_being_destroyed_is_gone_after_a_crash() {
    for call in [Call::Kill, Call::Release, Call::Remove] {
        let machine = Machine::new();
        machine.life(async |garden| {
            garden.create(request("c")).await.unwrap();
            machine.fake.delay(call, Duration::from_secs(3));
            let _ = tokio::time::timeout(Duration::from_secs(1), garden.destroy("c")).await;
        });
        machine.fake.delay(call, Duration::ZERO);
        machine.life(async |garden| {
            sleep(30.0).await;
            assert_eq!(handles(&garden), Vec::<String>::new());
            machine.assert_converged().await;
            assert!(machine.fake.places().is_empty());
        });
    }
}

#[test]
fn a_destroyed_container_does_not_come_back_into_the_list_after_a_crash() {
    let machine = Machine::new();
    machine.fake.delay(Call::Release, Duration::from_secs(3));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.destroy("c").await.unwrap();
    });
    machine.life(async |garden| {
        assert_eq!(handles(&garden), Vec::<String>::new());
        garden.create(request("c")).await.unwrap();
        sleep(30.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn a_process_whose_start_was_not_answered_before_a_crash_is_ended_or_lost_never_started_again() {
    for (call, fault) in [(Call::Spawn, None), (Call::Spawn, Some(Fault::Before(NodeErrorKind::Unavailable)))] {
        let machine = Machine::new();
        machine.life(async |garden| {
            garden.create(request("c")).await.unwrap();
            machine.fake.delay(call, Duration::from_secs(3));
            if let Some(fault) = fault {
                machine.fake.fail(call, fault, 1);
            }
            let dying = garden.run("c", named("p", "sleep"));
            assert!(tokio::time::timeout(Duration::from_secs(1), dying).await.is_err());
        });
        machine.life(async |garden| {
            let process = garden.attach("c", "p").await.unwrap();
            let Outcome::Failed(why) = process.outcome().await else { panic!("nobody can know") };
            assert!(why.contains("whether it ran is not known"), "{why}");
            assert!(machine.fake.running().is_empty());
        });
    }
}

#[test]
fn a_process_without_a_record_is_ended() {
    let machine = Machine::new();
    let uid = machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", named("p", "stubborn")).await.unwrap();
        machine.ledger.load().await.unwrap().processes[0].uid.clone()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let delete = vec![gardend_controller::ledger::Change::DeleteProcess(uid)];
    runtime.block_on(machine.ledger.commit(delete, gardend_controller::ledger::Durable::Crash)).unwrap();
    machine.life(async |garden| {
        sleep(1.0).await;
        assert!(machine.fake.running().is_empty());
        assert!(matches!(garden.attach("c", "p").await, Err(Error::ProcessNotFound(_))));
        sleep(1.0).await;
        assert!(machine.fake.calls(Call::Acknowledge) > 0);
    });
}

#[test]
fn a_container_whose_init_dies_is_made_again_on_its_files_and_the_reason_is_kept() {
    for events_are_lost in [false, true] {
        let machine = Machine::with(Options { pool_size: 2, ..Options::default() });
        machine.life(async |garden| {
            for handle in ["c", "other"] {
                garden.create(request(handle)).await.unwrap();
            }
            let process = garden.run("c", named("p", "sleep")).await.unwrap();
            let other = garden.run("other", named("p", "sleep")).await.unwrap();
            let place = garden.info("c").unwrap().path.rsplit('/').next().map(str::to_owned).unwrap();
            let files = machine.fake.layers();
            machine.fake.lose_events(events_are_lost);
            machine.fake.kill_init(&gardend_controller::record::SandboxId::parse(&place).unwrap());
            let begun = Instant::now();
            let Outcome::Failed(why) = process.outcome().await else { panic!("it was killed") };
            assert!(why.contains("init is gone"), "{why}");
            assert!(begun.elapsed() <= machine.options.sweep_interval + Duration::from_secs(1));
            sleep(1.0).await;
            garden.run("c", command("true")).await.unwrap();
            let info = garden.info("c").unwrap();
            assert!(info.events[0].starts_with("made again: its init is gone"), "{:?}", info.events);
            assert!(!info.path.ends_with(&place));
            assert_eq!(machine.fake.layers(), files);
            assert!(tokio::time::timeout(Duration::from_secs(1), other.outcome()).await.is_err());
            sleep(30.0).await;
            machine.assert_converged().await;
        });
    }
}

#[test]
fn an_init_that_died_while_gardend_was_down_is_noticed() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", named("p", "sleep")).await.unwrap();
    });
    machine.fake.kill_init(&machine.fake.places()[0]);
    machine.life(async |garden| {
        sleep(20.0).await;
        let process = garden.attach("c", "p").await.unwrap();
        assert!(matches!(process.outcome().await, Outcome::Failed(_)));
        garden.run("c", command("true")).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn the_start_waits_for_inits_but_not_for_one_that_does_not_answer() {
    let machine = Machine::new();
    machine.life(async |garden| {
        for n in 0..50 {
            garden.create(request(&format!("c{n}"))).await.unwrap();
            garden.run(&format!("c{n}"), named("p", "sleep")).await.unwrap();
        }
    });
    machine.fake.delay(Call::Connect, Duration::from_millis(500));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime().block_on(async {
        let begun = Instant::now();
        let garden = machine.gardend().await;
        assert!(begun.elapsed() < Duration::from_millis(600), "{:?}", begun.elapsed());
        garden.attach("c49", "p").await.unwrap();
    });
    machine.fake.delay(Call::Connect, Duration::from_secs(5));
    runtime().block_on(async {
        let begun = Instant::now();
        let garden = machine.gardend().await;
        assert!(begun.elapsed() < Duration::from_millis(1100), "{:?}", begun.elapsed());
        // Known, but not to be had yet.
        let error = garden.attach("c49", "p").await.map(drop).unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error}");
        sleep(6.0).await;
        garden.attach("c49", "p").await.unwrap();
        assert_eq!(machine.fake.running().len(), 50);
    });
}

#[test]
fn a_pooled_place_is_taken_over_unless_it_was_made_with_other_settings() {
    let machine = Machine::with(Options { pool_size: 2, ..Options::default() });
    let pooled = machine.life(async |_| {
        sleep(5.0).await;
        machine.fake.places()
    });
    assert_eq!(pooled.len(), 2);
    let place = machine.life(async |garden| {
        garden.create(request("kept")).await.unwrap();
        garden.run("kept", named("p", "sleep")).await.unwrap();
        sleep(5.0).await;
        garden.info("kept").unwrap().path
    });
    assert!(pooled.iter().any(|id| place.ends_with(id.as_str())), "as it was made with these");
    let before = machine.fake.places();
    machine.fake.change_settings();
    machine.life(async |garden| {
        garden.create(request("new")).await.unwrap();
        let place = garden.info("new").unwrap().path;
        assert!(!before.iter().any(|id| place.ends_with(id.as_str())), "made with others");
        // What is a container's goes on as it is.
        assert_eq!(garden.info("kept").unwrap().process_ids.len(), 1);
        sleep(20.0).await;
        machine.assert_converged().await;
        assert_eq!(machine.fake.places().len(), 2 + 2);
    });
}

#[test]
fn after_a_reboot_containers_are_made_again_and_their_processes_are_lost() {
    let mut machine = Machine::with(Options { pool_size: 2, ..Options::default() });
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", named("p", "sleep")).await.unwrap();
        let done = garden.run("c", named("done", "exit 3")).await.unwrap();
        done.outcome().await;
        sleep(5.0).await;
    });
    // Containerd's objects outlive a reboot; what ran does not.
    for place in machine.fake.places() {
        machine.fake.kill_init(&place);
    }
    machine.boot = "22222222-2222-2222-2222-222222222222".into();
    for _ in 0..2 {
        machine.life(async |garden| {
            sleep(5.0).await;
            let process = garden.attach("c", "p").await.unwrap();
            assert_eq!(process.outcome().await, Outcome::Failed("the node was rebooted".into()));
            let done = garden.attach("c", "done").await.unwrap();
            assert_eq!(done.outcome().await, Outcome::Exited(ExitStatus::Code(3)));
            assert_eq!(garden.info("c").unwrap().events, ["made again: the node was rebooted"]);
            garden.run("c", command("true")).await.unwrap();
            sleep(20.0).await;
            machine.assert_converged().await;
            assert_eq!(machine.fake.places().len(), 1 + 2);
        });
    }
}

#[test]
fn what_has_no_record_is_removed_and_what_has_is_left() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let process = garden.run("c", named("p", "sleep")).await.unwrap();
        machine.fake.add_stray_place();
        machine.fake.add_stray_layers();
        sleep(30.0).await;
        machine.assert_converged().await;
        assert_eq!(machine.fake.places().len(), 1);
        assert!(tokio::time::timeout(Duration::from_secs(1), process.outcome()).await.is_err());
    });
}

#[test]
fn a_place_that_is_stuck_holds_up_no_other() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", command("sleep")).await.unwrap();
        machine.fake.unkillable(true);
        garden.destroy("c").await.unwrap_err();
        for n in 0..20 {
            garden.create(request(&format!("n{n}"))).await.unwrap();
            garden.destroy(&format!("n{n}")).await.unwrap();
        }
        machine.fake.add_stray_place();
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 1);
    });
}

#[test]
fn a_full_disk_refuses_creates_and_runs_and_everything_works_again_afterwards() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let process = garden.run("c", named("p", "sleep")).await.unwrap();
        machine.ledger.pretend_full(true);
        let error = garden.create(request("d")).await.unwrap_err();
        assert!(error.to_string().contains("the ledger cannot be written"), "{error}");
        let big = gardend_controller::record::ProcessSpec { args: vec!["x".repeat(100_000)], ..command("true") };
        assert!(matches!(garden.run("c", big).await, Err(Error::Ledger(_))));
        assert!(garden.ping().await.is_err());
        assert_eq!(handles(&garden), ["c"]);
        process.signal(gardend_controller::ports::Signal::Kill).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
        machine.ledger.pretend_full(false);
        garden.ping().await.unwrap();
        garden.create(request("d")).await.unwrap();
        garden.run("c", command("true")).await.unwrap();
        for handle in ["c", "d"] {
            garden.destroy(handle).await.unwrap();
        }
        sleep(60.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}
