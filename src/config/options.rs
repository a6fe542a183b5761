//! The options of `gardend serve`: the one list of them, and what they are once checked.
//!
//! [`ServeArgs`] is what people write, [`ServeConfig`] what the rest of gardend reads: absolute
//! paths, units in types, nothing that cannot be. Only what can be told without touching the
//! machine is checked here; whether a folder is there, or a containerd answers, is for its user
//! to say. A flag comes with the feature that it sets.
//!
//! A field of `ServeArgs` is all that an option takes: its flag, its variable, its key in the
//! configuration file, its place in the schema and in the documentation follow from it (see
//! `super::list`). A list is a `Vec`, a switch a `bool`; what is no JSON of its own says
//! `#[schemars(with = "...")]`.

use super::kube::{Audience, KubeArgs, KubeConfig, TokenReviewConfig};
use super::network::{NetworkArgs, NetworkConfig, SmallMtu};
use super::values::{
    AdditionalHost, Bytes, BytesText, DurationText, GroupName, ModeText, SocketMode, ThresholdText, parse_bytes,
    parse_duration, parse_request_timeout, parse_threshold, some_threshold,
};
use crate::net::secure::SecureOptions;
use crate::net::{Address, AddressError};
use crate::node::containerd::AllowedDevice;
use crate::node::ids::IdMap;
use crate::node::images::{Mirror, RegistryOptions};
use crate::node::rights::PrivilegedMode;
use crate::telemetry::{LogFilter, LogFormat};
use clap::{Args, ValueEnum};
use gardend_controller::{PressureOptions, Threshold};
use schemars::JsonSchema;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The options of `serve` and `check`, as they are written.
#[derive(Clone, Debug, Args, JsonSchema)]
#[command(next_help_heading = "Server")]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServeArgs {
    /// Where to serve Garden clients: loopback addresses, unix sockets, and any address by TLS
    #[arg(
        long,
        env = "GARDEND_LISTEN",
        value_name = "ADDR:PORT|tls://ADDR:PORT|unix:///PATH",
        default_value = "127.0.0.1:7777"
    )]
    #[schemars(with = "Vec<String>")]
    listen: Vec<Address>,

    /// Who may open the unix sockets of `--listen`, in octal; whoever may is root on this machine
    #[arg(long, env = "GARDEND_LISTEN_MODE", value_name = "MODE", default_value = "0660")]
    #[schemars(with = "ModeText")]
    listen_mode: SocketMode,

    /// The group that the unix sockets of `--listen` belong to [default: gardend's own]
    #[arg(long, env = "GARDEND_LISTEN_GROUP", value_name = "NAME|GID")]
    #[schemars(with = "Option<String>")]
    listen_group: Option<GroupName>,

    /// The certificate of `tls://` addresses, with those that lead to its authority
    #[arg(long, env = "GARDEND_TLS_CERT", value_name = "PEM")]
    tls_cert: Option<PathBuf>,

    /// The private key of that certificate
    #[arg(long, env = "GARDEND_TLS_KEY", value_name = "PEM")]
    tls_key: Option<PathBuf>,

    /// Authorities: who shows a certificate of theirs is let in at `tls://` addresses
    #[arg(long, env = "GARDEND_TLS_CLIENT_CA", value_name = "PEM")]
    tls_client_ca: Option<PathBuf>,

    /// File of lines `NAME TOKEN`: who sends such a token is let in at `tls://` addresses
    #[arg(long, env = "GARDEND_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,

    /// Have Kubernetes say whose a token is (TokenReview): who may `use` this node's `gardennodes/garden` is let in at
    /// `tls://` addresses; independent of `--kube`
    #[arg(long, env = "GARDEND_TOKEN_REVIEW")]
    token_review: bool,

    /// Whom tokens are for that Kubernetes is asked about: those for anybody else let nobody in
    #[arg(long, env = "GARDEND_TOKEN_AUDIENCE", value_name = "NAME", default_value = "gardend")]
    #[schemars(with = "String")]
    token_audience: Audience,

    /// What containers are made of: `containerd`, or `host`: plain processes in folders, isolated from nothing, without
    /// containerd and without root, for development
    #[arg(long, env = "GARDEND_BACKEND", value_name = "BACKEND", value_enum, default_value_t = Backend::Containerd)]
    backend: Backend,

    /// What outlives a reboot: records, layers, images [default: /var/lib/gardend; with `--backend host` and without
    /// root, gardend/ in XDG_STATE_HOME]
    #[arg(long, env = "GARDEND_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// What does not: sockets, places, output that waits for a reader [default: /run/gardend; with `--backend host` and
    /// without root, gardend/ in XDG_RUNTIME_DIR]
    #[arg(long, env = "GARDEND_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,

    /// Whose paths those of other options are: gardend's own, or the host's, where gardend is in a pod. Files of its own
    /// configuration are gardend's in any case
    #[arg(long, env = "GARDEND_MOUNT_NAMESPACE", value_name = "NAMESPACE", value_enum, default_value_t = MountNamespace::Own)]
    mount_namespace: MountNamespace,

    /// `managed`: start and keep a containerd of our own; or the socket of the host's
    #[arg(long, env = "GARDEND_CONTAINERD", value_name = "managed|SOCKET", default_value = "managed", value_parser = parse_containerd)]
    #[schemars(with = "String")]
    containerd: ContainerdArg,

    /// The containerd program that `--containerd managed` starts [default: the one in PATH]
    #[arg(long, env = "GARDEND_CONTAINERD_BINARY", value_name = "PATH")]
    containerd_binary: Option<PathBuf>,

    /// The OCI runtime that makes places
    #[arg(long, env = "GARDEND_RUNTIME", value_name = "runc|crun|PATH", default_value = "runc", value_parser = parse_runtime)]
    #[schemars(with = "String")]
    runtime: Runtime,

    /// Folder or tar that containers without a rootfs of their own are made from
    #[arg(long, env = "GARDEND_DEFAULT_ROOTFS", value_name = "PATH")]
    default_rootfs: Option<PathBuf>,

    /// Asked before the registry HOST, which is asked where this one does not help
    #[arg(long, env = "GARDEND_REGISTRY_MIRROR", value_name = "HOST=URL")]
    #[schemars(with = "Vec<String>")]
    registry_mirror: Vec<Mirror>,

    /// Registry that is spoken to without proof of who it is, by https or http
    #[arg(long, env = "GARDEND_INSECURE_REGISTRY", value_name = "HOST", value_parser = parse_registry)]
    insecure_registry: Vec<String>,

    /// File of authorities whose registries are trusted, beside the machine's
    #[arg(long, env = "GARDEND_REGISTRY_CA", value_name = "PATH")]
    registry_ca: Vec<PathBuf>,

    /// Docker configuration file (config.json) with passwords for registries
    #[arg(long, env = "GARDEND_REGISTRY_CONFIG", value_name = "PATH")]
    registry_config: Option<PathBuf>,

    /// How long an image is kept that nothing uses; 0: for ever
    #[arg(long, env = "GARDEND_IMAGE_MAX_AGE", value_name = "DURATION", default_value = "7days", value_parser = parse_duration)]
    #[schemars(with = "DurationText")]
    image_max_age: Duration,

    /// What images may take on the disk before those that nothing uses go; 0: no bound
    #[arg(long, env = "GARDEND_IMAGE_MAX_BYTES", value_name = "BYTES", default_value = "0", value_parser = parse_bytes)]
    #[schemars(with = "BytesText")]
    image_max_bytes: Bytes,

    /// Memory that all containers may have together; 0: no bound
    #[arg(long, env = "GARDEND_CONTAINERS_MEMORY_MAX", value_name = "BYTES", default_value = "0", value_parser = parse_bytes)]
    #[schemars(with = "BytesText")]
    containers_memory_max: Bytes,

    /// Processors that all containers may use together, such as 3.5; 0: no bound
    #[arg(long, env = "GARDEND_CONTAINERS_CPU_MAX", value_name = "N", default_value = "0", value_parser = parse_processors)]
    #[schemars(range(min = 0.0))]
    containers_cpu_max: f64,

    /// New containers are refused while less memory than this is available: bytes, or a part in percent; 0: never
    #[arg(long, env = "GARDEND_MIN_FREE_MEMORY", value_name = "BYTES|N%", default_value = "0", value_parser = parse_threshold)]
    #[schemars(with = "ThresholdText")]
    min_free_memory: Threshold,

    /// New containers are refused while less than this is free on a disk of the state or the run folder; 0: never
    #[arg(long, env = "GARDEND_MIN_FREE_DISK", value_name = "BYTES|N%", default_value = "0", value_parser = parse_threshold)]
    #[schemars(with = "ThresholdText")]
    min_free_disk: Threshold,

    /// Containers at most
    #[arg(long, env = "GARDEND_MAX_CONTAINERS", value_name = "N", default_value = "250", value_parser = parse_max_containers)]
    max_containers: NonZeroUsize,

    /// How long a container may go without a client where it does not say; 0: for ever
    #[arg(long, env = "GARDEND_DEFAULT_GRACE_TIME", value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    #[schemars(with = "DurationText")]
    default_grace_time: Duration,

    /// Blank places kept ready, of each kind that is in use; 0 is legal
    #[arg(long, env = "GARDEND_POOL_SIZE", value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(0..=1000))]
    #[schemars(range(max = 1000))]
    pool_size: u16,

    /// Places at most that share one containerd shim: more save memory, fewer are lost with it
    #[arg(long, env = "GARDEND_PLACES_PER_SHIM", value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1000))]
    #[schemars(range(min = 1, max = 1000))]
    places_per_shim: u16,

    /// Whom the users of unprivileged containers are on the host: INSIDE:HOST:COUNT, with commas between
    #[arg(long, env = "GARDEND_ID_MAP", value_name = "MAP", default_value = "0:4294967294:1,1:1:4294967293")]
    #[schemars(with = "String")]
    id_map: IdMap,

    /// How long stdin stays open after the last client of a process has gone
    #[arg(long, env = "GARDEND_DETACH_GRACE", value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    #[schemars(with = "DurationText")]
    detach_grace: Duration,

    /// Output kept for each stream of a process while nobody reads it
    #[arg(long, env = "GARDEND_SPOOL_SIZE", value_name = "BYTES", default_value = "16MiB", value_parser = parse_bytes)]
    #[schemars(with = "BytesText")]
    spool_size: Bytes,

    /// How long making a container may take in all
    #[arg(long, env = "GARDEND_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "2m", value_parser = parse_request_timeout)]
    #[schemars(with = "DurationText")]
    request_timeout: Duration,

    /// Folder of OCI hooks (oci-hooks(5)) that every container gets: prestart, createRuntime, poststart, poststop
    #[arg(long, env = "GARDEND_OCI_HOOKS_DIR", value_name = "DIR")]
    #[schemars(with = "Option<String>")]
    oci_hooks_dir: Option<PathBuf>,

    /// The filter of system calls of containers without privileges: gardend's own, none, or a file with `linux.seccomp` of OCI
    #[arg(long, help_heading = "Isolation", env = "GARDEND_SECCOMP_PROFILE", value_name = "default|unconfined|PATH", default_value = "default", value_parser = parse_seccomp)]
    #[schemars(with = "String")]
    seccomp_profile: SeccompProfile,

    /// What privileged containers are given: all there is; mounts, FUSE and namespaces within a user namespace of their own;
    /// or no more than others
    #[arg(long, help_heading = "Isolation", env = "GARDEND_PRIVILEGED_MODE", value_name = "MODE", value_enum, default_value_t = PrivilegedMode::Full)]
    privileged_mode: PrivilegedMode,

    /// A device for containers that are not fully privileged: one of the machine's by its path, or a rule of cgroups
    #[arg(
        long,
        help_heading = "Isolation",
        env = "GARDEND_ALLOWED_DEVICE",
        value_name = "/dev/PATH[:rwm]|\"TYPE MAJOR:MINOR rwm\""
    )]
    #[schemars(with = "Vec<String>")]
    allowed_device: Vec<AllowedDevice>,

    /// A name that every container finds in its /etc/hosts
    #[arg(long, help_heading = "Network", env = "GARDEND_ADDITIONAL_HOST", value_name = "NAME=IP")]
    #[schemars(with = "Vec<String>")]
    additional_host: Vec<AdditionalHost>,

    /// What to log: error, warn, info, debug, trace, or a filter such as `gardend=debug,h2=info`
    #[arg(long, env = "GARDEND_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    #[schemars(with = "String")]
    log_level: LogFilter,

    /// How to write the log, which goes to stderr
    #[arg(long, env = "GARDEND_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Where to serve /metrics, /livez and /readyz, to whoever can reach it: figures without names [default: nowhere]
    #[arg(long, env = "GARDEND_METRICS_LISTEN", value_name = "ADDR:PORT|unix:///PATH", value_parser = parse_metrics_listen)]
    #[schemars(with = "Option<String>")]
    metrics_listen: Option<Address>,

    /// Collector that traces go to by OTLP over gRPC, such as http://127.0.0.1:4317 [default: OTEL_EXPORTER_OTLP_ENDPOINT, or nowhere]
    #[arg(long, env = "GARDEND_OTLP_ENDPOINT", value_name = "URL", value_parser = parse_collector)]
    otlp_endpoint: Option<String>,

    #[command(flatten)]
    #[schemars(flatten)]
    network: NetworkArgs,

    #[command(flatten)]
    #[schemars(flatten)]
    kube: KubeArgs,
}

