//! What may be seen of a declaration: no environment and no arguments.

use super::Kept;
use crate::record::{Declaration, DeclaredBy, ProcessId, RunEnd};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A declaration, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredView {
    /// By which object.
    pub by: DeclaredBy,
    /// Which of its versions is in force.
    pub generation: i64,
    /// Its processes.
    pub processes: Vec<KeptView>,
}

/// A process that is kept running, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptView {
    /// Its id.
    pub id: ProcessId,
    /// The program.
    pub path: String,
    /// Whom it runs as; root where absent.
    pub user: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// How the last run that has ended did so.
    pub last_end: Option<RunEnd>,
    /// When it is started again, while it waits for that.
    pub next_start: Option<SystemTime>,
    /// It runs no more, and is not started again.
    pub done: bool,
}

impl DeclaredView {
    pub(crate) fn of(declaration: &Declaration, kept: &BTreeMap<ProcessId, Kept>) -> Self {
        let view = |process: &crate::record::DeclaredProcess| {
            let run = declaration.runs.get(&process.id).filter(|run| run.revision == process.revision);
            let kept = kept.get(&process.id);
            KeptView {
                id: process.id.clone(),
                path: process.spec.path.clone(),
                user: process.spec.user.clone(),
                restarts: run.map_or(0, |run| run.restarts),
                last_end: run.and_then(|run| run.ended.clone().or_else(|| run.before.clone())),
                next_start: kept.and_then(|kept| kept.next_start),
                done: kept.is_some_and(|kept| kept.done),
            }
        };
        Self {
            by: declaration.by.clone(),
            generation: declaration.generation,
            processes: declaration.processes.iter().map(view).collect(),
        }
    }
}
