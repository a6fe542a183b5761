//! Inits that are in the wrong hands: their container alone suffers.

use crate::flow::{reading, to_end};
use crate::place::{LONG, Place, eventually, key, listener, spec};
use garden_init::packet::{Packet, recv, send};
use garden_init::wire::{self, Event, Exit, ProcessKey, Request, Streams as Kind, VERSION};
use gardend::node::process::{Options, ProcessNode};
use gardend_controller::ports::{NodeErrorKind, OutputStream, ProcessEvent, Processes, SpawnError, Streams};
use gardend_controller::record::{ExitStatus, ProcessUid, SandboxId};
use rustix::net::{SocketFlags, accept_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};
use tokio::time::timeout;

fn options() -> Options {
    Options {
        spawn_deadline: Duration::from_millis(300),
        call_deadline: Duration::from_millis(300),
        ..Options::default()
    }
}

/// A second place beside `place`, whose init does what the script says, on every connection.
fn scripted(place: &Place, script: impl Fn(&OwnedFd) + Send + 'static) -> SandboxId {
    let sandbox = SandboxId::generate();
    let folder = place.folders().place(&sandbox);
    std::fs::create_dir_all(&folder).unwrap();
    let listener = listener(&folder);
    thread::spawn(move || {
        while let Ok(connection) = accept_with(&listener, SocketFlags::CLOEXEC) {
            script(&connection);
        }
    });
    sandbox
}

fn hear(connection: &OwnedFd) -> Option<Request> {
    let mut buffer = Vec::new();
    match recv(connection.as_fd(), &mut buffer) {
        Ok(Packet::Message(_)) => Some(wire::decode(&buffer).unwrap()),
        _ => None,
    }
}

