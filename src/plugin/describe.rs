//! `kubectl garden describe`: a container's object, its events, and what its node knows of it.

use super::args::{DescribeArgs, Line};
use super::cluster::Cluster;
use super::exec::Mode;
use super::ps::age;
use super::session;
use crate::cli::outcome::Failure;
use crate::cli::output::{Cell, Tone, Ui, report_error};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use std::process::ExitCode;

pub(super) async fn describe(cluster: &Cluster, args: &DescribeArgs) -> Result<ExitCode, Failure> {
    let ui = Ui::new();
    let target = cluster.find(&args.handle).await?;
    match &target.object {
        Some(name) => {
            let mut object = cluster.object(name).await?;
            // Who wrote which field tells nothing about the container.
            object.metadata.managed_fields = None;
            let object = serde_yaml::to_string(&object).map_err(|error| Failure::Words(error.to_string()))?;
            ui.text(&format!("Object {name}:\n{}", indented(&object)))?;
            events(cluster, &ui, name).await?;
        }
        None => ui.text("Object: none; the mirror does not show it\n\n")?,
    }
    ui.text(&format!("On node {}:\n", target.node))?;
    let pod = cluster.pod_on(&target.node).await?;
    let line = Line::new(["info", "--"]).word(&target.handle);
    session::attend(cluster, &pod, &line, Mode::OUTPUT).await.map(ExitCode::from)
}

/// Who may not read events is told so, and has the rest.
async fn events(cluster: &Cluster, ui: &Ui, object: &str) -> Result<(), Failure> {
    let events = match cluster.events(object).await {
        Ok(events) => events,
        Err(failure) => {
            report_error(&failure.words().unwrap_or_default());
            return ui.text("\nEvents: not to be had\n\n");
        }
    };
    if events.is_empty() {
        return ui.text("\nEvents: none\n\n");
    }
    let mut events: Vec<_> = events.into_iter().map(|event| (last_seen(&event), event)).collect();
    events.sort_by_key(|(seen, _)| *seen);
    let now = Timestamp::now();
    ui.text("\nEvents:\n")?;
    ui.table(
        &["  LAST SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"],
        events.into_iter().map(|(seen, event)| cells(seen, event, now)).collect(),
    )?;
    ui.text("\n")
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let in_series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let classic = event.last_timestamp.as_ref().map(|time| time.0);
    in_series.or(classic).or_else(|| event.event_time.as_ref().map(|time| time.0))
}

fn cells(seen: Option<Timestamp>, event: Event, now: Timestamp) -> Vec<Cell> {
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    let kind = event.type_.unwrap_or_default();
    let tone = if kind == "Warning" { Tone::Doubtful } else { Tone::Plain };
    let seen = seen.map_or_else(|| "-".to_owned(), |seen| age(now.duration_since(seen).as_secs()));
    vec![
        format!("  {seen}").into(),
        Cell::toned(kind, tone),
        event.reason.unwrap_or_default().into(),
        count.to_string().into(),
        event.message.unwrap_or_default().into(),
    ]
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_was_last_seen_when_its_series_was() {
        let event: Event = serde_json::from_value(serde_json::json!({
            "metadata": {}, "involvedObject": {}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "series": { "count": 3, "lastObservedTime": "2026-01-02T00:00:00.000000Z" },
        }))
        .unwrap();
        assert_eq!(last_seen(&event).unwrap().to_string(), "2026-01-02T00:00:00Z");
        let single = Event { series: None, ..event };
        assert_eq!(last_seen(&single).unwrap().to_string(), "2026-01-01T00:00:00Z");
    }
}
