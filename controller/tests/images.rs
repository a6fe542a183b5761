//! Containers and processes of images, on the fake node.

mod common;

use common::{Machine, command, handles, request};
use gardend_controller::Error;
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::{Collect, NodeErrorKind};
use gardend_controller::record::{
    ContainerSpec, CreateRequest, ImageCredentials, ProcessId, ProcessImage, ProcessSpec, RootfsSource, Stage,
};
use gardend_controller::{Controller, KnownImage, Options};
use std::time::Duration;

fn of_image(handle: &str, reference: &str) -> CreateRequest {
    let rootfs = RootfsSource::image(reference.parse().unwrap());
    CreateRequest {
        spec: ContainerSpec { rootfs, env: vec!["OWN=1".into()], ..ContainerSpec::default() },
        ..request(handle)
    }
}

fn secret() -> ImageCredentials {
    ImageCredentials { username: "alice".into(), password: "hunter2".into() }
}

fn process_of_image(reference: &str) -> ProcessSpec {
    let rootfs = RootfsSource::image(reference.parse().unwrap());
    let image = ProcessImage { rootfs, credentials: Some(secret()), ..ProcessImage::default() };
    ProcessSpec { image: Some(image), ..command("sleep") }
}

#[test]
fn what_an_image_was_found_to_be_is_recorded_with_its_container_and_its_password_is_not() {
    let machine = Machine::new();
    machine.life(async |gardend| {
        let asked = CreateRequest { credentials: Some(secret()), ..of_image("c", "docker:///busybox#1.36") };
        gardend.create(asked).await.unwrap();
        gardend.run("c", process_of_image("docker:///alpine")).await.unwrap();
        let contents = machine.ledger.load().await.unwrap();
        let resolved = contents.containers[0].spec.rootfs.resolved().expect("it is recorded");
        assert_eq!(resolved.env, ["IMAGE=docker.io/library/busybox:1.36"]);
        assert_eq!(contents.containers[0].spec.base_env(), ["IMAGE=docker.io/library/busybox:1.36", "OWN=1"]);
        let own = contents.processes[0].spec.image.as_ref().unwrap();
        assert!(own.rootfs.resolved().is_some() && own.credentials.is_none());
        assert_eq!(machine.fake.credentials(), [secret(), secret()]);
        machine.assert_converged().await;
    });
}

