//! The options of `gardend serve`: flags, each also an environment variable `GARDEND_*`.
//!
//! [`ServeArgs`] is what people write, [`ServeConfig`] what the rest of gardend reads: absolute
//! paths, units in types, nothing that cannot be. Only what can be told without touching the
//! machine is checked here; whether a folder is there, or a containerd answers, is for its user
//! to say. A flag comes with the feature that it sets.

mod network;

use crate::node::ids::IdMap;
use crate::telemetry::{LogFilter, LogFormat};
use clap::Args;
pub use network::{NetworkArgs, NetworkConfig, SmallMtu};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The options of `serve` and `check`, as they are written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct ServeArgs {
    /// Where to serve Garden clients; loopback only, until it can be secured
    #[arg(long, env = "GARDEND_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:7777", value_parser = parse_listen)]
    listen: SocketAddr,

    /// What outlives a reboot: records, layers, images
    #[arg(long, env = "GARDEND_STATE_DIR", value_name = "DIR", default_value = "/var/lib/gardend")]
    state_dir: PathBuf,

    /// What does not: sockets, places, output that waits for a reader
    #[arg(long, env = "GARDEND_RUN_DIR", value_name = "DIR", default_value = "/run/gardend")]
    run_dir: PathBuf,

    /// `managed`: start and keep a containerd of our own; or the socket of the host's
    #[arg(long, env = "GARDEND_CONTAINERD", value_name = "managed|SOCKET", default_value = "managed", value_parser = parse_containerd)]
    containerd: ContainerdArg,

    /// The containerd program that `--containerd managed` starts [default: the one in PATH]
    #[arg(long, env = "GARDEND_CONTAINERD_BINARY", value_name = "PATH")]
    containerd_binary: Option<PathBuf>,

    /// The OCI runtime that makes places
    #[arg(long, env = "GARDEND_RUNTIME", value_name = "runc|crun|PATH", default_value = "runc", value_parser = parse_runtime)]
    runtime: Runtime,

    /// Folder or tar that containers without a rootfs of their own are made from
    #[arg(long, env = "GARDEND_DEFAULT_ROOTFS", value_name = "PATH")]
    default_rootfs: Option<PathBuf>,

    /// Containers at most
    #[arg(long, env = "GARDEND_MAX_CONTAINERS", value_name = "N", default_value = "250", value_parser = parse_max_containers)]
    max_containers: NonZeroUsize,

    /// How long a container may go without a client where it does not say; 0: for ever
    #[arg(long, env = "GARDEND_DEFAULT_GRACE_TIME", value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    default_grace_time: Duration,

    /// Blank places kept ready, of each kind that is in use; 0 is legal
    #[arg(long, env = "GARDEND_POOL_SIZE", value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pool_size: u16,

    /// Places at most that share one containerd shim: more save memory, fewer are lost with it
    #[arg(long, env = "GARDEND_PLACES_PER_SHIM", value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1000))]
    places_per_shim: u16,

    /// Whom the users of unprivileged containers are on the host: INSIDE:HOST:COUNT, with commas between
    #[arg(long, env = "GARDEND_ID_MAP", value_name = "MAP", default_value = "0:4294967294:1,1:1:4294967293")]
    id_map: IdMap,

    /// How long stdin stays open after the last client of a process has gone
    #[arg(long, env = "GARDEND_DETACH_GRACE", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    detach_grace: Duration,

    /// Output kept for each stream of a process while nobody reads it
    #[arg(long, env = "GARDEND_SPOOL_SIZE", value_name = "BYTES", default_value = "16MiB", value_parser = parse_bytes)]
    spool_size: Bytes,

    #[command(flatten)]
    network: NetworkArgs,

    /// What to log: error, warn, info, debug, trace, or a filter such as `gardend=debug,h2=info`
    #[arg(long, env = "GARDEND_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogFilter,

    /// How to write the log, which goes to stderr
    #[arg(long, env = "GARDEND_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// The options of `serve`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to serve; a loopback address.
    pub listen: SocketAddr,
    /// What outlives a reboot. Absolute.
    pub state_dir: PathBuf,
    /// What does not. Absolute, and apart from the state folder.
    pub run_dir: PathBuf,
    /// Whose containerd.
    pub containerd: Containerd,
    /// The OCI runtime.
    pub runtime: Runtime,
    /// What containers without a rootfs are made from. Absolute.
    pub default_rootfs: Option<PathBuf>,
    /// Containers at most.
    pub max_containers: NonZeroUsize,
    /// Grace time of a container that names none; `None`: none.
    pub default_grace_time: Option<Duration>,
    /// Blank places kept ready, of each kind.
    pub pool_size: usize,
    /// Places at most that share a shim.
    pub places_per_shim: NonZeroUsize,
    /// Whom the users of unprivileged containers are on the host.
    pub id_map: IdMap,
    /// How long stdin stays open after the last client has gone.
    pub detach_grace: Duration,
    /// Output kept for each stream while nobody reads it.
    pub spool_size: Bytes,
    /// The network of containers; `None`: they have none.
    pub network: Option<NetworkConfig>,
    /// What to log.
    pub log_filter: LogFilter,
    /// How.
    pub log_format: LogFormat,
}

