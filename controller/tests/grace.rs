//! How long a container goes without a client.

mod common;

use common::{Machine, command, handles, request, sleep};
use gardend_controller::record::CreateRequest;
use gardend_controller::{Controller, Options};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn graced(handle: &str) -> CreateRequest {
    CreateRequest { grace_time: Some(MINUTE), ..request(handle) }
}

fn there(garden: &Controller) -> bool {
    !handles(garden).is_empty()
}

#[test]
fn a_container_without_a_client_goes_after_its_grace_time() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(graced("c")).await.unwrap();
        sleep(59.0).await;
        assert!(there(&garden));
        sleep(2.0).await;
        assert!(!there(&garden));
        sleep(10.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn every_request_starts_the_count_again() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(graced("c")).await.unwrap();
        for _ in 0..10 {
            sleep(50.0).await;
            garden.info("c").unwrap();
            sleep(50.0).await;
            garden.set_property("c", "k", "v").await.unwrap();
        }
        sleep(61.0).await;
        assert!(!there(&garden));
    });
}

#[test]
fn it_does_not_count_while_somebody_is_attached() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(graced("c")).await.unwrap();
        let process = garden.run("c", command("sleep")).await.unwrap();
        sleep(3600.0).await;
        assert!(there(&garden));
        drop(process);
        sleep(59.0).await;
        assert!(there(&garden));
        sleep(2.0).await;
        assert!(!there(&garden));
    });
}

#[test]
fn it_can_be_set_shorter_longer_and_ended() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(graced("c")).await.unwrap();
        sleep(30.0).await;
        garden.set_grace_time("c", 2 * MINUTE).await.unwrap();
        sleep(119.0).await;
        assert!(there(&garden));
        garden.set_grace_time("c", Duration::ZERO).await.unwrap();
        sleep(86_400.0).await;
        assert!(there(&garden));
        garden.set_grace_time("c", Duration::from_secs(3600)).await.unwrap();
        garden.set_grace_time("c", Duration::from_secs(5)).await.unwrap();
        sleep(6.0).await;
        assert!(!there(&garden));
    });
}

#[test]
fn the_longest_there_is_does_not_overflow() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(CreateRequest { grace_time: Some(Duration::MAX), ..request("c") }).await.unwrap();
        sleep(86_400.0).await;
        assert!(there(&garden));
    });
}

#[test]
fn none_or_zero_is_the_servers_default_and_zero_there_is_none() {
    for grace_time in [None, Some(Duration::ZERO)] {
        let request = || CreateRequest { grace_time, ..request("c") };
        let for_ever = Machine::with(Options { default_grace_time: Some(Duration::ZERO), ..Options::default() });
        for_ever.life(async |garden| {
            garden.create(request()).await.unwrap();
            sleep(86_400.0).await;
            assert!(there(&garden));
        });
        let minute = Machine::with(Options { default_grace_time: Some(MINUTE), ..Options::default() });
        minute.life(async |garden| {
            garden.create(request()).await.unwrap();
            sleep(61.0).await;
            assert!(!there(&garden));
        });
    }
}

#[test]
fn a_restart_counts_from_the_beginning() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(graced("c")).await.unwrap();
        sleep(50.0).await;
    });
    machine.life(async |garden| {
        sleep(59.0).await;
        assert!(there(&garden));
        sleep(2.0).await;
        assert!(!there(&garden));
    });
}