fn say(connection: &OwnedFd, event: &Event, fds: &[BorrowedFd<'_>]) {
    let _ = send(connection.as_fd(), &wire::encode(event).unwrap(), fds);
}

fn greet(connection: &OwnedFd) {
    hear(connection);
    say(connection, &Event::Hello { version: VERSION, ceilings: Vec::new() }, &[]);
    say(connection, &Event::KnownEnd, &[]);
}

async fn works(place: &Place, node: &ProcessNode) {
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("echo", &["well"])).await.unwrap();
    let (client, _) = reading(node, &process, OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"well\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_never_answers_is_given_up_within_the_deadline() {
    let place = Place::new();
    let node = place.node(options());
    let mute = scripted(&place, |connection| while hear(connection).is_some() {});
    let start = Instant::now();
    let error = node.connect(&mute).await.unwrap_err();
    assert_eq!(error.kind, NodeErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let none = node.connect(&SandboxId::generate()).await.unwrap_err();
    assert_eq!(none.kind, NodeErrorKind::Unavailable);
    node.connect(&place.sandbox).await.unwrap();
    works(&place, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_one_connection_and_no_other() {
    let place = Place::new();
    let node = place.node(options());
    let mut events = node.events();
    node.connect(&place.sandbox).await.unwrap();
    type Say = fn(&OwnedFd);
    let garbage: [Say; 7] = [
        |c| drop(send(c.as_fd(), &[255; 100], &[])),
        |c| drop(send(c.as_fd(), &[VERSION], &[])),
        |c| say(c, &Event::KnownEnd, &[]),
        |c| say(c, &Event::Spawned { key: ProcessKey([1; 16]), pid: 1 }, &[c.as_fd()]),
        |c| say(c, &Event::SpawnFailed { key: ProcessKey([1; 16]), error: wire::SpawnFailure::NotFound }, &[]),
        |c| drop(send(c.as_fd(), &vec![VERSION; wire::MAX_PACKET + 1], &[])),
        |_| {},
    ];
    for say_it in garbage {
        let hostile = scripted(&place, move |connection| {
            greet(connection);
            say_it(connection);
        });
        node.connect(&hostile).await.unwrap();
        let event = timeout(LONG, events.recv()).await.unwrap().unwrap();
        assert!(matches!(&event, ProcessEvent::InitGone { sandbox, .. } if *sandbox == hostile), "{event:?}");
        let error = node.occupied(&hostile).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unavailable);
    }
    works(&place, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_that_is_not_answered_is_an_error_and_its_process_is_not_left_running() {
    let place = Place::new();
    let node = place.node(options());
    let (killed, told) = std::sync::mpsc::channel();
    let slow = scripted(&place, move |connection| {
        greet(connection);
        while let Some(request) = hear(connection) {
            match request {
                Request::Spawn { key, .. } => {
                    thread::sleep(Duration::from_millis(600));
                    let me = rustix::process::getpid();
                    let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap();
                    say(connection, &Event::Spawned { key, pid: 2 }, &[pidfd.as_fd()]);
                }
                Request::Signal { key, signal } => drop(killed.send((key, signal))),
                _ => {}
            }
        }
    });
    node.connect(&slow).await.unwrap();
    let process = ProcessUid::generate();
    let error = node.spawn(&slow, &process, &[], &spec("true", &[])).await.unwrap_err();
    assert!(matches!(error, SpawnError::InitGone { .. }), "{error:?}");
    assert_eq!(node.occupied(&slow).await.unwrap_err().kind, NodeErrorKind::Unavailable);
    let told = tokio::task::spawn_blocking(move || told.recv_timeout(LONG)).await.unwrap().unwrap();
    assert_eq!(told, (key(&process), libc::SIGKILL));
    assert_eq!(node.attach(&process), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_are_not_what_they_should_be_are_refused() {
    let place = Place::new();
    let node = place.node(options());
    for streams in [Kind::Pipes { stdin: true }, Kind::Terminal] {
        let hostile = scripted(&place, move |connection| {
            hear(connection);
            say(connection, &Event::Hello { version: VERSION, ceilings: Vec::new() }, &[]);
            let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
            let known = Event::Known { key: ProcessKey([7; 16]), pid: 2, exit: None, streams };
            say(connection, &known, &[null.as_fd(), null.as_fd(), null.as_fd()]);
            say(connection, &Event::KnownEnd, &[]);
        });
        assert_eq!(node.connect(&hostile).await.unwrap_err().kind, NodeErrorKind::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_cannot_speak_of_another_place_s_processes() {
    let place = Place::new();
    let node = place.node(options());
    let mut events = node.events();
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let theirs = key(&process);
    let liar = scripted(&place, move |connection| {
        greet(connection);
        say(connection, &Event::Exited { key: theirs, exit: Exit::Code(0) }, &[]);
        while hear(connection).is_some() {}
    });
    node.connect(&liar).await.unwrap();
    let thief = scripted(&place, move |connection| {
        hear(connection);
        say(connection, &Event::Hello { version: VERSION, ceilings: Vec::new() }, &[]);
        let known = Event::Known { key: theirs, pid: 2, exit: None, streams: Kind::None };
        say(connection, &known, &[]);
        say(connection, &Event::KnownEnd, &[]);
    });
    node.connect(&thief).await.unwrap_err();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    node.write_stdin(&process, b"still mine").await;
    node.close_stdin(&process).await;
    assert_eq!(to_end(client).await, b"still mine");
    let exited = ProcessEvent::Exited { sandbox: place.sandbox.clone(), process, status: ExitStatus::Code(0) };
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), Some(exited));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_init_does_not_keep_others_from_being_heard() {
    let place = Place::new();
    let node = place.node(options());
    let mut events = node.events();
    node.connect(&place.sandbox).await.unwrap();
    let flood = scripted(&place, |connection| {
        greet(connection);
        let emptied = wire::encode(&Event::Emptied).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && send(connection.as_fd(), &emptied, &[]).is_ok() {}
    });
    node.connect(&flood).await.unwrap();
    let counter = tokio::spawn(async move {
        let mut emptied = 0u64;
        while let Ok(Some(event)) = timeout(Duration::from_secs(2), events.recv()).await {
            emptied += u64::from(matches!(event, ProcessEvent::Emptied { .. }));
        }
        emptied
    });
    let start = Instant::now();
    for _ in 0..20 {
        works(&place, &node).await;
    }
    println!("20 processes beside a flood in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    node.disconnect(&flood).await;
    let emptied = timeout(LONG, counter).await.unwrap().unwrap();
    assert!(emptied < 20_000, "{emptied} events in {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_place_is_gone_a_reader_gets_what_is_left_and_the_end() {
    let place = Place::new();
    let node = place.node(options());
    let mut events = node.events();
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("sh", &["-c", "echo left; exec sleep 60"])).await.unwrap();
    let pid = node.connect(&place.sandbox).await.unwrap()[0].pid;
    let (client, read) = reading(&node, &process, OutputStream::Stdout);
    tokio::time::sleep(Duration::from_millis(50)).await;
    place.hang_up();
    let event = timeout(LONG, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, ProcessEvent::InitGone { sandbox, .. } if sandbox == place.sandbox));
    node.disconnect(&place.sandbox).await;
    assert_eq!(to_end(client).await, b"left\n");
    timeout(LONG, read).await.unwrap().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_connection_the_next_one_goes_on_with_the_same_streams() {
    let place = Place::new();
    let node = place.node(options());
    let mut events = node.events();
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    node.write_stdin(&process, b"before ").await;
    place.hang_up();
    assert!(matches!(timeout(LONG, events.recv()).await.unwrap(), Some(ProcessEvent::InitGone { .. })));
    let seen = node.connect(&place.sandbox).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].pid > 0 && seen[0].exit.is_none());
    node.write_stdin(&process, b"after").await;
    node.close_stdin(&process).await;
    assert_eq!(to_end(client).await, b"before after");
    assert!(matches!(timeout(LONG, events.recv()).await.unwrap(), Some(ProcessEvent::Exited { .. })));
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    eventually("forgetting", || place.has_forgotten(&process)).await;
}
