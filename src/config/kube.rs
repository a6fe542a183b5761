//! The options of Kubernetes, as they are written and as the rest of gardend reads them.

use super::values::{DurationText, parse_duration};
use crate::kube::{ArgumentsAllowed, Detail, NodeName, ShownPolicy};
use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A comparison that is more frequent than this is a load of its own.
const SHORTEST_RESYNC: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug, Args, JsonSchema)]
#[command(next_help_heading = "Kubernetes")]
#[schemars(rename_all = "kebab-case")]
pub struct KubeArgs {
    /// `mirror`: show this node and its containers as custom resources; `off`: know of no cluster
    #[arg(long, env = "GARDEND_KUBE", value_name = "off|mirror", default_value = "off")]
    kube: KubeMode,

    /// How the API server is reached [default: by the pod's service account]
    #[arg(long, env = "GARDEND_KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<PathBuf>,

    /// The name of this node in the cluster [default: $NODE_NAME, or else the host's name]
    #[arg(long, env = "GARDEND_KUBE_NODE_NAME", value_name = "NAME")]
    #[schemars(with = "Option<String>")]
    kube_node_name: Option<NodeName>,

    /// Where containers' objects, leases and events are [default: the pod's own, or else gardend]
    #[arg(long, env = "GARDEND_KUBE_NAMESPACE", value_name = "NAME")]
    kube_namespace: Option<String>,

    /// How much is shown: the node and each of its containers, or the node alone
    #[arg(long, env = "GARDEND_KUBE_DETAIL", value_name = "containers|nodes", default_value = "containers")]
    kube_detail: DetailArg,

    /// Writes to the API server, on and on; an object and its status are two
    #[arg(long, env = "GARDEND_KUBE_WRITES_PER_SECOND", value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=1000))]
    #[schemars(range(min = 1, max = 1000))]
    kube_writes_per_second: u32,

    /// Writes to the API server at once
    #[arg(long, env = "GARDEND_KUBE_WRITE_BURST", value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    #[schemars(range(min = 1, max = 10_000))]
    kube_write_burst: u32,

    /// How often everything is compared with what the API server has
    #[arg(long, env = "GARDEND_KUBE_RESYNC", value_name = "DURATION", default_value = "10m", value_parser = parse_resync)]
    #[schemars(with = "DurationText")]
    kube_resync: Duration,

    /// Key of a property that is shown; others are not
    #[arg(long, env = "GARDEND_KUBE_PROPERTY", value_name = "KEY")]
    kube_property: Vec<String>,

    /// Show arguments of processes, though they may be secrets
    #[arg(long, env = "GARDEND_KUBE_ARGUMENTS")]
    kube_arguments: bool,

    /// Make containers that objects declare. Who may write such objects can run processes on this node
    #[arg(long, env = "GARDEND_KUBE_DECLARED")]
    kube_declared: bool,

    /// Namespace in which containers are declared [default: that of containers' objects]
    #[arg(long, env = "GARDEND_KUBE_DECLARED_NAMESPACE", value_name = "NAME")]
    kube_declared_namespace: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum KubeMode {
    Off,
    Mirror,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum DetailArg {
    Containers,
    Nodes,
}

/// What is shown in the cluster, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeConfig {
    /// A file that says how; `None`: the pod's service account. Absolute.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name; `None`: what the pod or the host says.
    pub node_name: Option<NodeName>,
    /// Where objects are; `None`: the pod's own.
    pub namespace: Option<String>,
    /// How much is shown.
    pub detail: Detail,
    /// Writes a second.
    pub writes_per_second: NonZeroU32,
    /// Writes at once.
    pub write_burst: NonZeroU32,
    /// How often everything is compared.
    pub resync: Duration,
    /// What of a container is shown beyond what always is.
    pub policy: ShownPolicy,
    /// Namespaces in which containers are declared, empty for that of containers' objects; `None`: nowhere.
    pub declared: Option<BTreeSet<String>>,
}

/// How Kubernetes is asked about clients' tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenReviewConfig {
    /// A file that says how it is reached; `None`: the pod's service account. Absolute.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name; `None`: what the pod or the host says.
    pub node_name: Option<NodeName>,
    /// Whom tokens have to be for.
    pub audience: Audience,
}

