//! What those who watch are told of a real gardend, with a containerd: that docs/metrics.md lists all
//! of it and nothing else, that a containerd which does not answer is seen, and that traces arrive.

#[path = "common/census.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod census;
#[path = "common/rootfs.rs"]
mod rootfs;
#[path = "common/server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod server;
#[path = "common/wire.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod wire;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::{Signal, kill_process};
use server::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `--metrics-listen` answers.
fn get(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A metric: its type, its labels, what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

/// All that a page of Prometheus's text tells of, by name.
fn served(page: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            found.entry(name.to_owned()).or_default().meaning = meaning.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            found.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let base = |end: &str| name.strip_suffix(end).filter(|base| found.contains_key(*base)).map(str::to_owned);
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| base(end)).unwrap_or_else(|| name.to_owned());
            let labels = labels.rsplit_once('}').expect("labels end").0;
            let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
            let names = names.filter(|name| *name != "le").map(str::to_owned);
            found.get_mut(&of).unwrap_or_else(|| panic!("{line} is of no metric")).labels.extend(names);
        }
    }
    found
}

/// As the document has it.
fn row(name: &str, Metric { kind, labels, meaning }: &Metric) -> String {
    let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
    format!("| `{name}` | {kind} | {labels} | {meaning} |")
}

/// The rows of the document's tables: `| name | type | labels | meaning |`.
fn documented() -> BTreeMap<String, Metric> {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).expect("docs/metrics.md");
    let word = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, kind, labels, meaning] = cells.as_slice() else { panic!("four cells in {line}") };
        let labels = labels.split(',').map(word).filter(|label| !label.is_empty() && label != "-").collect();
        Some((word(name), Metric { kind: word(kind), labels, meaning: meaning.trim().to_owned() }))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_document_lists_every_metric_that_is_served_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("m.sock");
    let server = Server::start(&["--metrics-listen", &format!("unix://{}", socket.display())]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    server.garden.create("c", &root).expect("a container");
    assert_eq!(server.garden.output("c", "echo fine").expect("a process"), (0, "fine\n".into()));
    server.garden.destroy("c").expect("a destroy");
    let (status, page) = get(&socket, "/metrics");
    assert_eq!(status, 200, "{page}");
    let (served, documented) = (served(&page), documented());
    let wrong = served.iter().filter(|(name, metric)| documented.get(*name) != Some(metric));
    let rows: Vec<_> = wrong.map(|(name, metric)| row(name, metric)).collect();
    assert!(rows.is_empty(), "docs/metrics.md is to have these rows:\n{}", rows.join("\n"));
    let missing: Vec<_> = documented.keys().filter(|name| !served.contains_key(*name)).collect();
    assert!(missing.is_empty(), "docs/metrics.md has what is not served: {missing:?}");
    // Nothing in there comes from a client.
    assert!(!page.contains("echo fine") && !page.contains(&root.display().to_string()), "{page}");
}

#[test]
fn a_containerd_that_does_not_answer_makes_gardend_unready_and_does_not_end_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("m.sock");
    let server = Server::start(&["--pool-size", "0", "--metrics-listen", &format!("unix://{}", socket.display())]);
    let (status, page) = get(&socket, "/readyz?verbose");
    assert_eq!(status, 200, "{page}");
    for check in ["ledger", "containerd", "places", "reconciler", "sweeper", "network"] {
        assert!(page.contains(&format!("[+]{check} ok\n")), "{check} in {page}");
    }
    let containerd = server.containerd().expect("a containerd runs");
    kill_process(containerd, Signal::STOP).expect("it runs");
    let page = eventually("it is not ready", || Some(get(&socket, "/readyz")).filter(|answer| answer.0 == 503)).1;
    assert!(page.contains("[-]containerd failed: containerd did not answer within 2 s\n"), "{page}");
    assert!(page.contains("[+]ledger ok\n"), "{page}");
    assert_eq!(get(&socket, "/livez").0, 200);
    kill_process(containerd, Signal::CONT).expect("it runs");
    eventually("it is ready again", || Some(()).filter(|()| get(&socket, "/readyz").0 == 200));
}