/// Whose containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// One of our own, from this program (absolute) or the one in PATH.
    Managed {
        /// The program.
        binary: Option<PathBuf>,
    },
    /// The host's, at this socket. Absolute.
    Socket(PathBuf),
}

/// The OCI runtime that makes places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// runc, from PATH.
    Runc,
    /// crun, from PATH.
    Crun,
    /// Another program that speaks their language. Absolute.
    Path(PathBuf),
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Options that are well-formed one by one and cannot be together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to make a relative path absolute from.
    #[error("{flag} '{}' cannot be made absolute: {why}; name an absolute path", path.display())]
    NotAbsolute {
        /// Which option.
        flag: &'static str,
        /// As given.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Both folders are one.
    #[error("--state-dir and --run-dir are both '{}'; each needs a folder of its own", .0.display())]
    SameFolder(PathBuf),
    /// A program for a containerd that is not ours to start.
    #[error(
        "--containerd-binary is what `--containerd managed` starts, and --containerd names the socket '{}'; leave one out",
        .0.display()
    )]
    BinaryOfForeignContainerd(PathBuf),
    /// A link that IPv6 cannot use.
    #[error(transparent)]
    SmallMtu(#[from] SmallMtu),
}

#[derive(Clone, Debug)]
enum ContainerdArg {
    Managed,
    Socket(PathBuf),
}

impl ServeArgs {
    /// Checks the options against each other and makes paths absolute.
    ///
    /// # Errors
    /// [`ConfigError`] names the options that do not go together.
    pub fn validate(self) -> Result<ServeConfig, ConfigError> {
        let state_dir = absolute("--state-dir", &self.state_dir)?;
        let run_dir = absolute("--run-dir", &self.run_dir)?;
        if state_dir == run_dir {
            return Err(ConfigError::SameFolder(state_dir));
        }
        let binary = self.containerd_binary.map(|path| absolute_program("--containerd-binary", &path)).transpose()?;
        let containerd = match (self.containerd, binary) {
            (ContainerdArg::Managed, binary) => Containerd::Managed { binary },
            (ContainerdArg::Socket(socket), None) => Containerd::Socket(absolute("--containerd", &socket)?),
            (ContainerdArg::Socket(socket), Some(_)) => return Err(ConfigError::BinaryOfForeignContainerd(socket)),
        };
        let runtime = match self.runtime {
            Runtime::Path(path) => Runtime::Path(absolute("--runtime", &path)?),
            named => named,
        };
        Ok(ServeConfig {
            listen: self.listen,
            state_dir,
            run_dir,
            containerd,
            runtime,
            default_rootfs: self.default_rootfs.map(|path| absolute("--default-rootfs", &path)).transpose()?,
            max_containers: self.max_containers,
            default_grace_time: Some(self.default_grace_time).filter(|time| !time.is_zero()),
            pool_size: self.pool_size.into(),
            // The parser let nothing below 1 through.
            places_per_shim: NonZeroUsize::new(self.places_per_shim.into()).unwrap_or(NonZeroUsize::MIN),
            id_map: self.id_map,
            detach_grace: self.detach_grace,
            spool_size: self.spool_size,
            network: self.network.validate()?,
            log_filter: self.log_level,
            log_format: self.log_format,
        })
    }
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|error| ConfigError::NotAbsolute { flag, path: path.to_owned(), why: error.to_string() })
}

