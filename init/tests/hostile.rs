//! Peers that may not connect, peers that speak nonsense, and peers that do not listen.

mod support;

use garden_init::packet;
use garden_init::wire::{self, Event, MAX_PACKET, MAX_REQUEST, Request};
use std::os::fd::AsFd;
use std::time::Duration;
use support::{Client, Place, spec, spec_of, until};

/// Names the socket for the part of a test that runs in the place's pid namespace.
const SOCKET: &str = "GARDEN_INIT_TEST_SOCKET";

#[test]
fn a_peer_from_inside_is_refused_and_does_not_replace_the_one_outside() {
    let place = Place::start();
    let mut client = place.client();
    let me = std::env::current_exe().unwrap();
    let inside = [me.to_str().unwrap(), "--exact", "inside_no_answer_comes", "--ignored"];
    assert!(place.run_in_pid_namespace(&inside, &[(SOCKET, place.socket().to_str().unwrap())]));
    client.ping();
}

#[test]
#[ignore = "run by the test before it, inside of a container"]
fn inside_no_answer_comes() {
    let mut client = Client::connect(std::env::var_os(SOCKET).unwrap().as_ref());
    assert_ne!(std::fs::read_link("/proc/self").unwrap().to_str().unwrap(), std::process::id().to_string());
    // Closed before or after the request came to it.
    let hello = wire::encode(&Request::Hello { version: wire::VERSION }).unwrap();
    let _ = packet::send(client.socket.as_fd(), &hello, &[]);
    assert!(client.is_closed());
}

/// What is wrong, the packets, and the descriptors beside the last of them.
type Case = (&'static str, Vec<Vec<u8>>, Vec<std::os::fd::OwnedFd>);

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let mut place = Place::start();
    let before = place.init_fds();
    let mut keeper = place.client();
    let running = keeper.spawn(&spec_of(&["cat"]));
    let hello = wire::encode(&Request::Hello { version: 1 }).unwrap();
    let nested = wire::encode(&Request::InFile).unwrap();
    let file = |bytes: &[u8]| {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        file
    };
    let (pipe, _pipe_write) = std::io::pipe().unwrap();
    let large = tempfile::tempfile().unwrap();
    large.set_len(MAX_REQUEST as u64 + 1).unwrap();
    let cases: Vec<Case> = vec![
        ("empty", vec![vec![0]], vec![]),
        ("garbage", vec![hello.clone(), vec![1; 500]], vec![]),
        ("another version", vec![hello.clone(), vec![99, 0]], vec![]),
        ("not Hello first", vec![wire::encode(&Request::Ping { token: 1 }).unwrap()], vec![]),
        ("Hello of version 0", vec![wire::encode(&Request::Hello { version: 0 }).unwrap()], vec![]),
        ("bytes left over", vec![[hello.clone(), vec![0]].concat()], vec![]),
        ("too large", vec![hello.clone(), vec![1; MAX_PACKET + 1]], vec![]),
        ("no file", vec![hello.clone(), nested.clone()], vec![]),
        ("a file in a file", vec![hello.clone(), nested.clone()], vec![file(&nested).into()]),
        ("garbage in a file", vec![hello.clone(), nested.clone()], vec![file(&[1; 99]).into()]),
        ("a pipe for a file", vec![hello.clone(), nested.clone()], vec![pipe.into()]),
        ("a large file", vec![hello.clone(), nested.clone()], vec![large.into()]),
        ("too many descriptors", vec![hello.clone(), nested], (0..8).map(|_| file(&[]).into()).collect()),
    ];
    for (name, packets, fds) in cases {
        let mut client = place.connect();
        let last = packets.len() - 1;
        for (number, bytes) in packets.iter().enumerate() {
            let fds: Vec<_> = if number == last { fds.iter().map(AsFd::as_fd).collect() } else { vec![] };
            packet::send(client.socket.as_fd(), bytes, &fds).unwrap();
        }
        assert!(client.is_closed(), "{name}");
    }
    assert!(place.is_alive());
    let mut client = place.connect();
    assert_eq!(client.hello().len(), 1);
    assert_eq!(client.finish(running).stdout, "");
    client.ping();
    drop((client, keeper));
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
}

#[test]
fn a_peer_that_does_not_read_is_waited_for_without_blocking() {
    let place = Place::start();
    let mut deaf = place.client();
    // Its answers fill the socket; then init stops reading, and so the peer's own socket fills.
    rustix::io::ioctl_fionbio(&deaf.socket, true).unwrap();
    let ping = wire::encode(&Request::Ping { token: 1 }).unwrap();
    let mut sent = 0;
    let mut is_full = || {
        while packet::send(deaf.socket.as_fd(), &ping, &[]).is_ok() {
            sent += 1;
            assert!(sent < 1_000_000, "init holds everything that is not read");
        }
        std::thread::sleep(Duration::from_millis(50));
        packet::send(deaf.socket.as_fd(), &ping, &[]).is_err().then_some(())
    };
    until(&mut is_full).unwrap();
    // Others are served meanwhile: a new connection replaces it.
    let other = std::thread::scope(|scope| scope.spawn(|| place.client().run(&spec("exit 3")).exit).join().unwrap());
    assert_eq!(other, wire::Exit::Code(3));
    // What init had said before that is whole.
    rustix::io::ioctl_fionbio(&deaf.socket, false).unwrap();
    let mut answers = 0;
    while let Some((event, _)) = deaf.receive(Duration::from_secs(1)) {
        assert_eq!(event, Event::Pong { token: 1 });
        answers += 1;
    }
    assert!(answers > 10);
}
