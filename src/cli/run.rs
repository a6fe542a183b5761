//! `gardend run`: a process in a container that is there, or, with `--rm`, in one made for it.

use super::Context;
use super::client::{ClientError, Outputs, Process, ProcessSpec, TtySpec};
use super::flags::{ContainerFlags, Json, ProcessFlags, RlimitFlags};
use super::outcome::Failure;
use super::output::note;
use super::session::{self, Left, OnBrokenPipe, OnSignal, Opening, SessionOptions, StdinMode};
use super::terminal::{self, DetachKeys};
use clap::{ArgAction, Args};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// A container that was made for one process, and whose maker was killed, goes after this.
const ORPHAN_GRACE: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
#[command(
    override_usage = "gardend run [OPTIONS] HANDLE [--] PROGRAM [ARGS]...\n       gardend run --rm [OPTIONS] [--] PROGRAM [ARGS]...",
    after_help = "Ctrl-C sends TERM, a second one KILL, a third leaves the process to itself. With --tty it is \
                  a key like any other, and ctrl-p ctrl-q leaves. Exits as the process does; 125: gardend or this \
                  client failed, 126: the program cannot be executed, 127: it is not there.\n\nExamples:\n  gardend run web -- ls -l /\n  gardend run -it web sh\n  gardend run --rm --rootfs ./rootfs -- make test"
)]
pub struct RunArgs {
    /// Send stdin, with its end
    #[arg(short, long)]
    interactive: bool,

    /// Give the process a terminal; with -i, this one
    #[arg(short, long)]
    tty: bool,

    /// Print the process's id and leave
    #[arg(short, long, conflicts_with_all = ["tty", "rm"])]
    detach: bool,

    /// Make a container for it, with the options under "Container", and destroy it afterwards
    #[arg(long)]
    rm: bool,

    /// The container, the program, and its arguments, which may begin with a dash
    #[arg(trailing_var_arg = true, required = true, value_name = "HANDLE PROGRAM ARGS")]
    words: Vec<String>,

    #[command(flatten)]
    json: Json,

    /// What to call the process [default: the server chooses]
    #[arg(long, value_name = "ID", help_heading = "Process")]
    id: Option<String>,

    #[command(flatten)]
    process: ProcessFlags,

    #[command(flatten)]
    rlimits: RlimitFlags,

    #[command(flatten)]
    container: ContainerFlags,

    #[command(flatten)]
    session: SessionFlags,
}

/// How a session behaves.
#[derive(Debug, Args)]
#[command(next_help_heading = "Session")]
pub(super) struct SessionFlags {
    /// The keys that leave a process with a terminal to itself; empty: none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Pass Ctrl-C and other signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: bool,
}

impl SessionFlags {
    pub(super) fn options(&self, stdin: StdinMode, tty: bool, on_broken_pipe: OnBrokenPipe) -> SessionOptions {
        SessionOptions {
            stdin,
            tty,
            on_signal: if self.sig_proxy { OnSignal::PassOn } else { OnSignal::Leave },
            on_broken_pipe,
            detach_keys: self.detach_keys.clone(),
        }
    }
}

#[derive(Serialize)]
struct Started<'a> {
    handle: &'a str,
    process: &'a str,
}

/// The words after the options, by what they are.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    handle: Option<String>,
    program: String,
    args: Vec<String>,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<ExitCode, Failure> {
    if args.container != ContainerFlags::default() && !args.rm {
        let words =
            "options under \"Container\" make a container: say --rm to make one for this process, or `gardend create`";
        return Err(Failure::Usage(words.to_owned()));
    }
    if args.tty && args.interactive && !terminal::stdin_is_terminal() {
        return Err(Failure::Usage("stdin is not a terminal: leave --tty out to send it as it is".to_owned()));
    }
    let words = split_words(args.words.clone(), args.rm)?;
    let spec = ProcessSpec {
        id: args.id.clone().unwrap_or_default(),
        path: words.program,
        args: words.args,
        env: environment(&args.process, args.tty),
        dir: args.process.dir.clone().unwrap_or_default(),
        user: args.process.user.clone().unwrap_or_default(),
        rlimits: args.rlimits.clone().into_limits(),
        tty: args.tty.then(|| TtySpec { window_size: terminal::size() }),
    };
    match words.handle {
        Some(handle) if args.detach => start(context, &handle, &spec, &args).await,
        Some(handle) => {
            let (left, process) = attended(context, &handle, &spec, &args).await?;
            Ok(left.conclude(&handle, &process).into())
        }
        None => run_in_a_container_of_its_own(context, &spec, &args).await,
    }
}

