//! How much there is of everything at one moment, and whether the controller is well: for whoever
//! watches over it. Read from memory; the checks ask what they check, each within a deadline.

use crate::addresses::Pools;
use crate::pressure::Pressure;
use crate::record::{Phase, SandboxKind};
use crate::service::Controller;
use crate::state::{Role, State};
use std::time::Duration;
use tokio::time::timeout;

/// How long a part may take to show that it is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much longer than its pause a look of the sweeper may take.
const SWEEP: Duration = Duration::from_secs(60);

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Containers in each phase, those that are being swept included.
    pub containers: Vec<(Phase, usize)>,
    /// Containers that cannot be killed at present.
    pub stuck: usize,
    /// Containers whose last step failed, and is tried again.
    pub failing: usize,
    /// Containers at most.
    pub max_containers: usize,
    /// Processes that run, or are being started.
    pub processes: usize,
    /// Records of ended processes that are kept.
    pub ended_processes: usize,
    /// Clients that are attached to processes.
    pub attached: usize,
    /// Places of each kind.
    pub places: Vec<(SandboxKind, PlaceCounts)>,
    /// Blank places that there shall be, of each kind.
    pub pool_target: usize,
    /// The node is being drained.
    pub draining: bool,
    /// What the node has too little of.
    pub pressure: Pressure,
    /// Addresses and ports; `None` where containers have no network.
    pub addresses: Option<AddressCounts>,
    /// What the reconciler has to do.
    pub queue: QueueCounts,
}

/// Places of a kind, by whose they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceCounts {
    /// Being made for the pool.
    pub making: usize,
    /// Blank, in the pool.
    pub pooled: usize,
    /// Containers'.
    pub used: usize,
    /// Nobody's any more, and being removed.
    pub discarded: usize,
}

/// Addresses and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressCounts {
    /// Subnets of the pool that containers have.
    pub used: usize,
    /// Subnets of the pool.
    pub total: usize,
    /// Ports of the node that lead to containers.
    pub ports: usize,
}

/// Keys of the reconciler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// To be looked at now.
    pub ready: usize,
    /// To be looked at later.
    pub delayed: usize,
    /// Being looked at.
    pub running: usize,
}

/// One thing that must be so for gardend to be of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// In one word.
    pub name: &'static str,
    /// `Err` says what is wrong.
    pub result: Result<(), String>,
}

const PHASES: [Phase; 7] =
    [Phase::Pending, Phase::Creating, Phase::Ready, Phase::Stopping, Phase::Stopped, Phase::Destroying, Phase::Gone];

impl Controller {
    /// How much there is of everything.
    pub fn counts(&self) -> Counts {
        let max_containers = self.max_containers();
        let queue = self.shared.queue_counts();
        let state = self.shared.state();
        let phases = state.containers.values().map(|container| container.record.status.phase).collect::<Vec<_>>();
        let of_phase = |phase: Phase| phases.iter().filter(|other| **other == phase).count();
        let alive = state.processes.values().filter(|process| process.alive()).count();
        Counts {
            containers: PHASES.map(|phase| (phase, of_phase(phase))).to_vec(),
            stuck: state.containers.values().filter(|container| container.stuck.is_some()).count(),
            failing: state.containers.values().filter(|container| container.last_failure.is_some()).count(),
            max_containers,
            processes: alive,
            ended_processes: state.processes.len() - alive,
            attached: state.processes.values().map(|process| process.attached).sum(),
            places: [SandboxKind::Unprivileged, SandboxKind::Privileged]
                .map(|kind| (kind, places(&state, kind)))
                .to_vec(),
            pool_target: state.pool_target(self.shared.options.pool_size),
            draining: state.drain.is_some(),
            pressure: state.pressure.clone(),
            addresses: state.pools.as_ref().map(Pools::counts),
            queue,
        }
    }

    /// Whether it is well, part by part. Takes no longer than a few seconds.
    pub async fn health(&self) -> Vec<Health> {
        let (ledger, reconciler) = tokio::join!(self.ledger_health(), self.reconciler_health());
        let check = |name, result| Health { name, result };
        vec![
            check("ledger", ledger),
            check("places", self.places_health()),
            check("reconciler", reconciler),
            check("sweeper", self.sweeper_health()),
            check("network", self.network_health()),
        ]
    }

    async fn ledger_health(&self) -> Result<(), String> {
        match timeout(PATIENCE, self.shared.ledger.probe()).await {
            Ok(written) => written.map_err(|error| format!("the ledger cannot be written: {error}")),
            Err(_) => Err(format!("the ledger did not write within {PATIENCE:?}; its disk may be stuck")),
        }
    }

    fn places_health(&self) -> Result<(), String> {
        match &self.shared.state().unavailable {
            None => Ok(()),
            Some(error) => Err(format!("a part of the node does not answer: {error}")),
        }
    }

    /// The loop is asked to come round once.
    async fn reconciler_health(&self) -> Result<(), String> {
        let mut rounds = self.shared.rounds.subscribe();
        self.shared.queue_changed.notify_one();
        match timeout(PATIENCE, rounds.changed()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(format!("the reconcile loop did not come round within {PATIENCE:?}")),
        }
    }

    fn sweeper_health(&self) -> Result<(), String> {
        let swept = self.shared.state().swept;
        let since = swept.map_or_else(|| self.shared.began.elapsed(), |swept| swept.elapsed());
        if since <= self.shared.options.sweep_interval + SWEEP {
            return Ok(());
        }
        Err(format!("the node was last looked at as a whole {} s ago", since.as_secs()))
    }

    fn network_health(&self) -> Result<(), String> {
        match &self.shared.state().network_fault {
            None => Ok(()),
            Some(error) => Err(format!("the node's network is not what it shall be: {error}")),
        }
    }
}

fn places(state: &State, kind: SandboxKind) -> PlaceCounts {
    let mut counts = PlaceCounts::default();
    for place in state.sandboxes.values().filter(|place| place.kind == kind) {
        *match place.role {
            Role::Making => &mut counts.making,
            Role::Pooled => &mut counts.pooled,
            Role::Of(_) => &mut counts.used,
            Role::Discarded => &mut counts.discarded,
        } += 1;
    }
    counts
}
