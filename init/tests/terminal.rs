//! Processes with a terminal of the container's own.

mod support;

use garden_init::wire::{Event, Exit, Request, SpawnFailure, SpawnSpec, Streams};
use std::fs::File;
use std::io::{Read, Write};
use support::{Place, new_key, spec, streams, until};

fn with_terminal(script: &str) -> SpawnSpec {
    SpawnSpec { tty: Some((101, 43)), ..spec(script) }
}

/// Up to what is expected at its end.
fn read_until(master: &mut File, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        // A hung-up terminal answers EIO.
        match master.read(&mut byte) {
            Ok(1) => text.push(char::from(byte[0])),
            other => panic!("{other:?} after {text:?} instead of {end:?}"),
        }
    }
    text
}

#[test]
fn it_is_the_controlling_terminal_with_its_size_and_belongs_to_the_user() {
    let place = Place::start();
    let mut client = place.client();
    let asked = SpawnSpec {
        user: "alice".into(),
        ..with_terminal("stty size; tty; stat -c %u:%a $(tty); echo $TERM; echo x > /dev/tty")
    };
    let (key, mut master) = client.spawn_with_terminal(&asked);
    assert_eq!(read_until(&mut master, "x\r\n"), "43 101\r\n/dev/pts/0\r\n1000:620\r\nxterm\r\nx\r\n");
    assert_eq!(client.exit_of(key), Exit::Code(0));
}

#[test]
fn it_echoes_edits_lines_raises_signals_and_makes_line_ends_whole() {
    let place = Place::start();
    let mut client = place.client();
    let (_key, mut master) = client.spawn_with_terminal(&with_terminal("stty -a; echo end"));
    let modes = read_until(&mut master, "end\r\n");
    for mode in ["echo", "icanon", "isig", "icrnl", "opost", "onlcr"] {
        assert!(modes.split_whitespace().any(|seen| seen == mode), "{mode} in {modes}");
    }
}

#[test]
fn a_new_size_raises_a_signal() {
    let place = Place::start();
    let mut client = place.client();
    let script = "trap 'stty size; exit 5' WINCH; echo ready; while true; do sleep 0.01; done";
    let (key, mut master) = client.spawn_with_terminal(&with_terminal(script));
    read_until(&mut master, "ready\r\n");
    client.send(&Request::Resize { key, columns: 132, rows: 50 }, &[]);
    assert_eq!(read_until(&mut master, "\r\n"), "50 132\r\n");
    assert_eq!(client.exit_of(key), Exit::Code(5));
}

#[test]
fn it_goes_both_ways_and_over_to_the_next_connection() {
    let place = Place::start();
    let mut client = place.client();
    let (key, mut master) = client.spawn_with_terminal(&with_terminal("echo ready; head -n 1; exit 2"));
    read_until(&mut master, "ready\r\n");
    drop((client, master));
    let mut next = place.connect();
    let mut known = next.hello();
    let (event, mut fds) = known.remove(0);
    assert_eq!((streams(&event), fds.len()), (Streams::Terminal, 3));
    let mut master = File::from(fds.remove(0));
    master.write_all(b"words\n").unwrap();
    assert_eq!(read_until(&mut master, "\n"), "words\r\n");
    assert_eq!(next.exit_of(key), Exit::Code(2));
    // The relay is a pipe whose two ends belong together.
    let (mut write, mut read) = (File::from(fds.remove(0)), File::from(fds.remove(0)));
    write.write_all(b"x").unwrap();
    let mut byte = [0];
    read.read_exact(&mut byte).unwrap();
    let before = place.init_fds();
    next.send(&Request::Forget { key }, &[]);
    // The master goes once init has read its end.
    assert!(until(|| (place.init_fds() == before - 3).then_some(())).is_some(), "{} descriptors", place.init_fds());
}

#[test]
fn a_container_without_terminals_or_with_a_false_one_is_said() {
    let place = Place::start();
    let mut client = place.client();
    let mut failure = |change: &str| {
        client.output(&spec(change));
        let key = new_key();
        let (read, write) = std::io::pipe().unwrap();
        use std::os::fd::AsFd;
        client.send(&Request::Spawn { key, spec: with_terminal("true") }, &[write.as_fd(), read.as_fd()]);
        client.wait_for(|event, _| match event {
            Event::SpawnFailed { key: failed, error } if *failed == key => Some(error.clone()),
            _ => None,
        })
    };
    let expected = |errno| SpawnFailure::System { call: "open /dev/ptmx".into(), errno };
    let busybox = "/bin/busybox";
    assert_eq!(failure(&format!("{busybox} rm /dev/ptmx; {busybox} mkfifo /dev/ptmx")), expected(libc::ENODEV));
    assert_eq!(
        failure(&format!("{busybox} rm /dev/ptmx; {busybox} ln -s /dev/zero /dev/ptmx")),
        expected(libc::ENODEV)
    );
    assert_eq!(failure(&format!("{busybox} rm /dev/ptmx; {busybox} umount /dev/pts")), expected(libc::ENOENT));
}

#[test]
fn a_grandchild_that_keeps_the_terminal_writes_on_after_its_end() {
    let place = Place::start();
    let before = place.init_fds();
    let mut client = place.client();
    assert!(std::process::Command::new("mkfifo").arg(place.path("/tmp/go")).status().unwrap().success());
    let script = "trap '' HUP; (read x < /tmp/go; seq 100000 && echo done > /tmp/said) & echo left";
    let (key, mut master) = client.spawn_with_terminal(&with_terminal(script));
    read_until(&mut master, "left\r\n");
    assert_eq!(client.exit_of(key), Exit::Code(0));
    client.send(&Request::Forget { key }, &[]);
    client.ping();
    drop(master);
    place.release("/tmp/go");
    client.wait_until_empty();
    assert_eq!(std::fs::read_to_string(place.path("/tmp/said")).unwrap(), "done\n");
    drop(client);
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
}
