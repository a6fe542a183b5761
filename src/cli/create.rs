//! `gardend create`.

use super::Context;
use super::flags::{ContainerFlags, EnvFlags, Json};
use super::outcome::Failure;
use crate::config::parse_duration;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend create web\n  gardend create web --rootfs ./rootfs -e MODE=test -v /srv/data:/data:ro\n  gardend create --property team=a --grace-time 1h"
)]
pub struct CreateArgs {
    /// What to call it [default: the server chooses]
    #[arg(conflicts_with = "handle_flag")]
    handle: Option<String>,

    /// The same
    #[arg(long = "handle", aliases = ["name"], value_name = "HANDLE", id = "handle_flag")]
    handle_flag: Option<String>,

    #[command(flatten)]
    container: ContainerFlags,

    #[command(flatten)]
    env: EnvFlags,

    /// Destroy it after this long without a client: 90s, 5m, 1h30m [default: the server's]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace_time: Option<Duration>,

    #[command(flatten)]
    json: Json,
}

#[derive(Serialize)]
struct Created<'a> {
    handle: &'a str,
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode, Failure> {
    let mut spec = args.container.into_spec();
    spec.handle = args.handle.or(args.handle_flag).unwrap_or_default();
    spec.env = args.env.resolve();
    spec.grace_time = args.grace_time;
    let handle = context.client.create(&spec).await?;
    if args.json.json {
        context.ui.json(&Created { handle: &handle })?;
    } else {
        context.ui.line(&handle)?;
    }
    Ok(ExitCode::SUCCESS)
}