/// The options of `serve`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to serve. Never empty.
    pub listen: Vec<Address>,
    /// Who may open unix sockets.
    pub listen_mode: SocketMode,
    /// Whose they are; `None`: our own group's.
    pub listen_group: Option<GroupName>,
    /// How `tls://` addresses are secured, where there are any. Paths are absolute.
    pub secure: Option<SecureOptions>,
    /// How Kubernetes is asked about tokens at `tls://` addresses; `None`: it is not.
    pub token_review: Option<TokenReviewConfig>,
    /// What containers are made of.
    pub backend: Backend,
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
    /// How registries are reached. Paths are absolute.
    pub registries: RegistryOptions,
    /// How long an image is kept that nothing uses; `None`: for ever.
    pub image_max_age: Option<Duration>,
    /// What images may take before unused ones go; `None`: no bound.
    pub image_max_bytes: Option<Bytes>,
    /// Memory that all containers may have together; `None`: no bound.
    pub containers_memory_max: Option<Bytes>,
    /// Processors that all containers may use together, in thousandths of one; `None`: no bound.
    pub containers_cpu_max: Option<u64>,
    /// How little memory and disk is too little for new containers.
    pub pressure: PressureOptions,
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
    /// What is shown in a cluster; `None`: there is none.
    pub kube: Option<KubeConfig>,
    /// How long making a container may take.
    pub request_timeout: Duration,
    /// Where hooks are that every container gets.
    pub oci_hooks_dir: Option<PathBuf>,
    /// The filter of containers without privileges.
    pub seccomp_profile: SeccompProfile,
    /// What privileged containers are given.
    pub privileged_mode: PrivilegedMode,
    /// Devices of containers that are not fully privileged.
    pub allowed_devices: Vec<AllowedDevice>,
    /// Names that every container knows.
    pub additional_hosts: Vec<AdditionalHost>,
    /// What to log.
    pub log_filter: LogFilter,
    /// How.
    pub log_format: LogFormat,
    /// Where those who watch are served; `None`: nowhere.
    pub metrics_listen: Option<Address>,
    /// Where traces go; `None`: where OpenTelemetry's variables say.
    pub otlp_endpoint: Option<String>,
}

