//! `gardend top`: containers and what they use, on the whole terminal, or as text for scripts.
//!
//! ```text
//!   watch (a task): asks the server, again and again ──samples──▶ model ──▶ view
//!   screen (a thread): keys ──▶ update ──▶ the model, or something to do: a shell, an output
//! ```
//! Promises: the terminal is as it was found whichever way this ends, a panic and a signal included;
//! a server that goes away is said so and asked on; what is shown of it cannot disturb the terminal.
//! A shell and an output are this program's own other commands, run as they are, so that they behave
//! as they do by themselves.

mod batch;
mod model;
mod screen;
mod update;
mod view;
mod watch;

use super::Context;
use super::outcome::Failure;
use super::signals::Endings;
use super::stats::parse_interval;
use super::terminal;
use clap::Args;
use model::{Column, Model};
use std::io::IsTerminal;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;
use watch::Watch;

#[derive(Debug, Args)]
#[command(
    after_help = "Processors are in percent of one: 200 % are two. Memory is what counts towards the limit. Keys: ? lists them; \
                  a column's number sorts by it, and once more the other way round; Enter shows a container's processes, / filters, \
                  s opens a shell in the container, o follows the output of the process, q leaves. Garden tells figures of a process \
                  only where it has an image of its own.\n\n\
                  Examples:\n  gardend top\n  gardend top --sort memory --filter web\n  gardend top --batch --iterations 3"
)]
pub struct TopArgs {
    /// How long from one look to the next
    #[arg(short, long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,

    /// The column to sort by
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = Column::Cpu)]
    sort: Column,

    /// Show those alone whose handle, state or processes hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,

    /// Write tables to stdout, without a terminal
    #[arg(short, long)]
    batch: bool,

    /// With --batch: how many [default: until it is ended]
    #[arg(short = 'n', long, value_name = "N", requires = "batch")]
    iterations: Option<NonZeroU64>,
}

pub(super) async fn top(context: &Context, args: TopArgs) -> Result<ExitCode, Failure> {
    let endings = Endings::listen().map_err(|error| Failure::Words(format!("cannot take signals: {error}")))?;
    let watch = Watch::new(context.client.clone(), args.interval);
    let model = Model::new(args.sort, args.filter, context.client.target().to_string());
    if args.batch {
        return batch::run(&context.ui, watch, model, args.iterations, endings).await;
    }
    if !terminal::stdin_is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::Usage("this is no terminal: say --batch to have tables as text".to_owned()));
    }
    screen::run(watch, model, context.client.target(), endings).await
}
