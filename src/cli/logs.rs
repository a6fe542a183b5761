//! `gardend logs`: what a process wrote, as far as Garden keeps it.
//!
//! Garden has attachments, and no log: the first to attach after a time without readers gets what was
//! written meanwhile, and with that it is read. So this attaches to the outputs alone. Without
//! `--follow` it ends its side once nothing more comes, and takes what is still on its way, so that
//! nothing is lost between one call and the next.

use super::Context;
use super::client::{Output, Outputs, Process};
use super::local::{Stdin, Stream, Writer};
use super::outcome::{Failure, Status};
use super::signals::Endings;
use bytes::BytesMut;
use clap::Args;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

/// What was written so far has come once nothing has for so long.
const QUIET: Duration = Duration::from_millis(300);
/// A process that is never quiet is left after this time, or so many bytes.
const LONGEST: Duration = Duration::from_secs(10);
const MOST: usize = 64 << 20;
/// How long what is on its way may take.
const REST: Duration = Duration::from_secs(2);
const PIECE: usize = 64 << 10;

#[derive(Debug, Args)]
#[command(
    after_help = "Garden keeps what a process writes while nobody reads it, up to the server's --spool-size: that is \
                        what is shown, and it is shown once. While another client is attached it has the output, and \
                        this shows what is written from now on. Ends once the process is quiet; with --follow, when it \
                        ends or with Ctrl-C, which leaves it running.\n\n\
                        Examples:\n  gardend logs web\n  gardend logs -f web build-7"
)]
pub struct LogsArgs {
    /// The container
    handle: String,

    /// The process's id [default: the only one that runs]
    process: Option<String>,

    /// Go on until the process ends
    #[arg(short, long)]
    follow: bool,

    /// End with stdin as well: whoever is shown it may be elsewhere, and leave without a word
    #[arg(long, hide = true)]
    while_stdin: bool,
}

pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<ExitCode, Failure> {
    let mut endings = Endings::listen().map_err(|error| Failure::Words(format!("cannot take signals: {error}")))?;
    let process = match args.process {
        Some(process) => process,
        None => only_process(context, &args.handle).await?,
    };
    let Process { stdout, stderr, input: _input, mut outcome, .. } =
        context.client.attach(&args.handle, &process, Outputs::Both).await?;
    let open = |stream| Writer::open(stream).map_err(|error| Failure::Words(format!("cannot start a thread: {error}")));
    let (mut to_stdout, mut to_stderr) = (open(Stream::Stdout)?, open(Stream::Stderr)?);
    let flowing = async {
        let until = if args.follow { None } else { Some(Instant::now() + LONGEST) };
        tokio::try_join!(flow(&mut to_stdout, stdout, until), flow(&mut to_stderr, stderr, until))
    };
    // A stream that is called off is this client's to leave: nobody waits for the rest.
    let flowed = tokio::select! {
        flowed = flowing => flowed,
        ending = endings.next() => return Err(Failure::Told(Status::Signal(ending.0))),
        () = nobody_looks(args.while_stdin) => return Err(Failure::Told(Status::Signal(libc::SIGHUP))),
    };
    flowed.map_err(|error| Failure::writing(&error))?;
    let (written, _) = tokio::join!(to_stdout.finish(), to_stderr.finish());
    written.map_err(|error| Failure::writing(&error))?;
    if args.follow {
        // A lost connection looks like the end of the output.
        outcome.wait().await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The end of stdin, where that is the end of whoever looks.
async fn nobody_looks(while_stdin: bool) {
    if let (true, Ok(mut stdin)) = (while_stdin, Stdin::open()) {
        while stdin.next().await.is_some() {}
        return;
    }
    std::future::pending().await
}

async fn only_process(context: &Context, handle: &str) -> Result<String, Failure> {
    let mut processes = context.client.info(handle).await?.process_ids;
    match processes.len() {
        1 => Ok(processes.remove(0)),
        0 => Err(Failure::Words(format!(
            "no process runs in '{handle}'; name one that has ended: gardend logs {handle} PROCESS"
        ))),
        _ => Err(Failure::Usage(format!("several processes run in '{handle}', name one: {}", processes.join(", ")))),
    }
}

/// Copies an output to its end, or (`until`) until it is quiet, at the latest then.
async fn flow(to: &mut Writer, output: Option<Output>, until: Option<Instant>) -> io::Result<()> {
    let Some(mut output) = output else { return Ok(()) };
    let Some(until) = until else { return to.copy(output).await };
    let (mut buffer, mut total) = (BytesMut::new(), 0);
    while Instant::now() < until && total < MOST {
        buffer.reserve(PIECE);
        match timeout(QUIET, output.read_buf(&mut buffer)).await {
            Ok(Ok(read @ 1..)) => {
                total += read;
                to.write(buffer.split().freeze()).await?;
            }
            Ok(_) => return Ok(()),
            Err(_) => break,
        }
    }
    output.stop().await;
    // A server that goes on although nobody wants more is left.
    timeout(REST, to.copy(output)).await.unwrap_or(Ok(()))
}
