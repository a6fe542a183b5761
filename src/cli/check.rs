//! `gardend check`: its arguments, and how its findings are shown. Finding them is the node's.

use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{Cell, Tone, Ui};
use crate::config::Sources;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// The options of `check`: those of `serve`, since that is what is checked.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend check\n  gardend check --containerd /run/containerd/containerd.sock --json"
)]
pub struct CheckArgs {
    /// What would be served with.
    #[command(flatten)]
    pub serve: Sources,
    #[command(flatten)]
    json: Json,
}

impl CheckArgs {
    /// JSON is wanted instead of a table.
    pub fn json(&self) -> bool {
        self.json.json
    }
}

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it has to be.
    Ok,
    /// gardend serves, with less.
    Warn,
    /// gardend cannot serve.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckRow {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What to do, where there is something to do.
    pub remedy: Option<String>,
}

/// Prints what was found; answers the status to exit with: 0 unless a check failed.
pub fn print(rows: &[CheckRow], json: bool) -> ExitCode {
    let ui = Ui::new();
    let printed = if json { ui.json(&rows) } else { ui.rows(rows.iter().flat_map(lines).collect()) };
    match printed {
        Err(failure) => failure.report(),
        Ok(()) if rows.iter().any(|row| row.status == CheckStatus::Fail) => Failure::Told(Status::Failed).report(),
        Ok(()) => ExitCode::SUCCESS,
    }
}

fn lines(row: &CheckRow) -> Vec<Vec<Cell>> {
    let (word, tone) = match row.status {
        CheckStatus::Ok => ("ok", Tone::Good),
        CheckStatus::Warn => ("warn", Tone::Doubtful),
        CheckStatus::Fail => ("FAIL", Tone::Bad),
    };
    let mut lines = vec![vec![Cell::toned(word, tone), row.name.clone().into(), row.found.clone().into()]];
    if let Some(remedy) = &row.remedy {
        lines.push(vec!["".into(), "".into(), format!("-> {remedy}").into()]);
    }
    lines
}