impl ServeConfig {
    /// Files that are the operator's word to gardend, with their options: its pod's, where gardend is in one. Every
    /// other path is the host's.
    pub fn own_files(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        let mut files = Vec::new();
        if let Some(secure) = &mut self.secure {
            files.extend([("--tls-cert", &mut secure.certificate), ("--tls-key", &mut secure.key)]);
            files.extend(secure.client_authorities.as_mut().map(|path| ("--tls-client-ca", path)));
            files.extend(secure.tokens.as_mut().map(|path| ("--token-file", path)));
        }
        files.extend(self.registries.authorities.iter_mut().map(|path| ("--registry-ca", path)));
        files.extend(self.registries.docker_config.as_mut().map(|path| ("--registry-config", path)));
        if let SeccompProfile::File(path) = &mut self.seccomp_profile {
            files.push(("--seccomp-profile", path));
        }
        let shows = self.kube.as_mut().and_then(|kube| kube.kubeconfig.as_mut());
        let reviews = self.token_review.as_mut().and_then(|review| review.kubeconfig.as_mut());
        files.extend(shows.into_iter().chain(reviews).map(|path| ("--kubeconfig", path)));
        files
    }
}

/// What containers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case", inline)]
pub enum Backend {
    /// Containers of containerd's.
    Containerd,
    /// Plain processes in folders.
    Host,
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

/// Whose mounts gardend works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, JsonSchema)]
#[schemars(rename_all = "kebab-case", inline)]
pub enum MountNamespace {
    /// Those that it was started with.
    Own,
    /// Those of the host's first process.
    Host,
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

/// A filter of system calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompProfile {
    /// gardend's own.
    Default,
    /// None.
    Unconfined,
    /// In this file. Absolute.
    File(PathBuf),
}

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
    /// A user without a home.
    #[error("neither XDG_STATE_HOME nor HOME names a folder of this user's; name one with --state-dir")]
    NoHome,
    /// Both folders are one.
    #[error("--state-dir and --run-dir are both '{}'; each needs a folder of its own", .0.display())]
    SameFolder(PathBuf),
    /// One address given twice.
    #[error("--listen names {0} twice; once is enough")]
    SameAddress(Address),
    /// Garden's clients and those who watch would meet.
    #[error("--listen and --metrics-listen are both {0}; each needs an address of its own")]
    SharedAddress(Address),
    /// An address by TLS without what TLS takes.
    #[error("--listen {0} needs a certificate and its key; name them with --tls-cert and --tls-key")]
    NoCertificate(Address),
    /// An address that everybody could use.
    #[error(
        "--listen {0} would let everybody in, and whoever reaches gardend is root on this machine; \
         have clients prove who they are: --tls-client-ca, --token-file or --token-review"
    )]
    LetsEverybodyIn(Address),
    /// Security for nothing.
    #[error("{0} is for tls:// addresses, and --listen names none; listen on tls://ADDR:PORT, or leave it out")]
    NothingToSecure(&'static str),
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
    /// Whose mounts gardend works with.
    pub fn mount_namespace(&self) -> MountNamespace {
        self.mount_namespace
    }

    /// Checks the options against each other and makes paths absolute.
    ///
    /// # Errors
    /// [`ConfigError`] names the options that do not go together.
    pub fn validate(self) -> Result<ServeConfig, ConfigError> {
        let default = DefaultFolders::of(self.backend);
        let state_dir = match &self.state_dir {
            Some(folder) => absolute("--state-dir", folder)?,
            None => default.state.clone().ok_or(ConfigError::NoHome)?,
        };
        let run_dir = match (&self.run_dir, default.run) {
            (Some(folder), _) => absolute("--run-dir", folder)?,
            (None, Some(folder)) => folder,
            (None, None) => state_dir.join("run"),
        };
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
        if let Some(metrics) = self.metrics_listen.as_ref().filter(|metrics| self.listen.contains(metrics)) {
            return Err(ConfigError::SharedAddress(metrics.clone()));
        }
        let files = [
            ("--tls-cert", self.tls_cert),
            ("--tls-key", self.tls_key),
            ("--tls-client-ca", self.tls_client_ca),
            ("--token-file", self.token_file),
        ];
        let secure = secure(&self.listen, files, self.token_review)?;
        let token_review = match self.token_review {
            true => Some(self.kube.token_review(self.token_audience, |path| absolute("--kubeconfig", path))?),
            false => None,
        };
        Ok(ServeConfig {
            secure,
            token_review,
            listen: distinct(self.listen)?,
            listen_mode: self.listen_mode,
            listen_group: self.listen_group,
            backend: self.backend,
            state_dir,
            run_dir,
            containerd,
            runtime,
            default_rootfs: self.default_rootfs.map(|path| absolute("--default-rootfs", &path)).transpose()?,
            registries: RegistryOptions {
                mirrors: self.registry_mirror,
                insecure: self.insecure_registry,
                authorities: {
                    let paths = self.registry_ca.iter().map(|path| absolute("--registry-ca", path));
                    paths.collect::<Result<_, _>>()?
                },
                docker_config: self.registry_config.map(|path| absolute("--registry-config", &path)).transpose()?,
            },
            image_max_age: Some(self.image_max_age).filter(|age| !age.is_zero()),
            image_max_bytes: Some(self.image_max_bytes).filter(|bytes| bytes.0 > 0),
            containers_memory_max: Some(self.containers_memory_max).filter(|bytes| bytes.0 > 0),
            containers_cpu_max: Some(self.containers_cpu_max)
                .filter(|many| *many > 0.0)
                .map(|many| ((many * 1_000.0) as u64).max(1)),
            pressure: PressureOptions {
                memory: some_threshold(self.min_free_memory),
                disk: some_threshold(self.min_free_disk),
            },
            max_containers: self.max_containers,
            default_grace_time: Some(self.default_grace_time).filter(|time| !time.is_zero()),
            pool_size: self.pool_size.into(),
            // The parser let nothing below 1 through.
            places_per_shim: NonZeroUsize::new(self.places_per_shim.into()).unwrap_or(NonZeroUsize::MIN),
            id_map: self.id_map,
            detach_grace: self.detach_grace,
            spool_size: self.spool_size,
            network: self.network.validate()?,
            kube: self.kube.validate(|path| absolute("--kubeconfig", path))?,
            request_timeout: self.request_timeout,
            oci_hooks_dir: self.oci_hooks_dir.map(|dir| absolute("--oci-hooks-dir", &dir)).transpose()?,
            seccomp_profile: match self.seccomp_profile {
                SeccompProfile::File(path) => SeccompProfile::File(absolute("--seccomp-profile", &path)?),
                named => named,
            },
            privileged_mode: self.privileged_mode,
            allowed_devices: self.allowed_device,
            additional_hosts: self.additional_host,
            log_filter: self.log_level,
            log_format: self.log_format,
            metrics_listen: self.metrics_listen,
            otlp_endpoint: self.otlp_endpoint,
        })
    }
}

