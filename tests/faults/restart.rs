//! kill -9 of gardend under running processes with attached clients: nothing is lost.

use crate::eventually;
use crate::rootfs;
use crate::server::Server;
use crate::wire::{Attached, Garden};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// Counts, in bursts, as long as there is no file /stop.
const COUNTER: &str = "i=0; while [ ! -e /stop ]; do n=0; \
    while [ $n -lt 40 ]; do echo $i; i=$((i+1)); n=$((n+1)); done; usleep 20000; done; echo end";

/// A process that counts, and all of its output that arrived, from however many connections.
struct Counter {
    handle: String,
    process: String,
    terminal: bool,
    received: Vec<u8>,
}

/// Reads one connection of a counter to its end, whatever that is.
fn follow(mut counter: Counter, attached: Attached) -> JoinHandle<(Counter, Attached)> {
    let mut stdout = attached.stdout().expect("stdout can be fetched");
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        // A server that was killed ends the connection, cleanly or not: what came, came.
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            counter.received.extend_from_slice(&buffer[..count]);
        }
        (counter, attached)
    })
}

impl Counter {
    /// Fails unless every number is there once and in order, and the end is the end.
    fn check(&self) {
        let text = std::str::from_utf8(&self.received).expect("digits and line ends");
        let line_end = if self.terminal { "\r\n" } else { "\n" };
        let body = text.strip_suffix(&format!("end{line_end}"));
        let body = body.unwrap_or_else(|| panic!("{} of {} does not end: {:?}", self.process, self.handle, tail(text)));
        let mut expected = 0u64;
        for line in body.split_terminator(line_end) {
            assert_eq!(line, expected.to_string(), "{} of {}, after {expected} lines", self.process, self.handle);
            expected += 1;
        }
        assert!(expected > 0, "{} of {} wrote nothing", self.process, self.handle);
    }
}

fn tail(text: &str) -> &str {
    let from = (text.len().saturating_sub(80)..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[from.unwrap_or(0)..]
}

struct Container {
    handle: String,
    rootfs: PathBuf,
}

fn containers(server: &Server, count: usize) -> Vec<Container> {
    let make = |number: usize| {
        let rootfs = rootfs::unprivileged(&server.scratch().join(format!("root{number}")));
        let handle = format!("c{number}");
        server.garden.create(&handle, &rootfs).expect("a container");
        Container { handle, rootfs }
    };
    (0..count).map(make).collect()
}

fn touch(path: &Path) {
    File::create(path).expect("the root file system is ours");
}

fn stop_all(containers: &[Container]) {
    containers.iter().for_each(|container| touch(&container.rootfs.join("stop")));
}

fn runs(garden: Garden, handle: &str) -> Vec<String> {
    let info = garden.info(handle).expect("an info");
    serde_json::from_value(info["ProcessIDs"].clone()).expect("process ids")
}

#[test]
fn fifty_processes_survive_kills_of_gardend_with_every_byte_and_status() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let containers = containers(&server, 5);
    let garden = server.garden;

    let mut following = Vec::new();
    let mut readers = Vec::new();
    for container in &containers {
        let handle = &container.handle;
        for number in 0..6 {
            let terminal = number >= 4;
            let attached = garden.run(handle, &format!("counter{number}"), COUNTER, terminal).expect("a counter");
            let process = attached.process.clone();
            following
                .push(follow(Counter { handle: handle.clone(), process, terminal, received: Vec::new() }, attached));
        }
        for number in 0..2 {
            let script =
                format!("echo early; while [ ! -e /go{number} ]; do usleep 20000; done; echo late; exit 4{number}");
            drop(garden.run(handle, &format!("leaver{number}"), &script, false).expect("one that will end"));
        }
        for number in 0..2 {
            let mut attached = garden.run(handle, &format!("cat{number}"), "cat", false).expect("one with input");
            attached.input("before\n").expect("input");
            readers.push(attached);
        }
    }

    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(300 + 170 * round));
        server.kill();
        let counters: Vec<Counter> = following.drain(..).map(|thread| thread.join().expect("a reader").0).collect();
        if round == 1 {
            for container in &containers {
                (0..2).for_each(|number| touch(&container.rootfs.join(format!("go{number}"))));
            }
        }
        std::thread::sleep(Duration::from_millis(400));
        server.restart();
        slowest = slowest.max(server.start_took);

        for counter in counters {
            let attached = server.garden.attach(&counter.handle, &counter.process);
            let attached = attached.unwrap_or_else(|why| panic!("{} of {}: {why:?}", counter.process, counter.handle));
            following.push(follow(counter, attached));
        }
    }
    println!("3 kills under 50 processes: ready again after {slowest:?} at most");
    assert!(slowest < Duration::from_secs(2), "ready again only after {slowest:?}");

    for container in &containers {
        for number in 0..2 {
            let mut attached = server.garden.attach(&container.handle, &format!("leaver{number}")).expect("its record");
            let mut output = String::new();
            attached.stdout().expect("its output").read_to_string(&mut output).expect("its output");
            assert_eq!(attached.status().expect("its status"), 40 + number, "{}", container.handle);
            assert_eq!(output, "early\nlate\n", "{}", container.handle);

            let mut attached = server.garden.attach(&container.handle, &format!("cat{number}")).expect("it runs");
            attached.input("after\n").expect("input");
            attached.end_input().expect("the end of the input");
            let mut output = String::new();
            attached.stdout().expect("its output").read_to_string(&mut output).expect("its output");
            assert_eq!(output, "before\nafter\n", "{}", container.handle);
            assert_eq!(attached.status().expect("its status"), 0);
        }
    }

    stop_all(&containers);
    let mut bytes = 0;
    for thread in following {
        let (counter, mut attached) = thread.join().expect("a reader");
        assert_eq!(attached.status().expect("its status"), 0, "{} of {}", counter.process, counter.handle);
        counter.check();
        bytes += counter.received.len();
    }
    println!("30 streams, {bytes} bytes, every one there, once and in order");

    for container in &containers {
        server.garden.destroy(&container.handle).expect("a destroy");
    }
    crate::census::settles(&server, 0, 0);
}