/// Whom a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience(String);

impl Audience {
    /// As the API server knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Audience {
    type Err = &'static str;

    // An empty one would ask the API server for its own tokens, which every pod has.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.is_empty() || text.contains(char::is_whitespace) {
            true => Err("name whom tokens are for in one word, such as gardend"),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KubeArgs {
    /// How Kubernetes is asked about tokens, whether or not it is shown anything.
    pub(super) fn token_review<E>(
        &self,
        audience: Audience,
        absolute: impl Fn(&PathBuf) -> Result<PathBuf, E>,
    ) -> Result<TokenReviewConfig, E> {
        let kubeconfig = self.kubeconfig.as_ref().map(absolute).transpose()?;
        Ok(TokenReviewConfig { kubeconfig, node_name: self.kube_node_name.clone(), audience })
    }

    /// `None` where there is no cluster. `absolute` makes a path so.
    pub(super) fn validate<E>(
        self,
        absolute: impl Fn(&PathBuf) -> Result<PathBuf, E>,
    ) -> Result<Option<KubeConfig>, E> {
        if self.kube == KubeMode::Off {
            return Ok(None);
        }
        // The parsers let nothing below 1 through.
        let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Ok(Some(KubeConfig {
            kubeconfig: self.kubeconfig.as_ref().map(absolute).transpose()?,
            node_name: self.kube_node_name,
            namespace: self.kube_namespace,
            detail: match self.kube_detail {
                DetailArg::Containers => Detail::Containers,
                DetailArg::Nodes => Detail::Nodes,
            },
            writes_per_second: number(self.kube_writes_per_second),
            write_burst: number(self.kube_write_burst),
            resync: self.kube_resync,
            declared: self.kube_declared.then(|| self.kube_declared_namespace.into_iter().collect()),
            policy: ShownPolicy {
                properties: Arc::new(self.kube_property.into_iter().collect()),
                arguments: self.kube_arguments.then(ArgumentsAllowed::by_operator),
            },
        }))
    }
}

fn parse_resync(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time < SHORTEST_RESYNC {
        return Err(format!("the API server would do little else; say {}s or more", SHORTEST_RESYNC.as_secs()));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::super::list;
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<KubeConfig>, String> {
        let args = list::parse(words).map_err(|error| error.to_string())?;
        args.validate().map(|config| config.kube).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_no_cluster_unless_it_is_asked_for() {
        assert_eq!(parse(&["--kubeconfig", "x", "--kube-arguments"]).unwrap(), None);
        let config = parse(&["--kube", "mirror"]).unwrap().unwrap();
        assert_eq!((config.writes_per_second.get(), config.write_burst.get()), (5, 20));
        assert_eq!((config.detail, config.resync), (Detail::Containers, Duration::from_secs(600)));
        assert_eq!((config.policy, config.declared), (ShownPolicy::default(), None));
    }

    #[test]
    fn what_is_shown_is_what_was_asked_for() {
        let config = parse(&[
            "--kube=mirror",
            "--kubeconfig=k",
            "--kube-node-name=n1.example",
            "--kube-detail=nodes",
            "--kube-property=team,pipeline",
            "--kube-arguments",
            "--kube-declared",
            "--kube-declared-namespace=shop,bank",
        ]);
        let config = config.unwrap().unwrap();
        assert!(config.kubeconfig.unwrap().is_absolute());
        assert_eq!((config.node_name.unwrap().as_str(), config.detail), ("n1.example", Detail::Nodes));
        assert_eq!(config.declared.unwrap().into_iter().collect::<Vec<_>>(), ["bank", "shop"]);
        assert!(config.policy.arguments.is_some() && config.policy.properties.contains("pipeline"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (args, words) in [
            (["--kube", "on"], "off, mirror"),
            (["--kube-node-name", "N_1"], "lower-case"),
            (["--kube-writes-per-second", "0"], "1..=1000"),
            (["--kube-resync", "1s"], "10s or more"),
            (["--kube-detail", "all"], "containers, nodes"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(args[0]) && error.contains(words), "{error}");
        }
    }
}