/// What the `tls://` addresses take. There is none that everybody could use.
fn secure(
    listen: &[Address],
    files: [(&'static str, Option<PathBuf>); 4],
    token_review: bool,
) -> Result<Option<SecureOptions>, ConfigError> {
    let Some(address) = listen.iter().find(|address| matches!(address, Address::Tls(_))) else {
        let files = files.iter().filter(|(_, path)| path.is_some()).map(|(flag, _)| *flag);
        let needless = files.chain(token_review.then_some("--token-review")).next();
        return needless.map_or(Ok(None), |flag| Err(ConfigError::NothingToSecure(flag)));
    };
    let mut paths = [const { None }; 4];
    for (to, (flag, path)) in paths.iter_mut().zip(files) {
        *to = path.map(|path| absolute(flag, &path)).transpose()?;
    }
    let [certificate, key, client_authorities, tokens] = paths;
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Err(ConfigError::NoCertificate(address.clone()));
    };
    if client_authorities.is_none() && tokens.is_none() && !token_review {
        return Err(ConfigError::LetsEverybodyIn(address.clone()));
    }
    Ok(Some(SecureOptions { certificate, key, client_authorities, tokens }))
}

/// Where things are kept where nobody says it.
#[derive(Debug, PartialEq, Eq)]
struct DefaultFolders {
    /// `None`: nowhere.
    state: Option<PathBuf>,
    /// `None`: within the state folder.
    run: Option<PathBuf>,
}

impl DefaultFolders {
    /// The machine's, or, of a user who may not write there, their own.
    fn of(backend: Backend) -> Self {
        if backend == Backend::Containerd || rustix::process::geteuid().is_root() {
            return Self { state: Some("/var/lib/gardend".into()), run: Some("/run/gardend".into()) };
        }
        Self::of_user(|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// By the XDG Base Directory Specification, which ignores relative paths.
    fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let folder = |name| variable(name).filter(|path| path.is_absolute());
        let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
        let own = |folder: PathBuf| folder.join("gardend");
        Self { state: state.map(own), run: folder("XDG_RUNTIME_DIR").map(own) }
    }
}

/// No address twice: the second could not be bound. A port that the kernel chooses is another each time.
fn distinct(addresses: Vec<Address>) -> Result<Vec<Address>, ConfigError> {
    let is_chosen =
        |address: &Address| matches!(address, Address::Tcp(address) | Address::Tls(address) if address.port() == 0);
    let mut rest = addresses.as_slice();
    while let Some((first, others)) = rest.split_first() {
        if others.contains(first) && !is_chosen(first) {
            return Err(ConfigError::SameAddress(first.clone()));
        }
        rest = others;
    }
    Ok(addresses)
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|error| ConfigError::NotAbsolute { flag, path: path.to_owned(), why: error.to_string() })
}

/// A program's bare name stays one: it is looked up in PATH.
fn absolute_program(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    if path.components().count() == 1 && !path.is_absolute() { Ok(path.to_owned()) } else { absolute(flag, path) }
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

fn parse_metrics_listen(text: &str) -> Result<Address, String> {
    match Address::open_to_others(text) {
        Ok(Address::Tls(_)) | Err(AddressError::NoAddress) => {
            Err("neither an address and a port, as in 127.0.0.1:9190, nor a unix socket, as in unix:///run/gardend/metrics.sock".to_owned())
        }
        other => other.map_err(|error| error.to_string()),
    }
}

fn parse_collector(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|_| "not a URL, such as http://127.0.0.1:4317".to_owned())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err("not the URL of a collector, such as http://127.0.0.1:4317".to_owned()),
    }
}

