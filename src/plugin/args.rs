//! What `kubectl garden` is told, and what gardend's command line in the pod is told for it.

use super::exec::Mode;
use crate::cli::cleanup::SELECTOR;
use crate::cli::flags::{Json, ProcessFlags};
use crate::cli::outcome::Failure;
use crate::cli::run::environment;
use crate::cli::terminal;
use clap::{Args, Parser, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// The containers that gardends of a cluster keep
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-garden",
    bin_name = "kubectl garden",
    version = crate::cli::version(),
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Everything is done by your own rights: reading GardenContainers and pods, and pods/exec (verbs get and create) \
                  in gardend's namespace, with which one is root on its nodes. Statuses: the command's own; 124 where the \
                  connection was cut before it ended."
)]
pub(super) struct Plugin {
    #[command(flatten)]
    pub(super) access: Access,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How the cluster is reached, and where in it gardend is.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct Access {
    /// How clusters are reached [default: $KUBECONFIG, or else ~/.kube/config]
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// The context of it [default: its current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,

    /// Where gardend is [default: what the context says, or else gardend]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(super) namespace: Option<String>,

    /// On this node alone
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) node: Option<String>,

    /// As this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(super) impersonate: Option<String>,

    /// And of this group
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "impersonate")]
    pub(super) impersonate_groups: Vec<String>,

    /// Labels of gardend's pods
    #[arg(long, global = true, value_name = "SELECTOR", default_value = SELECTOR)]
    pub(super) selector: String,

    /// Where gardend listens, seen from its pod [default: what the pod's $GARDEND_TARGET says]
    #[arg(long, global = true, value_name = "ADDR")]
    pub(super) target: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List containers, or the processes of one
    Ps(PsArgs),
    /// Show what a process wrote
    Logs(LogsArgs),
    /// Run a process in a container, or a shell; exits as it does
    Exec(ExecArgs),
    /// Watch the containers of a node
    Top(TopArgs),
    /// Show a container's object, its events, and what its node knows of it
    Describe(DescribeArgs),
    /// Let a node take no new containers, and wait for those that it has
    Drain(DrainArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kubectl garden ps\n  kubectl garden ps --node node-1 --live\n  kubectl garden ps web"
)]
pub(super) struct PsArgs {
    /// The container whose processes are listed: its handle, or its object's name
    pub(super) handle: Option<String>,

    /// Ask the nodes, and not the objects that show what they have
    #[arg(long)]
    pub(super) live: bool,

    #[command(flatten)]
    pub(super) json: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "What is shown, and that it is shown once: see `gardend logs --help`.\n\n\
                        Examples:\n  kubectl garden logs web\n  kubectl garden logs -f web build-7")]
pub(super) struct LogsArgs {
    /// The container: its handle, or its object's name
    pub(super) handle: String,

    /// The process's id [default: the only one that runs]
    process: Option<String>,

    /// Go on until the process ends
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "kubectl garden exec [OPTIONS] HANDLE [-- PROGRAM [ARGS]...]",
    after_help = "Without a program it is a shell: bash, or else sh. Ctrl-C without --tty ends this command; the process goes \
                  on. Stdin is text, as Garden carries it; outputs are bytes.\n\n\
                  Examples:\n  kubectl garden exec -it web\n  kubectl garden exec web -- ls -l /\n  \
                  kubectl garden exec -i web -- sh -c 'cat >/tmp/x' <x"
)]
pub(super) struct ExecArgs {
    /// The container: its handle, or its object's name
    pub(super) handle: String,

    /// Send stdin, with its end
    #[arg(short = 'i', long, alias = "stdin")]
    interactive: bool,

    /// Give the process a terminal; with -i, this one
    #[arg(short, long)]
    tty: bool,

    #[command(flatten)]
    process: ProcessFlags,

    /// The program, and its arguments
    #[arg(last = true, value_name = "PROGRAM ARGS")]
    words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without a terminal it writes one table. Examples:\n  kubectl garden top --node node-1\n  kubectl garden top web"
)]
pub(super) struct TopArgs {
    /// The container that is shown, on its node: its handle, or its object's name
    pub(super) handle: Option<String>,

    /// Write tables to stdout, without a terminal
    #[arg(short, long)]
    batch: bool,

    /// With --batch: how many [default: until it is ended]
    #[arg(long, value_name = "N", requires = "batch")]
    iterations: Option<std::num::NonZeroU64>,
}

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    /// The container: its handle, or its object's name
    pub(super) handle: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kubectl garden drain node-1 --timeout 1h\n  kubectl garden drain node-1 --undo")]
pub(super) struct DrainArgs {
    /// The node
    #[arg(id = "drained", value_name = "NODE")]
    pub(super) node: String,

    /// Give up waiting after so long [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Destroy all containers and unused images
    #[arg(long)]
    destroy: bool,

    /// Take containers again
    #[arg(long, conflicts_with_all = ["timeout", "destroy"])]
    undo: bool,
}

/// A command of gardend's command line, with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line(Vec<String>);

impl Line {
    pub(super) fn new<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(str::to_owned).to_vec())
    }

    pub(super) fn word(mut self, word: impl Into<String>) -> Self {
        self.0.push(word.into());
        self
    }

    fn word_if(self, word: &str, wanted: bool) -> Self {
        if wanted { self.word(word) } else { self }
    }

    fn option(self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.word(format!("{name}={value}")),
            None => self,
        }
    }

    /// As it is run in the pod.
    pub(super) fn in_pod(&self, target: Option<&str>) -> Vec<String> {
        let target = target.map(|target| format!("--target={target}"));
        [Some("gardend".to_owned()), target].into_iter().flatten().chain(self.0.iter().cloned()).collect()
    }
}