async fn start(context: &Context, handle: &str, spec: &ProcessSpec, args: &RunArgs) -> Result<ExitCode, Failure> {
    let process = context.client.run(handle, spec, Outputs::None).await?;
    if !args.interactive {
        process.input.close_stdin().await?;
    }
    if args.json.json {
        context.ui.json(&Started { handle, process: &process.id })?;
    } else {
        context.ui.line(&process.id)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn attended(
    context: &Context,
    handle: &str,
    spec: &ProcessSpec,
    args: &RunArgs,
) -> Result<(Left, String), Failure> {
    let stdin = match (args.interactive, args.tty) {
        (true, _) => StdinMode::Send,
        (false, true) => StdinMode::Leave,
        (false, false) => StdinMode::End,
    };
    let options = args.session.options(stdin, args.tty, OnBrokenPipe::Terminate);
    let mut opening = Opening::begin(&options)?;
    let process: Process = opening.wait(context.client.run(handle, spec, options.outputs())).await??;
    let id = process.id.clone();
    let left = session::attend(&context.client, handle, process, opening, options).await?;
    Ok((left, id))
}

async fn run_in_a_container_of_its_own(
    context: &Context,
    spec: &ProcessSpec,
    args: &RunArgs,
) -> Result<ExitCode, Failure> {
    let mut container = args.container.clone().into_spec();
    container.grace_time = Some(ORPHAN_GRACE);
    let handle = context.client.create(&container).await?;
    let result = attended(context, &handle, spec, args).await;
    if let Ok((left @ (Left::Detached | Left::Signalled(_)), process)) = &result {
        note(&format!(
            "'{handle}' was made for it: `gardend rm {handle}` destroys it, or it goes {} minutes after its last client",
            ORPHAN_GRACE.as_secs() / 60
        ));
        return Ok(left.conclude(&handle, process).into());
    }
    let destroyed = context.client.destroy(&handle).await;
    let (left, process) = result?;
    destroyed.map_err(|error: ClientError| {
        Failure::Words(format!("the process ended, but its container '{handle}' could not be destroyed: {error}"))
    })?;
    Ok(left.conclude(&handle, &process).into())
}

/// `HANDLE [--] PROGRAM ARGS...`, or without the handle. What follows the program is its own.
fn split_words(words: Vec<String>, own_container: bool) -> Result<Words, Failure> {
    let mut words = words.into_iter().peekable();
    let handle = if own_container { None } else { words.next() };
    words.next_if(|word| word == "--");
    match (handle, words.next()) {
        (Some(handle), None) => {
            Err(Failure::Usage(format!("no program named: gardend run [OPTIONS] {handle} PROGRAM [ARGS]...")))
        }
        (None, None) => {
            Err(Failure::Usage("no program named: gardend run --rm [OPTIONS] PROGRAM [ARGS]...".to_owned()))
        }
        (Some(handle), Some(option)) if option.starts_with('-') => Err(Failure::Usage(format!(
            "'{option}' comes after the container and would be the program; options go before it: \
             gardend run [OPTIONS] {handle} PROGRAM [ARGS]..."
        ))),
        (handle, Some(program)) => Ok(Words { handle, program, args: words.collect() }),
    }
}

/// With a terminal, programs need to know which kind.
pub(crate) fn environment(flags: &ProcessFlags, tty: bool) -> Vec<String> {
    let mut env = flags.env.resolve();
    if tty && !env.iter().any(|pair| pair.starts_with("TERM=")) {
        let kind = std::env::var("TERM").ok().filter(|kind| !kind.is_empty());
        env.push(format!("TERM={}", kind.as_deref().unwrap_or("xterm")));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(words: &[&str], own: bool) -> Result<Words, String> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        split_words(words, own).map_err(|failure| format!("{failure:?}"))
    }

    fn words(handle: Option<&str>, program: &str, args: &[&str]) -> Result<Words, String> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(Words { handle: handle.map(str::to_owned), program: program.to_owned(), args })
    }

    #[test]
    fn what_follows_the_program_is_its_own() {
        assert_eq!(split(&["h", "sh", "-c", "a", "--", "b"], false), words(Some("h"), "sh", &["-c", "a", "--", "b"]));
        assert_eq!(split(&["h", "--", "ls", "-l"], false), words(Some("h"), "ls", &["-l"]));
        assert_eq!(split(&["ls", "--", "-l"], true), words(None, "ls", &["--", "-l"]));
    }

    #[test]
    fn a_missing_program_and_a_misplaced_option_are_explained() {
        assert!(split(&["h"], false).unwrap_err().contains("gardend run [OPTIONS] h PROGRAM"));
        assert!(split(&["h", "--"], false).unwrap_err().contains("no program"));
        assert!(split(&["h", "-t", "sh"], false).unwrap_err().contains("options go before it"));
    }
}
