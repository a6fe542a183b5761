//! What whoever declares a container wants of it beyond its spec, and how its processes have run.

use super::{ExitStatus, ProcessId, ProcessSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The object that declares a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeclaredBy {
    /// Where it is.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its own, so that another of the same name is told from it.
    pub uid: String,
}

impl std::fmt::Display for DeclaredBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is declared, as far as it has been put in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declaration {
    /// By which object.
    pub by: DeclaredBy,
    /// Which of its versions.
    pub generation: i64,
    /// That version, as whoever reads objects wrote it down: the next one is compared with it.
    pub source: String,
    /// Processes that are kept running. They hold their environments, as a container does its own:
    /// they are started again when nobody can be asked for them.
    pub processes: Vec<DeclaredProcess>,
    /// How they have run.
    pub runs: BTreeMap<ProcessId, Run>,
}

/// A process that is kept running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredProcess {
    /// Its id.
    pub id: ProcessId,
    /// What it is.
    pub spec: ProcessSpec,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// Another where it is another than before: what runs is replaced then.
    pub revision: i64,
}

/// When a process is started again after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Not at all.
    Never,
}

/// How a declared process runs, and has run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// What was last started.
    pub revision: i64,
    /// How often it was started again.
    pub restarts: u32,
    /// Starts in a row after which it did not last: what the next one waits for grows with them.
    pub quick: u32,
    /// How the last one ended, once it did; `None` while it runs or is being started.
    pub ended: Option<RunEnd>,
    /// How the one before the present one ended.
    pub before: Option<RunEnd>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Its status; `None` where there is none: it could not be started, or was lost.
    pub status: Option<ExitStatus>,
    /// In words, where there is no status.
    pub why: Option<String>,
    /// When.
    pub at: SystemTime,
    /// How long it had run, in milliseconds.
    pub ran_ms: u64,
}

impl RunEnd {
    /// It did what it was to do.
    pub fn succeeded(&self) -> bool {
        self.status == Some(ExitStatus::Code(0))
    }
}
