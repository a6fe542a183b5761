//! `gardend ls`.

use super::Context;
use super::client::{ContainerInfo, GardenErrorKind};
use super::flags::{FilterFlags, Json};
use super::info::Shown;
use super::outcome::{Failure, Status};
use super::output::{Cell, Tone, report_error};
use clap::Args;
use gardend_controller::record::Properties;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend ls\n  gardend ls -q --property team=a")]
pub struct LsArgs {
    #[command(flatten)]
    filter: FilterFlags,

    /// Also containers that are still being made or destroyed
    #[arg(short, long)]
    all: bool,

    /// Print handles alone
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    #[command(flatten)]
    json: Json,
}

pub(super) async fn ls(context: &Context, args: LsArgs) -> Result<ExitCode, Failure> {
    let mut filter = args.filter.into_filter();
    if args.all {
        filter.insert("garden.state".to_owned(), "all".to_owned());
    }
    if args.quiet {
        let mut handles = context.client.list(&filter).await?;
        handles.sort_unstable();
        for handle in handles {
            context.ui.line(&handle)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (infos, failed) = infos(context, &filter).await?;
    if args.json.json {
        let shown: Vec<Shown> = infos.into_iter().map(|(handle, info)| Shown::new(handle, info)).collect();
        context.ui.json(&shown)?;
    } else {
        let rows = infos.into_iter().map(|(handle, info)| row(handle, info)).collect();
        context.ui.table(&["HANDLE", "STATE", "PROCESSES", "ADDRESS", "PATH"], rows)?;
    }
    if failed { Err(Failure::Told(Status::Failed)) } else { Ok(ExitCode::SUCCESS) }
}

/// What is known of every container that has these properties, by handle, and whether something
/// about one could not be had (that has been told). One that went meanwhile is left out.
pub(super) async fn infos(
    context: &Context,
    filter: &Properties,
) -> Result<(Vec<(String, ContainerInfo)>, bool), Failure> {
    let handles = context.client.list(filter).await?;
    if handles.is_empty() {
        return Ok((Vec::new(), false));
    }
    let mut failed = false;
    let mut infos = Vec::new();
    for (handle, entry) in context.client.bulk_info(&handles).await? {
        match entry {
            Ok(info) => infos.push((handle, info)),
            Err(error) if error.kind == GardenErrorKind::ContainerNotFound => {}
            Err(error) => {
                report_error(&format!("'{handle}': {error}"));
                failed = true;
            }
        }
    }
    Ok((infos, failed))
}

fn row(handle: String, info: ContainerInfo) -> Vec<Cell> {
    vec![
        handle.into(),
        state(&info.state),
        info.process_ids.len().to_string().into(),
        if info.container_ip.is_empty() { "-".into() } else { info.container_ip.into() },
        info.container_path.into(),
    ]
}

pub(super) fn state(state: &str) -> Cell {
    let tone = match state {
        "active" => Tone::Good,
        "stopped" => Tone::Doubtful,
        _ => Tone::Plain,
    };
    Cell::toned(state, tone)
}
