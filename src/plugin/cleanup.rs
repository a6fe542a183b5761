//! `gardend cleanup`: every gardend of a release drained with all that it has, before the release goes;
//! and objects that declare containers let go, after it went.
//!
//! Runs in the cluster, as the chart's hooks. A node is asked again while it cannot be reached and there
//! is time; draining one twice changes nothing.

use super::args::Line;
use super::cluster::Cluster;
use super::exec::ExecError;
use super::nodes::{GardendPod, State};
use super::ps::by_node;
use super::release::release;
use crate::cli::CleanupArgs;
use crate::cli::client::DrainStand;
use crate::cli::drain::left;
use crate::cli::outcome::{Failure, Status};
use crate::cli::output::{Ui, note, report_error};
use futures_util::{StreamExt, stream};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Nodes that are drained at once.
const AT_ONCE: usize = 32;
/// From one try to the next.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
/// How much longer than a drain its answer may take.
const ANSWER: Duration = Duration::from_secs(15);

/// What became of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing is left.
    Clean,
    /// This is.
    Left(String),
    /// Nobody knows.
    NotReached(String),
}

/// Carries it out; answers the status to exit with.
pub async fn cleanup(args: CleanupArgs) -> ExitCode {
    clean(args).await.unwrap_or_else(Failure::report)
}

async fn clean(args: CleanupArgs) -> Result<ExitCode, Failure> {
    let cluster = &Cluster::in_pod(args.namespace.clone(), args.selector.clone())?;
    let deadline = Instant::now() + args.timeout;
    if !args.release.is_empty() {
        release(cluster, &args.release, deadline).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let pods = by_node(cluster.pods().await?);
    if pods.is_empty() {
        note(&format!(
            "no gardend is on any node: namespace '{}' has no pods of labels {}",
            args.namespace, args.selector
        ));
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!("draining {} nodes", pods.len()));
    let ui = Ui::new();
    let mut outcomes = stream::iter(pods)
        .map(|(node, pod)| async move { (drain(cluster, &node, pod, deadline).await, node) })
        .buffer_unordered(AT_ONCE);
    let (mut clean, mut unclean) = (0, Vec::new());
    while let Some((outcome, node)) = outcomes.next().await {
        match outcome {
            Outcome::Clean => {
                clean += 1;
                ui.line(&format!("{node}: clean; nothing is left"))?;
            }
            Outcome::Left(left) => {
                ui.line(&format!("{node}: not clean; {left}"))?;
                unclean.push(node);
            }
            Outcome::NotReached(why) => {
                ui.line(&format!("{node}: not reached; what it has is left: {why}"))?;
                unclean.push(node);
            }
        }
    }
    if unclean.is_empty() {
        note(&format!("all nodes are clean: {clean}"));
        return Ok(ExitCode::SUCCESS);
    }
    unclean.sort();
    report_error(&format!(
        "something is left on {} of {} nodes: {}",
        unclean.len(),
        clean + unclean.len(),
        unclean.join(", ")
    ));
    Err(Failure::Told(Status::Failed))
}

/// Drains one node, by whichever pod answers for it meanwhile.
async fn drain(cluster: &Cluster, node: &str, mut pod: GardendPod, deadline: Instant) -> Outcome {
    loop {
        let why = match try_drain(cluster, &pod, deadline).await {
            Ok(outcome) => return outcome,
            Err(why) => why,
        };
        if Instant::now() + PAUSE >= deadline {
            return Outcome::NotReached(why);
        }
        sleep(PAUSE).await;
        // It may have another pod by now; should that not be known, the same is tried again.
        if let Ok(found) = cluster.pod_on(node).await {
            pod = found;
        }
    }
}

/// `Err`: it may be tried again.
async fn try_drain(cluster: &Cluster, pod: &GardendPod, deadline: Instant) -> Result<Outcome, String> {
    if let State::Down(why) = &pod.state {
        return Err(format!("its pod '{}' is {why}", pod.name));
    }
    let time = deadline.saturating_duration_since(Instant::now());
    let line = Line::new(["drain", "--uninstall", "--json"]).word(format!("--timeout={}s", time.as_secs().max(1)));
    let said = match timeout_at(deadline + ANSWER, cluster.capture(pod, &line)).await {
        Ok(Ok(said)) => said,
        Ok(Err(error @ ExecError::Forbidden(_))) => return Ok(Outcome::NotReached(error.to_string())),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("pod '{}' does not answer", pod.name)),
    };
    match serde_json::from_slice(&said.stdout) {
        Ok(stand) => Ok(outcome(&stand, said.status, || said.complaint())),
        Err(_) => Err(said.complaint()),
    }
}

fn outcome(stand: &DrainStand, status: i32, complaint: impl FnOnce() -> String) -> Outcome {
    match (stand.drained, status) {
        (true, 0) => Outcome::Clean,
        // Images, or whatever else it complains of.
        (true, _) => Outcome::Left(complaint()),
        (false, _) => Outcome::Left(left(stand)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_clean_where_it_says_so_and_ends_well() {
        let complaint = || "cannot remove an image".to_owned();
        let drained = DrainStand { drained: true, ..DrainStand::default() };
        assert_eq!(outcome(&drained, 0, complaint), Outcome::Clean);
        assert_eq!(outcome(&drained, 1, complaint), Outcome::Left(complaint()));
        let stand = DrainStand { places: 1, ..DrainStand::default() };
        assert_eq!(outcome(&stand, 1, complaint), Outcome::Left("left are 0 containers and 1 place".to_owned()));
    }
}
