//! `gardend proxy`, between the real command line and a test's server.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::{DEADLINE, bare, finished, gardend_at, outcome};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

/// A proxy that runs.
struct Proxy {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    addresses: Vec<String>,
}

impl Proxy {
    fn start(args: &[&str]) -> Self {
        let mut command = bare(&[&["proxy"], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let mut words = ready.split_whitespace().map(str::to_owned);
        if words.next().as_deref() != Some("ready") {
            panic!("not ready: {:?}", outcome(child));
        }
        Self { child: Some(child), stdout, addresses: words.collect() }
    }

    /// SIGTERM: its status, and all that it said on stderr.
    fn end(mut self) -> (i32, String) {
        let child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let said = outcome(child);
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        (said.status, said.stderr)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A folder, and a socket's place in it.
fn place() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garden.sock");
    let address = format!("unix://{}", path.display());
    (folder, path, address)
}

#[test]
fn commands_work_through_a_unix_socket_and_a_port_before_it() {
    let server = Garden::with_container("h");
    let (_folder, path, socket) = place();
    let inner = Proxy::start(&["--listen", &socket, "--to", &server.target()]);
    assert_eq!(inner.addresses, [socket.as_str()]);
    let outer = Proxy::start(&["--listen", "127.0.0.1:0", "--to", &socket]);
    for target in [&socket, &outer.addresses[0]] {
        assert_eq!(finished(gardend_at(target, &["ls", "-q"])).stdout, "h\n");
        let said = finished(gardend_at(target, &["run", "h", "exit", "7"]));
        assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (7, "to stdout\n", "to stderr\n"));
        let said = finished(gardend_at(target, &["run", "h", "bytes", "30000000"]));
        assert_eq!((said.status, said.stdout.is_empty()), (0, false));
    }
    assert_eq!(outer.end(), (0, String::new()));
    assert_eq!(inner.end(), (0, String::new()));
    assert!(!path.exists(), "its socket is taken away");
}

#[test]
fn a_side_that_has_ended_still_gets_the_answer_and_every_byte_arrives() {
    let (_folder, path, socket) = place();
    let server = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::start(&["--listen", "127.0.0.1:0", "--to", &socket]);
    let question: Vec<u8> = (0..20_000_000_u32).map(|at| (at * 31 % 251) as u8).collect();
    let mut client = TcpStream::connect(&proxy.addresses[0]).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    accepted.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        accepted.read_to_end(&mut all).unwrap();
        accepted.write_all(b"the answer").unwrap();
        all
    });
    client.write_all(&question).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "the answer");
    assert!(reading.join().unwrap() == question);
    assert_eq!(proxy.end().0, 0);
}

#[test]
fn an_end_with_connections_open_is_clean_and_prompt() {
    let (_folder, path, socket) = place();
    let server = UnixListener::bind(&path).unwrap();
    let proxy = Proxy::start(&["--listen", "127.0.0.1:0", "--to", &socket]);
    let mut client = TcpStream::connect(&proxy.addresses[0]).unwrap();
    let (accepted, _) = server.accept().unwrap();
    assert_eq!(proxy.end(), (0, String::new()));
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = client.read(&mut [0]);
    drop(accepted);
}

#[test]
fn a_server_that_is_away_costs_its_client_the_connection_and_the_proxy_nothing() {
    let (_folder, path, socket) = place();
    let proxy = Proxy::start(&["--listen", "127.0.0.1:0", "--to", &socket]);
    let mut client = TcpStream::connect(&proxy.addresses[0]).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    let server = UnixListener::bind(&path).unwrap();
    let _client = TcpStream::connect(&proxy.addresses[0]).unwrap();
    let (_accepted, _): (UnixStream, _) = server.accept().unwrap();
    let (status, words) = proxy.end();
    assert_eq!(status, 0);
    assert!(words.contains(&format!("cannot reach gardend at {socket}: no such file or directory")), "{words}");
}

#[test]
fn an_address_that_is_in_use_or_open_to_others_is_refused() {
    let (_folder, path, socket) = place();
    let _server = UnixListener::bind(&path).unwrap();
    let used = finished(bare(&["proxy", "--listen", &socket, "--to", "127.0.0.1:1"]));
    assert_eq!(used.status, 1);
    assert!(used.stderr.contains("is in use by another program"), "{used:?}");
    let open = finished(bare(&["proxy", "--listen", "0.0.0.0:7777", "--to", &socket]));
    assert_eq!(open.status, 2);
    assert!(open.stderr.contains("can be reached from other machines"), "{open:?}");
}
