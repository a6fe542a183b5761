//! A container's attachment: made, undone, and changed, each on disk before it is done.
//!
//! Work on one goes on to its end when whoever asked for it does not wait any more, with that
//! container's turn.

use super::chain::{self, Chain, Plugins};
use super::config;
use super::plugin::{self, Programs, Turn};
use super::result::Attached;
use super::store::{Attachment, Store};
use super::{Alone, Options, netns, rules, store_of, told, work};
use crate::node::network::links::Inside;
use crate::node::network::netlink::Connection;
use crate::node::network::{attempting, links, routing};
use crate::node::place::{Folders, InitProcess};
use gardend_controller::ports::{AttachWanted, NetworkWanted, NodeError, NodeErrorKind};
use gardend_controller::record::{Addresses, ContainerUid, Handle, SandboxId};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a program says that it speaks holds as long as it is this file.
type Identity = (PathBuf, u64, i64, u64);

/// What is attached on this node, and the plugins.
pub(super) struct Node {
    folders: Folders,
    options: Options,
    plugins: Plugins,
    store: Store,
    all: Mutex<BTreeMap<ContainerUid, Attachment>>,
    spoken: Mutex<BTreeMap<Identity, Vec<String>>>,
}

fn invalid(message: impl Into<String>) -> NodeError {
    NodeError::new(NodeErrorKind::Invalid, message)
}

fn failed(error: impl std::fmt::Display) -> NodeError {
    NodeError::new(NodeErrorKind::Failed, error.to_string())
}

/// A container whose plugins do not let go of it stays, and is tried again.
fn stuck(error: impl std::fmt::Display) -> NodeError {
    NodeError::new(NodeErrorKind::Stuck, format!("its network is not taken away: {error}"))
}

async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(failed(format!("work on the network ended: {error}"))))
}