impl PsArgs {
    pub(super) fn line(&self, handle: &str) -> Line {
        Line::new(["ps"]).word_if("--json", self.json.json).word("--").word(handle)
    }
}

impl LogsArgs {
    pub(super) fn line(&self, handle: &str) -> Line {
        let line = Line::new(["logs", "--while-stdin"]).word_if("--follow", self.follow).word("--").word(handle);
        self.process.iter().fold(line, Line::word)
    }
}

impl ExecArgs {
    /// # Errors
    /// A terminal is to be shown and there is none.
    pub(super) fn mode(&self) -> Result<Mode, Failure> {
        if self.tty && self.interactive && !terminal::stdin_is_terminal() {
            return Err(Failure::Usage("stdin is not a terminal: leave --tty out to send it as it is".to_owned()));
        }
        Ok(Mode { stdin: self.interactive, lifeline: false, tty: self.tty })
    }

    pub(super) fn line(&self, handle: &str) -> Line {
        let line = Line::new([if self.words.is_empty() { "shell" } else { "run" }]);
        // A shell takes its stdin by itself, and has a terminal where its stdin is one.
        let line = match self.words.is_empty() {
            true => line,
            false => line.word_if("--interactive", self.interactive).word_if("--tty", self.tty),
        };
        let line = line.option("--user", self.process.user.as_ref()).option("--dir", self.process.dir.as_ref());
        let line = environment(&self.process, self.tty)
            .into_iter()
            .fold(line, |line, variable| line.word(format!("--env={variable}")));
        match self.words.as_slice() {
            [] => line.word("--").word(handle),
            words => words.iter().fold(line.word(handle).word("--"), Line::word),
        }
    }
}

impl TopArgs {
    fn in_batches(&self) -> bool {
        self.batch || !terminal::stdin_is_terminal() || !std::io::stdout().is_terminal()
    }

    pub(super) fn mode(&self) -> Result<Mode, Failure> {
        Ok(if self.in_batches() { Mode::OUTPUT } else { Mode { stdin: true, lifeline: false, tty: true } })
    }

    pub(super) fn line(&self, handle: &str) -> Line {
        let iterations = self.iterations.map(std::num::NonZeroU64::get).or((!self.batch).then_some(1));
        let line = Line::new(["top"]);
        let line = match self.in_batches() {
            true => line.word("--batch").option("--iterations", iterations),
            false => line,
        };
        line.option("--filter", Some(handle).filter(|handle| !handle.is_empty()))
    }
}

impl DrainArgs {
    pub(super) fn line(&self) -> Line {
        Line::new(["drain", if self.undo { "--undo" } else { "--wait" }])
            .word_if("--destroy", self.destroy)
            .option("--timeout", self.timeout.map(humantime::format_duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Plugin {
        Plugin::try_parse_from(std::iter::once("kubectl-garden").chain(words.split(' '))).unwrap()
    }

    fn line(words: &str) -> Vec<String> {
        let line = match parse(words).command {
            Command::Ps(args) => args.line("h"),
            Command::Logs(args) => args.line("h"),
            Command::Exec(args) => args.line("h"),
            Command::Top(args) => args.line("h"),
            Command::Drain(args) => args.line(),
            Command::Describe(_) => unreachable!(),
        };
        line.in_pod(None)
    }

    #[test]
    fn the_command_line_is_sound() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn gardend_is_told_in_its_own_words() {
        for (given, told) in [
            ("ps x --json", "gardend ps --json -- h"),
            ("logs -f x build", "gardend logs --while-stdin --follow -- h build"),
            (
                "exec -i x -u app -w /srv -e A=b -- sh -c -t",
                "gardend run --interactive --user=app --dir=/srv --env=A=b h -- sh -c -t",
            ),
            ("exec x -e TERM=dumb -it", "gardend shell --env=TERM=dumb -- h"),
            ("exec -t -e TERM=dumb x -- top", "gardend run --tty --env=TERM=dumb h -- top"),
            ("top x --batch --iterations 3", "gardend top --batch --iterations=3 --filter=h"),
            ("top x -b", "gardend top --batch --filter=h"),
            ("drain node-1 --timeout 90m", "gardend drain --wait --timeout=1h 30m"),
            ("drain node-1 --destroy", "gardend drain --wait --destroy"),
            ("drain node-1 --undo", "gardend drain --undo"),
        ] {
            assert_eq!(line(given).join(" "), told, "{given}");
        }
    }

    #[test]
    fn what_kubectl_knows_is_said_as_to_kubectl_wherever_it_stands() {
        let plugin = parse("exec web -n garden --context c --kubeconfig k --node n --as u --as-group g -- ls -n x");
        let access = plugin.access;
        assert_eq!((access.namespace.as_deref(), access.context.as_deref()), (Some("garden"), Some("c")));
        assert_eq!((access.node.as_deref(), access.kubeconfig), (Some("n"), Some("k".into())));
        assert_eq!((access.impersonate.as_deref(), access.impersonate_groups), (Some("u"), vec!["g".to_owned()]));
        let Command::Exec(args) = plugin.command else { unreachable!() };
        assert_eq!(args.words, ["ls", "-n", "x"]);
    }

    #[test]
    fn gardend_is_asked_where_its_pod_says_unless_another_place_is_named() {
        let line = Line::new(["ls"]);
        assert_eq!(line.in_pod(None), ["gardend", "ls"]);
        assert_eq!(line.in_pod(Some("unix:///x")), ["gardend", "--target=unix:///x", "ls"]);
    }
}
