//! `gardend check`: its arguments, and how its findings are shown. Finding them is the node's.

use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{Cell, Tone, Ui, note, report_error};
use crate::config::Sources;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// The options of `check`: those of `serve`, since that is what is checked.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend check\n  gardend check --containerd /run/containerd/containerd.sock --json\n  \
                  gardend check --leaks --all"
)]
pub struct CheckArgs {
    /// What would be served with.
    #[command(flatten)]
    pub serve: Sources,
    /// Tell instead what of gardend's is on this node that nobody owns; needs root
    #[arg(long)]
    leaks: bool,

    /// With --leaks: show also what somebody owns, and who
    #[arg(short, long, requires = "leaks")]
    all: bool,

    #[command(flatten)]
    json: Json,
}

impl CheckArgs {
    /// What is wanted.
    pub fn wanted(&self) -> Wanted {
        match (self.leaks, self.all) {
            (false, _) => Wanted::Fitness,
            (true, false) => Wanted::Leaks,
            (true, true) => Wanted::Everything,
        }
    }

    /// JSON is wanted instead of a table.
    pub fn json(&self) -> bool {
        self.json.json
    }
}

/// What a check is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whether the node can serve.
    Fitness,
    /// What nobody owns.
    Leaks,
    /// All that there is, with its owners.
    Everything,
}

/// Something of gardend's that is on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThingRow {
    /// What it is.
    pub kind: String,
    /// By what it is known among its kind.
    pub name: String,
    /// Whose it is.
    pub owner: OwnerRow,
    /// Of a container's: what its client calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Of a container's: what gardend calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerRow {
    /// A container's.
    Container,
    /// Of the blank places that are kept ready.
    Pool,
    /// Gardend's own.
    Gardend,
    /// A leak.
    Nobody,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CensusRows {
    /// How many of them nobody owns.
    pub leaks: usize,
    /// What was found.
    pub things: Vec<ThingRow>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// Prints a census; answers the status to exit with: 0 where nothing is a leak and all was looked at.
pub fn print_census(mut census: CensusRows, wanted: Wanted, json: bool) -> ExitCode {
    let is_clean = census.leaks == 0 && census.unseen.is_empty();
    if wanted != Wanted::Everything {
        census.things.retain(|thing| thing.owner == OwnerRow::Nobody);
    }
    let ui = Ui::new();
    let printed = match json {
        true => ui.json(&census),
        false if census.things.is_empty() => Ok(()),
        false => ui.table(&["KIND", "NAME", "OWNER"], census.things.iter().map(thing).collect()),
    };
    if let Err(failure) = printed {
        return failure.report();
    }
    if !json {
        census.unseen.iter().for_each(|what| report_error(&format!("not looked at: {what}")));
        note(&match census.leaks {
            0 => "nothing is a leak".to_owned(),
            1 => "1 leak".to_owned(),
            leaks => format!("{leaks} leaks"),
        });
    }
    if is_clean { ExitCode::SUCCESS } else { Failure::Told(Status::Failed).report() }
}

fn thing(row: &ThingRow) -> Vec<Cell> {
    let owner = match (row.owner, &row.handle, &row.uid) {
        (OwnerRow::Container, Some(handle), Some(uid)) => format!("container {handle} ({uid})").into(),
        (OwnerRow::Container, ..) => "a container".into(),
        (OwnerRow::Pool, ..) => "the pool".into(),
        (OwnerRow::Gardend, ..) => "gardend".into(),
        (OwnerRow::Nobody, ..) => Cell::toned("nobody", Tone::Bad),
    };
    vec![row.kind.as_str().into(), row.name.as_str().into(), owner]
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
