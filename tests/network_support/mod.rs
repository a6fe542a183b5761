//! What tests of networks share: network namespaces in place of machines, and who answers there.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// How long is waited for what shall come: the kernel asks for a neighbour again after a second.
pub const LONG: Duration = Duration::from_secs(5);
/// How long is waited for what shall not come.
pub const SHORT: Duration = Duration::from_millis(300);

/// Runs a test once more, in a namespace of its own; whether this is that run.
pub fn alone(test: &str) -> bool {
    if std::env::var_os("GARDEND_TEST_ALONE").is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("GARDEND_TEST_ALONE", "1")
        .status()
        .unwrap();
    assert!(status.success(), "in a namespace of its own it failed");
    false
}

pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn said(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace with nothing in it but a process that sleeps.
pub struct Namespace(Child);

impl Namespace {
    pub fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let namespace = Self(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(format!("/proc/{}/ns/net", namespace.pid())).is_ok_and(|link| link == own) {
            assert!(Instant::now() < deadline, "unshare does not come to its work");
            std::thread::yield_now();
        }
        namespace.ip("link set lo up");
        namespace
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn ip(&self, words: &str) {
        let output = Command::new("nsenter")
            .args(["--net", "--target", &self.pid().to_string(), "ip"])
            .args(words.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn said(&self, words: &str) -> String {
        said("nsenter", &format!("--net --target {} {words}", self.pid()))
    }

    /// Does something as a process there would.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::scope(|scope| {
            let within = move || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                work()
            };
            scope.spawn(within).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The machine's way out, and what is behind it: nobody there knows the way to a container, so that what
/// is not translated gets no answer.
pub fn outside() -> Namespace {
    ip("link set lo up");
    // One of an earlier world goes with its outside, some time.
    let _ = Command::new("ip").args(["link", "del", "up0"]).stderr(Stdio::null()).status();
    let outside = Namespace::new();
    ip(&format!("link add up0 type veth peer name out0 netns {}", outside.pid()));
    for (words, there) in [
        ("addr add 198.51.100.1/24 dev up0", "addr add 198.51.100.2/24 dev out0"),
        ("link set up0 mtu 1400 up", "link set out0 up"),
        ("-6 addr add 2001:db8:1::1/64 dev up0 nodad", "-6 addr add 2001:db8:1::2/64 dev out0 nodad"),
        ("route add default via 198.51.100.2", "addr add 203.0.113.1/32 dev lo"),
        ("-6 route add default via 2001:db8:1::2", "addr add 203.0.113.2/32 dev lo"),
    ] {
        ip(words);
        outside.ip(there);
    }
    outside.ip("-6 addr add 2001:db8:2::1/128 dev lo nodad");
    outside
}

/// Answers connections outside with the address that they come from.
pub fn tcp(outside: &Namespace, address: impl Into<IpAddr>, port: u16) {
    let address = SocketAddr::new(address.into(), port);
    let listener = outside.run(|| TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            // Whoever asked may have gone.
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// What a server says to whoever connects.
pub fn dial(from: &Namespace, address: impl Into<IpAddr>, port: u16) -> String {
    let address = SocketAddr::new(address.into(), port);
    from.run(|| answer(address, LONG)).unwrap()
}

/// Nobody answers.
pub fn no_way(from: &Namespace, address: impl Into<IpAddr>, port: u16) {
    let address = SocketAddr::new(address.into(), port);
    from.run(|| answer(address, SHORT)).unwrap_err();
}

pub fn answer(address: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A server in a container that says its name.
pub fn serve(namespace: &Namespace, address: impl Into<IpAddr>, port: u16, name: &'static str) {
    let address = SocketAddr::new(address.into(), port);
    let listener = namespace.run(|| TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever asked may have gone.
            let _ = stream.unwrap().write_all(name.as_bytes());
        }
    });
}
