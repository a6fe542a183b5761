//! Figures of what happens in the controller.
//!
//! Series are made when gardend starts, all of them: a rate of what has not happened yet is 0 and not
//! unknown, and telling of an event takes no lock but a read one.

use super::{Times, seconds, times};
use gardend_controller::observe::{End, Leak, Observation, Observer, Operation, ProcessEnd, Subject};
use gardend_controller::plan::Step;
use gardend_controller::record::{Stage, StopMode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

const OUTCOMES: [&str; 4] = ["done", "refused", "failed", "abandoned"];
const RESULTS: [&str; 2] = ["done", "failed"];
const STAGES: [Stage; 11] = [
    Stage::Sandbox,
    Stage::Rootfs,
    Stage::Connect,
    Stage::Stop,
    Stage::Kill,
    Stage::Release,
    Stage::Remove,
    Stage::Limits,
    Stage::Image,
    Stage::Network,
    Stage::ReleaseNetwork,
];
const STEPS: [Step; 14] = [
    Step::TakePlace,
    Step::MakePlace,
    Step::Furnish,
    Step::Connect,
    Step::Confirm,
    Step::Signal(StopMode::Terminate),
    Step::Look,
    Step::FinishStop,
    Step::RecordAbsence,
    Step::Kill,
    Step::ReleaseNetwork,
    Step::Free,
    Step::Release,
    Step::Forget,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSubject {
    subject: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: &'static str,
}

/// Counts what it is told of.
pub struct Events {
    creates: Times<Outcome>,
    create_failures: Family<OfStage, Counter>,
    runs: Times<Outcome>,
    destroys: Times<Outcome>,
    steps: Times<OfStep>,
    step_failures: Family<OfStep, Counter>,
    passes: Times<OfSubject>,
    pass_failures: Family<OfSubject, Counter>,
    sweeps: Times<Outcome>,
    leaks: Family<OfKind, Counter>,
    commits: Histogram,
    commit_failures: Counter,
    commit_batches: Histogram,
    places_taken: Family<Source, Counter>,
    place_waits: Histogram,
    pulls: Times<Outcome>,
    pulled_bytes: Counter,
    network_looks: Times<Outcome>,
    processes_ended: Family<Outcome, Counter>,
    oom_kills: Counter,
}

impl Default for Events {
    fn default() -> Self {
        let events = Self {
            creates: times(),
            create_failures: Family::default(),
            runs: times(),
            destroys: times(),
            steps: times(),
            step_failures: Family::default(),
            passes: times(),
            pass_failures: Family::default(),
            sweeps: times(),
            leaks: Family::default(),
            commits: seconds(),
            commit_failures: Counter::default(),
            commit_batches: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]),
            places_taken: Family::default(),
            place_waits: seconds(),
            pulls: times(),
            pulled_bytes: Counter::default(),
            network_looks: times(),
            processes_ended: Family::default(),
            oom_kills: Counter::default(),
        };
        events.make_all_series();
        events
    }
}

