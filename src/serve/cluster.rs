//! What gardend shows in a cluster, by its options and by what the node was found to have.

use anyhow::{Context, Result};
use gardend::cli;
use gardend::config::ServeConfig;
use gardend::garden::{FactSource, Machine};
use gardend::kube::{self, NodeFacts, NodeName, Options, Place, Reviewer, Versions};
use gardend::net::secure::Verifier;
use gardend::node::check::Report;
use gardend::node::place::Folders;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The way to the cluster, where there is one to show something in.
pub(super) async fn connect(config: &ServeConfig) -> Result<Option<Place>> {
    let Some(config) = &config.kube else { return Ok(None) };
    let (file, namespace) = (config.kubeconfig.as_deref(), config.namespace.as_deref());
    Ok(Some(kube::connect(file, namespace, node_name(config.node_name.as_ref())?).await?))
}

/// Whom to ask about clients' tokens, where that is Kubernetes.
pub(super) async fn reviewer(config: &ServeConfig) -> Result<Option<Arc<dyn Verifier>>> {
    let Some(config) = &config.token_review else { return Ok(None) };
    let node = node_name(config.node_name.as_ref())?;
    // A way of its own: what the mirror writes is not waited for.
    let place = kube::connect(config.kubeconfig.as_deref(), None, node).await.context("--token-review")?;
    Ok(Some(Arc::new(Reviewer::new(place, config.audience.as_str()))))
}

/// By what the operator says, the pod's downward API, the host.
fn node_name(told_by_operator: Option<&NodeName>) -> Result<NodeName> {
    if let Some(name) = told_by_operator {
        return Ok(name.clone());
    }
    let told = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    let host = || rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    told.unwrap_or_else(host).parse::<NodeName>().context("name this node by --kube-node-name")
}

pub(super) fn options(
    config: &ServeConfig,
    place: &Place,
    report: Option<&Report>,
    machine: &Machine,
    folders: &Folders,
) -> Options {
    let lines = report.map(|report| report.lines.as_slice()).unwrap_or_default();
    let found = |name| lines.iter().find(|line| line.name == name).map(|line| line.found.clone());
    let versions = Versions {
        gardend: cli::version().to_owned(),
        containerd: found("containerd"),
        runtime: found("runtime"),
        kernel: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
    };
    let (machine, folder) = (machine.clone(), folders.state().to_owned());
    let facts = move || {
        let of_machine = machine.facts().ok();
        let disk = rustix::fs::statvfs(&folder).ok();
        NodeFacts {
            versions: versions.clone(),
            memory_bytes: of_machine.map(|facts| facts.memory_bytes),
            disk_bytes: of_machine.map(|facts| facts.schedulable_disk_bytes),
            disk_free: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    };
    let defaults = Options::new(place.node.clone(), Arc::new(facts));
    match &config.kube {
        None => defaults,
        Some(kube) => Options {
            detail: kube.detail,
            policy: kube.policy.clone(),
            writes_per_second: kube.writes_per_second,
            write_burst: kube.write_burst,
            resync: kube.resync,
            declared: kube.declared.clone().map(|named| match named.is_empty() {
                true => BTreeSet::from([place.namespace.clone()]),
                false => named,
            }),
            ..defaults
        },
    }
}
