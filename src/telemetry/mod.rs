//! Logs: structured, to stderr, filtered by `--log-level`; and traces, where a collector is named.
//!
//! A bare level speaks of gardend's own parts; libraries stay at `warn` unless a filter names
//! them. Colours only where stderr is a terminal and NO_COLOR is not set. What is logged and what is
//! traced are apart: a quiet log has whole traces.

mod json;
mod traces;

pub use traces::{SpanCounts, Traces, take_up_trace};

use clap::ValueEnum;
use schemars::JsonSchema;
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// What is ours to log.
const OURS: [&str; 3] = ["gardend", "gardend_controller", "garden_init"];

/// What to log: a level, or a filter in tracing's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    directives: String,
    given: String,
}

/// How to write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let text = given.trim();
        let level = text.to_ascii_lowercase();
        let directives = match level.as_str() {
            "off" | "error" => level,
            "warn" | "warning" => "warn".to_owned(),
            "info" | "debug" | "trace" => {
                OURS.iter().fold("warn".to_owned(), |all, part| format!("{all},{part}={level}"))
            }
            _ => text.to_owned(),
        };
        // A bare word would be taken for a module's name, and everything else fall silent.
        let bare = directives.split(',').any(|part| {
            let named = part.contains(['=', '[']) || part.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
            part.is_empty() || !named
        });
        if bare || EnvFilter::builder().parse(&directives).is_err() {
            return Err("neither error, warn, info, debug, trace nor a filter such as gardend=debug,h2=info".to_owned());
        }
        Ok(Self { directives, given: given.to_owned() })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// It was done before.
    #[error("logs are set up already")]
    AlreadySet,
    /// The filter was understood when it was parsed and is not any more.
    #[error("the log filter '{0}' is not understood")]
    Filter(String),
    /// The collector of traces cannot be one.
    #[error("--otlp-endpoint '{endpoint}' cannot be a collector: {reason}; say http://127.0.0.1:4317")]
    Collector {
        /// As given.
        endpoint: String,
        /// Why not.
        reason: String,
    },
}

/// Sets the process's logs up, once, and traces where `otlp_endpoint` names a collector.
///
/// # Errors
/// Where they are set up already, or the collector cannot be one.
pub fn init(
    filter: &LogFilter,
    format: LogFormat,
    otlp_endpoint: Option<&str>,
    spans: SpanCounts,
) -> Result<Option<Traces>, TelemetryError> {
    let filter =
        EnvFilter::builder().parse(&filter.directives).map_err(|_| TelemetryError::Filter(filter.given.clone()))?;
    let (tracer, traces) = match otlp_endpoint {
        Some(endpoint) => {
            let wrong = |reason| TelemetryError::Collector { endpoint: endpoint.to_owned(), reason };
            let (tracer, traces) = traces::begin(endpoint, spans).map_err(wrong)?;
            (Some(tracer), Some(traces))
        }
        None => (None, None),
    };
    let traced = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(is_traced))
    });
    let logged = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let logged = match format {
        LogFormat::Text => {
            let colours =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            logged.with_ansi(colours).with_filter(filter).boxed()
        }
        LogFormat::Json => logged
            .fmt_fields(JsonFields::new())
            .event_format(json::FlatJson)
            .with_ansi(false)
            .with_filter(filter)
            .boxed(),
    };
    let set = tracing_subscriber::registry().with(traced).with(logged).try_init();
    set.map_err(|_| TelemetryError::AlreadySet)?;
    Ok(traces)
}

/// Where traces go: where gardend's own option says, or else OpenTelemetry's variables; `None`: nowhere.
pub fn collector(option: Option<String>) -> Option<String> {
    collector_of(option, |name| std::env::var(name).ok())
}

fn collector_of(option: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let says = |name: &str, word: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
    if says("OTEL_SDK_DISABLED", "true") {
        return None;
    }
    let named = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"].into_iter().find_map(&variable);
    let named = named.filter(|named| !named.is_empty() && !says("OTEL_TRACES_EXPORTER", "none"));
    option.or(named)
}

/// Spans that are worth a place in a trace, and what went wrong in them.
fn is_traced(metadata: &tracing::Metadata<'_>) -> bool {
    let level = if metadata.is_span() { tracing::Level::INFO } else { tracing::Level::WARN };
    *metadata.level() <= level && OURS.iter().any(|part| metadata.target().starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_speaks_of_our_own_parts() {
        let filter: LogFilter = "DEBUG".parse().unwrap();
        assert_eq!(filter.directives, "warn,gardend=debug,gardend_controller=debug,garden_init=debug");
        assert_eq!(filter.to_string(), "DEBUG");
        assert_eq!("error".parse::<LogFilter>().unwrap().directives, "error");
    }

    #[test]
    fn a_filter_is_taken_as_it_is_and_a_word_that_is_no_level_is_refused() {
        assert_eq!("info,h2=trace".parse::<LogFilter>().unwrap().directives, "info,h2=trace");
        for wrong in ["loud", "", "gardend=loud", "info,oops"] {
            assert!(wrong.parse::<LogFilter>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_collector_is_the_options_or_else_that_of_opentelemetrys_variables() {
        let with = |option: Option<&str>, variables: &[(&str, &str)]| {
            let variable =
                |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
            collector_of(option.map(str::to_owned), variable)
        };
        let both =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:2")];
        assert_eq!(with(None, &[]), None);
        assert_eq!(with(None, &both).as_deref(), Some("http://b:2"));
        assert_eq!(with(Some("http://c:3"), &both).as_deref(), Some("http://c:3"));
        assert_eq!(with(None, &[both[0], ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert_eq!(with(Some("http://c:3"), &[("OTEL_SDK_DISABLED", "true")]), None);
    }
}
