//! The command line: one file a command.
//!
//! Owns what people type and see: arguments, tables and JSON, colours, the local terminal, exit
//! statuses. Everything a client command does goes through [`client`], over Garden's API, as any
//! other client's would; what Garden has no calls for, over gardend's own beside it. `serve`, `check`
//! and `cleanup` are only parsed here; `main.rs` has them carried out.
//!
//! Exit statuses: 0; 1 where a command failed; 2 where its arguments make no sense. `run`,
//! `shell` and `attach` exit as their process did, or with 125 where gardend or this client
//! failed, 126 where the program cannot be executed, 127 where it is not there, 128 + N where
//! signal N ended the waiting.

mod allow;
mod attach;
pub mod check;
pub(crate) mod cleanup;
pub mod client;
mod config;
mod cp;
mod create;
pub(crate) mod drain;
mod feed;
pub(crate) mod flags;
mod images;
mod info;
mod limits;
pub(crate) mod local;
mod logs;
mod ls;
pub(crate) mod outcome;
pub(crate) mod output;
mod ping;
mod ports;
mod props;
mod proxy;
mod ps;
mod pull;
mod reference;
mod rm;
pub(crate) mod run;
mod session;
mod shell;
pub(crate) mod signals;
mod stats;
mod stop;
pub(crate) mod terminal;
mod top;

pub use check::CheckArgs;
pub use cleanup::CleanupArgs;
pub use output::report_error;

use crate::config::Sources;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::{Client, Credentials, Target};
use outcome::{Failure, Status};
use output::Ui;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// A Garden server for containerd nodes, and a client of one
#[derive(Debug, Parser)]
#[command(name = "gardend", version = version(), max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Colours follow the terminal and NO_COLOR. Client commands speak to any Garden server; drain, images, pull and prune to a gardend."
)]
pub struct Cli {
    /// What every client command shares.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every client command shares.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// The server that client commands speak to: host:port, https://host:port or unix:///path
    #[arg(
        long,
        global = true,
        env = "GARDEND_TARGET",
        value_name = "ADDR",
        default_value = "127.0.0.1:7777",
        help_heading = "Client options"
    )]
    pub target: Target,

    /// Certificate authorities that an https:// server is believed by [default: the machine's]
    #[arg(long, global = true, env = "GARDEND_CA_FILE", value_name = "PEM", help_heading = "Client options")]
    pub ca_file: Option<PathBuf>,

    /// Certificate to show to an https:// server
    #[arg(
        long,
        global = true,
        env = "GARDEND_CERT_FILE",
        value_name = "PEM",
        requires = "key_file",
        help_heading = "Client options"
    )]
    pub cert_file: Option<PathBuf>,

    /// Private key of the certificate
    #[arg(
        long,
        global = true,
        env = "GARDEND_KEY_FILE",
        value_name = "PEM",
        requires = "cert_file",
        help_heading = "Client options"
    )]
    pub key_file: Option<PathBuf>,

    /// File with a token to show to an https:// server
    #[arg(long, global = true, env = "GARDEND_BEARER_FILE", value_name = "PATH", help_heading = "Client options")]
    pub bearer_file: Option<PathBuf>,
}

impl Globals {
    fn credentials(&self) -> Credentials {
        Credentials {
            authorities: self.ca_file.clone(),
            certificate: self.cert_file.clone().zip(self.key_file.clone()),
            token: self.bearer_file.clone(),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Garden clients on this node
    Serve(Box<ServeCommand>),
    /// Tell whether this node can serve, and what to do where it cannot
    Check(Box<CheckArgs>),
    /// Drain all nodes of a cluster and destroy what they have, before gardend is uninstalled
    Cleanup(CleanupArgs),
    /// A command that asks nobody.
    #[command(flatten)]
    Local(LocalCommand),
    /// A command that asks a server.
    #[command(flatten)]
    Client(ClientCommand),
}

/// A command that asks nobody.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Show the server's options, where each is from, and what there is to set
    Config(config::ConfigArgs),
    /// Print completions for a shell
    Completions(reference::CompletionsArgs),
    /// Write manual pages of every command
    Man(reference::ManArgs),
}

/// The options of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints one line with `ready` and its addresses once it serves. Every option can also be given as \
                        its variable or in the file of --config: see `gardend config show`.\n\n\
                        Examples:\n  gardend serve --default-rootfs /srv/busybox\n  \
                        gardend serve --backend host\n  \
                        gardend serve --listen 127.0.0.1:7777 --listen unix:///run/gardend/garden.sock --listen-group garden"
)]
pub struct ServeCommand {
    /// Wherever they are given.
    #[command(flatten)]
    pub options: Sources,
}

