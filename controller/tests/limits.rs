//! Limits, figures and what is killed for want of memory, on the fake node.

mod common;

use common::{Machine, command, named, request};
use gardend_controller::contract::LIMITS;
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{CreateRequest, Limits, ProcessSpec};
use gardend_controller::{Controller, Error, MESSAGE_PROPERTY, OUT_OF_MEMORY};

fn limited(handle: &str) -> CreateRequest {
    let mut request = request(handle);
    request.spec.limits = LIMITS;
    request
}

async fn soon(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        common::sleep(0.1).await;
    }
    panic!("not within 20 s: {what}");
}

fn ooms(controller: &Controller, handle: &str) -> usize {
    controller.info(handle).unwrap().events.iter().filter(|event| *event == OUT_OF_MEMORY).count()
}

#[test]
fn limits_are_put_in_force_before_the_create_is_answered_and_read_back_from_the_node() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(limited("c")).await.unwrap();
        assert_eq!(node.fake.limits().iter().filter(|(_, limits)| *limits == LIMITS).count(), 1);
        assert_eq!(controller.limits("c").await.unwrap(), LIMITS);
        assert!(matches!(controller.limits("other").await, Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn a_container_without_limits_asks_the_node_for_nothing() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        assert_eq!((node.fake.calls(Call::Limit), node.fake.calls(Call::CheckLimits)), (0, 0));
        assert_eq!(controller.limits("c").await.unwrap(), Limits::default());
    });
}

#[test]
fn limits_that_cannot_be_kept_are_refused_before_anything_is_made() {
    let node = Machine::new();
    node.life(async |controller| {
        let mut request = request("c");
        request.spec.limits.disk_byte_hard = 1;
        let refused = controller.create(request).await.unwrap_err().to_string();
        assert!(refused.contains("disk_limits"), "{refused}");
        assert_eq!(node.fake.furnished().len(), 0);
    });
}

#[test]
fn a_place_that_cannot_be_limited_is_replaced() {
    let node = Machine::new();
    node.life(async |controller| {
        node.fake.fail(Call::Limit, Fault::Before(NodeErrorKind::Failed), 1);
        controller.create(limited("c")).await.unwrap();
        assert_eq!(controller.limits("c").await.unwrap(), LIMITS);
    });
}

#[test]
fn figures_of_many_come_at_once_and_one_that_is_not_there_is_an_entry_of_its_own() {
    let node = Machine::new();
    node.life(async |controller| {
        for handle in ["a", "b"] {
            controller.create(limited(handle)).await.unwrap();
        }
        drop(controller.run("a", command("sleep")).await.unwrap());
        let asked = ["a", "b", "gone", "a"].map(str::to_owned).to_vec();
        let answers = controller.bulk_metrics(asked).await;
        assert_eq!(answers.len(), 3);
        assert_eq!(answers["a"].as_ref().unwrap().usage.pids.current, 1);
        assert_eq!(answers["b"].as_ref().unwrap().usage.pids.current, 0);
        assert_eq!(answers["gone"].as_ref().unwrap_err().to_string(), "unknown handle: gone");
        assert_eq!(node.fake.calls(Call::Usage), 1);
        let one = controller.metrics("a").await.unwrap();
        assert_eq!(one.cpu_shares, 512);
    });
}

#[test]
fn each_kill_is_an_event_and_the_last_is_told_in_words() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(limited("c")).await.unwrap();
        let (id, _) = node.fake.furnished().remove(0);
        for kills in 1..=3 {
            node.fake.out_of_memory(&id, &format!("dd (pid {kills}) was killed"));
            soon("the event", || ooms(&controller, "c") == kills).await;
        }
        let words = controller.property("c", MESSAGE_PROPERTY).unwrap();
        assert_eq!(words, "Out of memory: dd (pid 3) was killed (3 kills in all)");
        // The node does not name the next one.
        node.fake.out_of_memory(&id, "dd (pid 3) was killed");
        soon("the event", || ooms(&controller, "c") == 4).await;
        let words = controller.property("c", MESSAGE_PROPERTY).unwrap();
        assert!(words.starts_with("Out of memory: a process was killed; the container's memory limit is"), "{words}");
    });
}

#[test]
fn a_kill_whose_event_is_lost_is_told_all_the_same() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(limited("c")).await.unwrap();
        let (id, _) = node.fake.furnished().remove(0);
        node.fake.lose_events(true);
        node.fake.out_of_memory(&id, "dd was killed");
        soon("the sweeper's look", || ooms(&controller, "c") == 1).await;
    });
}

#[test]
fn whoever_sees_a_process_end_finds_the_event() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(limited("c")).await.unwrap();
        let (id, _) = node.fake.furnished().remove(0);
        let spec: ProcessSpec = named("p", "exit 137");
        node.fake.out_of_memory(&id, "exit was killed");
        let attachment = controller.run("c", spec).await.unwrap();
        attachment.outcome().await;
        assert_eq!(ooms(&controller, "c"), 1);
    });
}

#[test]
fn a_restart_tells_a_kill_once_whenever_it_was() {
    let node = Machine::new();
    let id = node.life(async |controller| {
        controller.create(limited("c")).await.unwrap();
        let (id, _) = node.fake.furnished().remove(0);
        node.fake.out_of_memory(&id, "before");
        soon("the event", || ooms(&controller, "c") == 1).await;
        id
    });
    node.fake.out_of_memory(&id, "while nobody looked");
    node.life(async |controller| {
        soon("the second", || ooms(&controller, "c") == 2).await;
    });
    node.life(async |controller| {
        common::sleep(30.0).await;
        assert_eq!(ooms(&controller, "c"), 2);
    });
}

#[test]
fn properties_of_gardends_own_are_not_a_clients_to_set() {
    let node = Machine::new();
    node.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        for refused in [
            controller.set_property("c", MESSAGE_PROPERTY, "x").await,
            controller.remove_property("c", MESSAGE_PROPERTY).await,
        ] {
            assert!(refused.unwrap_err().to_string().contains("can only be read"));
        }
        let mut request = request("d");
        request.properties.insert("gardend.mine".into(), String::new());
        assert!(matches!(controller.create(request).await, Err(Error::Invalid(_))));
    });
}
