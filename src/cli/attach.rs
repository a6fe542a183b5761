//! `gardend attach`.

use super::Context;
use super::outcome::Failure;
use super::run::SessionFlags;
use super::session::{self, OnBrokenPipe, Opening, StdinMode};
use super::terminal;
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(
    after_help = "Shows what the process writes from now on, and what it wrote while nobody was attached. Typing goes to \
                  it where stdin is a terminal, any other stdin with --interactive. Ctrl-C sends TERM, a second one KILL, a \
                  third leaves; with --sig-proxy=false the first one leaves.\n\nExamples:\n  gardend attach web build-7\n  gardend attach -t web shell-1"
)]
pub struct AttachArgs {
    /// The container
    handle: String,

    /// The process's id
    process: String,

    /// Send stdin, with its end, also where it is no terminal
    #[arg(short, long)]
    interactive: bool,

    /// The process has a terminal: show it on this one
    #[arg(short, long)]
    tty: bool,

    /// Only watch
    #[arg(long, conflicts_with = "interactive")]
    no_stdin: bool,

    #[command(flatten)]
    session: SessionFlags,
}

pub(super) async fn attach(context: &Context, args: AttachArgs) -> Result<ExitCode, Failure> {
    let terminal = terminal::stdin_is_terminal();
    if args.tty && !terminal && !args.no_stdin {
        return Err(Failure::Usage("stdin is not a terminal: leave --tty out, or say --no-stdin to watch".to_owned()));
    }
    let sends = !args.no_stdin && (args.interactive || terminal);
    let stdin = if sends { StdinMode::Send } else { StdinMode::Leave };
    let options = args.session.options(stdin, args.tty, OnBrokenPipe::Leave);
    let mut opening = Opening::begin(&options)?;
    let process = opening.wait(context.client.attach(&args.handle, &args.process, options.outputs())).await??;
    let left = session::attend(&context.client, &args.handle, process, opening, options).await?;
    Ok(left.conclude(&args.handle, &args.process).into())
}