impl Node {
    pub fn open(folders: Folders, options: Options) -> io::Result<Self> {
        let store = Store::open(store_of(&folders))?;
        for folder in ["cni/netns", "cni/turns"] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folders.run().join(folder))?;
        }
        let plugins = Plugins {
            programs: Programs { folders: options.bin_dirs.clone() },
            deadline: options.deadline,
            undo_deadline: options.undo_deadline,
        };
        let all = Mutex::new(store.read_all()?);
        Ok(Self { folders, options, plugins, store, all, spoken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerUid, Attachment>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every container that is attached, or may be.
    pub fn all(&self) -> Vec<(ContainerUid, Handle)> {
        self.lock().values().map(|attachment| (attachment.container.clone(), attachment.handle.clone())).collect()
    }

    pub fn attached(&self, container: &ContainerUid) -> Option<Attachment> {
        self.lock().get(container).cloned()
    }

    /// The link of a place, where the limit can be read, and the limit that it was asked for.
    pub fn limit_of(&self, sandbox: &SandboxId) -> Result<(Option<String>, (u64, u64)), NodeError> {
        let gone = || NodeError::new(NodeErrorKind::NotFound, format!("place {sandbox} is attached to no network"));
        let attachment = self.lock().values().find(|attachment| attachment.sandbox == *sandbox).cloned();
        let attachment = attachment.filter(|attachment| attachment.result.is_some()).ok_or_else(gone)?;
        self.inside(sandbox)?.ok_or_else(gone)?;
        let told = |what: &str| {
            let told = attachment.told.get(told::BANDWIDTH).and_then(|told| told.get(what)?.as_u64());
            told.unwrap_or_default() / 8
        };
        Ok((attachment.link.clone(), (told("ingressRate"), told("ingressBurst"))))
    }

    fn inside(&self, sandbox: &SandboxId) -> Result<Option<Inside>, NodeError> {
        Inside::of(&self.folders.place(sandbox)).map_err(attempting("looking for a place's network"))
    }

    fn netns(&self, sandbox: &SandboxId) -> PathBuf {
        self.folders.run().join("cni/netns").join(sandbox.as_str())
    }

    fn turn_file(&self, name: &str) -> PathBuf {
        self.folders.run().join("cni/turns").join(name)
    }

    /// The turn with whatever an earlier gardend's plugins left of this place.
    async fn turn(&self, name: &str) -> Result<Turn, NodeError> {
        let path = self.turn_file(name);
        work(move || Turn::take(&path).map_err(attempting("waiting for plugins of an earlier gardend"))).await
    }

    /// Writes it down, and then it is so.
    async fn put(self: &Arc<Self>, attachment: &Attachment) -> Result<(), NodeError> {
        let (node, attachment) = (Arc::clone(self), attachment.clone());
        work(move || {
            node.store.put(&attachment).map_err(attempting("recording what is attached to a network of CNI"))?;
            node.lock().insert(attachment.container.clone(), attachment);
            Ok(())
        })
        .await
    }

    /// Attaches a place, unless it is attached already.
    pub async fn attach(self: &Arc<Self>, wanted: AttachWanted, alone: Alone) -> Result<(Addresses, Alone), NodeError> {
        let node = Arc::clone(self);
        to_its_end(async move { Ok((node.attach_to_its_end(&wanted).await?, alone)) }).await
    }

    async fn attach_to_its_end(self: &Arc<Self>, wanted: &AttachWanted) -> Result<Addresses, NodeError> {
        if let Some(there) = self.attached(&wanted.container) {
            if let Some(attached) = there.attached().filter(|_| there.sandbox == wanted.sandbox) {
                return attached.and_then(|attached| attached.addresses()).map_err(failed);
            }
            self.detach_to_its_end(&wanted.container).await?;
        }
        let turn = self.turn(wanted.sandbox.as_str()).await?;
        let mut attachment = match self.prepare(wanted, &turn).await {
            Ok(attachment) => attachment,
            Err(error) => {
                drop(turn);
                // An empty file is all that there is.
                let _ = std::fs::remove_file(self.turn_file(wanted.sandbox.as_str()));
                return Err(error);
            }
        };
        self.put(&attachment).await?;
        let made = self.make(&mut attachment, &turn).await;
        drop(turn);
        match made {
            Ok(addresses) => Ok(addresses),
            Err(error) => {
                // What cannot be undone now stays recorded, and is undone later.
                if let Err(left) = self.detach_to_its_end(&wanted.container).await {
                    tracing::warn!(handle = %wanted.handle, error = %left, "what was begun is not undone yet");
                }
                Err(error)
            }
        }
    }

    /// What shall be attached to what, refused where that cannot be.
    async fn prepare(self: &Arc<Self>, wanted: &AttachWanted, turn: &Turn) -> Result<Attachment, NodeError> {
        let (node, sandbox) = (Arc::clone(self), wanted.sandbox.clone());
        let (offered, init) = work(move || {
            let offered = config::load(&node.options.conf_dir, node.options.network.as_deref()).map_err(failed)?;
            let init = InitProcess::read(&node.folders.place(&sandbox)).map_err(attempting("looking for a place"))?;
            Ok((offered, init.ok_or_else(|| failed(format!("the init of place {sandbox} is gone")))?))
        })
        .await?;
        let mut spoken = BTreeMap::new();
        for plugin in offered.plugins() {
            spoken.insert(plugin.kind.clone(), self.versions(plugin, turn).await?);
        }
        let network = offered.settle(&spoken).map_err(failed)?;
        let mut told = told::all(wanted, &network, &self.options.dns_servers, &init).map_err(invalid)?;
        let leads_ports = chain::leads_ports(&network);
        if !leads_ports {
            told.remove(told::PORT_MAPPINGS);
        }
        Ok(Attachment {
            container: wanted.container.clone(),
            handle: wanted.handle.clone(),
            sandbox: wanted.sandbox.clone(),
            network,
            args: told::args(&wanted.container, &wanted.handle),
            told,
            result: None,
            link: None,
            ports: leads_ports.then(|| wanted.ports_in.clone()),
        })
    }

    async fn versions(&self, plugin: &config::Plugin, turn: &Turn) -> Result<Vec<String>, NodeError> {
        let identity = self.plugins.programs.find(&plugin.kind).and_then(|path| {
            let meta = std::fs::metadata(&path).ok()?;
            Some((path, meta.ino(), meta.mtime_nsec() ^ meta.mtime(), meta.len()))
        });
        let known =
            |identity: &Identity| self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned();
        if let Some(versions) = identity.as_ref().and_then(known) {
            return Ok(versions);
        }
        let said =
            plugin::versions(&self.plugins.programs, plugin, self.plugins.deadline, turn).await.map_err(failed)?;
        if let Some(identity) = identity {
            self.spoken.lock().unwrap_or_else(PoisonError::into_inner).insert(identity, said.clone());
        }
        Ok(said)
    }

    /// Calls the plugins, and records what they answered.
    async fn make(self: &Arc<Self>, attachment: &mut Attachment, turn: &Turn) -> Result<Addresses, NodeError> {
        let name = self.netns(&attachment.sandbox);
        let (node, sandbox, kept) = (Arc::clone(self), attachment.sandbox.clone(), name.clone());
        work(move || {
            let inside =
                node.inside(&sandbox)?.ok_or_else(|| failed(format!("the init of place {sandbox} is gone")))?;
            netns::keep(&inside, &kept).map_err(attempting("keeping a place's network namespace"))
        })
        .await?;
        let chain = Chain { plugins: &self.plugins, attachment, netns: name.into(), turn };
        let result = chain.add().await.map_err(failed)?;
        let attached = Attached::read(&result).map_err(failed)?;
        attachment.result = Some(result);
        // As far as it has come, should what follows fail.
        self.put(attachment).await?;
        let addresses = attached.addresses().map_err(invalid)?;
        let of_node: Vec<String> = attached.of_node().map(str::to_owned).collect();
        let (node, sandbox) = (Arc::clone(self), attachment.sandbox.clone());
        attachment.link = work(move || node.link(&sandbox, of_node)).await?;
        if attachment.link.is_none() && rules::denies(&self.options.policy) {
            return Err(invalid(format!(
                "what is denied (--deny-by-default, --deny-network) cannot be kept: network {:?} of CNI names no interface of the node's that the container is behind; use plugins that do, such as ptp and bridge",
                attachment.network.name
            )));
        }
        self.limit(attachment).await?;
        self.put(attachment).await?;
        Ok(addresses)
    }

    /// Which of the node's interfaces is the other end of a place's link.
    fn link(&self, sandbox: &SandboxId, of_node: Vec<String>) -> Result<Option<String>, NodeError> {
        let looking = attempting("looking for the other end of a place's link");
        let Some(inside) = self.inside(sandbox)? else { return Ok(None) };
        let Some(other) = links::other_end(&inside).map_err(&looking)? else { return Ok(None) };
        Ok(of_node.into_iter().find(|name| links::index_of(name) == Some(other)))
    }

    /// Limits the bandwidth, where that is asked for and no plugin does it.
    async fn limit(self: &Arc<Self>, attachment: &Attachment) -> Result<(), NodeError> {
        let Some(wanted) = attachment.told.get(told::BANDWIDTH) else { return Ok(()) };
        if attachment.network.capable(told::BANDWIDTH) {
            return Ok(());
        }
        let Some(link) = attachment.link.clone() else {
            return Err(invalid(format!(
                "a limit of the bandwidth cannot be kept: network {:?} of CNI has no plugin with the capability bandwidth, and names no interface of the node's that the container is behind",
                attachment.network.name
            )));
        };
        let told = |what: &str| wanted.get(what).and_then(serde_json::Value::as_u64).unwrap_or_default() / 8;
        let limit = (told("ingressRate"), told("ingressBurst"));
        let (node, sandbox) = (Arc::clone(self), attachment.sandbox.clone());
        work(move || {
            let limiting = attempting("limiting the bandwidth");
            let mut route = Connection::route().map_err(&limiting)?;
            let Some(inside) = node.inside(&sandbox)? else { return Ok(()) };
            let mtu = routing::uplink(&mut route).map_err(&limiting)?.mtu;
            links::limit(&mut route, &link, &inside, limit, mtu).map_err(limiting)
        })
        .await
    }

    /// Undoes what plugins did for a container.
    pub async fn detach(self: &Arc<Self>, container: &ContainerUid, alone: Alone) -> Result<(), NodeError> {
        let (node, container) = (Arc::clone(self), container.clone());
        to_its_end(async move {
            let _alone = alone;
            node.detach_to_its_end(&container).await
        })
        .await
    }

    async fn detach_to_its_end(self: &Arc<Self>, container: &ContainerUid) -> Result<(), NodeError> {
        let Some(attachment) = self.attached(container) else { return Ok(()) };
        let turn = self.turn(attachment.sandbox.as_str()).await.map_err(stuck)?;
        let name = self.netns(&attachment.sandbox);
        let netns = netns::kept(&name).map(OsString::from).unwrap_or_default();
        let chain = Chain { plugins: &self.plugins, attachment: &attachment, netns, turn: &turn };
        chain.del().await.map_err(stuck)?;
        let (node, file) = (Arc::clone(self), self.turn_file(attachment.sandbox.as_str()));
        work(move || {
            let undoing = attempting("forgetting what was attached to a network of CNI");
            netns::let_go(&name).map_err(&undoing)?;
            node.store.remove(&attachment.container).map_err(&undoing)?;
            node.lock().remove(&attachment.container);
            drop(turn);
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(undoing(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Has plugins lead the ports that are wanted in to a container, where that is theirs to do.
    pub async fn lead_ports(self: &Arc<Self>, wanted: &NetworkWanted, alone: Alone) -> Result<Alone, NodeError> {
        let Some(attachment) = self.attached(&wanted.container) else { return Ok(alone) };
        let theirs = chain::leads_ports(&attachment.network) && attachment.result.is_some();
        if !theirs || attachment.sandbox != wanted.sandbox || attachment.ports.as_ref() == Some(&wanted.ports_in) {
            return Ok(alone);
        }
        let (node, ports) = (Arc::clone(self), wanted.ports_in.clone());
        to_its_end(async move {
            let mut attachment = attachment;
            let turn = node.turn(attachment.sandbox.as_str()).await?;
            let netns = netns::kept(&node.netns(&attachment.sandbox)).map(OsString::from).unwrap_or_default();
            attachment.ports = None;
            node.put(&attachment).await?;
            let plugins = &node.plugins;
            // Nobody is added twice without having been let go of.
            let before = Chain { plugins, attachment: &attachment, netns: netns.clone(), turn: &turn };
            before.close_ports().await.map_err(failed)?;
            told::tell_ports(&mut attachment, &ports);
            node.put(&attachment).await?;
            let after = Chain { plugins, attachment: &attachment, netns, turn: &turn };
            after.open_ports().await.map_err(failed)?;
            attachment.ports = Some(ports);
            node.put(&attachment).await?;
            Ok(alone)
        })
        .await
    }

    /// Asks plugins whether a container's network is as they made it.
    pub async fn check(self: &Arc<Self>, container: &ContainerUid, _alone: Alone) {
        let Some(attachment) = self.attached(container).filter(|attachment| attachment.result.is_some()) else {
            return;
        };
        let Ok(turn) = self.turn(attachment.sandbox.as_str()).await else { return };
        let netns = netns::kept(&self.netns(&attachment.sandbox)).map(OsString::from).unwrap_or_default();
        let chain = Chain { plugins: &self.plugins, attachment: &attachment, netns, turn: &turn };
        match chain.check().await {
            Ok(()) => tracing::debug!(handle = %attachment.handle, "its network is as its plugins made it"),
            Err(error) => {
                tracing::warn!(handle = %attachment.handle, %error, "a container's network is not as its plugins made it; make the container again");
            }
        }
    }

    /// Has plugins collect what is of no container, where that is allowed.
    pub async fn collect(self: &Arc<Self>) {
        if !self.options.collects {
            return;
        }
        let collected = async {
            let (node, turn) = (Arc::clone(self), self.turn("collect").await?);
            let load = move || config::load(&node.options.conf_dir, node.options.network.as_deref()).map_err(failed);
            let offered = work(load).await?;
            let mut spoken = BTreeMap::new();
            for plugin in offered.plugins() {
                spoken.insert(plugin.kind.clone(), self.versions(plugin, &turn).await?);
            }
            let network = offered.settle(&spoken).map_err(failed)?;
            let valid: Vec<String> = self.lock().values().map(|attachment| attachment.sandbox.to_string()).collect();
            chain::collect(&self.plugins, &network, &valid, &turn).await.map_err(failed)
        };
        if let Err(error) = collected.await {
            tracing::warn!(%error, "what nobody uses of the network of CNI is not collected");
        }
    }
}
