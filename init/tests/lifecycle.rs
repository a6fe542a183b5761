//! What init keeps, over which connection, and until when.

mod support;

use garden_init::wire::{Event, Exit, ProcessKey, Request, SpawnFailure, SpawnSpec, Streams};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use support::{Client, Place, new_key, spec, spec_of, streams, text, until};

fn key_of(event: &Event) -> ProcessKey {
    match event {
        Event::Known { key, .. } => *key,
        other => panic!("{other:?} is not Known"),
    }
}

fn file(fds: &mut Vec<OwnedFd>) -> File {
    fds.remove(0).into()
}

#[test]
fn statuses_and_streams_are_handed_to_the_next_connection() {
    let place = Place::start();
    let mut first = place.client();
    let mut running = first.spawn(&spec("cat; echo end"));
    let ended = first.spawn(&spec("echo last words; exit 3"));
    assert_eq!(first.exit_of(ended.key), Exit::Code(3));
    let closed = first.spawn(&spec("read x; sleep 1000"));
    first.send(&Request::CloseStdin { key: closed.key }, &[]);
    running.stdin.as_mut().unwrap().write_all(b"before ").unwrap();
    let keys = (running.key, ended.key, closed.key);
    // gardend's copies go with it.
    drop((first, running, ended, closed));
    let (running, ended, closed) = keys;

    let mut second = place.connect();
    let mut known = second.hello();
    assert_eq!(known.len(), 3);
    for (event, fds) in &mut known {
        let key = key_of(event);
        let Event::Known { pid, exit, .. } = event else { unreachable!() };
        if key == ended {
            assert_eq!((*pid, *exit, streams(event)), (0, Some(Exit::Code(3)), Streams::Pipes { stdin: true }));
            assert_eq!(fds.len(), 3);
            fds.remove(0);
            assert_eq!(text(&mut file(fds)), "last words\n");
        } else if key == closed {
            assert!(*pid > 1 && exit.is_none());
            assert_eq!((streams(event), fds.len()), (Streams::Pipes { stdin: false }, 2));
        } else {
            assert_eq!(key, running);
            assert_eq!((*exit, streams(event), fds.len()), (None, Streams::Pipes { stdin: true }, 3));
            file(fds).write_all(b"after ").unwrap();
            second.send(&Request::CloseStdin { key }, &[]);
            assert_eq!(second.exit_of(key), Exit::Code(0));
            assert_eq!(text(&mut file(fds)), "before after end\n");
        }
    }
    for key in [ended, running] {
        second.send(&Request::Forget { key }, &[]);
    }
    // One that runs is not forgotten.
    second.send(&Request::Forget { key: closed }, &[]);
    second.ping();
    let known = place.connect().hello();
    assert_eq!(known.iter().map(|(event, _)| key_of(event)).collect::<Vec<_>>(), [closed]);
}

#[test]
fn an_end_between_two_connections_is_told_once_by_the_second() {
    let place = Place::start();
    let mut first = place.client();
    let mut running = first.spawn(&spec("read x; exit 5"));
    drop(first);
    running.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // The end of its output: it is about to end, or has.
    assert_eq!(text(&mut running.stdout), "");
    let mut second = place.connect();
    let known = second.hello();
    let exits: Vec<_> = known.iter().map(|(event, _)| event).collect();
    let [Event::Known { exit, .. }] = exits[..] else { panic!("{exits:?}") };
    match exit {
        Some(exit) => {
            assert_eq!(*exit, Exit::Code(5));
            second.ping();
            assert!(second.receive(Duration::ZERO).is_none());
        }
        None => assert_eq!(second.exit_of(running.key), Exit::Code(5)),
    }
}

#[test]
fn a_new_connection_replaces_the_old_one() {
    let place = Place::start();
    let mut first = place.client();
    let _second = place.client();
    assert!(first.is_closed());
}

#[test]
fn signals_reach_the_process_and_its_group() {
    let place = Place::start();
    let mut client = place.client();
    let mut running = client.spawn(&spec("trap 'echo term; exit 9' TERM; sh -c 'echo ready; exec sleep 1000' & wait"));
    let mut ready = [0; 6];
    running.stdout.read_exact(&mut ready).unwrap();
    client.send(&Request::Signal { key: running.key, signal: libc::SIGTERM }, &[]);
    assert_eq!(client.exit_of(running.key), Exit::Code(9));
    // The sleeper held the same pipe: the end of it shows that the signal came to it too.
    assert_eq!(text(&mut running.stdout), "term\n");
    client.wait_until_empty();
    // Neither the ended nor the unknown nor nonsense does any harm.
    for (key, signal) in [(running.key, 9), (new_key(), 9), (running.key, 0), (running.key, -1), (running.key, 65)] {
        client.send(&Request::Signal { key, signal }, &[]);
    }
    client.ping();
}

