//! The life of containers: create, destroy, list, properties, stop.

mod common;

use common::{Machine, command, handles, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{
    BindMode, BindMount, BindOrigin, ContainerSpec, CreateRequest, ExitStatus, Properties, RootfsSource, Stage,
    StopMode,
};
use gardend_controller::{Controller, Error, MAX_PROPERTY_BYTES, Options, Outcome};
use std::time::Duration;
use tokio::time::Instant;

fn properties(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_container_is_made_runs_a_process_and_leaves_nothing() {
    let machine = Machine::new();
    machine.life(async |garden| {
        assert_eq!(garden.create(request("c")).await.unwrap().as_str(), "c");
        let process = garden.run("c", command("exit 7")).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(7)));
        drop(process);
        garden.destroy("c").await.unwrap();
        sleep(1.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn a_container_without_a_handle_gets_one() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let handle = garden.create(CreateRequest::default()).await.unwrap();
        assert_eq!(handles(&garden), [handle.to_string()]);
    });
}

#[test]
fn a_place_says_whose_it_is() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        sleep(1.0).await;
        assert_eq!(machine.fake.labels().iter().map(|(_, handle)| handle.as_str()).collect::<Vec<_>>(), ["c"]);
    });
}

#[test]
fn a_handle_in_use_is_refused_until_the_moment_that_its_destroy_is_answered() {
    let machine = Machine::new();
    machine.fake.delay(Call::Remove, Duration::from_secs(60));
    machine.fake.delay(Call::Release, Duration::from_secs(60));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let error = garden.create(request("c")).await.unwrap_err();
        assert_eq!(error.to_string(), "Handle 'c' already in use");
        garden.destroy("c").await.unwrap();
        garden.create(request("c")).await.unwrap();
        // The first one's remains are swept under the second.
        sleep(200.0).await;
        machine.assert_converged().await;
        assert_eq!(handles(&garden), ["c"]);
        garden.run("c", command("true")).await.unwrap();
    });
}

#[test]
fn five_hundred_creates_against_a_limit_are_neither_too_many_nor_too_few() {
    let machine = Machine::with(Options { max_containers: 100, pool_size: 3, ..Options::default() });
    machine.life(async |garden| {
        let creates = (0..500).map(|n| {
            let garden = garden.clone();
            tokio::spawn(async move { garden.create(request(&format!("c{n}"))).await })
        });
        let mut made = 0;
        for create in creates.collect::<Vec<_>>() {
            match create.await.unwrap() {
                Ok(_) => made += 1,
                Err(Error::LimitReached { limit: 100 }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((made, handles(&garden).len()), (100, 100));
        assert!(machine.fake.most_at_once(Call::Ensure) <= machine.options.makes_at_once);
        // Room for exactly one more each time that one goes.
        garden.destroy(&handles(&garden)[0]).await.unwrap();
        garden.create(request("one more")).await.unwrap();
        let refused = garden.create(request("too many")).await.unwrap_err();
        assert!(refused.to_string().contains("limit of 100 containers"), "{refused}");
    });
}

#[test]
fn what_cannot_be_had_is_refused_before_anything_is_recorded() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let mount = BindMount {
            source: "/missing/volume".into(),
            target: "/in".into(),
            mode: BindMode::ReadOnly,
            origin: BindOrigin::Host,
        };
        let specs = [
            ContainerSpec { rootfs: RootfsSource::Raw("/missing/root".into()), ..ContainerSpec::default() },
            ContainerSpec { bind_mounts: vec![mount], ..ContainerSpec::default() },
        ];
        for spec in specs {
            let error = garden.create(CreateRequest { spec, ..request("c") }).await.unwrap_err();
            assert!(error.to_string().contains("/missing/"), "{error}");
        }
        assert_eq!(machine.fake.calls(Call::Ensure), 0);
        assert!(machine.ledger.load().await.unwrap().containers.is_empty());
        garden.create(request("c")).await.unwrap();
    });
}

#[test]
fn a_create_that_cannot_succeed_names_its_stage_and_its_handle_is_free_again() {
    let stages = [(Call::Ensure, Stage::Sandbox), (Call::Furnish, Stage::Rootfs), (Call::Connect, Stage::Connect)];
    for (call, stage) in stages {
        for fault in [Fault::Before(NodeErrorKind::Invalid), Fault::After(NodeErrorKind::Invalid)] {
            let machine = Machine::new();
            machine.life(async |garden| {
                machine.fake.fail(call, fault, 1);
                let error = garden.create(request("c")).await.unwrap_err();
                let Error::CreateFailed { stage: failed, source, .. } = &error else { panic!("{error}") };
                assert_eq!((*failed, source.kind), (stage, NodeErrorKind::Invalid));
                garden.create(request("c")).await.unwrap();
                sleep(60.0).await;
                machine.assert_converged().await;
            });
        }
    }
}

