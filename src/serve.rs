//! `gardend serve`: the parts put together, run, and let go of.
//!
//! Owns the order of starting and stopping; what each part does is its own. On SIGTERM and SIGINT
//! it stops listening, lets answers finish, detaches streams and exits 0; containers, their
//! processes and a managed containerd go on and are taken over by the next gardend.

pub mod census;
mod cluster;
mod departure;
mod host;

use self::departure::Departure;
use crate::watching::{Counted, Watching};
use anyhow::{Context, Result, anyhow, bail};
use gardend::config::{self, Backend, CniConfig, NetworkConfig, NetworkMeans, ServeConfig, Sources};
use gardend::garden::{self, Garden, Machine};
use gardend::kube::Kube;
use gardend::net::secure::Secure;
use gardend::net::{Access, Address, Claim, Listener};
use gardend::node::cgroup::{Groups, Layout, ResourceNode, Together};
use gardend::node::check::{self, Report, Subject};
use gardend::node::containerd::managed::{self, Managed};
use gardend::node::containerd::{self, Containerd, Runtime};
use gardend::node::hooks::Hooked;
use gardend::node::ids;
use gardend::node::images::{self, ImageNode};
use gardend::node::mount::{self, MountNode};
use gardend::node::network::cni::{self, CniNode};
use gardend::node::network::none::NoNetwork;
use gardend::node::network::{self, NetworkNode, Policy, Resolver};
use gardend::node::place::Folders;
use gardend::node::process::{self, Images, ProcessNode};
use gardend::own;
use gardend::telemetry;
use gardend_controller::ledger::Ledger;
use gardend_controller::observe::Observing;
use gardend_controller::ports::{Network, Rootfs};
use gardend_controller::{Controller, Drain, NetworkOptions, Node, Options};
use prometheus_client::metrics::counter::Counter;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Serves until told to stop.
pub async fn serve(sources: Sources) -> Result<()> {
    let file = sources.file().map(Path::to_owned);
    let config = with_own_files(sources.validate()?)?;
    let spans = telemetry::SpanCounts::default();
    let collector = telemetry::collector(config.otlp_endpoint.clone());
    let traces = telemetry::init(&config.log_filter, config.log_format, collector.as_deref(), spans.clone())?;
    if let Some(file) = file {
        tracing::info!(file = %file.display(), "options are read from a configuration file");
    }
    let settings = match config.backend {
        Backend::Containerd => {
            require_root()?;
            Some(settings(&config)?)
        }
        Backend::Host => None,
    };
    process::raise_descriptor_limit();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Taken early: by default it would end us.
    let drain = signal(SignalKind::user_defined1())?;

    let folders = Folders::new(&config.state_dir, &config.run_dir);
    make_folder("--state-dir", folders.state())?;
    make_folder("--run-dir", folders.run())?;
    host::refuse_others_state(&folders, config.backend)?;
    let access = access(&config)?;
    let claims: Vec<Claim> = config.listen.iter().map(Claim::new).collect::<Result<_, _>>()?;
    let cluster = cluster::connect(&config).await?;
    let (watching, counted) = Watching::begin(&config, access, &spans)?;
    let reviewer = cluster::reviewer(&config).await?;
    let secure = config.secure.clone().map(|options| Secure::new(options, reviewer)).transpose();
    let secure = secure.context("cannot secure tls:// addresses")?;
    if settings.is_some() {
        ids::settle(&folders, &config.id_map)?;
    }
    let ledger = Ledger::open(&folders.state().join(Folders::LEDGER))?;
    let Parts { node, options, machine, managed, containerd, report, images } = match settings {
        Some(settings) => on_containerd(&config, &folders, settings, &counted).await?,
        None => host::on_host(&config, &folders)?,
    };
    let options = Options { observing: Observing::by(counted.events), ..options };
    let controller = Controller::start(options, ledger, node, &boot_id()?).await?;
    let departure = Departure {
        folders: folders.clone(),
        containerd: containerd.clone(),
        images,
        network: config.network.is_some(),
    };
    watching.started(controller.clone(), containerd);
    let drained_by_signal = tokio::spawn(drain_when_told(drain, controller.clone()));

    let listeners: Vec<Listener> = claims.into_iter().map(|claim| claim.listen(access)).collect::<Result<_, _>>()?;
    announce(listeners.iter().map(Listener::address));
    let shown = cluster.map(|place| {
        let options = cluster::options(&config, &place, report.as_ref(), &machine, &folders);
        Kube::start(place, options, controller.clone(), counted.kube)
    });
    let garden = Garden::new(controller.clone(), machine).with_requests(counted.requests);
    let garden = match secure {
        Some(secure) => garden.with_secure(secure),
        None => garden,
    };
    let told_to_stop = async {
        // Both are cancel-safe: a signal that came is kept until it is received.
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping; containers go on"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping; containers go on"),
        }
    };
    garden::serve(listeners, garden, told_to_stop).await;
    if let Some(shown) = shown {
        shown.stop().await;
    }
    drained_by_signal.abort();
    controller.shutdown().await;
    drop(watching);
    departure.of(&controller, managed).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    Ok(())
}

