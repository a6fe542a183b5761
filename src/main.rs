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

use anyhow::{Context, Result};
use gardend::cli::check::{self, CheckRow};
use gardend::cli::{self, CheckArgs, Command};
use gardend::config::MountNamespace;
use gardend::{own, plugin};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(parsed) = plugin::parse(&words) {
        return match parsed {
            Ok(parsed) => run(plugin::run(parsed)).unwrap_or_else(|error| failed(&error)),
            Err(status) => status,
        };
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    #[cfg(target_os = "linux")]
    gardend::node::sys::share_heaps();
    let done = match cli.command {
        Command::Client(command) => run(cli::run_client(command, cli.globals)),
        Command::Serve(args) => {
            let namespace = args.options.mount_namespace();
            work_in(namespace, || run(serve::serve(args.options))?.map(|()| ExitCode::SUCCESS))
        }
        Command::Cleanup(args) => run(plugin::cleanup(args)),
        Command::Local(command) => Ok(cli::run_local(command)),
        Command::Check(args) => {
            let namespace = args.serve.mount_namespace();
            work_in(namespace, || run(run_check(*args))?)
        }
    };
    done.unwrap_or_else(|error| failed(&error))
}

/// Does this among those mounts. The runtime has to be made there: its threads have the mounts of the
/// thread that starts them.
fn work_in<T: Send>(namespace: MountNamespace, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match namespace {
        MountNamespace::Own => work(),
        MountNamespace::Host => own::work_on_host(work)?,
    }
}

/// Runs this to its end, on a runtime of its own.
fn run<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let done = runtime.block_on(work);
    // Nobody waits for a look-up of a name, or for a thread that reads stdin.
    runtime.shutdown_background();
    Ok(done)
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