#[test]
fn a_place_that_failed_is_replaced_twice_and_then_the_create_fails() {
    for call in [Call::Ensure, Call::Furnish, Call::Connect] {
        for (failures, made) in [(2, true), (3, false)] {
            let machine = Machine::new();
            machine.life(async |garden| {
                machine.fake.fail(call, Fault::Before(NodeErrorKind::Failed), failures);
                assert_eq!(garden.create(request("c")).await.is_ok(), made, "{call:?} {failures}");
                sleep(60.0).await;
                machine.assert_converged().await;
                assert_eq!(machine.fake.places().len(), usize::from(made));
            });
        }
    }
}

#[test]
fn a_create_waits_for_containerd_within_its_deadline() {
    let machine = Machine::new();
    machine.life(async |garden| {
        machine.fake.containerd_away(true);
        let waiting = tokio::spawn({
            let garden = garden.clone();
            async move { garden.create(request("patient")).await }
        });
        sleep(30.0).await;
        let unhealthy = garden.ping().await.unwrap_err();
        assert!(unhealthy.to_string().contains("containerd does not answer"), "{unhealthy}");
        machine.fake.containerd_away(false);
        waiting.await.unwrap().unwrap();
        sleep(2.0).await;
        garden.ping().await.unwrap();

        machine.fake.containerd_away(true);
        let begun = Instant::now();
        let error = garden.create(request("late")).await.unwrap_err();
        let Error::CreateFailed { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind, NodeErrorKind::Unavailable);
        assert!(begun.elapsed() < machine.options.create_deadline + Duration::from_secs(10));
        // What is there goes on meanwhile.
        garden.run("patient", command("true")).await.unwrap();
        garden.destroy("patient").await.unwrap();
        machine.fake.containerd_away(false);
        sleep(60.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn a_create_whose_client_goes_away_is_undone_wherever_it_was() {
    for call in [Call::Check, Call::Ensure, Call::Furnish, Call::Connect] {
        let machine = Machine::new();
        machine.fake.delay(call, Duration::from_secs(3));
        machine.life(async |garden| {
            let left = tokio::time::timeout(Duration::from_secs(1), garden.create(request("c"))).await;
            assert!(left.is_err());
            sleep(60.0).await;
            assert_eq!(handles(&garden), Vec::<String>::new());
            machine.assert_converged().await;
            assert!(machine.fake.places().is_empty(), "{call:?}");
        });
    }
}

#[test]
fn a_list_is_filtered_by_all_properties_and_shows_unfinished_ones_only_on_request() {
    let machine = Machine::new();
    machine.life(async |garden| {
        for (handle, pairs) in [("a", [("x", "1"), ("y", "1")]), ("b", [("x", "1"), ("y", "2")])] {
            let request = CreateRequest { properties: properties(&pairs), ..request(handle) };
            garden.create(request).await.unwrap();
        }
        machine.fake.delay(Call::Furnish, Duration::from_secs(5));
        let creating = tokio::spawn({
            let garden = garden.clone();
            async move { garden.create(request("unfinished")).await }
        });
        sleep(1.0).await;
        let list = |pairs: &[(&str, &str)], unfinished| {
            garden.list(&properties(pairs), unfinished).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(list(&[], false), ["a", "b"]);
        assert_eq!(list(&[], true), ["a", "b", "unfinished"]);
        assert_eq!(list(&[("x", "1")], false), ["a", "b"]);
        assert_eq!(list(&[("x", "1"), ("y", "2")], true), ["b"]);
        assert_eq!(list(&[("x", "3")], true), Vec::<String>::new());
        let error = garden.run("unfinished", command("true")).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), "container 'unfinished' is not ready: it is still being created");
        creating.await.unwrap().unwrap();
    });
}

#[test]
fn properties_are_set_read_removed_and_kept_over_a_crash() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let first = CreateRequest { properties: properties(&[("a", "1")]), ..request("c") };
        garden.create(first).await.unwrap();
        garden.set_property("c", "b", "").await.unwrap();
        garden.set_property("c", "a", "2").await.unwrap();
        let missing = garden.property("c", "z").unwrap_err();
        assert_eq!(missing.to_string(), "property does not exist: z");
        garden.remove_property("c", "z").await.unwrap();
        let huge = "x".repeat(MAX_PROPERTY_BYTES);
        assert!(matches!(garden.set_property("c", "k", &huge).await, Err(Error::Invalid(_))));
        garden.set_property("c", "k", &huge[1..]).await.unwrap();
        garden.remove_property("c", "k").await.unwrap();
    });
    machine.life(async |garden| {
        assert_eq!(garden.properties("c").unwrap(), properties(&[("a", "2"), ("b", "")]));
        assert_eq!(garden.property("c", "b").unwrap(), "");
        assert_eq!(garden.info("c").unwrap().properties, properties(&[("a", "2"), ("b", "")]));
        assert!(matches!(garden.properties("d"), Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn many_changes_at_once_are_all_kept() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let sets = (0..200).map(|n| {
            let garden = garden.clone();
            tokio::spawn(async move { garden.set_property("c", &n.to_string(), "x").await })
        });
        for set in sets.collect::<Vec<_>>() {
            set.await.unwrap().unwrap();
        }
        assert_eq!(garden.properties("c").unwrap().len(), 200);
    });
    machine.life(async |garden| assert_eq!(garden.properties("c").unwrap().len(), 200));
}

#[test]
fn a_second_destroy_is_told_that_one_runs_and_an_unknown_one_is_not_found() {
    let machine = Machine::new();
    machine.fake.delay(Call::Kill, Duration::from_secs(2));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let first = tokio::spawn({
            let garden = garden.clone();
            async move { garden.destroy("c").await }
        });
        sleep(1.0).await;
        let second = garden.destroy("c").await.unwrap_err();
        assert_eq!(second.to_string(), "container already being destroyed: c");
        first.await.unwrap().unwrap();
        assert_eq!(garden.destroy("c").await.unwrap_err().to_string(), "unknown handle: c");
    });
}