/// A program's bare name stays one: it is looked up in PATH.
fn absolute_program(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.components().count() == 1 && !path.is_absolute() { Ok(path.to_owned()) } else { absolute(flag, path) }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let address: SocketAddr =
        numeric.parse().map_err(|_| "not an address and a port; say 127.0.0.1:7777 or [::1]:7777".to_owned())?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{} can be reached from other machines, and whoever reaches gardend is root on this one; \
             listen on 127.0.0.1 or [::1] (an SSH tunnel leads there) until gardend can secure more",
            address.ip()
        ));
    }
    Ok(address)
}

fn parse_containerd(text: &str) -> Result<ContainerdArg, String> {
    if text == "managed" {
        return Ok(ContainerdArg::Managed);
    }
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.contains('/') {
        return Ok(ContainerdArg::Socket(path.into()));
    }
    Err("neither `managed` nor the path of a socket, such as /run/containerd/containerd.sock".to_owned())
}

fn parse_runtime(text: &str) -> Result<Runtime, String> {
    match text {
        "runc" => Ok(Runtime::Runc),
        "crun" => Ok(Runtime::Crun),
        path if path.contains('/') => Ok(Runtime::Path(path.into())),
        _ => Err("neither `runc`, `crun` nor the path of a runtime".to_owned()),
    }
}

fn parse_max_containers(text: &str) -> Result<NonZeroUsize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    NonZeroUsize::new(number).ok_or_else(|| "0 would refuse every container; leave it out for 250".to_owned())
}

/// Reads `90s`, `1h30m`, `1.5h`, `500ms`, or `0`: as humantime has them, and as Go has them.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if let Some(duration) = parse_go_duration(text) {
        return Ok(duration);
    }
    humantime::parse_duration(text).map_err(|_| {
        let unit = if text.parse::<f64>().is_ok() { ": it has no unit" } else { "" };
        format!("not a duration{unit}; say 90s, 5m or 1h30m")
    })
}

/// Numbers, perhaps with a fraction, each with a unit of Go's. `None` for anything else.
fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |end| number + end);
        let scale = match &rest[number..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = match rest[..number].parse::<u64>() {
            // Whole numbers exactly; a fraction as near as a float has it.
            Ok(whole) if scale >= 1.0 => Duration::from_secs(whole.checked_mul(scale as u64)?),
            _ => Duration::try_from_secs_f64(rest[..number].parse::<f64>().ok()? * scale).ok()?,
        };
        total = total.checked_add(part)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    text.parse()
}

impl FromStr for Bytes {
    type Err = String;

