//! Files in and out, as the controller sees them: for whom, when, and what counts as use.

mod common;

use common::{Machine, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::{FilesError, NodeErrorKind};
use gardend_controller::record::{CreateRequest, StopMode};
use gardend_controller::{Error, Options};
use std::io::Write;
use std::time::Duration;

#[test]
fn what_cannot_begin_says_why_in_the_words_of_its_direction() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let unknown = garden.stream_in("nobody", "", "/").await.err().unwrap();
        assert!(matches!(unknown, Error::ContainerNotFound(_)));
        let ghost = garden.stream_in("c", "ghost", "/").await.err().unwrap();
        assert_eq!(
            ghost.to_string(),
            "error streaming in: unable to find user ghost: no matching entries in passwd file"
        );
        let missing = garden.stream_out("c", "", "/missing").await.err().unwrap();
        assert_eq!(missing.to_string(), "error streaming out: cannot open /missing: No such file or directory");
        machine.fake.fail(Call::StreamOut, Fault::Before(NodeErrorKind::Unavailable), 1);
        let away = garden.stream_out("c", "", "/x/").await.err().unwrap();
        assert!(matches!(away, Error::StreamOut(FilesError::NoAnswer { .. })), "{away}");
    });
}

#[test]
fn a_stopped_container_has_its_files_and_one_that_is_not_ready_has_none() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        garden.stop("c", StopMode::Kill).await.unwrap();
        drop(garden.stream_in("c", "", "/to").await.expect("it begins"));
        machine.fake.delay(Call::Ensure, Duration::from_secs(5));
        let creating = tokio::spawn({
            let garden = garden.clone();
            async move { garden.create(request("slow")).await }
        });
        sleep(1.0).await;
        assert!(matches!(garden.stream_in("slow", "", "/").await, Err(Error::NotReady { .. })));
        creating.await.unwrap().unwrap();
        drop(garden.stream_in("slow", "", "/").await.expect("it begins"));
    });
}

#[test]
fn a_container_is_in_use_for_as_long_as_a_stream_is_held() {
    let machine = Machine::with(Options { pool_size: 0, ..Options::default() });
    machine.life(async |garden| {
        let asked = CreateRequest { grace_time: Some(Duration::from_secs(10)), ..request("c") };
        garden.create(asked).await.unwrap();
        let (pipe, transfer) = garden.stream_in("c", "", "/to").await.unwrap();
        sleep(60.0).await;
        assert!(garden.info("c").is_ok(), "a stream is held");
        // What was read of it holds it as well.
        drop(pipe);
        sleep(60.0).await;
        assert!(garden.info("c").is_ok(), "its outcome was not taken yet");
        drop(transfer);
        sleep(60.0).await;
        assert!(matches!(garden.info("c"), Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn the_outcome_comes_with_the_direction_s_words() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden.create(request("c")).await.unwrap();
        let (pipe, mut transfer) = garden.stream_in("c", "", "/to").await.unwrap();
        std::os::unix::net::UnixStream::from(pipe).write_all(b"no tar stream").unwrap();
        let failed = transfer.outcome().await.unwrap_err();
        assert!(failed.to_string().starts_with("error streaming in: "), "{failed}");
    });
}