/// A collector that keeps what it is given.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            let named = resource.resource.iter().flat_map(|resource| &resource.attributes);
            assert!(named.into_iter().any(|attribute| attribute.key == "service.name"));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans);
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that serves, and where.
    fn start(runtime: &tokio::runtime::Runtime) -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("its address");
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

/// One call with headers of the test's own.
fn call(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("gardend listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_create_and_a_run_are_traced_below_the_span_of_who_asked() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (collector, address) = Collector::start(&runtime);
    let mut server =
        Server::start(&["--pool-size", "0", "--log-format", "json", "--otlp-endpoint", &format!("http://{address}")]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let headers = format!("traceparent: 00-{trace}-{parent}-01\r\nX-Request-Id: build-7\r\n");
    let body = format!(r#"{{"handle":"traced","image":{{"uri":"{}"}}}}"#, root.display());
    let answer = call(server.garden.address, "POST", "/containers", &headers, &body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("x-request-id: build-7"), "{answer}");
    // What the reconciler did for the request is logged with its name, and with the container's, side by side.
    // The answer may be there before the line is.
    let ready = eventually("a line of the reconciler", || {
        let log = server.log_end();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.find(|line| line["message"] == "container is ready")
    });
    assert_eq!((&ready["request_id"], &ready["handle"]), (&"build-7".into(), &"traced".into()), "{ready}");
    assert!(ready["timestamp"].is_string() && ready["level"] == "INFO", "{ready}");
    assert_eq!(server.garden.output("traced", "true").expect("a process").0, 0);
    server.garden.destroy("traced").expect("a destroy");
    server.terminate();

    let find = |spans: &[Span], name: &str| spans.iter().find(|span| span.name == name).cloned();
    let request = eventually("the create's span", || find(&collector.spans(), "POST /containers"));
    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((hex(&request.trace_id).as_str(), hex(&request.parent_span_id).as_str()), (trace, parent));
    for name in ["make_place", "furnish", "connect", "confirm"] {
        let step = find(&spans, name).unwrap_or_else(|| panic!("{name} among {names:?}"));
        assert_eq!((&step.trace_id, &step.parent_span_id), (&request.trace_id, &request.span_id), "{name}");
    }
    let furnish = find(&spans, "furnish").expect("it was found above");
    let rootfs = find(&spans, "rootfs").unwrap_or_else(|| panic!("rootfs among {names:?}"));
    assert_eq!(rootfs.parent_span_id, furnish.span_id);
    // A request without a parent begins a trace of its own.
    let run = find(&spans, "POST /containers/{handle}/processes").unwrap_or_else(|| panic!("a run among {names:?}"));
    let spawn = find(&spans, "spawn").unwrap_or_else(|| panic!("spawn among {names:?}"));
    assert_eq!((spawn.parent_span_id, spawn.trace_id), (run.span_id, run.trace_id.clone()));
    assert_ne!(run.trace_id, request.trace_id);
}

#[test]
fn a_collector_that_never_answers_costs_spans_and_no_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("m.sock");
    let server = Server::start(&[
        "--pool-size",
        "0",
        "--otlp-endpoint",
        &format!("http://{address}"),
        "--metrics-listen",
        &format!("unix://{}", socket.display()),
    ]);
    // More than wait in the queue.
    let mut stream = TcpStream::connect(server.garden.address).expect("gardend listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let dropped = || {
        let (_, page) = get(&socket, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(r#"gardend_trace_spans_total{outcome="dropped"} "#));
        line.and_then(|value| value.parse::<f64>().ok()).expect("a figure")
    };
    let mut asked = 0;
    eventually("spans are dropped", || {
        let many = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500);
        stream.write_all(many.as_bytes()).expect("requests");
        let (mut answers, mut buffer) = (0, [0; 16384]);
        let mut rest = Vec::new();
        while answers < 500 {
            let read = stream.read(&mut buffer).expect("answers");
            assert_ne!(read, 0, "the connection ended");
            rest.extend_from_slice(&buffer[..read]);
            answers = rest.windows(12).filter(|window| *window == b"HTTP/1.1 200").count();
        }
        asked += 500;
        (dropped() > 0.0).then_some(())
    });
    assert!(asked >= 4096, "dropped after {asked} requests");
    assert!(server.garden.ping().is_ok());
}
