//! `gardend images` and `gardend prune`: what images are on the node, and the removal of those that
//! nothing uses.

use super::Context;
use super::client::{Image, PruneMode, PruneScope};
use super::flags::Json;
use super::outcome::Failure;
use super::output::{Cell, Tone, note, size};
use clap::Args;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// What has no name.
const NAMELESS: &str = "<none>";

#[derive(Debug, Args)]
#[command(
    after_help = "SIZE is what an image takes unpacked, with layers that others share. USED is when a container \
                        was last made of it; the server removes what has not been used for --image-max-age, or, the \
                        one used longest ago first, what is beyond --image-max-bytes.\n\n\
                        Examples:\n  gardend images\n  gardend images --digests\n  gardend images --json"
)]
pub struct ImagesArgs {
    /// Print digests as a whole
    #[arg(long)]
    digests: bool,

    /// Print names alone
    #[arg(short, long, conflicts_with_all = ["json", "digests"])]
    quiet: bool,

    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "Without --all it does at once what the server does by itself from time to time. Images that \
                        containers or processes use stay, whatever is asked.\n\n\
                        Examples:\n  gardend prune\n  gardend prune --all --dry-run")]
pub struct PruneArgs {
    /// All images that nothing uses, and not those alone that are too old or too much
    #[arg(short, long)]
    all: bool,

    /// Show what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    #[command(flatten)]
    json: Json,
}

pub(super) async fn images(context: &Context, args: ImagesArgs) -> Result<ExitCode, Failure> {
    let images = context.client.images().await?;
    if args.json.json {
        context.ui.json(&images)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.quiet {
        for name in images.iter().flat_map(|image| &image.names) {
            context.ui.line(name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now();
    let rows = images.iter().flat_map(|image| rows(image, now, args.digests)).collect();
    context.ui.table(&["IMAGE", "DIGEST", "SIZE", "USED", "IN USE BY"], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// One for each of its names.
fn rows(image: &Image, now: SystemTime, digests: bool) -> Vec<Vec<Cell>> {
    let nameless = [NAMELESS.to_owned()];
    let names = if image.names.is_empty() { &nameless[..] } else { &image.names };
    let users = match (image.in_use, image.used_by.is_empty()) {
        (_, false) => Cell::toned(image.used_by.join(", "), Tone::Good),
        (true, true) => Cell::toned("a pull", Tone::Doubtful),
        (false, true) => "-".into(),
    };
    let used = if image.in_use { "now".to_owned() } else { age(&image.last_used, now) };
    let shown = |name: &String| {
        vec![
            name.as_str().into(),
            digest(&image.digest, digests).into(),
            size(image.bytes).into(),
            used.clone().into(),
            users.clone(),
        ]
    };
    names.iter().map(shown).collect()
}

fn digest(digest: &str, whole: bool) -> String {
    match digest.split_once(':') {
        Some((_, hex)) if !whole => hex.chars().take(12).collect(),
        _ => digest.to_owned(),
    }
}

/// How long ago, in the largest unit of which there is more than one.
fn age(time: &str, now: SystemTime) -> String {
    let Ok(time) = humantime::parse_rfc3339(time) else { return "-".into() };
    let seconds = now.duration_since(time).unwrap_or(Duration::ZERO).as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit} ago")
}

pub(super) async fn prune(context: &Context, args: PruneArgs) -> Result<ExitCode, Failure> {
    let scope = if args.all { PruneScope::Unused } else { PruneScope::Surplus };
    let mode = if args.dry_run { PruneMode::Tell } else { PruneMode::Remove };
    let images = context.client.prune_images(scope, mode).await?;
    if args.json.json {
        context.ui.json(&images)?;
        return Ok(ExitCode::SUCCESS);
    }
    for image in &images {
        let names = if image.names.is_empty() { image.digest.clone() } else { image.names.join(" ") };
        context.ui.line(&names)?;
    }
    let bytes = size(images.iter().map(|image| image.bytes).sum());
    let count = match images.len() {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    };
    // Layers that images share are counted in each, and freed with the last.
    note(&match mode {
        PruneMode::Tell => format!("{count} would be removed, of {bytes} at most"),
        PruneMode::Remove => format!("{count} removed, of {bytes} at most"),
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let now = humantime::parse_rfc3339("2026-01-02T00:00:00Z").unwrap();
        for (time, text) in [
            ("2026-01-02T00:00:05Z", "0 s ago"),
            ("2026-01-01T23:58:01Z", "119 s ago"),
            ("2026-01-01T23:00:00Z", "60 min ago"),
            ("2026-01-01T02:00:00Z", "22 h ago"),
            ("2025-12-01T00:00:00Z", "32 days ago"),
            ("yesterday", "-"),
        ] {
            assert_eq!(age(time, now), text);
        }
    }
}
