//! SIGKILL at random instants: a relay in a process of its own is killed over and over while it
//! moves a counter stream, and every byte must arrive once and in order.
//!
//! `STREAMS_KILLS` sets the number of kills of each way (200 by default).

use crate::place::{Checker, LONG, Place, key};
use garden_init::wire::SpawnSpec;
use gardend::node::place::Folders;
use gardend::node::process::{Options, ProcessNode};
use gardend_controller::ports::{OutputStream, Processes, Streams};
use gardend_controller::record::{ProcessUid, SandboxId};
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How the relay is to behave.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// How long it spools before it reads, at most.
    spool: Duration,
    /// How long it lives, at most.
    life: Duration,
    terminal: bool,
}

fn options() -> Options {
    // Nothing may be dropped while nobody reads.
    Options { spool_bytes: 4 << 30, ..Options::default() }
}

/// Not a test: what the tests run and kill.
#[test]
#[ignore = "the process that the other tests kill"]
fn relay() {
    let Ok(run) = std::env::var("RELAY_RUN") else { return };
    let variable = |name| std::env::var(name).unwrap();
    let sandbox = SandboxId::parse(&variable("RELAY_SANDBOX")).unwrap();
    let process = ProcessUid::parse(&variable("RELAY_PROCESS")).unwrap();
    let wait = Duration::from_micros(variable("RELAY_WAIT").parse().unwrap());
    let run = PathBuf::from(run);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let node = ProcessNode::new(Folders::new(run.join("state"), &run), options()).unwrap();
        node.connect(&sandbox).await.unwrap();
        tokio::time::sleep(wait).await;
        let reader = node.attach(&process).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", variable("RELAY_PORT").parse().unwrap())).unwrap();
        node.read(&process, reader, OutputStream::Stdout, OwnedFd::from(socket)).await;
        // The end has been sent; stay until the peer has it, like a server would.
        tokio::time::sleep(LONG).await;
    });
}

fn start_relay(place: &Place, process: &ProcessUid, port: u16, wait: Duration) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::relay", "--ignored", "--nocapture"])
        .env("RELAY_RUN", place.run.path())
        .env("RELAY_SANDBOX", place.sandbox.as_str())
        .env("RELAY_PROCESS", process.as_str())
        .env("RELAY_PORT", port.to_string())
        .env("RELAY_WAIT", wait.as_micros().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn random(below: Duration) -> Duration {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    Duration::from_micros(u64::from_le_bytes(bytes) % (below.as_micros() as u64).max(1))
}

/// Reads from a relay until it is dead (or has sent everything); kills it when its time is over.
fn follow(relay: &mut Child, listener: &TcpListener, checker: &mut Checker, life: Option<Duration>) {
    let started = Instant::now();
    let due = |started: Instant| life.is_some_and(|life| started.elapsed() > life);
    listener.set_nonblocking(true).unwrap();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        // Also killed before it reads: while it takes over, and while it spools.
        if life.is_some_and(|life| started.elapsed() > life + Duration::from_millis(30)) {
            relay.kill().unwrap();
            relay.wait().unwrap();
            // It may have connected, and sent, just before.
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => return,
            }
        }
        assert!(started.elapsed() < LONG, "the relay does not come");
        std::thread::sleep(Duration::from_micros(100));
    };
    stream.set_nonblocking(false).unwrap();
    let connected = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = vec![0; 256 << 10];
    let mut killed = false;
    loop {
        if !killed && due(connected) {
            let _ = relay.kill();
            killed = true;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => checker.check(&buffer[..bytes]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                assert!(connected.elapsed() < LONG, "no end after {} bytes", checker.seen);
            }
            Err(error) => panic!("after {} bytes: {error}", checker.seen),
        }
    }
    let _ = relay.kill();
    relay.wait().unwrap();
}

fn survive(way: Way) {
    let kills: u32 = std::env::var("STREAMS_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(200);
    let place = Place::new();
    let process = ProcessUid::generate();
    let tty = way.terminal.then_some((80, 24));
    let args = vec![u64::MAX.to_string().into_bytes()];
    place.start(&process, &SpawnSpec { path: b"counter".to_vec(), args, tty, ..SpawnSpec::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut checker = Checker::default();
    let start = Instant::now();
    for kill in 0..kills {
        let mut relay = start_relay(&place, &process, port, random(way.spool));
        follow(&mut relay, &listener, &mut checker, Some(random(way.life)));
        if kill == kills - 1 {
            place.counter.stop.store(true, Ordering::SeqCst);
        }
    }
    let mut relay = start_relay(&place, &process, port, Duration::ZERO);
    follow(&mut relay, &listener, &mut checker, None);
    let written = place.counter.written.load(Ordering::SeqCst);
    println!("{}: {kills} kills, {} of {written} bytes, exact, in {:?}", way.name, checker.seen, start.elapsed());
    assert_eq!(checker.seen, written, "{:?}", key(&process));
    assert!(checker.seen > 0);
}

#[test]
fn pipe_to_socket_is_exact_over_kills() {
    survive(Way { name: "pipe to socket", spool: Duration::ZERO, life: Duration::from_millis(12), terminal: false });
}

#[test]
fn pipe_to_spool_to_socket_is_exact_over_kills() {
    let (spool, life) = (Duration::from_millis(8), Duration::from_millis(8));
    survive(Way { name: "pipe to spool to socket", spool, life, terminal: false });
}

#[test]
fn terminal_to_relay_to_socket_is_exact_over_kills() {
    let (spool, life) = (Duration::from_millis(3), Duration::from_millis(15));
    survive(Way { name: "terminal to relay to socket", spool, life, terminal: true });
}