#[test]
fn processes_with_images_of_their_own_survive_kills_and_starts_that_were_cut_off_leave_nothing() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let container = containers(&server, 1).remove(0);
    let handle = container.handle.clone();
    let image = rootfs::unprivileged(&server.scratch().join("image"));
    let spec = |id: &str, script: &str, terminal: bool| {
        let mut spec = serde_json::json!({
            "id": id, "path": "/bin/sh", "args": ["-c", script], "image": { "uri": format!("raw://{}", image.display()) },
        });
        if terminal {
            spec["tty"] = serde_json::json!({});
        }
        spec
    };
    let mut following = Vec::new();
    for (process, terminal) in [("pipes", false), ("terminal", true)] {
        let attached = server.garden.run_spec(&handle, &spec(process, COUNTER, terminal)).expect("a counter");
        let process = attached.process.clone();
        following.push(follow(Counter { handle: handle.clone(), process, terminal, received: Vec::new() }, attached));
    }
    for round in 0..5 {
        let garden = server.garden;
        std::thread::scope(|scope| {
            // Starts that are on their way when gardend dies, each a little further.
            for number in 0..4 {
                let (spec, handle) = (spec(&format!("cut{round}-{number}"), "sleep 1000", false), &handle);
                scope.spawn(move || drop(garden.run_spec(handle, &spec)));
            }
            std::thread::sleep(Duration::from_millis(4 + 7 * round));
            server.kill();
        });
        let counters: Vec<Counter> = following.drain(..).map(|thread| thread.join().expect("a reader").0).collect();
        server.restart();
        for counter in counters {
            let attached = server.garden.attach(&counter.handle, &counter.process).expect("it runs");
            following.push(follow(counter, attached));
        }
    }
    // What runs is what is known: nothing was started behind anybody's back.
    let known = runs(server.garden, &handle);
    let sleeping = known.iter().filter(|id| id.starts_with("cut")).count();
    let (_, seen) = server.garden.output(&handle, "pidof sleep | wc -w").expect("a process");
    assert_eq!(seen.trim().parse::<usize>().expect("a number"), sleeping, "{known:?}");
    touch(&image.join("stop"));
    for thread in following {
        let (counter, mut attached) = thread.join().expect("a reader");
        assert_eq!(attached.status().expect("its status"), 0, "{}", counter.process);
        counter.check();
    }
    server.garden.destroy(&handle).expect("a destroy");
    crate::census::settles(&server, 0, 0);
}

