//! `gardend drain`: the node takes no new containers, and those that it has go.

use super::Context;
use super::client::{Drain, DrainStand, Left, PruneMode, PruneScope};
use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{note, report_error};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(250);
/// Containers that are named, of those that are left.
const NAMED: usize = 10;

#[derive(Debug, Args)]
#[command(
    after_help = "A drain is in force until --undo, over restarts and reboots. New containers are refused; those that \
                        there are are used as ever. Exits with 0 once what was asked for is so, and with 1 where the \
                        time is over before: what is left is told.\n\n\
                        With --destroy everything goes, declared containers and images too, and a gardend that is stopped \
                        afterwards leaves nothing on the node but its records, which say that the node is drained. With \
                        --uninstall it leaves those neither.\n\n\
                        Examples:\n  gardend drain\n  gardend drain --wait --timeout 1h\n  gardend drain --destroy\n  \
                        gardend drain --undo"
)]
pub struct DrainArgs {
    /// Wait until no container is left
    #[arg(short, long)]
    wait: bool,

    /// Give up waiting after so long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Destroy all containers and unused images, and wait until they are gone
    #[arg(long)]
    destroy: bool,

    /// As --destroy, for a gardend that does not come back
    #[arg(long)]
    uninstall: bool,

    /// Take containers again
    #[arg(long, conflicts_with_all = ["wait", "timeout", "destroy", "uninstall"])]
    undo: bool,

    #[command(flatten)]
    json: Json,
}

pub(super) async fn drain(context: &Context, args: DrainArgs) -> Result<ExitCode, Failure> {
    if args.undo {
        let stand = context.client.undrain().await?;
        if args.json.json {
            context.ui.json(&stand)?;
        } else {
            note("the node takes containers again");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let drain = match (args.uninstall, args.destroy) {
        (true, _) => Drain::Uninstall,
        (false, true) => Drain::Destroy,
        (false, false) => Drain::Refuse,
    };
    let waits = args.wait || args.timeout.is_some() || drain > Drain::Refuse;
    let mut stand = context.client.drain(drain).await?;
    if waits {
        stand = wait(context, stand, &args).await?;
    }
    if stand.drained && drain > Drain::Refuse {
        context.client.prune_images(PruneScope::Unused, PruneMode::Remove).await?;
    }
    if args.json.json {
        context.ui.json(&stand)?;
    }
    if waits && !stand.drained {
        report_error(&format!("the node is not drained in time; {}", left(&stand)));
        return Err(Failure::Told(Status::Failed));
    }
    if !args.json.json {
        note(&match stand.drained {
            true => "the node is drained: nothing is left of its containers".to_owned(),
            false => format!("the node takes no new containers; {}", left(&stand)),
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until nothing is left or the time is over, and tells what is left whenever that is another.
async fn wait(context: &Context, mut stand: DrainStand, args: &DrainArgs) -> Result<DrainStand, Failure> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut told = None;
    while !stand.drained && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let words = left(&stand);
        if !args.json.json && told.as_ref() != Some(&words) {
            note(&words);
            told = Some(words);
        }
        tokio::time::sleep(PAUSE).await;
        stand = context.client.drain_stand().await?;
        if stand.drain.is_none() {
            return Err(Failure::Words("the drain was ended by somebody else".to_owned()));
        }
    }
    Ok(stand)
}

/// What is left, with its names, and why it does not go.
pub(crate) fn left(stand: &DrainStand) -> String {
    let count = |many: usize, what: &str| if many == 1 { format!("1 {what}") } else { format!("{many} {what}s") };
    let name = |left: &Left| match &left.stuck {
        Some(why) => format!("{} (stuck: {why})", left.handle),
        None => left.handle.clone(),
    };
    let mut names: Vec<_> = stand.containers.iter().take(NAMED).map(name).collect();
    if stand.containers.len() > NAMED {
        names.push("...".to_owned());
    }
    let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    format!("left are {} and {}{names}", count(stand.containers.len(), "container"), count(stand.places, "place"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_up_to_a_number_and_says_why_it_does_not_go() {
        let stuck = Left { handle: "a".into(), going: true, stuck: Some("it will not die".into()) };
        let stand = DrainStand { containers: vec![stuck.clone()], places: 2, ..DrainStand::default() };
        assert_eq!(left(&stand), "left are 1 container and 2 places: a (stuck: it will not die)");
        let many = DrainStand { containers: vec![Left { stuck: None, ..stuck }; 11], ..stand };
        assert!(left(&many).starts_with("left are 11 containers and 2 places: a, a") && left(&many).ends_with(", ..."));
    }
}