fn parse_registry(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', '@', ' ']) {
        return Err("not a registry's host, such as registry.example:5000".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_seccomp(text: &str) -> Result<SeccompProfile, String> {
    match text {
        "default" => Ok(SeccompProfile::Default),
        "unconfined" => Ok(SeccompProfile::Unconfined),
        path if path.contains('/') => Ok(SeccompProfile::File(path.into())),
        _ => Err("neither `default`, `unconfined` nor the path of a profile, as in ./profile.json".to_owned()),
    }
}

fn parse_max_containers(text: &str) -> Result<NonZeroUsize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    NonZeroUsize::new(number).ok_or_else(|| "0 would refuse every container; leave it out for 250".to_owned())
}

fn parse_processors(text: &str) -> Result<f64, String> {
    let many: f64 = text.parse().map_err(|_| "not a number of processors, such as 2 or 3.5".to_owned())?;
    if many.is_finite() && many >= 0.0 {
        Ok(many)
    } else {
        Err("not a number of processors, such as 2 or 3.5".to_owned())
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
    use super::super::list;
    use super::*;

    /// Deaf to the environment that the test runs in.
    fn parse(args: &[&str]) -> Result<ServeConfig, String> {
        let args = list::parse(args).map_err(|error| error.to_string())?;
        args.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_the_documented_defaults_hold() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:7777".parse().unwrap()]);
        assert_eq!((config.listen_mode, config.listen_group), (SocketMode(0o660), None));
        assert_eq!(config.state_dir, Path::new("/var/lib/gardend"));
        assert_eq!(config.run_dir, Path::new("/run/gardend"));
        assert_eq!(config.containerd, Containerd::Managed { binary: None });
        assert_eq!(config.runtime, Runtime::Runc);
        assert_eq!(config.max_containers.get(), 250);
        assert_eq!(config.default_grace_time, None);
        assert_eq!(config.detach_grace, Duration::from_secs(60));
        assert_eq!(config.spool_size, Bytes(16 << 20));
        assert_eq!((config.metrics_listen, config.otlp_endpoint), (None, None));
        assert_eq!(config.registries, RegistryOptions::default());
        assert_eq!((config.image_max_age, config.image_max_bytes), (Some(Duration::from_secs(7 * 86_400)), None));
    }

    #[test]
    fn without_root_the_host_backend_keeps_things_in_the_user_s_own_folders() {
        let folders = |variables: &[(&str, &str)]| {
            let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            DefaultFolders::of_user(of)
        };
        let both = folders(&[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/me")]);
        let expected = DefaultFolders { state: Some("/s/gardend".into()), run: Some("/run/user/7/gardend".into()) };
        assert_eq!(both, expected);
        let home = folders(&[("HOME", "/home/me"), ("XDG_STATE_HOME", "relative")]);
        assert_eq!(home, DefaultFolders { state: Some("/home/me/.local/state/gardend".into()), run: None });
        assert_eq!(folders(&[]).state, None);
        assert_eq!(parse(&["--backend", "host", "--state-dir", "/s"]).unwrap().backend, Backend::Host);
    }

    #[test]
    fn registries_are_reached_as_they_are_told() {
        let config = parse(&[
            "--registry-mirror",
            "docker.io=https://mirror.example/hub",
            "--registry-mirror",
            "quay.io=http://127.0.0.1:5000",
            "--insecure-registry",
            "a.example,b.example:5000",
            "--registry-ca",
            "ca.pem",
            "--image-max-age",
            "0",
            "--image-max-bytes",
            "10G",
        ])
        .unwrap();
        let mirrors: Vec<_> = config.registries.mirrors.iter().map(ToString::to_string).collect();
        assert_eq!(mirrors, ["docker.io=https://mirror.example/hub", "quay.io=http://127.0.0.1:5000"]);
        assert_eq!(config.registries.insecure, ["a.example", "b.example:5000"]);
        assert!(config.registries.authorities[0].is_absolute());
        assert_eq!((config.image_max_age, config.image_max_bytes), (None, Some(Bytes(10 << 30))));
    }

    #[test]
    fn an_address_that_others_can_reach_is_refused_with_the_reason() {
        for open in ["0.0.0.0:7777", "[::]:7777", "10.1.2.3:7777"] {
            let error = parse(&["--listen", open]).unwrap_err();
            assert!(error.contains("--listen") && error.contains("can be reached from other machines"), "{error}");
        }
        assert!(parse(&["--listen", "7777"]).unwrap_err().contains("127.0.0.1:7777"));
    }

    #[test]
    fn an_address_by_tls_takes_a_certificate_and_proof_of_who_comes() {
        let tls = ["--listen", "tls://0.0.0.0:7777"];
        let with = |more: &[&str]| parse(&[&tls, more].concat());
        assert!(with(&[]).unwrap_err().contains("needs a certificate and its key"));
        assert!(with(&["--tls-cert", "c.pem"]).unwrap_err().contains("needs a certificate and its key"));
        let everybody = with(&["--tls-cert", "c.pem", "--tls-key", "k.pem"]).unwrap_err();
        assert!(everybody.contains("tls://0.0.0.0:7777 would let everybody in"), "{everybody}");
        for proof in ["--tls-client-ca", "--token-file"] {
            let secure = with(&["--tls-cert", "c.pem", "--tls-key", "k.pem", proof, "p"]).unwrap().secure.unwrap();
            assert!(secure.certificate.is_absolute());
            assert!(secure.client_authorities.is_some() != secure.tokens.is_some());
        }
        for (needless, flag) in [(&["--token-file", "t"][..], "--token-file"), (&["--token-review"], "--token-review")]
        {
            let error = parse(needless).unwrap_err();
            assert!(error.contains(&format!("{flag} is for tls:// addresses")), "{error}");
        }
    }

    #[test]
    fn kubernetes_is_asked_about_tokens_without_being_shown_anything() {
        let tls = ["--listen", "tls://0.0.0.0:7777", "--tls-cert", "c.pem", "--tls-key", "k.pem", "--token-review"];
        let config = parse(&[&tls, &["--kubeconfig", "k", "--kube-node-name", "n1"][..]].concat()).unwrap();
        assert_eq!(config.kube, None);
        assert_eq!(config.secure.unwrap().tokens, None);
        let review = config.token_review.unwrap();
        assert_eq!((review.audience.as_str(), review.node_name.unwrap().as_str()), ("gardend", "n1"));
        assert!(review.kubeconfig.unwrap().is_absolute());
        let wrong = parse(&[&tls, &["--token-audience", ""][..]].concat()).unwrap_err();
        assert!(wrong.contains("--token-audience") && wrong.contains("such as gardend"), "{wrong}");
    }

    #[test]
    fn several_addresses_are_listened_on_and_none_twice() {
        let addresses = ["[::1]:0", "[::1]:0", "unix:///run/g.sock"];
        let listen = parse(&["--listen", "[::1]:0,[::1]:0", "--listen", "unix:///run/g.sock"]).unwrap().listen;
        assert_eq!(listen, addresses.map(|address| address.parse().unwrap()));
        let twice = parse(&["--listen", "localhost:80", "--listen", "127.0.0.1:80"]).unwrap_err();
        assert!(twice.contains("127.0.0.1:80 twice"), "{twice}");
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
            (["--request-timeout", "0"], "10m"),
            (["--seccomp-profile", "strict"], "neither `default`"),
            (["--privileged-mode", "none"], "full, fuse-only, ignore"),
            (["--allowed-device", "b 7* rwm"], "MAJOR:MINOR"),
            (["--additional-host", "name"], "NAME=IP"),
            (["--listen-mode", "rw-rw----"], "octal"),
            (["--listen", "unix://run/x"], "begin with /"),
            (["--runtime", "podman"], "neither `runc`"),
            (["--places-per-shim", "0"], "1..=1000"),
            (["--metrics-listen", "9090"], "an address and a port"),
            (["--metrics-listen", "tls://127.0.0.1:9090"], "an address and a port"),
            (["--metrics-listen", "127.0.0.1:7777"], "an address of its own"),
            (["--otlp-endpoint", "127.0.0.1:4317"], "such as http://"),
            (["--id-map", "0:0:65536"], "the host's root"),
            (["--registry-mirror", "docker.io"], "say docker.io=https://mirror.example"),
            (["--insecure-registry", "https://x"], "not a registry's host"),
            (["--log-level", "loud"], "error, warn, info, debug, trace"),
            (["--run-dir", "/var/lib/gardend"], "a folder of its own"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(args[0]) && error.contains(words), "{error}");
        }
    }
}