#[test]
fn an_image_that_is_not_there_fails_its_create_with_the_stage_and_the_cause_and_leaves_nothing() {
    let machine = Machine::new();
    machine.life(async |gardend| {
        let error = gardend.create(of_image("c", "docker://missing.example/x")).await.unwrap_err();
        assert!(matches!(error, Error::CreateFailed { stage: Stage::Image, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("pulling its image failed: docker://missing.example/x: manifest unknown"), "{text}");
        assert_eq!(handles(&gardend), Vec::<String>::new());
        common::sleep(30.0).await;
        machine.assert_converged().await;
        assert!(machine.fake.places().is_empty());
    });
}

#[test]
fn a_process_whose_image_is_not_there_is_not_started_and_its_id_is_free() {
    let machine = Machine::new();
    machine.life(async |gardend| {
        gardend.create(request("c")).await.unwrap();
        let mut asked = process_of_image("docker://missing.example/x");
        asked.id = Some(ProcessId::new("p").unwrap());
        let error = gardend.run("c", asked.clone()).await.err().unwrap().to_string();
        assert!(error.contains("pulling its image failed: docker://missing.example/x: manifest unknown"), "{error}");
        assert_eq!(machine.fake.spawned(), 0);
        asked.image = process_of_image("docker:///busybox").image;
        gardend.run("c", asked).await.unwrap();
    });
}

#[test]
fn a_pull_may_take_longer_than_a_create_may_and_the_place_is_made_meanwhile() {
    let machine =
        Machine::with(Options { pool_size: 0, create_deadline: Duration::from_secs(10), ..Options::default() });
    machine.fake.delay(Call::Pull, Duration::from_secs(600));
    machine.life(async |gardend| {
        let created = tokio::spawn({
            let gardend = gardend.clone();
            async move { gardend.create(of_image("c", "docker:///busybox")).await }
        });
        common::sleep(300.0).await;
        assert_eq!(machine.fake.places().len(), 1, "its place is there before its image");
        assert!(machine.fake.furnished().is_empty());
        created.await.unwrap().unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_client_that_goes_away_during_the_pull_leaves_nothing() {
    let machine = Machine::new();
    machine.fake.delay(Call::Pull, Duration::from_secs(600));
    machine.life(async |gardend| {
        let asked = gardend.create(of_image("c", "docker:///busybox"));
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap_err();
        common::sleep(30.0).await;
        assert_eq!(handles(&gardend), Vec::<String>::new());
        assert!(machine.fake.places().is_empty());
        machine.assert_converged().await;
    });
}

#[test]
fn a_container_that_is_destroyed_during_the_pull_says_so_and_is_gone() {
    let machine = Machine::new();
    machine.fake.delay(Call::Pull, Duration::from_secs(600));
    machine.life(async |gardend| {
        let created = tokio::spawn({
            let gardend = gardend.clone();
            async move { gardend.create(of_image("c", "docker:///busybox")).await }
        });
        common::sleep(1.0).await;
        gardend.destroy("c").await.unwrap();
        let error = created.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("destroyed while it was being made"), "{error}");
        common::sleep(30.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn a_create_that_a_crash_caught_during_the_pull_is_undone_by_the_next_gardend() {
    let machine = Machine::new();
    machine.fake.delay(Call::Pull, Duration::from_secs(600));
    machine.life(async |gardend| {
        let asked = gardend.create(of_image("c", "docker:///busybox"));
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap_err();
    });
    machine.fake.delay(Call::Pull, Duration::ZERO);
    machine.life(async |gardend| {
        common::sleep(30.0).await;
        assert!(machine.fake.places().is_empty());
        gardend.create(of_image("c", "docker:///busybox")).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_place_is_made_again_of_the_same_image_without_a_pull() {
    let machine = Machine::new();
    machine.life(async |gardend| {
        gardend.create(of_image("c", "docker:///busybox")).await.unwrap();
    });
    machine.fake.fail(Call::Pull, Fault::Before(NodeErrorKind::Unavailable), 100);
    machine.life(async |_gardend| {
        let before = machine.fake.furnished();
        machine.fake.kill_init(&before[0].0);
        common::sleep(30.0).await;
        let after = machine.fake.furnished();
        assert!(after.iter().any(|(id, uid)| *uid == before[0].1 && *id != before[0].0), "{after:?}");
        assert_eq!(machine.fake.calls(Call::Pull), 1);
        machine.assert_converged().await;
    });
}

async fn images_after_a_prune(machine: &Machine, gardend: &Controller) -> Vec<String> {
    let would = gardend.prunable_images(Collect::Unused).await.unwrap();
    assert_eq!(gardend.prune_images(Collect::Unused).await.unwrap(), would);
    machine.fake.images()
}

#[test]
fn images_that_something_uses_stay_and_others_go_by_request() {
    let machine = Machine::new();
    machine.life(async |gardend| {
        gardend.pull_image(&"docker:///unused".parse().unwrap(), None).await.unwrap();
        gardend.create(of_image("c", "docker:///busybox")).await.unwrap();
        let process = ProcessSpec { id: Some(ProcessId::new("p").unwrap()), ..process_of_image("docker:///alpine") };
        gardend.run("c", process).await.unwrap();
        let images = gardend.images().await.unwrap();
        let users = |image: &KnownImage| (image.seen.names.join(" "), image.seen.in_use, image.users.join(" "));
        let mut users: Vec<_> = images.iter().map(users).collect();
        users.sort();
        let expected = |name: &str, used, by: &str| (format!("docker.io/library/{name}:latest"), used, by.to_owned());
        assert_eq!(
            users,
            [expected("alpine", true, "c/p"), expected("busybox", true, "c"), expected("unused", false, "")]
        );
        let kept = ["docker.io/library/alpine:latest", "docker.io/library/busybox:latest"];
        assert_eq!(images_after_a_prune(&machine, &gardend).await, kept);
    });
    // What a process or a container uses is known again from the ledger.
    machine.life(async |gardend| {
        assert_eq!(images_after_a_prune(&machine, &gardend).await.len(), 2);
        gardend.destroy("c").await.unwrap();
        common::sleep(30.0).await;
        assert_eq!(images_after_a_prune(&machine, &gardend).await, Vec::<String>::new());
    });
}
