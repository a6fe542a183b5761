//! `gardend ps`.

use super::Context;
use super::flags::Json;
use super::ls;
use super::outcome::{Failure, Status};
use clap::Args;
use gardend_controller::record::Properties;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend ps\n  gardend ps -q web")]
pub struct PsArgs {
    /// The container [default: all of them]
    handle: Option<String>,

    /// Print process ids alone
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Row {
    handle: String,
    process: String,
}

pub(super) async fn ps(context: &Context, args: PsArgs) -> Result<ExitCode, Failure> {
    let (infos, failed) = match &args.handle {
        Some(handle) => (vec![(handle.clone(), context.client.info(handle).await?)], false),
        None => ls::infos(context, &Properties::new()).await?,
    };
    let rows: Vec<Row> = infos
        .into_iter()
        .flat_map(|(handle, info)| {
            info.process_ids.into_iter().map(move |process| Row { handle: handle.clone(), process })
        })
        .collect();
    if args.json.json {
        context.ui.json(&rows)?;
    } else if args.quiet {
        for row in &rows {
            context.ui.line(&row.process)?;
        }
    } else {
        let cells = rows.into_iter().map(|row| vec![row.handle.into(), row.process.into()]).collect();
        context.ui.table(&["HANDLE", "PROCESS"], cells)?;
    }
    if failed { Err(Failure::Told(Status::Failed)) } else { Ok(ExitCode::SUCCESS) }
}