#[test]
fn what_does_not_die_is_stuck_stays_listed_delays_nobody_and_goes_when_it_can() {
    let machine = Machine::new();
    machine.life(async |garden| {
        for handle in ["stuck", "other"] {
            garden.create(request(handle)).await.unwrap();
        }
        garden.run("stuck", command("sleep")).await.unwrap();
        machine.fake.unkillable(true);
        let error = garden.destroy("stuck").await.unwrap_err();
        assert!(matches!(error, Error::Stuck { .. }), "{error}");
        assert_eq!(handles(&garden), ["other", "stuck"]);
        assert!(garden.info("stuck").unwrap().events.iter().any(|event| event.starts_with("Stuck:")));
        // Not idle waiting: it is tried again when asked, and told again.
        assert!(matches!(garden.destroy("stuck").await, Err(Error::Stuck { .. })));
        garden.run("other", command("true")).await.unwrap();
        garden.destroy("other").await.unwrap();
    });
    // Restart included.
    machine.life(async |garden| {
        assert_eq!(handles(&garden), ["stuck"]);
        assert!(matches!(garden.create(request("stuck")).await, Err(Error::HandleInUse(_))));
        machine.fake.unkillable(false);
        sleep(30.0).await;
        assert_eq!(handles(&garden), Vec::<String>::new());
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn a_burst_of_destroys_leaves_creates_their_way() {
    let machine = Machine::new();
    machine.life(async |garden| {
        for n in 0..50 {
            garden.create(request(&format!("old{n}"))).await.unwrap();
        }
        machine.fake.delay(Call::Remove, Duration::from_secs(10));
        for n in 0..50 {
            garden.destroy(&format!("old{n}")).await.unwrap();
        }
        let begun = Instant::now();
        garden.create(request("new")).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        sleep(300.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.most_at_once(Call::Remove) <= machine.options.removals_at_once);
    });
}

#[test]
fn stop_terminates_waits_and_then_the_container_is_stopped_and_can_still_run() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let process = garden.run("c", command("sleep")).await.unwrap();
        assert!(!garden.info("c").unwrap().stopped);
        garden.stop("c", StopMode::Terminate).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Signal(15)));
        assert!(garden.info("c").unwrap().stopped);
        let after = garden.run("c", command("true")).await.unwrap();
        assert_eq!(after.outcome().await, Outcome::Exited(ExitStatus::Code(0)));
        assert!(garden.info("c").unwrap().stopped);
        // With nothing to stop, and once more with something.
        garden.stop("c", StopMode::Terminate).await.unwrap();
        let again = garden.run("c", command("sleep")).await.unwrap();
        garden.stop("c", StopMode::Kill).await.unwrap();
        assert_eq!(again.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
    });
}

#[test]
fn what_ignores_term_is_killed_after_the_grace() {
    for lose_events in [false, true] {
        let machine = Machine::new();
        machine.life(async |garden| {
            machine.fake.lose_events(lose_events);
            garden.create(request("c")).await.unwrap();
            garden.run("c", command("stubborn")).await.unwrap();
            let begun = Instant::now();
            garden.stop("c", StopMode::Terminate).await.unwrap();
            let took = begun.elapsed();
            let grace = machine.options.stop_grace;
            assert!(took >= grace && took < grace + Duration::from_secs(2), "{took:?}");
        });
    }
}

