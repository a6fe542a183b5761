//! `gardend shell`.

use super::Context;
use super::client::{ClientError, GardenErrorKind, Process, ProcessSpec, TtySpec};
use super::flags::ProcessFlags;
use super::outcome::{Failure, Status};
use super::output::report_error;
use super::run::{SessionFlags, environment};
use super::session::{self, OnBrokenPipe, Opening, StdinMode};
use super::terminal;
use clap::Args;
use std::process::ExitCode;

/// In this order.
const SHELLS: [&str; 2] = ["bash", "sh"];

#[derive(Debug, Args)]
#[command(
    after_help = "Without a terminal as stdin, the shell reads its commands from stdin. ctrl-p ctrl-q leaves the shell to \
                  itself; `gardend attach -t HANDLE PROCESS` comes back to it.\n\nExamples:\n  gardend shell web\n  gardend shell -u app -w /srv web"
)]
pub struct ShellArgs {
    /// The container
    handle: String,

    #[command(flatten)]
    process: ProcessFlags,

    #[command(flatten)]
    session: SessionFlags,
}

pub(super) async fn shell(context: &Context, args: ShellArgs) -> Result<ExitCode, Failure> {
    let tty = terminal::stdin_is_terminal();
    let options = args.session.options(StdinMode::Send, tty, OnBrokenPipe::Terminate);
    let mut spec = ProcessSpec {
        env: environment(&args.process, tty),
        dir: args.process.dir.clone().unwrap_or_default(),
        user: args.process.user.clone().unwrap_or_default(),
        tty: tty.then(|| TtySpec { window_size: terminal::size() }),
        ..ProcessSpec::default()
    };
    let mut opening = Opening::begin(&options)?;
    let shell = opening.wait(first_shell(context, &args.handle, &mut spec, options.outputs())).await??;
    let Some(process) = shell else {
        let handle = &args.handle;
        report_error(&format!(
            "'{handle}' has neither bash nor sh; `gardend run -it {handle} PROGRAM` runs a program that it has"
        ));
        return Err(Failure::Told(Status::NotFound));
    };
    let id = process.id.clone();
    let left = session::attend(&context.client, &args.handle, process, opening, options).await?;
    Ok(left.conclude(&args.handle, &id).into())
}

/// The first shell that the container has; `None` where it has none.
async fn first_shell(
    context: &Context,
    handle: &str,
    spec: &mut ProcessSpec,
    outputs: super::client::Outputs,
) -> Result<Option<Process>, ClientError> {
    for shell in SHELLS {
        spec.path = shell.to_owned();
        match context.client.run(handle, spec, outputs).await {
            Err(error) if error.kind() == Some(GardenErrorKind::ExecutableNotFound) => {}
            result => return result.map(Some),
        }
    }
    Ok(None)
}