/// The same, with paths by which this thread finds the files of our own.
fn with_own_files(mut config: ServeConfig) -> Result<ServeConfig> {
    for (option, path) in config.own_files() {
        *path = own::file(path).with_context(|| format!("cannot find {option} {}", path.display()))?;
    }
    Ok(config)
}

/// SIGUSR1 drains the node, as `gardend drain` does.
async fn drain_when_told(mut told: Signal, controller: Controller) {
    while told.recv().await.is_some() {
        if let Err(error) = controller.drain(Drain::Refuse).await {
            tracing::error!(%error, "SIGUSR1: the node is not being drained");
        }
    }
}

/// What a backend brings along.
struct Parts {
    node: Node,
    options: Options,
    machine: Machine,
    managed: Option<Managed>,
    /// What the node was found to have.
    report: Option<Report>,
    /// Where there is one to watch over.
    containerd: Option<Arc<Containerd>>,
    /// Where there are any.
    images: Option<ImageNode>,
}

/// The backend `containerd`.
async fn on_containerd(
    config: &ServeConfig,
    folders: &Folders,
    settings: containerd::Settings,
    counted: &Counted,
) -> Result<Parts> {
    for fault in settings.faults() {
        tracing::warn!("{fault}");
    }
    let managed = match &config.containerd {
        config::Containerd::Managed { binary } => {
            let binary = managed::settle(&containerd_program(binary.as_deref()), folders)?;
            Some(Managed::start(&binary, folders).await?)
        }
        config::Containerd::Socket(_) => None,
    };
    let socket = match (&managed, &config.containerd) {
        (Some(managed), _) => managed.socket().to_owned(),
        (None, config::Containerd::Socket(socket)) => socket.clone(),
        (None, config::Containerd::Managed { .. }) => bail!("no containerd to use"),
    };
    let runtime = runtime(config)?;
    let report = check::run(&subject(config, folders, Some(socket.clone()), runtime.clone())).await;
    refuse_unfit_node(&report)?;

    let containerd_options = containerd::Options {
        runtime,
        group_limit: config.places_per_shim.get(),
        id_map: config.id_map.clone(),
        settings,
        calls: counted.calls.clone(),
        ..containerd::Options::default()
    };
    let sandboxes = Arc::new(Containerd::open(folders.clone(), &socket, containerd_options)?);
    let mount_options = mount::Options {
        default_rootfs: config.default_rootfs.clone(),
        id_map: config.id_map.clone(),
        resolver: resolver(config, folders),
        privileged_mode: config.privileged_mode,
        ..mount::Options::default()
    };
    let image_options = images::Options {
        registries: config.registries.clone(),
        max_age: config.image_max_age,
        max_bytes: config.image_max_bytes.map(|bytes| bytes.0),
    };
    let images = ImageNode::new(sandboxes.connection().clone(), sandboxes.owner().clone(), image_options)?;
    let rootfs = MountNode::new(folders.clone(), mount_options)?.with_images(images.clone());
    let groups = Groups::new(Layout::of_machine().context("cannot find the cgroups")?, sandboxes.cgroups().clone());
    let together =
        Together { memory: config.containers_memory_max.map(|bytes| bytes.0), processors: config.containers_cpu_max };
    // Those that run go on, in what was in force: they are not to be without a gardend.
    if let Err(error) = groups.limit_together(together) {
        tracing::error!(%error, "what all containers may have together is not bound as --containers-memory-max and \
                                 --containers-cpu-max say");
    }
    let resources = ResourceNode::new(folders.clone(), groups.clone());
    let process_options = process::Options { spool_bytes: config.spool_size.0, ..process::Options::default() };
    let process_images = Images::new(folders.clone(), rootfs.clone(), sandboxes.cgroups().clone())
        .context("cannot prepare processes with images")?;
    let processes = ProcessNode::new(folders.clone(), process_options)
        .context("cannot prepare the process lanes")?
        .with_images(process_images)
        .with_groups(groups.clone());
    let all = groups;
    let node = Node {
        sandboxes: sandboxes.clone(),
        rootfs: with_hooks(rootfs, config.oci_hooks_dir.as_deref(), folders)?,
        images: Arc::new(images.clone()),
        processes: Arc::new(processes.clone()),
        streams: Arc::new(processes.clone()),
        files: Arc::new(processes),
        resources: Arc::new(resources.clone()),
        network: network(config.network.as_ref(), folders, counted.table_restores.clone())?,
        metrics: Arc::new(resources),
    };
    let machine = Machine::new(folders.state()).with_memory_limit(move || all.memory_of_all());
    let network = config.network.as_ref().map(network_options).transpose()?;
    Ok(Parts {
        node,
        options: options(config, folders, network),
        machine,
        managed,
        containerd: Some(sandboxes),
        report: Some(report),
        images: Some(images),
    })
}

