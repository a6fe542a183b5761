//! What those who watch are told, over a real listener, of a controller whose node is in memory.

mod garden_support;

use async_trait::async_trait;
use garden_support::*;
use gardend::garden::Requests;
use gardend::metrics::{Checks, Extra, Metrics, Subject, Watched, serve};
use gardend::net::Address;
use gardend_controller::fake::{Call, Fault};
use gardend_controller::observe::Observing;
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::{Controller, Counts, Health, Options};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

struct Node(Controller);

#[async_trait]
impl Checks for Node {
    async fn check(&self) -> Vec<Health> {
        self.0.health().await
    }
}

#[async_trait]
impl Subject for Node {
    fn counts(&self) -> Counts {
        self.0.counts()
    }

    async fn extra(&self) -> Extra {
        Extra { shims: 3, images: None }
    }
}

struct Watcher {
    address: SocketAddr,
    watched: Watched,
    server: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Watcher {
    async fn get(&self, path: &str, accept: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    async fn figures(&self) -> String {
        let (status, page) = self.get("/metrics", "text/plain").await;
        assert_eq!(status, 200, "{page}");
        page
    }

    /// The value of a series, by its whole name.
    async fn value(&self, series: &str) -> f64 {
        let page = self.figures().await;
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in {page}")).trim().parse().unwrap()
    }
}

/// A server of Garden's, and its watcher, which has not been told yet that it has started.
async fn watched(options: Options) -> (Server, Controller, Watcher) {
    let mut metrics = Metrics::new("1", "abc");
    let requests = Requests::default();
    requests.register(metrics.registry());
    let options = Options { observing: Observing::by(metrics.events()), ..options };
    let (controller, node) = controller(options).await;
    let server = Server::start_on(controller.clone(), node, |garden| garden.with_requests(requests)).await;
    let watched = Watched::new(metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = gardend::net::Listener::try_from(listener).unwrap();
    let Address::Tcp(address) = *listener.address() else { panic!("a port") };
    let served = tokio::spawn(serve(listener, watched.clone()));
    (server, controller, Watcher { address, watched, server: served })
}

#[tokio::test]
async fn what_clients_do_shows_in_the_figures() {
    let (server, controller, watcher) = watched(Options::default()).await;
    watcher.watched.started(Node(controller));
    server.create("zebra").await;
    server.create("okapi").await;
    server.call("POST", "/containers", r#"{"handle":"zebra"}"#).await.message();
    let (mut client, started) = server.run("zebra", r#"{"path":"cat"}"#).await;
    assert_eq!(watcher.value("gardend_processes").await, 1.0);
    client.send(r#"{"source":0}"#).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    server.call("DELETE", "/containers/okapi", "").await.ok();
    server.call("BREW", "/containers/okapi/coffee", "").await.message();

    for (series, value) in [
        (r#"gardend_create_duration_seconds_count{outcome="done"}"#, 2.0),
        (r#"gardend_create_duration_seconds_count{outcome="refused"}"#, 1.0),
        (r#"gardend_run_duration_seconds_count{outcome="done"}"#, 1.0),
        (r#"gardend_destroy_duration_seconds_count{outcome="done"}"#, 1.0),
        (r#"gardend_processes_ended_total{outcome="succeeded"}"#, 1.0),
        (r#"gardend_containers{phase="ready"}"#, 1.0),
        (r#"gardend_http_requests_total{method="POST",route="/containers",code="200"}"#, 2.0),
        // Taken over: what its stream began with.
        (r#"gardend_http_requests_total{method="POST",route="/containers/{handle}/processes",code="201"}"#, 1.0),
        (r#"gardend_http_requests_total{method="other",route="unknown",code="404"}"#, 1.0),
        ("gardend_http_requests_in_flight", 0.0),
        ("gardend_containers_max", 250.0),
        ("gardend_shims", 3.0),
        (r#"gardend_build_info{version="1",commit="abc"}"#, 1.0),
    ] {
        assert_eq!(watcher.value(series).await, value, "{series}");
    }
    assert!(watcher.value(r#"gardend_step_duration_seconds_count{step="furnish"}"#).await >= 2.0);
    assert!(watcher.value("process_open_fds").await > 2.0);
    let page = watcher.figures().await;
    assert!(!page.contains("zebra") && !page.contains("coffee"), "{page}");
}

#[tokio::test]
async fn a_failed_create_is_counted_by_its_stage() {
    let (server, controller, watcher) = watched(Options { pool_size: 0, ..Options::default() }).await;
    watcher.watched.started(Node(controller));
    server.node.fail(Call::Furnish, Fault::Before(NodeErrorKind::Invalid), 1);
    server.call("POST", "/containers", r#"{"handle":"c"}"#).await.message();
    assert_eq!(watcher.value(r#"gardend_create_failures_total{stage="rootfs"}"#).await, 1.0);
    assert_eq!(watcher.value(r#"gardend_create_failures_total{stage="connect"}"#).await, 0.0);
    assert_eq!(watcher.value(r#"gardend_step_failures_total{step="furnish"}"#).await, 1.0);
}

#[tokio::test]
async fn a_gardend_that_starts_is_alive_and_not_ready() {
    let (_server, controller, watcher) = watched(Options::default()).await;
    assert_eq!(watcher.get("/livez", "*/*").await.0, 200);
    let (status, page) = watcher.get("/readyz", "*/*").await;
    assert_eq!(status, 503);
    assert!(page.contains("[-]start failed: gardend is starting\n"), "{page}");
    watcher.watched.started(Node(controller));
    assert!(watcher.get("/readyz", "*/*").await.1.ends_with("\r\n\r\nok\n"));
    let (status, page) = watcher.get("/readyz?verbose", "*/*").await;
    assert_eq!(status, 200);
    for check in ["ledger", "places", "reconciler", "sweeper", "network"] {
        assert!(page.contains(&format!("[+]{check} ok\n")), "{check} in {page}");
    }
    assert_eq!(watcher.get("/nowhere", "*/*").await.0, 404);
}

#[tokio::test]
async fn what_is_wrong_is_told_and_does_not_end_life() {
    let node = gardend_controller::fake::FakeNode::new();
    let ledger = gardend_controller::Ledger::in_memory();
    let controller = Controller::start(Options::default(), ledger.clone(), node.node(), "one boot").await.unwrap();
    let watched = Watched::new(Metrics::new("1", ""));
    watched.started(Node(controller.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener.try_into().unwrap(), watched.clone()));
    let watcher = Watcher { address, watched, server };
    assert_eq!(watcher.get("/readyz", "*/*").await.0, 200);

    ledger.pretend_full(true);
    let (status, page) = watcher.get("/readyz", "*/*").await;
    assert_eq!(status, 503);
    assert!(page.contains("[-]ledger failed: ") && page.contains("[+]reconciler ok\n"), "{page}");
    assert_eq!(watcher.value(r#"gardend_healthy{check="ledger"}"#).await, 0.0);
    ledger.pretend_full(false);
    node.containerd_away(true);
    // A create is the first to notice.
    let request = gardend_controller::record::CreateRequest::default();
    let create = tokio::spawn(async move { controller.create(request).await });
    eventually(async || watcher.get("/readyz", "*/*").await.0 == 503).await;
    let (_, page) = watcher.get("/readyz", "*/*").await;
    assert!(page.contains("[-]places failed: a part of the node does not answer"), "{page}");
    assert_eq!(watcher.get("/livez", "*/*").await.0, 200);
    create.abort();
}

#[tokio::test]
async fn both_ways_to_write_figures_are_understood() {
    let (_server, controller, watcher) = watched(Options::default()).await;
    watcher.watched.started(Node(controller));
    let (_, prometheus) = watcher.get("/metrics", "text/plain").await;
    assert!(prometheus.contains("text/plain; version=0.0.4") && !prometheus.contains("# EOF"), "{prometheus}");
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
    let (_, open) = watcher.get("/metrics", accept).await;
    assert!(open.contains("application/openmetrics-text; version=1.0.0"), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test]
async fn a_request_is_called_what_its_client_calls_it() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("GET /ping HTTP/1.1\r\nHost: x\r\nX-Request-Id: build-7\r\n\r\n").await;
    assert_eq!(client.answer().await.header("x-request-id"), Some("build-7"));
    // The next on the same connection has a name of its own, and so has one whose name is none.
    let first = client.call("GET", "/ping", "").await.header("x-request-id").unwrap().to_owned();
    client.send("GET /ping HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b\r\n\r\n").await;
    let second = client.answer().await.header("x-request-id").unwrap().to_owned();
    assert!(first != second && !second.contains(' ') && first != "build-7", "{first} {second}");

    server.create("c").await;
    let (body, mut client) = (r#"{"path":"cat"}"#, server.connect().await);
    client
        .send(format!(
            "POST /containers/c/processes HTTP/1.1\r\nHost: x\r\nX-Request-Id: run-1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(client.head().await.contains("X-Request-Id: run-1\r\n"));
}
