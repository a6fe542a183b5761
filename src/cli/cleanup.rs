//! `gardend cleanup`: its arguments. Carrying it out takes a cluster, and is `plugin`'s.

use clap::Args;
use std::time::Duration;

/// What the chart calls gardend's pods.
pub(crate) const SELECTOR: &str = "app.kubernetes.io/name=gardend";

/// What is cleaned, and for how long.
#[derive(Debug, Args)]
#[command(
    after_help = "Runs in a pod whose service account may list pods, and get and create pods/exec, in that namespace: the \
                  chart's hook before it is uninstalled. Exits with 1 where something is left, or a node could not be reached. \
                  With --release it is the hook afterwards, whose service account may list pods in that namespace, and list and \
                  patch GardenContainers.\n\n\
                  Examples:\n  gardend cleanup --namespace gardend --timeout 10m\n  \
                  gardend cleanup --namespace gardend --release shop,bank"
)]
pub struct CleanupArgs {
    /// The namespace that gardend's pods are in
    #[arg(long, value_name = "NAME")]
    pub namespace: String,

    /// Labels of gardend's pods
    #[arg(long, value_name = "SELECTOR", default_value = SELECTOR)]
    pub selector: String,

    /// Destroy nothing: wait until no pod of gardend's is left, and let the objects that declare containers in these
    /// namespaces go without it from then on
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub release: Vec<String>,

    /// How long it may take altogether
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}
