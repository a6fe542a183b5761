//! gardend on Kubernetes: what a node has, shown as custom resources, and what these declare.
//!
//! ```text
//!   controller ──news──▶ mirror ──writes (bucket)──▶ API server ◀──leases── lease, keeper
//!        ▲                                               │
//!        └────────────────── declared ◀────watch─────────┘
//! ```
//! Owns the objects of its own node, GardenContainers with the origin `garden` and its GardenNode,
//! and the node's Lease. The records on the node are the truth and these objects a picture of it;
//! of objects that declare containers ([`declared`]) it owns the status.
//!
//! Promises: nothing on the node waits for the API server; what is written is bounded by a token
//! bucket whatever happens on the node; no environment and no password is in anything that is
//! written, and no argument unless the operator says so ([`shown`]).
//!
//! Knows the controller alone. Leaves to others: what a node is made of (the composition root
//! tells, as [`NodeFacts`]).

mod backoff;
mod client;
mod declared;
mod events;
mod gauges;
mod keeper;
mod lease;
mod mirror;
mod names;
mod options;
mod review;
mod shown;

pub use client::{ConnectError, Place, connect};
pub use gardend_crds::Versions;
pub use gauges::{Figures, Gauges};
pub use names::{NodeName, container_object};
pub use options::{Detail, Keeping, NodeFacts, Options};
pub use review::Reviewer;
pub use shown::{ArgumentsAllowed, Shown, ShownPolicy, show};

use declared::Declarer;
use events::Announcer;
use gardend_controller::Controller;
use mirror::{Budget, Mirror};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What runs of it. Dropped, it ends; the objects stay as they are.
pub struct Kube {
    tasks: JoinSet<()>,
    gauges: Arc<Gauges>,
}

impl Kube {
    /// Begins to show what this controller has. Needs no API server to begin. How it goes is told to
    /// the gauges.
    pub fn start(place: Place, options: Options, controller: Controller, gauges: Arc<Gauges>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(lease::keep_own(place.clone(), options.keeping.clone(), Arc::clone(&gauges)));
        tasks.spawn(keeper::run(place.clone(), options.clone()));
        let announcer = Announcer::start(&place, Arc::clone(&gauges));
        let bucket = Budget::new(options.writes_per_second, options.write_burst, Instant::now());
        for namespace in options.declared.iter().flatten().cloned() {
            let (options, controller, gauges) = (options.clone(), controller.clone(), Arc::clone(&gauges));
            let (announcer, bucket) = (announcer.clone(), bucket.clone());
            tasks.spawn(Declarer::new(&place, namespace, options, controller, gauges, announcer, bucket).run());
        }
        tasks.spawn(Mirror::new(place, options, controller, Arc::clone(&gauges), announcer, bucket).run());
        Self { tasks, gauges }
    }

    /// How it goes.
    pub fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }

    /// Ends it, and waits until nothing of it runs.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}
