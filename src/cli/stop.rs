//! `gardend stop`.

use super::Context;
use super::client::ClientError;
use super::outcome::{Failure, Status};
use super::output::report_error;
use clap::Args;
use futures_util::future::join_all;
use gardend_controller::record::StopMode;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gardend stop web\n  gardend stop --time 3 web db")]
pub struct StopArgs {
    /// The containers
    #[arg(required = true)]
    handles: Vec<String>,

    /// KILL at once, without a TERM before
    #[arg(short, long)]
    kill: bool,

    /// KILL after this many seconds, before the server's own 10 are over
    #[arg(short, long, value_name = "SECONDS", conflicts_with = "kill")]
    time: Option<u64>,
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> Result<ExitCode, Failure> {
    let stops = args.handles.iter().map(|handle| stop_one(context, handle, &args));
    let mut failed = false;
    for (handle, result) in args.handles.iter().zip(join_all(stops).await) {
        match result {
            Ok(()) => context.ui.line(handle)?,
            Err(error) => {
                report_error(&format!("'{handle}' was not stopped: {error}"));
                failed = true;
            }
        }
    }
    if failed { Err(Failure::Told(Status::Failed)) } else { Ok(ExitCode::SUCCESS) }
}

async fn stop_one(context: &Context, handle: &str, args: &StopArgs) -> Result<(), ClientError> {
    let client = &context.client;
    if args.kill || args.time == Some(0) {
        return client.stop(handle, StopMode::Kill).await;
    }
    let gently = client.stop(handle, StopMode::Terminate);
    let Some(seconds) = args.time else { return gently.await };
    tokio::pin!(gently);
    // Not cancelled where the time is over: it goes on below, and both are answered.
    tokio::select! {
        stopped = &mut gently => return stopped,
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
    }
    let (gently, at_once) = tokio::join!(gently, client.stop(handle, StopMode::Kill));
    at_once.or(gently)
}
