//! Draining, and nodes that have too little left: what is refused, what goes on, and what is left.

mod common;

use common::{Machine, command, named, request, sleep};
use gardend_controller::fake::Call;
use gardend_controller::ports::{Headroom, Room};
use gardend_controller::record::ExitStatus;
use gardend_controller::{Controller, Drain, Error, Options, Outcome, PressureOptions, Threshold};
use std::time::Duration;

fn with_pool() -> Machine {
    Machine::with(Options { pool_size: 2, ..Options::default() })
}

async fn drained(garden: &Controller) {
    let gone = async {
        while !garden.drain_view().drained() {
            sleep(0.1).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap_or_else(|_| panic!("{:?}", garden.drain_view()));
}

#[test]
fn a_drained_node_refuses_what_is_new_and_lets_what_there_is_be_used() {
    let machine = with_pool();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.drain(Drain::Refuse).await.unwrap();
        let refused = garden.create(request("late")).await.unwrap_err();
        assert!(matches!(refused, Error::Draining), "{refused}");
        assert!(refused.to_string().contains("gardend drain --undo"), "{refused}");
        let process = garden.run("c", command("exit 7")).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(7)));
        drop(process);
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 1, "no blank place is kept ready");
        let view = garden.drain_view();
        assert_eq!((view.containers.len(), view.places, view.drained()), (1, 1, false));
        garden.destroy("c").await.unwrap();
        drained(&garden).await;
        assert!(garden.view_node().drained);
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn a_drain_outlives_gardend_and_a_reboot_until_it_is_ended() {
    let mut machine = with_pool();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.drain(Drain::Refuse).await.unwrap();
    });
    machine.boot = "22222222-2222-2222-2222-222222222222".into();
    machine.life(async |garden| {
        assert!(matches!(garden.create(request("late")).await, Err(Error::Draining)));
        sleep(30.0).await;
        assert_eq!(garden.drain_view().containers.len(), 1, "what there is stays");
        garden.undrain().await.unwrap();
        garden.create(request("d")).await.unwrap();
        sleep(30.0).await;
        assert_eq!(machine.fake.places().len(), 4, "two containers, and the pool is there again");
    });
    machine.life(async |garden| {
        assert_eq!(garden.drain_view().drain, None);
        machine.assert_converged().await;
    });
}

#[test]
fn a_drain_that_destroys_leaves_nothing_not_even_what_is_being_made() {
    let machine = with_pool();
    machine.life(async |garden| {
        for n in 0..5 {
            garden.create(request(&format!("c{n}"))).await.unwrap();
        }
        let process = garden.run("c0", named("p", "sleep")).await.unwrap();
        machine.fake.delay(Call::Furnish, Duration::from_secs(5));
        let late = tokio::spawn({
            let garden = garden.clone();
            async move { garden.create(request("late")).await }
        });
        sleep(1.0).await;
        garden.drain(Drain::Destroy).await.unwrap();
        let undone = late.await.unwrap().unwrap_err();
        assert!(undone.to_string().contains("destroyed while it was being made"), "{undone}");
        drained(&garden).await;
        assert!(matches!(process.outcome().await, Outcome::Failed(_) | Outcome::Exited(_)));
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty() && machine.fake.layers().is_empty());
    });
}

#[test]
fn a_drain_that_destroys_goes_on_after_gardend_was_killed_and_never_becomes_less() {
    let machine = with_pool();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.run("c", command("sleep")).await.unwrap();
        machine.fake.unkillable(true);
        garden.drain(Drain::Destroy).await.unwrap();
        sleep(30.0).await;
        let view = garden.drain_view();
        assert!(view.containers[0].going && view.containers[0].stuck.is_some(), "{view:?}");
        assert!(!view.drained());
    });
    machine.fake.unkillable(false);
    machine.life(async |garden| {
        garden.drain(Drain::Refuse).await.unwrap();
        assert_eq!(garden.drain_view().drain, Some(Drain::Destroy));
        drained(&garden).await;
    });
}

#[test]
fn a_drain_that_cannot_be_recorded_is_none() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let full = |full| machine.ledger.pretend_full(full);
        full(true);
        let drained = garden.drain(Drain::Refuse).await;
        full(false);
        assert_eq!(drained.is_ok(), garden.drain_view().drain.is_some());
    });
}

fn left(memory: u64, disk: u64) -> Headroom {
    let room = |free| Room { free, total: 1000 };
    Headroom { memory: Some(room(memory)), disks: vec![("/state".to_owned(), room(disk))] }
}

fn watching() -> Machine {
    let pressure = PressureOptions { memory: Some(Threshold::Bytes(100)), disk: Some(Threshold::Percent(10)) };
    Machine::with(Options { pressure, pool_size: 0, ..Options::default() })
}

#[test]
fn a_node_without_memory_or_disk_refuses_what_is_new_until_there_is_enough_again() {
    let machine = watching();
    machine.fake.leave(left(500, 500));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        machine.fake.leave(left(99, 500));
        sleep(10.0).await;
        let refused = garden.create(request("d")).await.unwrap_err();
        assert!(refused.to_string().contains("less than 100 bytes of memory are available"), "{refused}");
        assert!(garden.view_node().pressure.memory.is_some_and(|looked| looked.is_err()));
        garden.run("c", command("true")).await.unwrap();
        // At the edge it is not taken back.
        machine.fake.leave(left(110, 500));
        sleep(10.0).await;
        garden.create(request("d")).await.unwrap_err();
        machine.fake.leave(left(500, 99));
        sleep(10.0).await;
        let refused = garden.create(request("d")).await.unwrap_err();
        assert!(refused.to_string().contains("the file system of /state"), "{refused}");
        machine.fake.leave(left(500, 500));
        sleep(10.0).await;
        garden.create(request("d")).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_node_that_starts_without_memory_refuses_from_the_first_request_on() {
    let machine = watching();
    machine.fake.leave(left(1, 500));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap_err();
        assert_eq!(machine.fake.calls(Call::Check), 0, "nothing is asked of the node for what is refused");
    });
}

#[test]
fn a_node_that_does_not_say_what_it_has_left_takes_containers() {
    let machine = watching();
    machine.fake.leave(left(500, 500));
    machine.fake.delay(Call::Headroom, Duration::from_secs(3600));
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        sleep(60.0).await;
        garden.create(request("d")).await.unwrap();
    });
}

#[test]
fn nothing_is_asked_where_no_threshold_is_set() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        sleep(60.0).await;
        assert_eq!(machine.fake.calls(Call::Headroom), 0);
    });
}
