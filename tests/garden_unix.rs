//! The front end over a unix socket, and over several addresses at once.

mod garden_support;

use garden_support::{CREATED, FixedFacts, PATIENCE, controller, request};
use gardend::garden::{Garden, serve};
use gardend::net::{Access, Address, Claim};
use gardend_controller::Options;
use rustix::fs::Mode;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

struct Server {
    _folder: tempfile::TempDir,
    path: PathBuf,
    port: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let (controller, _node) = controller(Options::default()).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("garden.sock");
        let access = Access { mode: Mode::from_raw_mode(0o600), group: None };
        let addresses = [Address::Unix(path.clone()), "127.0.0.1:0".parse().unwrap()];
        let listeners = addresses.map(|address| Claim::new(&address).unwrap().listen(access).unwrap());
        let Address::Tcp(port) = *listeners[1].address() else { panic!("{listeners:?}") };
        let (stop, stopped) = oneshot::channel::<()>();
        let garden = Garden::new(controller, FixedFacts);
        let task = tokio::spawn(serve(listeners.into(), garden, async {
            let _ = stopped.await;
        }));
        Self { _folder: folder, path, port, stop, task }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }
}

/// Asks, and reads up to what is waited for.
async fn ask(stream: &mut UnixStream, request: &str, until: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(until) {
            assert_ne!(stream.read_buf(&mut all).await.unwrap(), 0, "closed after {all:?}");
        }
    };
    timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("{until:?} does not come"));
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn calls_and_streams_work_over_a_unix_socket() {
    let server = Server::start().await;
    let mut calls = server.connect().await;
    ask(&mut calls, &request("POST", "/containers", r#"{"handle":"h"}"#), r#"{"Handle":"h"}"#).await;
    // Kept alive.
    ask(&mut calls, &request("GET", "/ping", ""), "{}\n").await;

    let mut process = server.connect().await;
    let run = request("POST", "/containers/h/processes", r#"{"id":"p","path":"cat"}"#);
    let started = ask(&mut process, &run, "}\n").await;
    assert!(started.starts_with(CREATED), "{started}");
    let first: serde_json::Value = serde_json::from_str(&started[CREATED.len()..]).unwrap();
    let path = format!("/containers/h/processes/p/attaches/{}/stdout", first["stream_id"].as_str().unwrap());
    let mut stdout = server.connect().await;
    ask(&mut stdout, &request("GET", &path, ""), "\r\n\r\n").await;
    process.write_all(b"{\"source\":0,\"data\":\"through\"}\n{\"source\":0}\n").await.unwrap();
    let mut output = String::new();
    timeout(PATIENCE, stdout.read_to_string(&mut output)).await.unwrap().unwrap();
    assert!(output.ends_with("through"), "{output}");
    let mut last = String::new();
    timeout(PATIENCE, process.read_to_string(&mut last)).await.unwrap().unwrap();
    assert!(last.contains("\"exit_status\":0"), "{last}");
}

#[tokio::test]
async fn a_create_whose_client_left_its_unix_socket_is_undone() {
    let server = Server::start().await;
    let mut gone = server.connect().await;
    gone.write_all(request("POST", "/containers", r#"{"handle":"gone"}"#).as_bytes()).await.unwrap();
    drop(gone);
    let mut again = server.connect().await;
    garden_support::eventually(async || {
        let listed = ask(&mut again, &request("GET", "/containers?garden.state=all", ""), "]}\n").await;
        listed.ends_with("{\"Handles\":[]}\n")
    })
    .await;
}

#[tokio::test]
async fn every_address_serves_and_a_stop_leaves_no_socket() {
    let server = Server::start().await;
    for _ in 0..3 {
        let mut over_tcp = TcpStream::connect(server.port).await.unwrap();
        over_tcp.write_all(request("GET", "/ping", "").as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        over_tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        ask(&mut server.connect().await, &request("GET", "/ping", ""), "{}\n").await;
    }
    let Server { path, port, stop, task, _folder } = server;
    stop.send(()).unwrap();
    timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(!path.exists());
    assert!(TcpStream::connect(port).await.is_err());
}