impl Events {
    fn make_all_series(&self) {
        for outcome in OUTCOMES {
            for family in [&self.creates, &self.runs, &self.destroys] {
                drop(family.get_or_create(&Outcome { outcome }));
            }
        }
        for outcome in RESULTS {
            for family in [&self.sweeps, &self.pulls, &self.network_looks] {
                drop(family.get_or_create(&Outcome { outcome }));
            }
        }
        for stage in STAGES.map(stage) {
            drop(self.create_failures.get_or_create(&OfStage { stage }));
        }
        drop(self.create_failures.get_or_create(&OfStage { stage: NO_STAGE }));
        for step in STEPS.map(Step::name) {
            drop(self.steps.get_or_create(&OfStep { step }));
            drop(self.step_failures.get_or_create(&OfStep { step }));
        }
        for subject in [Subject::Container, Subject::Place, Subject::Files, Subject::Pool].map(subject) {
            drop(self.passes.get_or_create(&OfSubject { subject }));
            drop(self.pass_failures.get_or_create(&OfSubject { subject }));
        }
        for kind in [Leak::Place, Leak::Files].map(leak) {
            drop(self.leaks.get_or_create(&OfKind { kind }));
        }
        for source in ["pool", "new"] {
            drop(self.places_taken.get_or_create(&Source { source }));
        }
        for end in [ProcessEnd::Succeeded, ProcessEnd::Failed, ProcessEnd::Killed, ProcessEnd::Lost] {
            drop(self.processes_ended.get_or_create(&Outcome { outcome: process_end(end) }));
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("create_duration_seconds", "How long creates took, by how they ended", self.creates.clone());
        registry.register(
            "create_failures",
            "Creates that failed after they were begun, by the stage that failed",
            self.create_failures.clone(),
        );
        registry.register(
            "run_duration_seconds",
            "How long it took to start processes, by how that ended",
            self.runs.clone(),
        );
        registry.register(
            "destroy_duration_seconds",
            "How long destroys took, by how they ended; failed: the container is stuck",
            self.destroys.clone(),
        );
        registry.register(
            "step_duration_seconds",
            "How long the steps of the reconciler took for containers",
            self.steps.clone(),
        );
        registry.register(
            "step_failures",
            "Steps that did not come to their end and were tried again or given up",
            self.step_failures.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long the reconciler looked at things, what it did for them included",
            self.passes.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Looks of the reconciler that failed and are repeated",
            self.pass_failures.clone(),
        );
        registry.register(
            "sweep_duration_seconds",
            "How long looks at the whole node took, by whether all of it could be looked at",
            self.sweeps.clone(),
        );
        registry.register(
            "leaks_swept",
            "Things without a record that were found on the node and removed",
            self.leaks.clone(),
        );
        registry.register(
            "ledger_commit_duration_seconds",
            "How long the ledger's transactions took",
            self.commits.clone(),
        );
        registry.register(
            "ledger_commit_failures",
            "Transactions of the ledger that failed",
            self.commit_failures.clone(),
        );
        registry.register(
            "ledger_commit_batches",
            "Batches of changes that were written in one transaction of the ledger",
            self.commit_batches.clone(),
        );
        registry.register(
            "places_taken",
            "Places that containers were given: blank ones of the pool, or new ones made for them",
            self.places_taken.clone(),
        );
        registry.register(
            "place_wait_seconds",
            "How long containers waited until a place was made for them, since too many others were",
            self.place_waits.clone(),
        );
        registry.register(
            "pull_duration_seconds",
            "How long it took to have images that were asked for, by whether they were had",
            self.pulls.clone(),
        );
        registry.register("pulled_bytes", "Bytes of images that came over the network", self.pulled_bytes.clone());
        registry.register(
            "network_look_duration_seconds",
            "How long looks at the node's network took, by whether it is what it shall be",
            self.network_looks.clone(),
        );
        registry.register("processes_ended", "Processes that ended, by how", self.processes_ended.clone());
        registry.register("oom_kills", "Processes that the kernel killed for want of memory", self.oom_kills.clone());
    }

    fn operation(&self, operation: Operation, end: End, took: Duration) {
        let outcome = match end {
            End::Done => "done",
            End::Refused => "refused",
            End::Failed(_) => "failed",
            End::Abandoned => "abandoned",
        };
        let family = match operation {
            Operation::Create => &self.creates,
            Operation::Run => &self.runs,
            Operation::Destroy => &self.destroys,
        };
        family.get_or_create(&Outcome { outcome }).observe(took.as_secs_f64());
        if let (Operation::Create, End::Failed(failed)) = (operation, end) {
            self.create_failures.get_or_create(&OfStage { stage: failed.map_or(NO_STAGE, stage) }).inc();
        }
    }
}

impl Observer for Events {
    fn observe(&self, event: Observation) {
        match event {
            Observation::Operation { operation, end, took } => self.operation(operation, end, took),
            Observation::Step { step, failed, took } => {
                let step = OfStep { step: step.name() };
                self.steps.get_or_create(&step).observe(took.as_secs_f64());
                if failed {
                    self.step_failures.get_or_create(&step).inc();
                }
            }
            Observation::Pass { subject: of, failed, took } => {
                let of = OfSubject { subject: subject(of) };
                self.passes.get_or_create(&of).observe(took.as_secs_f64());
                if failed {
                    self.pass_failures.get_or_create(&of).inc();
                }
            }
            Observation::Sweep { failed, took } => record(&self.sweeps, failed, took),
            Observation::Leak(kind) => drop(self.leaks.get_or_create(&OfKind { kind: leak(kind) }).inc()),
            Observation::Commit { batches, failed, took } => {
                self.commits.observe(took.as_secs_f64());
                self.commit_batches.observe(batches as f64);
                if failed {
                    self.commit_failures.inc();
                }
            }
            Observation::PlaceTaken { pooled } => {
                let source = if pooled { "pool" } else { "new" };
                self.places_taken.get_or_create(&Source { source }).inc();
            }
            Observation::PlaceWaited(took) => self.place_waits.observe(took.as_secs_f64()),
            Observation::Pull { bytes, failed, took } => {
                record(&self.pulls, failed, took);
                self.pulled_bytes.inc_by(bytes);
            }
            Observation::Network { failed, took } => record(&self.network_looks, failed, took),
            Observation::ProcessEnded(end) => {
                self.processes_ended.get_or_create(&Outcome { outcome: process_end(end) }).inc();
            }
            Observation::OutOfMemory { kills } => drop(self.oom_kills.inc_by(kills)),
        }
    }
}

fn record(family: &Times<Outcome>, failed: bool, took: Duration) {
    let outcome = if failed { "failed" } else { "done" };
    family.get_or_create(&Outcome { outcome }).observe(took.as_secs_f64());
}

/// Of a create that failed outside of any stage: the ledger, most often.
const NO_STAGE: &str = "none";

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Sandbox => "sandbox",
        Stage::Rootfs => "rootfs",
        Stage::Connect => "connect",
        Stage::Stop => "stop",
        Stage::Kill => "kill",
        Stage::Release => "release",
        Stage::Remove => "remove",
        Stage::Limits => "limits",
        Stage::Image => "image",
        Stage::Network => "network",
        Stage::ReleaseNetwork => "release_network",
    }
}

fn subject(subject: Subject) -> &'static str {
    match subject {
        Subject::Container => "container",
        Subject::Place => "place",
        Subject::Files => "files",
        Subject::Pool => "pool",
    }
}

fn leak(leak: Leak) -> &'static str {
    match leak {
        Leak::Place => "place",
        Leak::Files => "files",
    }
}

fn process_end(end: ProcessEnd) -> &'static str {
    match end {
        ProcessEnd::Succeeded => "succeeded",
        ProcessEnd::Failed => "failed",
        ProcessEnd::Killed => "killed",
        ProcessEnd::Lost => "lost",
    }
}