    /// Reads `4096`, `64K`, `16M`, `16MiB`, `1G`. Units are powers of 1024.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let shift = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err("not a number of bytes; say 65536, 64K, 16M or 1G".to_owned()),
        };
        let number: u64 =
            text[..digits].parse().map_err(|_| "not a number of bytes; say 65536, 64K, 16M or 1G".to_owned())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "more bytes than there are".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut unit) = (self.0, 0);
        while number != 0 && number.is_multiple_of(1024) && unit < 3 {
            (number, unit) = (number / 1024, unit + 1);
        }
        write!(f, "{number}{}", ["", "KiB", "MiB", "GiB"][unit])
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runc => f.write_str("runc"),
            Self::Crun => f.write_str("crun"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::builder::Resettable;
    use clap::{Command, FromArgMatches};

    /// Deaf to the environment that the test runs in.
    fn parse(args: &[&str]) -> Result<ServeConfig, String> {
        let command = ServeArgs::augment_args(Command::new("gardend")).mut_args(|arg| arg.env(Resettable::Reset));
        let matches = command.try_get_matches_from(std::iter::once(&"gardend").chain(args));
        let args = matches.and_then(|matches| ServeArgs::from_arg_matches(&matches));
        args.map_err(|error| error.to_string())?.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_the_documented_defaults_hold() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:7777".parse().unwrap());
        assert_eq!(config.state_dir, Path::new("/var/lib/gardend"));
        assert_eq!(config.run_dir, Path::new("/run/gardend"));
        assert_eq!(config.containerd, Containerd::Managed { binary: None });
        assert_eq!(config.runtime, Runtime::Runc);
        assert_eq!(config.max_containers.get(), 250);
        assert_eq!(config.default_grace_time, None);
        assert_eq!(config.detach_grace, Duration::from_secs(60));
        assert_eq!(config.spool_size, Bytes(16 << 20));
    }

    #[test]
    fn an_address_that_others_can_reach_is_refused_with_the_reason() {
        for open in ["0.0.0.0:7777", "[::]:7777", "10.1.2.3:7777"] {
            let error = parse(&["--listen", open]).unwrap_err();
            assert!(error.contains("--listen") && error.contains("can be reached from other machines"), "{error}");
        }
        assert_eq!(parse(&["--listen", "[::1]:0"]).unwrap().listen, "[::1]:0".parse().unwrap());
        assert_eq!(parse(&["--listen", "localhost:80"]).unwrap().listen, "127.0.0.1:80".parse().unwrap());
        assert!(parse(&["--listen", "7777"]).unwrap_err().contains("127.0.0.1:7777"));
    }

    #[test]
    fn relative_paths_become_absolute() {
        let config = parse(&["--state-dir", "state", "--default-rootfs", "./rootfs.tar"]).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(config.state_dir, here.join("state"));
        assert_eq!(config.default_rootfs, Some(here.join("rootfs.tar")));
    }

    #[test]
    fn containerd_is_managed_or_a_socket_and_nothing_between() {
        let socket = |path: &str| Containerd::Socket(path.into());
        assert_eq!(parse(&["--containerd", "/run/c.sock"]).unwrap().containerd, socket("/run/c.sock"));
        assert_eq!(parse(&["--containerd", "unix:///run/c.sock"]).unwrap().containerd, socket("/run/c.sock"));
        let managed = parse(&["--containerd-binary", "/opt/containerd"]).unwrap().containerd;
        assert_eq!(managed, Containerd::Managed { binary: Some("/opt/containerd".into()) });
        assert!(parse(&["--containerd", "mine"]).unwrap_err().contains("neither `managed`"));
        let both = parse(&["--containerd", "/run/c.sock", "--containerd-binary", "containerd"]).unwrap_err();
        assert!(both.contains("leave one out"), "{both}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (args, words) in [
            (["--max-containers", "0"], "leave it out"),
            (["--default-grace-time", "60"], "has no unit; say 90s"),
            (["--spool-size", "much"], "64K"),
            (["--runtime", "podman"], "neither `runc`"),
            (["--places-per-shim", "0"], "1..=1000"),
            (["--id-map", "0:0:65536"], "the host's root"),
            (["--log-level", "loud"], "error, warn, info, debug, trace"),
            (["--run-dir", "/var/lib/gardend"], "a folder of its own"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(args[0]) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn durations_are_read_as_people_and_as_go_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("5m", 300_000),
            ("5m0s", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2 days", 172_800_000),
            ("1h 5min", 3_900_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1s", "5", "5 parsecs", "1..5h", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_and_shown_with_units() {
        for (text, bytes) in [("4096", 4096), ("64K", 65_536), ("16 MiB", 16 << 20), ("1gb", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "1.5M", "-1", "99999999999G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for bytes in [0, 1, 1024, 1025, 16 << 20, 1 << 40] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }
}
