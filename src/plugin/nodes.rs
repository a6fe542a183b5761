//! gardend's pods, and which of them answers for a node.

use crate::cli::outcome::Failure;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;

/// gardend's container among those of its pod.
pub(super) const CONTAINER: &str = "gardend";

/// A pod of gardend's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GardendPod {
    pub(super) name: String,
    /// Empty where it has none yet.
    pub(super) node: String,
    pub(super) state: State,
}

/// How a pod's gardend is; the best first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It serves.
    Ready,
    /// It runs.
    Running,
    /// It runs, and the pod is about to go.
    Going,
    /// It does not; why.
    Down(String),
}

/// gardend's pods among these: those that have a container of its name.
pub(super) fn gardend_pods(pods: impl IntoIterator<Item = Pod>) -> Vec<GardendPod> {
    pods.into_iter().filter_map(gardend_pod).collect()
}

fn gardend_pod(pod: Pod) -> Option<GardendPod> {
    let spec = pod.spec?;
    spec.containers.iter().find(|container| container.name == CONTAINER)?;
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let container = containers.iter().find(|container| container.name == CONTAINER);
    let state = container.and_then(|container| container.state.as_ref());
    let runs = state.is_some_and(|state| state.running.is_some());
    let why = || {
        let waits = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
        waits.or(status.reason.clone()).or(status.phase.clone()).unwrap_or_else(|| "not started".to_owned())
    };
    let state = match (runs, pod.metadata.deletion_timestamp.is_some()) {
        (false, _) => State::Down(why()),
        (true, true) => State::Going,
        (true, false) if container.is_some_and(|container| container.ready) => State::Ready,
        (true, false) => State::Running,
    };
    Some(GardendPod { name: pod.metadata.name?, node: spec.node_name.unwrap_or_default(), state })
}

/// The pod that answers for a node.
///
/// # Errors
/// None does; it says why.
pub(super) fn on_node(
    pods: Vec<GardendPod>,
    node: &str,
    namespace: &str,
    selector: &str,
) -> Result<GardendPod, Failure> {
    let best = pods.into_iter().filter(|pod| pod.node == node).min_by(|one, other| one.state.cmp(&other.state));
    match best {
        Some(GardendPod { name, state: State::Down(why), .. }) => {
            Err(Failure::Words(format!("gardend does not run on node '{node}': its pod '{name}' is {why}")))
        }
        Some(pod) => Ok(pod),
        None => Err(Failure::Words(format!(
            "no pod of gardend's is on node '{node}': none in namespace '{namespace}' has the labels {selector}; \
             --namespace and --selector name others"
        ))),
    }
}

/// The only node that has gardend.
///
/// # Errors
/// There are none, or several: they are named.
pub(super) fn only_node(pods: &[GardendPod], namespace: &str, selector: &str) -> Result<String, Failure> {
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| pod.node.as_str()).filter(|node| !node.is_empty()).collect();
    match Vec::from_iter(nodes).as_slice() {
        [node] => Ok((*node).to_owned()),
        [] => Err(no_pods(namespace, selector)),
        nodes => Err(Failure::Usage(format!("several nodes have gardend, name one by --node: {}", nodes.join(", ")))),
    }
}

pub(super) fn no_pods(namespace: &str, selector: &str) -> Failure {
    Failure::Words(format!(
        "no pods of gardend's are in namespace '{namespace}' (labels {selector}); --namespace and --selector name others"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, state: Value, ready: bool) -> Value {
        json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "sidecar" }, { "name": "gardend" }] },
            "status": { "phase": "Running", "containerStatuses": [
                { "name": "gardend", "state": state, "ready": ready, "image": "", "imageID": "", "restartCount": 0 }
            ] },
        })
    }

    fn read(pods: Vec<Value>) -> Vec<GardendPod> {
        gardend_pods(pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()))
    }

    fn words(failure: Failure) -> String {
        format!("{failure:?}")
    }

    #[test]
    fn of_several_on_a_node_the_one_that_serves_answers() {
        let mut going = pod("old", "n", json!({ "running": {} }), true);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let starting = pod("starting", "n", json!({ "waiting": { "reason": "ContainerCreating" } }), false);
        let serving = pod("serving", "n", json!({ "running": {} }), true);
        let elsewhere = pod("elsewhere", "m", json!({ "running": {} }), true);
        let pods = read(vec![elsewhere, going, starting, serving]);
        assert_eq!(on_node(pods, "n", "ns", "s").unwrap().name, "serving");
    }

    #[test]
    fn a_node_without_one_that_runs_is_told_with_the_reason() {
        let down = pod("p", "n", json!({ "waiting": { "reason": "ImagePullBackOff" } }), false);
        let why = words(on_node(read(vec![down.clone()]), "n", "ns", "s").unwrap_err());
        assert!(why.contains("'p' is ImagePullBackOff"), "{why}");
        let why = words(on_node(read(vec![down]), "m", "ns", "s").unwrap_err());
        assert!(why.contains("on node 'm'") && why.contains("'ns'"), "{why}");
    }

    #[test]
    fn pods_of_the_release_without_gardend_are_none_of_its() {
        let mut hook = pod("hook", "n", json!({ "running": {} }), true);
        hook["spec"]["containers"] = json!([{ "name": "cleanup" }]);
        assert_eq!(read(vec![hook]), []);
    }

    #[test]
    fn the_node_may_be_left_out_where_there_is_one() {
        let pods =
            |nodes: &[&str]| read(nodes.iter().map(|node| pod("p", node, json!({ "running": {} }), true)).collect());
        assert_eq!(only_node(&pods(&["n", "n"]), "ns", "s").unwrap(), "n");
        assert!(words(only_node(&pods(&["n", "m"]), "ns", "s").unwrap_err()).contains("m, n"));
        assert!(words(only_node(&[], "ns", "s").unwrap_err()).contains("'ns'"));
    }
}