#[test]
fn a_kill_overtakes_a_terminate_that_waits_and_both_are_answered() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", command("stubborn")).await.unwrap();
        let begun = Instant::now();
        let stop = |mode| {
            let garden = garden.clone();
            tokio::spawn(async move { garden.stop("c", mode).await })
        };
        let terminate = stop(StopMode::Terminate);
        sleep(3.0).await;
        let kill = stop(StopMode::Kill);
        terminate.await.unwrap().unwrap();
        kill.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_stop_goes_on_after_a_crash() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", named("p", "stubborn")).await.unwrap();
        let waiting = garden.stop("c", StopMode::Terminate);
        assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    });
    machine.life(async |garden| {
        let process = garden.attach("c", "p").await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
        sleep(1.0).await;
        assert!(garden.info("c").unwrap().stopped);
    });
}

#[test]
fn a_stop_of_a_container_that_is_destroyed_meanwhile_is_answered() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", command("stubborn")).await.unwrap();
        let stop = tokio::spawn({
            let garden = garden.clone();
            async move { garden.stop("c", StopMode::Terminate).await }
        });
        sleep(1.0).await;
        garden.destroy("c").await.unwrap();
        assert!(matches!(stop.await.unwrap(), Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn a_shutdown_lets_requests_finish_and_takes_no_more() {
    let machine = Machine::new();
    machine.fake.delay(Call::Furnish, Duration::from_secs(1));
    machine.life(async |garden| {
        let creating = tokio::spawn({
            let garden = garden.clone();
            async move { garden.create(request("c")).await }
        });
        sleep(0.5).await;
        let begun = Instant::now();
        garden.shutdown().await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        creating.await.unwrap().unwrap();
        let refusals: [Result<(), Error>; 3] = [
            garden.create(request("d")).await.map(drop),
            garden.run("c", command("true")).await.map(drop),
            garden.destroy("c").await,
        ];
        assert!(refusals.iter().all(|refused| matches!(refused, Err(Error::ShuttingDown))), "{refusals:?}");
    });
    machine.life(async |garden| {
        assert_eq!(handles(&garden), ["c"]);
        garden.run("c", command("true")).await.unwrap();
    });
}

/// Creates, and answers how long that took.
async fn timed(garden: &Controller, handle: &str) -> Duration {
    let begun = Instant::now();
    garden.create(request(handle)).await.unwrap();
    begun.elapsed()
}

#[test]
fn the_pool_serves_creates_and_is_refilled_behind_them() {
    let machine = Machine::with(Options { pool_size: 3, ..Options::default() });
    machine.fake.delay(Call::Ensure, Duration::from_secs(2));
    machine.life(async |garden| {
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 3);
        for handle in ["a", "b", "c"] {
            assert!(timed(&garden, handle).await < Duration::from_millis(100));
        }
        assert!(timed(&garden, "d").await >= Duration::from_secs(2));
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 4 + 3);
        machine.assert_converged().await;
    });
    // The next gardend takes the blank ones over.
    let made = machine.fake.calls(Call::Ensure);
    machine.life(async |garden| {
        assert!(timed(&garden, "e").await < Duration::from_millis(100));
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 5 + 3);
        assert_eq!(machine.fake.calls(Call::Ensure), made + 1);
        machine.assert_converged().await;
    });
}

#[test]
fn privileged_places_are_made_ahead_once_one_was_asked_for() {
    let machine = Machine::with(Options { pool_size: 2, ..Options::default() });
    let privileged = |handle| {
        let spec = ContainerSpec { privileged: true, ..ContainerSpec::default() };
        CreateRequest { spec, ..request(handle) }
    };
    machine.life(async |garden| {
        sleep(5.0).await;
        assert_eq!(machine.fake.places().len(), 2);
        garden.create(privileged("p")).await.unwrap();
        sleep(5.0).await;
        assert_eq!(machine.fake.places().len(), 2 + 1 + 2);
        garden.create(privileged("q")).await.unwrap();
        machine.fake.heal();
        sleep(5.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn the_pool_does_not_hammer_a_containerd_that_is_away() {
    let machine = Machine::with(Options { pool_size: 3, ..Options::default() });
    machine.fake.containerd_away(true);
    machine.life(async |_garden| {
        sleep(600.0).await;
        let tries = machine.fake.calls(Call::Ensure);
        assert!(tries < 150, "{tries} tries in ten minutes");
        machine.fake.containerd_away(false);
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 3);
        machine.assert_converged().await;
    });
}

#[test]
fn a_blank_place_that_died_is_replaced_and_not_handed_out() {
    let machine = Machine::with(Options { pool_size: 1, ..Options::default() });
    machine.life(async |garden| {
        sleep(5.0).await;
        let dead = machine.fake.places().remove(0);
        machine.fake.kill_init(&dead);
        sleep(5.0).await;
        garden.create(request("c")).await.unwrap();
        assert!(machine.fake.furnished().iter().all(|(id, _)| *id != dead));
        sleep(5.0).await;
        machine.assert_converged().await;
    });
}
