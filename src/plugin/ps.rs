//! `kubectl garden ps`: containers, as the objects show them, or as the nodes themselves say.

use super::args::{Line, PsArgs};
use super::cluster::Cluster;
use super::nodes::{GardendPod, State};
use crate::cli::outcome::{Failure, Status};
use crate::cli::output::{Cell, Tone, Ui, note, report_error};
use futures_util::{StreamExt, stream};
use gardend_crds::{ConditionStatus, GardenContainer};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;

/// Nodes that are asked at once.
const AT_ONCE: usize = 16;
/// How long one may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A container in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) node: String,
    pub(super) handle: String,
    /// The name of its object.
    object: Option<String>,
    ready: Option<String>,
    state: String,
    processes: Option<i64>,
    image: Option<String>,
    created: Option<String>,
}

/// What `gardend ls --json` says of one.
#[derive(Deserialize)]
struct Seen {
    handle: String,
    state: String,
    processes: Vec<String>,
}

pub(super) async fn ps(cluster: &Cluster, args: &PsArgs) -> Result<ExitCode, Failure> {
    let objects = if args.live { None } else { cluster.objects().await? };
    let (mut rows, silent) = match objects.filter(|objects| !objects.is_empty()) {
        Some(objects) => (objects.iter().map(shown).collect(), Vec::new()),
        // No mirror, or one that has nothing to show: the nodes know.
        None => ask_nodes(cluster).await?,
    };
    rows.sort_by(|one, other| (&one.node, &one.handle).cmp(&(&other.node, &other.handle)));
    let ui = Ui::new();
    if args.json.json {
        ui.json(&rows)?;
    } else {
        let now = Timestamp::now();
        let headings = ["NODE", "HANDLE", "READY", "STATE", "PROCESSES", "IMAGE", "AGE"];
        ui.table(&headings, rows.into_iter().map(|row| cells(row, now)).collect())?;
    }
    for (node, why) in &silent {
        report_error(&format!("node {node} could not be asked: {why}"));
    }
    if silent.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Failure::Told(Status::Failed)) }
}

fn shown(object: &GardenContainer) -> Row {
    let status = object.status.as_ref();
    let ready = status.and_then(|status| status.conditions.iter().find(|condition| condition.kind == "Ready"));
    Row {
        node: object.spec.node_name.clone(),
        handle: object.spec.handle.clone().unwrap_or_else(|| object.name_any()),
        object: Some(object.name_any()),
        ready: ready.map(|condition| ready_word(condition.status).to_owned()),
        state: status
            .and_then(|status| status.phase)
            .map_or_else(|| "Unknown".to_owned(), |phase| format!("{phase:?}")),
        processes: status.and_then(|status| status.running_processes),
        image: object.spec.image.clone().or_else(|| object.spec.rootfs.clone()),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()),
    }
}

fn ready_word(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

fn cells(row: Row, now: Timestamp) -> Vec<Cell> {
    let tone = match row.ready.as_deref() {
        Some("True") => Tone::Good,
        Some("False") => Tone::Bad,
        _ => Tone::Doubtful,
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let created = row.created.and_then(|text| text.parse::<Timestamp>().ok());
    vec![
        row.node.into(),
        row.handle.into(),
        Cell::toned(or_none(row.ready), tone),
        row.state.into(),
        or_none(row.processes.map(|count| count.to_string())).into(),
        or_none(row.image).into(),
        or_none(created.map(|created| age(now.duration_since(created).as_secs()))).into(),
    ]
}

/// The largest unit that counts, as kubectl has it.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// What the nodes say that they have, and those that say nothing, with the reason.
pub(super) async fn ask_nodes(cluster: &Cluster) -> Result<(Vec<Row>, Vec<(String, String)>), Failure> {
    let pods = by_node(cluster.some_pods().await?);
    if pods.len() > AT_ONCE {
        note(&format!("asking {} nodes", pods.len()));
    }
    let answers: Vec<_> = stream::iter(pods)
        .map(|(node, pod)| async move {
            let answer = timeout(ANSWER, ask_node(cluster, &pod)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER.as_secs())));
            (node, answer)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let (mut rows, mut silent) = (Vec::new(), Vec::new());
    for (node, answer) in answers {
        match answer {
            Ok(seen) => rows.extend(seen.into_iter().map(|seen| said(&node, seen))),
            Err(why) => silent.push((node, why)),
        }
    }
    silent.sort();
    Ok((rows, silent))
}

/// The best pod of each node.
pub(super) fn by_node(pods: Vec<GardendPod>) -> BTreeMap<String, GardendPod> {
    let mut best: BTreeMap<String, GardendPod> = BTreeMap::new();
    for pod in pods.into_iter().filter(|pod| !pod.node.is_empty()) {
        let known = best.get(&pod.node);
        if known.is_none_or(|known| pod.state < known.state) {
            best.insert(pod.node.clone(), pod);
        }
    }
    best
}

async fn ask_node(cluster: &Cluster, pod: &GardendPod) -> Result<Vec<Seen>, String> {
    if let State::Down(why) = &pod.state {
        return Err(format!("its pod '{}' is {why}", pod.name));
    }
    let said = cluster.capture(pod, &Line::new(["ls", "--all", "--json"])).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&said.stdout).map_err(|_| said.complaint())
}

fn said(node: &str, seen: Seen) -> Row {
    Row {
        node: node.to_owned(),
        handle: seen.handle,
        object: None,
        ready: None,
        state: seen.state,
        processes: i64::try_from(seen.processes.len()).ok(),
        image: None,
        created: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_as_its_object_shows_it() {
        let object: GardenContainer = serde_json::from_value(serde_json::json!({
            "apiVersion": "gardend.dev/v1alpha1", "kind": "GardenContainer",
            "metadata": { "name": "web-1a", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": "n", "handle": "web", "image": "docker:///busybox" },
            "status": { "phase": "Ready", "runningProcesses": 2, "conditions": [
                { "type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z" }
            ] },
        }))
        .unwrap();
        let row = shown(&object);
        assert_eq!((row.node.as_str(), row.handle.as_str(), row.state.as_str()), ("n", "web", "Ready"));
        assert_eq!((row.ready.as_deref(), row.processes), (Some("True"), Some(2)));
        assert_eq!(row.created.as_deref(), Some("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn each_node_is_asked_once_by_its_best_pod() {
        let pod = |name: &str, node: &str, state| GardendPod { name: name.to_owned(), node: node.to_owned(), state };
        let pods = vec![
            pod("going", "n", State::Going),
            pod("ready", "n", State::Ready),
            pod("running", "n", State::Running),
            pod("nowhere", "", State::Down("Pending".to_owned())),
            pod("down", "m", State::Down("Pending".to_owned())),
        ];
        let names: Vec<_> = by_node(pods).into_values().map(|pod| pod.name).collect();
        assert_eq!(names, ["down", "ready"]);
    }

    #[test]
    fn ages_are_as_kubectl_s() {
        for (seconds, text) in [(-5, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
