//! The backend `host`, put together: the controller and the front end as ever, on plain processes.

use super::{Parts, options};
use anyhow::{Context, Result, bail};
use gardend::config::{Backend, ServeConfig};
use gardend::garden::Machine;
use gardend::node::host::{
    Figures, HostFiles, HostNetwork, HostPlaces, HostProcesses, NOT_ISOLATED, NoImages, STATE_FOLDER,
};
use gardend::node::place::Folders;
use gardend::node::process::{self, ProcessNode};
use gardend_controller::{NetworkOptions, Node, Options};
use std::sync::Arc;

/// Says what it does not do, and brings the node.
pub fn on_host(config: &ServeConfig, folders: &Folders) -> Result<Parts> {
    tracing::warn!("--backend host is for development: containers share, and can change, {NOT_ISOLATED}");
    for folder in [folders.state(), folders.run()] {
        if folder.to_str().is_none() {
            bail!("the path {} is no UTF-8; name another folder", folder.display());
        }
    }
    let process_options = process::Options { spool_bytes: config.spool_size.0, ..process::Options::default() };
    let processes = ProcessNode::new(folders.clone(), process_options).context("cannot prepare the process lanes")?;
    let on_host = Arc::new(HostProcesses::new(processes.clone(), folders.clone()));
    let figures = Arc::new(Figures::new(folders.clone()));
    let ports = config.network.as_ref().map_or(NetworkOptions::PORTS, |network| network.ports.clone());
    let network = HostNetwork::new(ports);
    let shared = network.options();
    let node = Node {
        sandboxes: Arc::new(HostPlaces::open(folders.clone()).context("cannot prepare the folders of places")?),
        rootfs: Arc::new(HostFiles::open(folders.clone()).context("cannot prepare the containers' folders")?),
        images: Arc::new(NoImages),
        processes: Arc::clone(&on_host) as _,
        streams: Arc::new(processes),
        files: on_host,
        resources: Arc::clone(&figures) as _,
        network: Arc::new(network),
        metrics: figures,
    };
    // A place is made in milliseconds: none is kept ready.
    let options = Options { pool_size: 0, ..options(config, folders, Some(shared)) };
    Ok(Parts {
        node,
        options,
        machine: Machine::new(folders.state()),
        managed: None,
        containerd: None,
        report: None,
        images: None,
    })
}

/// Records of one backend mean nothing to the other, which would take its containers for dead.
pub fn refuse_others_state(folders: &Folders, backend: Backend) -> Result<()> {
    let state = folders.state();
    let (is_hosts, has_records) = (state.join(STATE_FOLDER).exists(), state.join(Folders::LEDGER).exists());
    match backend {
        Backend::Host if has_records && !is_hosts => bail!(
            "--state-dir {} holds the records of --backend containerd; name another folder for --backend host",
            state.display()
        ),
        Backend::Containerd if is_hosts => bail!(
            "--state-dir {} holds the containers of --backend host; name another folder, or remove it once none of \
             them is wanted any more",
            state.display()
        ),
        Backend::Host => {
            let folder = state.join(STATE_FOLDER);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make --state-dir {}", state.display()))
        }
        Backend::Containerd => Ok(()),
    }
}
