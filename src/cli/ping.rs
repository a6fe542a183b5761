//! `gardend ping`.

use super::Context;
use super::flags::Json;
use super::outcome::Failure;
use super::output::note;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend ping\n  gardend ping --target worker-3:7777")]
pub struct PingArgs {
    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Pong {
    target: String,
    healthy: bool,
    milliseconds: f64,
    /// Not there where the server cannot be drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<bool>,
}

pub(super) async fn ping(context: &Context, args: PingArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    context.client.ping().await?;
    let milliseconds = (started.elapsed().as_secs_f64() * 1e5).round() / 100.0;
    // Other Garden servers do not know the question.
    let draining = context.client.drain_stand().await.ok().map(|stand| stand.drain.is_some());
    let target = context.client.target().to_string();
    if args.json.json {
        context.ui.json(&Pong { target, healthy: true, milliseconds, draining })?;
    } else {
        context.ui.line(&format!("{target} is well and answered in {milliseconds} ms"))?;
        if draining == Some(true) {
            note("the node is being drained: new containers are refused");
        }
    }
    Ok(ExitCode::SUCCESS)
}
