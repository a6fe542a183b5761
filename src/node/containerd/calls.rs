//! Calls to containerd, counted on their way: whichever of its services is asked, by its method.
//!
//! What is measured is the time to the head of the answer, which for all but streams comes with the
//! answer itself. A call that was given up (its deadline, or whoever waited went away) counts as
//! cancelled.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

/// Seconds, from containerd's own database to a shim that is started.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 20.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    service: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    service: String,
    method: String,
    code: &'static str,
}

/// Counts calls to containerd. All clones are one.
#[derive(Clone, Debug)]
pub struct Calls {
    ended: Family<Ended, Counter>,
    durations: Family<Method, Histogram, fn() -> Histogram>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { ended: Family::default(), durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)) }
    }
}

impl Calls {
    /// Makes the figures known by their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("containerd_calls", "Calls to containerd, by what it answered", self.ended.clone());
        registry.register(
            "containerd_call_duration_seconds",
            "How long containerd took to answer",
            self.durations.clone(),
        );
    }

    fn follow(&self, path: &str) -> Following {
        let method = Method::of(path);
        Following { calls: self.clone(), method, began: Instant::now(), code: Code::Cancelled }
    }
}

impl Method {
    /// `/containerd.services.tasks.v1.Tasks/Create` is Create of tasks. We call a few dozen of them.
    fn of(path: &str) -> Self {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let service = service.rsplit('.').next().unwrap_or(service).to_ascii_lowercase();
        Self { service, method: method.to_owned() }
    }
}

/// A call that is going on.
struct Following {
    calls: Calls,
    method: Method,
    began: Instant,
    code: Code,
}

impl Following {
    fn ended(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.calls.durations.get_or_create(&self.method).observe(self.began.elapsed().as_secs_f64());
        let Method { service, method } = self.method.clone();
        self.calls.ended.get_or_create(&Ended { service, method, code: name(self.code) }).inc();
    }
}

/// The connection, with every call counted.
#[derive(Clone, Debug)]
pub struct Metered {
    channel: Channel,
    calls: Calls,
}

impl Metered {
    pub(super) fn new(channel: Channel, calls: Calls) -> Self {
        Self { channel, calls }
    }
}

impl Service<http::Request<Body>> for Metered {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let following = self.calls.follow(request.uri().path());
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await;
            following.ended(match &answer {
                Ok(answer) => code_of(answer),
                Err(_) => Code::Unavailable,
            });
            answer
        })
    }
}

/// A call that failed says so in its head; one that did not, at its end.
fn code_of<T>(answer: &http::Response<T>) -> Code {
    answer.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// As gRPC's documents write it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::prometheus_text;

    #[test]
    fn a_call_is_counted_by_service_and_method_however_it_ends() {
        let calls = Calls::default();
        let answered = calls.follow("/containerd.services.tasks.v1.Tasks/Create");
        let refused = http::Response::builder().header("grpc-status", "5").body(()).unwrap();
        answered.ended(code_of(&refused));
        drop(calls.follow("/containerd.services.version.v1.Version/Version"));
        let (mut registry, mut page) = (Registry::default(), String::new());
        calls.register(&mut registry);
        prometheus_text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"containerd_calls_total{service="tasks",method="Create",code="NotFound"} 1"#,
            r#"containerd_calls_total{service="version",method="Version",code="Canceled"} 1"#,
            r#"containerd_call_duration_seconds_count{service="tasks",method="Create"} 1"#,
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }
}
