//! What is counted of requests, and how each is called.
//!
//! Labels are routes and never paths; methods and routes that are none of Garden's count as one, so
//! that no client can make series.
//!
//! A request that takes its connection over is over, for these figures, once its stream begins; one
//! whose client went away before it was answered has the code 499, as nginx has it.

use super::takeover::Exchange;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a request is called, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest name that a client may give its request.
const LONGEST_ID: usize = 128;
/// The client was gone before it was answered.
const CLIENT_GONE: u16 = 499;
/// Seconds, from what is in memory to what waits for a deadline.
const BOUNDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: String,
}

/// Counts requests. All clones are one.
#[derive(Clone)]
pub struct Requests {
    answered: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            answered: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            in_flight: Gauge::default(),
        }
    }
}

impl Requests {
    /// Makes the figures known by their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests of Garden's clients that were answered, taken over, or left (499)",
            self.answered.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "How long it took to answer requests of Garden's clients, or to begin their streams",
            self.durations.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests of Garden's clients that are not answered yet",
            self.in_flight.clone(),
        );
    }

    /// Follows one to its end.
    pub(super) fn follow(&self, method: &Method, route: Option<&str>, exchange: Option<Exchange>) -> Following {
        self.in_flight.inc();
        Following {
            requests: self.clone(),
            asked: Asked { method: name(method), route: route.unwrap_or("unknown").to_owned() },
            exchange,
            began: Instant::now(),
            status: None,
        }
    }
}

/// A request that is going on.
pub(super) struct Following {
    requests: Requests,
    asked: Asked,
    exchange: Option<Exchange>,
    began: Instant,
    status: Option<StatusCode>,
}

impl Following {
    pub(super) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let taken_over = || self.exchange.as_ref().and_then(Exchange::taken_over);
        let code = self.status.or_else(taken_over).map_or(CLIENT_GONE, |status| status.as_u16());
        let Asked { method, route } = self.asked.clone();
        let requests = &self.requests;
        requests.in_flight.dec();
        requests.durations.get_or_create(&self.asked).observe(self.began.elapsed().as_secs_f64());
        requests.answered.get_or_create(&Answered { method, route, code }).inc();
    }
}

fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}

/// What a client calls its request, where that is a name: it goes to logs and back into a header.
pub(super) fn given_id(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (!given.is_empty() && given.len() <= LONGEST_ID && given.bytes().all(plain)).then_some(given)
}

/// A name for a request whose client gave none: that of this run of gardend, and a number.
pub(super) fn new_id() -> String {
    static RUN: LazyLock<u32> = LazyLock::new(|| getrandom::u32().unwrap_or_else(|_| std::process::id()));
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    format!("{:08x}-{}", *RUN, NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::prometheus_text;

    fn text(requests: &Requests) -> String {
        let (mut registry, mut page) = (Registry::default(), String::new());
        requests.register(&mut registry);
        prometheus_text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_client_makes_no_series_with_what_it_invents() {
        let requests = Requests::default();
        for word in ["BREW", "STEW"] {
            let method = Method::from_bytes(word.as_bytes()).unwrap();
            requests.follow(&method, None, None).answered(StatusCode::NOT_FOUND);
        }
        let page = text(&requests);
        assert!(page.contains(r#"http_requests_total{method="other",route="unknown",code="404"} 2"#), "{page}");
    }

    #[test]
    fn a_request_that_nobody_waited_for_is_counted_as_left() {
        let requests = Requests::default();
        let following = requests.follow(&Method::POST, Some("/containers"), None);
        assert!(text(&requests).contains("http_requests_in_flight 1"));
        drop(following);
        let page = text(&requests);
        assert!(page.contains("http_requests_in_flight 0"), "{page}");
        assert!(page.contains(r#"{method="POST",route="/containers",code="499"} 1"#), "{page}");
    }

    #[test]
    fn a_name_that_would_disturb_a_log_or_a_header_is_not_taken() {
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, text.parse().unwrap());
            given_id(&headers).map(str::to_owned)
        };
        assert_eq!(given("build-7/step:2@atc").as_deref(), Some("build-7/step:2@atc"));
        for wrong in ["", "a b", "a\"b", &"x".repeat(129)] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
        assert_ne!(new_id(), new_id());
    }
}
