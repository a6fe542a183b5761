//! `gardend limits`.

use super::Context;
use super::flags::Json;
use super::outcome::Failure;
use super::output::{Cell, Tone, size};
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(after_help = "Limits are set when a container is made, and do not change.\n\n\
                        Examples:\n  gardend limits web\n  gardend limits web --json")]
pub struct LimitsArgs {
    /// The container
    handle: String,

    #[command(flatten)]
    json: Json,
}

pub(super) async fn limits(context: &Context, args: LimitsArgs) -> Result<ExitCode, Failure> {
    let limits = context.client.limits(&args.handle).await?;
    if args.json.json {
        context.ui.json(&limits)?;
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = |bytes: u64, unit: &str| if bytes == 0 { "none".to_owned() } else { format!("{}{unit}", size(bytes)) };
    let number = |number: u64| if number == 0 { "none".to_owned() } else { number.to_string() };
    let disk = limits.disk;
    let scope = if disk.byte_hard == 0 && disk.inode_hard == 0 {
        ""
    } else if disk.scope == 0 {
        ", the image counted in"
    } else {
        ", without the image"
    };
    let row = |name: &str, value: String| vec![Cell::toned(name, Tone::Heading), value.into()];
    context.ui.rows(vec![
        row("Memory", bytes(limits.memory.limit_in_bytes, "")),
        row("Processor shares", number(limits.cpu.weight.max(limits.cpu.limit_in_shares))),
        row("Disk", bytes(disk.byte_hard, scope)),
        row("Files", number(disk.inode_hard)),
        row("Bandwidth", bytes(limits.bandwidth.rate, "/s")),
        row("Bandwidth at once", bytes(limits.bandwidth.burst, "")),
    ])?;
    Ok(ExitCode::SUCCESS)
}
