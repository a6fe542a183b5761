//! Logs: structured, to stderr, filtered by `--log-level`.
//!
//! A bare level speaks of gardend's own parts; libraries stay at `warn` unless a filter names
//! them. Colours only where stderr is a terminal and NO_COLOR is not set.

use clap::ValueEnum;
use schemars::JsonSchema;
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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
}

/// Sets the process's logs up, once.
///
/// # Errors
/// Where they are set up already.
pub fn init(filter: &LogFilter, format: LogFormat) -> Result<(), TelemetryError> {
    let filter =
        EnvFilter::builder().parse(&filter.directives).map_err(|_| TelemetryError::Filter(filter.given.clone()))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_span_events(FmtSpan::NONE);
    let set = match format {
        LogFormat::Text => {
            let colours =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_ansi(colours).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    set.map_err(|_| TelemetryError::AlreadySet)
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
}
