//! `kubectl garden` and `gardend cleanup`: gardends of a cluster, asked from outside of their nodes.
//!
//! ```text
//!   handle ──objects, or the nodes──▶ node ──labels──▶ gardend's pod ──pods/exec──▶ gardend's command line
//! ```
//! Owns the way from a handle to gardend's pod on its node, and a session there: stdin with its end,
//! outputs as they are, sizes of a terminal, the exit status. What a container is asked is gardend's
//! own command line, in the pod, so that it behaves as on the node.
//!
//! Promises: nothing is done by other rights than the caller's; a status is passed on exactly; a
//! connection that is cut ends with a status of its own ([`Status::Lost`]); nothing waits for ever
//! for a server that does not answer.
//!
//! Knows the command line (`cli`), whose terminal, tables and words it uses.
//!
//! [`Status::Lost`]: crate::cli::outcome::Status::Lost

mod args;
mod channel;
mod cleanup;
mod cluster;
mod describe;
mod exec;
mod kubeconfig;
mod nodes;
mod ps;
mod release;
mod resolve;
mod session;
mod status;

pub use cleanup::cleanup;

use crate::cli::outcome::{Failure, Status};
use args::{Command, Line, Plugin};
use clap::Parser;
use clap::error::ErrorKind;
use cluster::Cluster;
use exec::Mode;
use resolve::Target;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// What kubectl looks for in PATH when it is told `kubectl garden`.
const CALLED: &str = "kubectl-garden";

/// A `kubectl garden` that was parsed.
#[derive(Debug)]
pub struct Parsed(Plugin);

/// Parses the arguments of a process that was called as kubectl's plugin; `None` where it was not.
/// What makes no sense, help and the version have been printed: then the exit status is in `Err`.
pub fn parse(args: &[OsString]) -> Option<Result<Parsed, ExitCode>> {
    if !is_plugin(args.first()?) {
        return None;
    }
    Some(Plugin::try_parse_from(args).map(Parsed).map_err(|error| {
        // Nobody is left to tell when this cannot be written either.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            // 2 could be the process's own status.
            _ if args.get(1).is_some_and(|word| word == "exec") => Status::ClientFailed.into(),
            _ => Status::Usage.into(),
        }
    }))
}

fn is_plugin(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == CALLED)
}

/// Carries a `kubectl garden` out; answers the status to exit with. Threads that read stdin may be
/// left behind: end the process, do not wait for them.
pub async fn run(parsed: Parsed) -> ExitCode {
    let Plugin { access, command } = parsed.0;
    let exits_as_a_process = matches!(command, Command::Exec(_));
    let done = async {
        let cluster = Cluster::connect(&access).await?;
        carry_out(&cluster, command).await
    };
    let done = done.await.map_err(|failure: Failure| if exits_as_a_process { failure.of_a_process() } else { failure });
    done.unwrap_or_else(Failure::report)
}

async fn carry_out(cluster: &Cluster, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Ps(args) if args.handle.is_none() => ps::ps(cluster, &args).await,
        Command::Ps(args) => {
            let target = cluster.find(args.handle.as_deref().unwrap_or_default()).await?;
            on(cluster, &target, args.line(&target.handle), Mode::OUTPUT).await
        }
        Command::Logs(args) => {
            let target = cluster.find(&args.handle).await?;
            on(cluster, &target, args.line(&target.handle), Mode::LIFELINE).await
        }
        Command::Exec(args) => {
            let mode = args.mode()?;
            let target = cluster.find(&args.handle).await?;
            on(cluster, &target, args.line(&target.handle), mode).await
        }
        Command::Top(args) => {
            let mode = args.mode()?;
            let target = match &args.handle {
                Some(handle) => cluster.find(handle).await?,
                None => Target { node: cluster.only_node().await?, handle: String::new(), object: None },
            };
            on(cluster, &target, args.line(&target.handle), mode).await
        }
        Command::Describe(args) => describe::describe(cluster, &args).await,
        Command::Drain(args) => {
            let target = Target { node: args.node.clone(), handle: String::new(), object: None };
            on(cluster, &target, args.line(), Mode::OUTPUT).await
        }
    }
}

/// Runs gardend's command line on a target's node, as if it were here.
async fn on(cluster: &Cluster, target: &Target, line: Line, mode: Mode) -> Result<ExitCode, Failure> {
    let pod = cluster.pod_on(&target.node).await?;
    session::attend(cluster, &pod, &line, mode).await.map(ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_plugin_by_its_name_alone() {
        assert!(is_plugin(OsStr::new("/usr/local/bin/kubectl-garden")) && is_plugin(OsStr::new("kubectl-garden")));
        assert!(!is_plugin(OsStr::new("gardend")) && !is_plugin(OsStr::new("kubectl-garden/gardend")));
        assert!(parse(&["gardend".into(), "ps".into()]).is_none());
    }
}