/// What a node must have, looked at with the options of `serve`.
pub async fn check(config: ServeConfig) -> Result<Report> {
    let config = with_own_files(config)?;
    let folders = Folders::new(&config.state_dir, &config.run_dir);
    if config.backend == Backend::Host {
        return Ok(check::run_on_host(&folders).await);
    }
    let runtime = runtime(&config)?;
    Ok(check::run(&subject(&config, &folders, None, runtime)).await)
}

fn subject(config: &ServeConfig, folders: &Folders, socket: Option<PathBuf>, runtime: Runtime) -> Subject {
    let containerd = match &config.containerd {
        config::Containerd::Managed { binary } => {
            // Only looked at here, so that a pod's own will do.
            let named = containerd_program(binary.as_deref());
            let binary = own::file(&named).unwrap_or(named);
            containerd::Endpoint::Managed { binary }
        }
        config::Containerd::Socket(socket) => containerd::Endpoint::Socket(socket.clone()),
    };
    let network = config.network.as_ref().map(|network| match &network.means {
        NetworkMeans::Builtin { .. } => check::NetworkSubject::Builtin(policy(network)),
        NetworkMeans::Cni(cni) => check::NetworkSubject::Cni(plugins(network, cni)),
    });
    Subject { folders: folders.clone(), containerd, socket, runtime, network }
}

fn require_root() -> Result<()> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        bail!(
            "gardend serve runs as uid {}; it makes namespaces and mounts, so run it as root, or with --backend host \
             for containers that are isolated from nothing",
            uid.as_raw()
        );
    }
    Ok(())
}

/// Made so that root of an unprivileged place, nobody on the host, can pass through but not list.
fn make_folder(option: &str, folder: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.with_context(|| format!("cannot make {option} {}", folder.display()))
}

/// Who may open the unix sockets.
fn access(config: &ServeConfig) -> Result<Access> {
    let group = config.listen_group.as_ref().map(group_number).transpose()?;
    Ok(Access { mode: config.listen_mode.bits(), group })
}

fn group_number(group: &config::GroupName) -> Result<u32> {
    let name = &group.0;
    let known = std::fs::read("/etc/group").unwrap_or_default();
    let account = garden_init::accounts::resolve(&format!("root:{name}"), b"", &known);
    Ok(account
        .map_err(|_| anyhow!("--listen-group names '{name}', which /etc/group does not know; say its number"))?
        .gid)
}

fn containerd_program(binary: Option<&Path>) -> PathBuf {
    binary.map_or_else(|| PathBuf::from("containerd"), Path::to_owned)
}

/// What places may do.
fn settings(config: &ServeConfig) -> Result<containerd::Settings> {
    let seccomp = match &config.seccomp_profile {
        config::SeccompProfile::Default => containerd::SeccompProfile::Default,
        config::SeccompProfile::Unconfined => containerd::SeccompProfile::Unconfined,
        config::SeccompProfile::File(path) => containerd::SeccompProfile::read(path)?,
    };
    let (privileged_mode, allowed_devices) = (config.privileged_mode, config.allowed_devices.clone());
    Ok(containerd::Settings { seccomp, privileged_mode, allowed_devices })
}

