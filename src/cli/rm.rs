//! `gardend rm`.

use super::Context;
use super::client::GardenErrorKind;
use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::report_error;
use clap::Args;
use futures_util::{StreamExt, stream};
use gardend_controller::record::Properties;
use serde::Serialize;
use std::process::ExitCode;

/// Containers destroyed at a time.
const AT_ONCE: usize = 8;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend rm web db\n  gardend rm --all")]
pub struct RmArgs {
    /// The containers
    #[arg(required_unless_present = "all")]
    handles: Vec<String>,

    /// All containers
    #[arg(short, long, conflicts_with = "handles")]
    all: bool,

    /// A container that is not there is no failure
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Removed {
    handle: String,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) async fn rm(context: &Context, args: RmArgs) -> Result<ExitCode, Failure> {
    let handles = if args.all { context.client.list(&Properties::new()).await? } else { args.handles };
    // One that went by itself meanwhile is as it was asked for.
    let may_be_gone = args.force || args.all;
    let results = stream::iter(handles).map(|handle| async move {
        let result = context.client.destroy(&handle).await;
        (handle, result)
    });
    let mut results = results.buffered(AT_ONCE);
    let (mut all, mut failed) = (Vec::new(), false);
    while let Some((handle, result)) = results.next().await {
        let error = match result {
            Ok(()) => None,
            Err(error) if may_be_gone && error.kind() == Some(GardenErrorKind::ContainerNotFound) => continue,
            Err(error) => Some(error.to_string()),
        };
        match &error {
            Some(error) => {
                report_error(&format!("'{handle}' was not destroyed: {error}"));
                failed = true;
            }
            None if !args.json.json => context.ui.line(&handle)?,
            None => {}
        }
        all.push(Removed { handle, removed: error.is_none(), error });
    }
    if args.json.json {
        context.ui.json(&all)?;
    }
    if failed { Err(Failure::Told(Status::Failed)) } else { Ok(ExitCode::SUCCESS) }
}
