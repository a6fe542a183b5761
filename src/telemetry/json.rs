//! Logs as JSON: one object a line, flat. What the spans around an event say (which request, which
//! container) stands beside what the event says, so that one filter finds all of it; of two that say
//! the same, the innermost wins.

use serde_json::{Map, Value};
use std::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// What is for traces alone.
const OF_TRACES: &str = "otel.";

/// See the module.
pub(super) struct FlatJson;

impl<S> FormatEvent<S, JsonFields> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>() {
                add(&mut line, &fields.fields);
            }
        }
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        add(&mut line, &fields);
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let of_event = [
            ("timestamp", timestamp.as_str()),
            ("level", event.metadata().level().as_str()),
            ("target", event.metadata().target()),
        ];
        line.extend(of_event.map(|(name, value)| (name.to_owned(), Value::from(value))));
        writeln!(to, "{}", Value::Object(line))
    }
}

/// Fields, as `JsonFields` has written them.
fn add(line: &mut Map<String, Value>, fields: &str) {
    if let Ok(fields) = serde_json::from_str::<Map<String, Value>>(fields) {
        line.extend(fields.into_iter().filter(|(name, _)| !name.starts_with(OF_TRACES)));
    }
}
