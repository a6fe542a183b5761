//! `gardend completions` and `gardend man`: what shells and readers are given of the command line.

use super::Cli;
use super::client::io_reason;
use super::outcome::Failure;
use clap::{Args, CommandFactory};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend completions bash > /usr/share/bash-completion/completions/gardend\n  \
                        gardend completions zsh > \"${fpath[1]}/_gardend\"\n  \
                        gardend completions fish > ~/.config/fish/completions/gardend.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Where to.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend man /usr/local/share/man/man1\n  gardend man ./man && man ./man/gardend-run.1"
)]
pub struct ManArgs {
    /// The folder for the pages; made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints what a shell is to be told.
pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gardend", &mut script);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&script).and_then(|()| stdout.flush()).map_err(|error| Failure::writing(&error))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each command.
pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    let written =
        std::fs::create_dir_all(&args.folder).and_then(|()| clap_mangen::generate_to(Cli::command(), &args.folder));
    let failed = |error| Failure::Words(format!("cannot write to '{}': {}", args.folder.display(), io_reason(&error)));
    written.map(|()| ExitCode::SUCCESS).map_err(failed)
}