fn runtime(config: &ServeConfig) -> Result<Runtime> {
    Ok(config.runtime.to_string().parse()?)
}

fn refuse_unfit_node(report: &Report) -> Result<()> {
    let failures = report.failures();
    if failures.is_empty() {
        return Ok(());
    }
    bail!("this node cannot serve: {}", failures.join("; "))
}

fn with_hooks(rootfs: MountNode, hooks: Option<&Path>, folders: &Folders) -> Result<Arc<dyn Rootfs>> {
    let Some(hooks) = hooks else { return Ok(Arc::new(rootfs)) };
    let hooked = Hooked::new(rootfs, hooks, folders.clone()).map_err(|error| anyhow!("--oci-hooks-dir: {error}"))?;
    Ok(Arc::new(hooked))
}

fn network(config: Option<&NetworkConfig>, folders: &Folders, restores: Counter) -> Result<Arc<dyn Network>> {
    let Some(config) = config else { return Ok(Arc::new(NoNetwork)) };
    let what = "cannot prepare containers' networks";
    Ok(match &config.means {
        NetworkMeans::Builtin { pool, pool6, mtu } => {
            let pools = std::iter::once((*pool).into()).chain(pool6.map(Into::into)).collect();
            let options = network::Options { policy: policy(config), pools, mtu: *mtu, restores };
            Arc::new(NetworkNode::open(folders.clone(), options).context(what)?)
        }
        NetworkMeans::Cni(cni) => {
            let options = cni::Options { restores, ..plugins(config, cni) };
            Arc::new(CniNode::open(folders.clone(), options).context(what)?)
        }
    })
}

fn plugins(config: &NetworkConfig, cni: &CniConfig) -> cni::Options {
    cni::Options {
        conf_dir: cni.conf_dir.clone(),
        bin_dirs: cni.bin_dirs.clone(),
        network: cni.network.clone(),
        collects: cni.collects,
        policy: policy(config),
        dns_servers: config.dns_servers.clone(),
        deadline: cni::Options::DEADLINE,
        undo_deadline: cni::Options::UNDO_DEADLINE,
        restores: Counter::default(),
    }
}

fn policy(config: &NetworkConfig) -> Policy {
    Policy {
        deny_by_default: config.deny_by_default,
        deny_networks: config.deny_networks.clone(),
        allow_host_access: config.allow_host_access,
    }
}

fn resolver(config: &ServeConfig, folders: &Folders) -> Resolver {
    let hosts = config.additional_hosts.iter().map(|host| (host.name.clone(), host.address)).collect();
    let (servers, deny_by_default) = match &config.network {
        Some(network) => (network.dns_servers.clone(), network.deny_by_default),
        None => (Vec::new(), false),
    };
    let by_plugins = config.network.as_ref().is_some_and(|network| matches!(network.means, NetworkMeans::Cni(_)));
    let plugins = by_plugins.then(|| folders.clone());
    Resolver { servers, deny_by_default, hosts, plugins }
}

fn network_options(config: &NetworkConfig) -> Result<NetworkOptions> {
    let own = network::uplink().context("cannot look for the node's way out")?.address;
    Ok(config.options(own.map(Into::into)))
}

fn options(config: &ServeConfig, folders: &Folders, network: Option<NetworkOptions>) -> Options {
    Options {
        max_containers: config.max_containers.get(),
        pressure: config.pressure,
        default_grace_time: config.default_grace_time,
        pool_size: config.pool_size,
        places: folders.places(),
        detach_grace: config.detach_grace,
        network,
        create_deadline: config.request_timeout,
        keep_arguments: config.kube.as_ref().is_some_and(|kube| kube.policy.arguments.is_some()),
        ..Options::default()
    }
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

/// The one line on stdout that whoever started us waits for.
fn announce<'a>(addresses: impl Iterator<Item = &'a Address>) {
    let addresses = addresses.map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut stdout = std::io::stdout().lock();
    // Nobody may be listening to what we say.
    let _ = writeln!(stdout, "ready {addresses}").and_then(|()| stdout.flush());
    tracing::info!(%addresses, "ready");
}