#[test]
fn containers_properties_and_ids_are_as_before_after_a_kill() {
    let mut server = Server::start(&["--pool-size", "1"]);
    let containers = containers(&server, 2);
    let handle = &containers[0].handle;
    let value = serde_json::json!({ "value": "kept" });
    server.garden.call("PUT", &format!("/containers/{handle}/properties/key"), &value).expect("a property");
    drop(server.garden.run(handle, "taken", "sleep 1000", false).expect("a process"));
    let before = server.garden.list();
    server.kill();
    server.restart();

    assert_eq!(server.garden.list(), before);
    assert_eq!(server.garden.info(handle).expect("an info")["Properties"]["key"], "kept");
    assert_eq!(runs(server.garden, handle), ["taken"]);
    let again = server.garden.run(handle, "taken", "true", false).err().expect("the id is taken");
    assert!(again.message().contains("already in use"), "{again:?}");
    let again = server.garden.create(handle, &containers[0].rootfs).expect_err("the handle is taken");
    assert!(again.message().contains("already in use"), "{again:?}");
    assert_eq!(server.garden.output(handle, "echo fine").expect("a process"), (0, "fine\n".into()));
    for container in &containers {
        server.garden.destroy(&container.handle).expect("a destroy");
    }
    crate::census::settles(&server, 0, 2);
}

#[test]
fn many_kills_one_after_the_other_lose_no_byte_of_a_pipe_or_a_terminal() {
    let kills = std::env::var("GARDEND_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let mut server = Server::start(&["--pool-size", "0"]);
    let containers = containers(&server, 1);
    let handle = &containers[0].handle;
    let start = |terminal: bool| {
        let id = if terminal { "terminal" } else { "pipe" };
        let attached = server.garden.run(handle, id, COUNTER, terminal).expect("a counter");
        follow(Counter { handle: handle.clone(), process: id.into(), terminal, received: Vec::new() }, attached)
    };
    let mut following: Vec<_> = [false, true].map(start).into();
    for kill in 0..kills {
        // Different instants of the bursts, without chance: what fails once fails again.
        std::thread::sleep(Duration::from_micros(20_000 + 7_919 * (kill % 13)));
        server.kill();
        let counters: Vec<Counter> = following.drain(..).map(|thread| thread.join().expect("a reader").0).collect();
        server.restart();
        for counter in counters {
            let attached = server.garden.attach(handle, &counter.process).expect("it runs");
            following.push(follow(counter, attached));
        }
    }
    stop_all(&containers);
    for thread in following {
        let (counter, mut attached) = thread.join().expect("a reader");
        assert_eq!(attached.status().expect("its status"), 0);
        counter.check();
    }
    println!("{kills} kills of gardend, two streams exact");
    server.garden.destroy(handle).expect("a destroy");
}

#[test]
fn a_process_that_was_destroyed_with_its_container_is_unknown_after_a_kill() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let containers = containers(&server, 1);
    let handle = &containers[0].handle;
    drop(server.garden.run(handle, "gone", "sleep 1000", false).expect("a process"));
    server.garden.destroy(handle).expect("a destroy");
    server.kill();
    server.restart();
    assert_eq!(server.garden.list(), [""; 0]);
    let unknown = server.garden.attach(handle, "gone").err().expect("nothing of it is kept");
    assert_eq!(unknown.kind(), "ContainerNotFoundError");
    eventually(Duration::from_secs(40), || {
        let left = server.garden.list_all();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    crate::census::settles(&server, 0, 0);
}