#[test]
fn a_signal_to_all_leaves_init_alone_and_says_when_it_is_empty() {
    let mut place = Place::start();
    let mut client = place.client();
    assert!(!client.is_occupied());
    let all: Vec<_> = (0..5).map(|_| client.spawn(&spec_of(&["sleep", "1000"]))).collect();
    assert!(client.is_occupied());
    client.send(&Request::SignalAll { signal: libc::SIGKILL }, &[]);
    for running in &all {
        assert_eq!(client.exit_of(running.key), Exit::Signal(9));
    }
    client.wait_until_empty();
    assert!(!client.is_occupied());
    assert!(place.is_alive());
    assert_eq!(client.run(&spec("kill -9 1; kill -15 1; kill -11 1; exit 4")).exit, Exit::Code(4));
    client.ping();
    assert!(place.is_alive());
}

#[test]
fn orphans_are_reaped_and_the_place_is_empty_only_after_them() {
    let place = Place::start();
    let mut client = place.client();
    // The grandchild outlives its parent and holds nothing of it.
    let script = "(sleep 0.3; exit 1) <&- >/dev/null 2>&1 &";
    let running = client.spawn(&spec(script));
    assert_eq!(client.exit_of(running.key), Exit::Code(0));
    assert!(client.is_occupied());
    client.wait_until_empty();
    assert!(!client.is_occupied());
    let children = format!("/proc/{0}/task/{0}/children", place.init);
    assert_eq!(std::fs::read_to_string(children).unwrap(), "");
}

#[test]
fn a_grandchild_that_keeps_the_pipe_holds_nothing_back_and_does_not_die_of_it() {
    let place = Place::start();
    let before = place.init_fds();
    let mut client = place.client();
    // It writes more than a pipe holds after all that read it is gone, and then says so.
    let script = "(read x < /tmp/go; seq 100000; echo done > /tmp/said) & exit 6";
    assert!(std::process::Command::new("mkfifo").arg(place.path("/tmp/go")).status().unwrap().success());
    let running = client.spawn(&spec(script));
    assert_eq!(client.exit_of(running.key), Exit::Code(6));
    client.send(&Request::Forget { key: running.key }, &[]);
    drop((running.stdout, running.stderr));
    client.ping();
    place.release("/tmp/go");
    client.wait_until_empty();
    assert_eq!(std::fs::read_to_string(place.path("/tmp/said")).unwrap(), "done\n");
    // The pipes are closed once the last writer is gone.
    drop(client);
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
}

#[test]
fn the_end_of_stdin_is_a_message_because_init_holds_it_open() {
    let place = Place::start();
    let mut client = place.client();
    let mut running = client.spawn(&spec_of(&["cat"]));
    running.stdin.take().unwrap().write_all(b"words").unwrap();
    let mut words = [0; 5];
    running.stdout.read_exact(&mut words).unwrap();
    assert!(client.receive(Duration::from_millis(50)).is_none(), "it ended before it was told to");
    assert_eq!(client.finish(running).exit, Exit::Code(0));
}

#[test]
fn a_process_that_hangs_before_its_exec_holds_up_nobody_and_never_runs_later() {
    let place = Place::start_with(|root| std::fs::create_dir(root.join("hung")).unwrap());
    let Some(_device) = place.mount_what_hangs("/hung") else {
        eprintln!("skipped: there is no /dev/fuse to make a file system with that hangs");
        return;
    };
    let mut client = place.client();
    let cat = client.spawn(&spec_of(&["cat"]));
    let in_hung = SpawnSpec { dir: "/hung/x".into(), ..spec("echo > /tmp/ran") };
    let (killed, lost) = (new_key(), new_key());
    let _streams = client.ask(killed, &in_hung);
    client.ping();
    assert!(client.receive(Duration::from_millis(200)).is_none(), "it does not hang");
    // What was there before is not held by it, and what comes after it is not either.
    assert_eq!(client.finish(cat).exit, Exit::Code(0));
    assert_eq!(client.run(&spec("exit 8")).exit, Exit::Code(8));
    // It can be killed, and is told of as a process that was.
    client.send(&Request::Signal { key: killed, signal: libc::SIGKILL }, &[]);
    assert_eq!(client.exit_of(killed), Exit::Signal(9));
    // The next connection does not know this one, and so it is never to run. (It is asked for only
    // now, since of two that hang in one folder the second cannot be killed.)
    let _streams = client.ask(lost, &in_hung);
    client.ping();
    drop(client);
    let mut next = place.connect();
    let known = next.hello();
    assert!(known.iter().all(|(event, _)| key_of(event) == killed), "{known:?}");
    next.wait_until_empty();
    assert!(!place.path("/tmp/ran").exists());
    assert_eq!(next.run(&spec("exit 8")).exit, Exit::Code(8));
}