/// A command that asks a server.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Ask whether the server is well
    Ping(ping::PingArgs),
    /// Create a container and print its handle
    Create(Box<create::CreateArgs>),
    /// Run a process in a container; exits as it does
    Run(Box<run::RunArgs>),
    /// Open a shell in a container: its bash, or else its sh
    Shell(shell::ShellArgs),
    /// Attach to a process; exits as it does
    Attach(attach::AttachArgs),
    /// List the processes of one container, or of all
    Ps(ps::PsArgs),
    /// List containers
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Copy files into a container, or out of it
    Cp(cp::CpArgs),
    /// Show what a process wrote
    Logs(logs::LogsArgs),
    /// Show what containers use of processors, memory, network and disk
    Stats(stats::StatsArgs),
    /// Watch containers and their processes, and open a shell or an output of one
    Top(top::TopArgs),
    /// Show and open ports of the node that lead into a container
    #[command(visible_alias = "port")]
    Ports(ports::PortsArgs),
    /// Let a container reach addresses and ports
    Allow(allow::AllowArgs),
    /// Show the limits of a container
    Limits(limits::LimitsArgs),
    /// Show what is known of a container
    #[command(visible_alias = "inspect")]
    Info(info::InfoArgs),
    /// Show and change a container's properties
    #[command(visible_alias = "properties")]
    Props(props::PropsArgs),
    /// End all processes of containers; their files stay
    Stop(stop::StopArgs),
    /// Let the node take no new containers, and wait for those that it has, or destroy them
    Drain(drain::DrainArgs),
    /// Destroy containers
    #[command(visible_alias = "destroy")]
    Rm(rm::RmArgs),
    /// List the images that are on the node
    Images(images::ImagesArgs),
    /// Pull an image onto the node
    Pull(pull::PullArgs),
    /// Remove images that nothing uses
    Prune(images::PruneArgs),
    /// Pass connections on to a server, for clients that cannot reach it themselves
    Proxy(proxy::ProxyArgs),
}

/// What a command works with.
struct Context {
    client: Client,
    ui: Ui,
}

/// Parses the process's arguments. Where they make no sense, or ask for help or the version, that
/// has been printed and the exit status is in `Err`.
///
/// # Errors
/// The status to exit with.
pub fn parse() -> Result<Cli, ExitCode> {
    parse_from(std::env::args_os().collect())
}

fn parse_from(args: Vec<OsString>) -> Result<Cli, ExitCode> {
    let parsed = Cli::command().try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // Nobody is left to tell when this cannot be written either.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
            // 2 could be the process's own status.
            _ if exits_as_a_process(&args) => Status::ClientFailed.into(),
            _ => Status::Usage.into(),
        }
    })
}

fn exits_as_a_process(args: &[OsString]) -> bool {
    let command = Cli::command();
    let is_command = |word: &&OsString| word.to_str().is_some_and(|word| command.find_subcommand(word).is_some());
    let first = args.iter().skip(1).find(is_command);
    first.is_some_and(|word| ["run", "shell", "attach"].iter().any(|name| word == name))
}

/// Carries a command out that asks nobody; answers the status to exit with.
pub fn run_local(command: LocalCommand) -> ExitCode {
    let result = match command {
        LocalCommand::Config(args) => config::config(args),
        LocalCommand::Completions(args) => reference::completions(&args),
        LocalCommand::Man(args) => reference::man(&args),
    };
    result.unwrap_or_else(Failure::report)
}

/// Carries a client command out; answers the status to exit with.
///
/// Threads that read stdin or write to a stdout that nobody reads may be left behind: end the
/// process, do not wait for them.
pub async fn run_client(command: ClientCommand, globals: Globals) -> ExitCode {
    let credentials = globals.credentials();
    let context = Context { client: Client::new(globals.target.with(credentials.clone())), ui: Ui::new() };
    let result = match command {
        ClientCommand::Ping(args) => ping::ping(&context, args).await,
        ClientCommand::Create(args) => create::create(&context, *args).await,
        ClientCommand::Run(args) => run::run(&context, *args).await.map_err(Failure::of_a_process),
        ClientCommand::Shell(args) => shell::shell(&context, args).await.map_err(Failure::of_a_process),
        ClientCommand::Attach(args) => attach::attach(&context, args).await.map_err(Failure::of_a_process),
        ClientCommand::Ps(args) => ps::ps(&context, args).await,
        ClientCommand::Ls(args) => ls::ls(&context, args).await,
        ClientCommand::Cp(args) => cp::cp(&context, args).await,
        ClientCommand::Logs(args) => logs::logs(&context, args).await,
        ClientCommand::Stats(args) => stats::stats(&context, args).await,
        ClientCommand::Top(args) => top::top(&context, args).await,
        ClientCommand::Ports(args) => ports::ports(&context, args).await,
        ClientCommand::Allow(args) => allow::allow(&context, args).await,
        ClientCommand::Limits(args) => limits::limits(&context, args).await,
        ClientCommand::Info(args) => info::info(&context, args).await,
        ClientCommand::Props(args) => props::props(&context, args).await,
        ClientCommand::Stop(args) => stop::stop(&context, args).await,
        ClientCommand::Drain(args) => drain::drain(&context, args).await,
        ClientCommand::Rm(args) => rm::rm(&context, args).await,
        ClientCommand::Images(args) => images::images(&context, args).await,
        ClientCommand::Pull(args) => pull::pull(&context, args).await,
        ClientCommand::Prune(args) => images::prune(&context, args).await,
        ClientCommand::Proxy(args) => proxy::proxy(&context.ui, args, credentials).await,
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// The version, with the commit and what was built from it, where the build knew.
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let commit = Some(env!("GARDEND_COMMIT")).filter(|commit| !commit.is_empty()).unwrap_or("no commit");
        format!("{} ({commit}, {})", env!("CARGO_PKG_VERSION"), env!("GARDEND_BUILD"))
    });
    &VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_arguments_of_a_command_that_exits_as_a_process_are_not_taken_for_its_status() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(exits_as_a_process(&words("gardend --target x:1 run --bogus")));
        assert!(!exits_as_a_process(&words("gardend ls run")));
        assert!(!exits_as_a_process(&words("gardend")));
    }
}
