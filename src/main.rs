//! gardend's composition root: the only file that knows every part.
//!
//! `serve` puts the parts together in the order in which they depend on each other, so that each
//! refusal comes before anything was touched that a later one would have to undo: options, folders,
//! the port, the ledger, containerd, the node's features, the node, the controller. It listens only
//! once every container has been taken over: clients try a refused connection again, while an
//! unknown process would be final to them.

#[cfg_attr(not(target_os = "linux"), path = "serve/elsewhere.rs")]
mod serve;
mod watching;

use gardend::cli::check::{self, CheckRow};
use gardend::cli::{self, CheckArgs, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    #[cfg(target_os = "linux")]
    gardend::node::sys::share_heaps();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::from(error).context("cannot start")),
    };
    let status = match cli.command {
        Command::Client(command) => runtime.block_on(cli::run_client(command, cli.globals)),
        Command::Serve(args) => match runtime.block_on(serve::serve(args.options)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
        Command::Local(command) => cli::run_local(command),
        Command::Check(args) => match runtime.block_on(run_check(*args)) {
            Ok(status) => status,
            Err(error) => failed(&error),
        },
    };
    // Nobody waits for a look-up of a name, or for a thread that reads stdin.
    runtime.shutdown_background();
    status
}

/// The whole chain of causes on one line.
fn failed(error: &anyhow::Error) -> ExitCode {
    cli::report_error(&format!("{error:#}"));
    ExitCode::FAILURE
}

async fn run_check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let (json, wanted) = (args.json(), args.wanted());
    if wanted != check::Wanted::Fitness {
        return Ok(check::print_census(census(args.serve.validate()?).await?, wanted, json));
    }
    let rows: Vec<CheckRow> = rows(args.serve.validate()?).await?;
    Ok(check::print(&rows, json))
}

#[cfg(target_os = "linux")]
use serve::census::census;
#[cfg(not(target_os = "linux"))]
use serve::{census, rows};

#[cfg(target_os = "linux")]
async fn rows(config: gardend::config::ServeConfig) -> anyhow::Result<Vec<CheckRow>> {
    Ok(serve::check(config).await?.lines.into_iter().map(row).collect())
}

#[cfg(target_os = "linux")]
fn row(line: gardend::node::check::Line) -> CheckRow {
    use gardend::cli::check::CheckStatus;
    use gardend::node::check::Verdict;
    let status = match line.verdict {
        Verdict::Ok => CheckStatus::Ok,
        Verdict::Warn => CheckStatus::Warn,
        Verdict::Fail => CheckStatus::Fail,
    };
    CheckRow { name: line.name, status, found: line.found, remedy: line.remedy }
}