#[test]
fn the_socket_is_roots_alone_and_a_stale_one_is_replaced() {
    let place = Place::start();
    let seen = std::fs::metadata(place.socket()).unwrap();
    assert_eq!(seen.permissions().mode() & 0o7777, 0o600);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(garden_init::wire::SOCKET_NAME);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut init = std::process::Command::new(env!("CARGO_BIN_EXE_garden-init"))
        .arg("--allow-any-peer")
        .arg(folder.path())
        .spawn()
        .unwrap();
    let connected = until(|| Client::try_connect(&path));
    assert!(connected.expect("nobody listens").hello().is_empty());
    init.kill().unwrap();
    init.wait().unwrap();
}

#[test]
fn a_held_process_runs_when_it_is_released_and_not_before() {
    let place = Place::start();
    let mut client = place.client();
    let key = new_key();
    let (_pidfd, [_stdin, mut stdout, _stderr]) = client.hold(key, &spec("echo > /tmp/ran; echo here; exit 5"));
    // Others come and go meanwhile.
    assert_eq!(client.run(&spec("exit 8")).exit, Exit::Code(8));
    let early = client.receive(Duration::from_millis(100));
    assert!(early.is_none(), "it goes on by itself: {early:?}");
    assert!(!place.path("/tmp/ran").exists());
    for _ in 0..2 {
        client.send(&Request::Release { key }, &[]);
    }
    let spawned = client.wait_for(|event, fds| match event {
        Event::Spawned { key: spawned, .. } if *spawned == key => Some(fds.len()),
        Event::SpawnFailed { error, .. } => panic!("{error:?}"),
        _ => None,
    });
    assert_eq!(spawned, 1);
    assert_eq!(client.exit_of(key), Exit::Code(5));
    assert_eq!(text(&mut stdout), "here\n");
    client.send(&Request::Forget { key }, &[]);
    // Nothing to release.
    client.send(&Request::Release { key: new_key() }, &[]);
    client.ping();
}

#[test]
fn a_held_process_whose_asker_is_gone_never_runs() {
    let place = Place::start();
    let mut client = place.client();
    let key = new_key();
    let streams = client.hold(key, &spec("echo > /tmp/ran"));
    drop((client, streams));
    let mut next = place.connect();
    assert!(next.hello().is_empty());
    next.send(&Request::Release { key }, &[]);
    next.wait_until_empty();
    assert!(!place.path("/tmp/ran").exists());
}

#[test]
fn a_held_process_that_is_killed_has_not_been_started() {
    let place = Place::start();
    let mut client = place.client();
    let key = new_key();
    let _held = client.hold(key, &spec("echo > /tmp/ran"));
    client.send(&Request::Signal { key, signal: libc::SIGKILL }, &[]);
    let error = client.wait_for(|event, _| match event {
        Event::SpawnFailed { key: failed, error } if *failed == key => Some(error.clone()),
        Event::Spawned { .. } => panic!("it was started"),
        _ => None,
    });
    assert!(matches!(error, SpawnFailure::System { errno: libc::ECANCELED, .. }), "{error:?}");
    assert!(!client.is_occupied() && !place.path("/tmp/ran").exists());
}

#[test]
fn what_a_held_process_cannot_become_is_told_after_its_release() {
    let place = Place::start();
    let mut client = place.client();
    let key = new_key();
    let _held = client.hold(key, &spec_of(&["/no/such/program"]));
    client.send(&Request::Release { key }, &[]);
    let error = client.wait_for(|event, _| match event {
        Event::SpawnFailed { key: failed, error } if *failed == key => Some(error.clone()),
        _ => None,
    });
    assert_eq!(error, SpawnFailure::NotFound);
}
