//! What the composition root tells: what shall be shown, how much may be written, what the node is.

use super::names::NodeName;
use super::shown::ShownPolicy;
use gardend_crds::Versions;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// How much of a node is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The node and each of its containers.
    Containers,
    /// The node alone.
    Nodes,
}

/// Numbers and choices.
#[derive(Clone)]
pub struct Options {
    /// Which node this is.
    pub node: NodeName,
    /// How much is shown.
    pub detail: Detail,
    /// Namespaces in which containers are declared; `None`: nowhere.
    pub declared: Option<BTreeSet<String>>,
    /// What may be shown of a container.
    pub policy: ShownPolicy,
    /// Writes a second, on and on. An object and its status are two.
    pub writes_per_second: NonZeroU32,
    /// Writes at once.
    pub write_burst: NonZeroU32,
    /// How often everything is compared with what the API server has.
    pub resync: Duration,
    /// The start waits for some part of this, so that a cluster's gardends do not start as one.
    pub start_jitter: Duration,
    /// How long an object is left alone after a write.
    pub settle: Duration,
    /// How long the node's own object is.
    pub node_settle: Duration,
    /// Leases.
    pub keeping: Keeping,
    /// What the node is, asked whenever its object is looked at.
    pub facts: Arc<dyn Fn() -> NodeFacts + Send + Sync>,
}

impl Options {
    /// The defaults, for a node of which nothing else is known.
    pub fn new(node: NodeName, facts: Arc<dyn Fn() -> NodeFacts + Send + Sync>) -> Self {
        Self {
            node,
            detail: Detail::Containers,
            declared: None,
            policy: ShownPolicy::default(),
            writes_per_second: NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN),
            write_burst: NonZeroU32::new(20).unwrap_or(NonZeroU32::MIN),
            resync: Duration::from_secs(600),
            start_jitter: Duration::from_secs(10),
            settle: Duration::from_secs(1),
            node_settle: Duration::from_secs(10),
            keeping: Keeping::default(),
            facts,
        }
    }
}

/// How nodes tell that they live, and when one is given up.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// How often a node renews its Lease.
    pub renew: Duration,
    /// After what time without that its objects are Ready=Unknown.
    pub stale: Duration,
    /// After what time they are removed.
    pub gone: Duration,
    /// How often the one that looks after stale nodes looks.
    pub look: Duration,
    /// How often the others look whether it is still there.
    pub candidate: Duration,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            renew: Duration::from_secs(10),
            stale: Duration::from_secs(40),
            gone: Duration::from_secs(600),
            look: Duration::from_secs(15),
            candidate: Duration::from_secs(60),
        }
    }
}

/// What a node is.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Versions of what containers are made with.
    pub versions: Versions,
    /// Bytes of memory that containers may have together.
    pub memory_bytes: Option<u64>,
    /// Bytes of the file system that layers are on.
    pub disk_bytes: Option<u64>,
    /// Bytes of it that are free.
    pub disk_free: Option<u64>,
}
