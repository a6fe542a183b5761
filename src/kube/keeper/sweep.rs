//! The look at the nodes' Leases, and what follows from it.

use super::election::Election;
use crate::kube::client::{Place, Trouble, ask};
use crate::kube::lease::NODE_LEASE_LABEL;
use crate::kube::mirror::Bucket;
use crate::kube::options::{Keeping, Options};
use crate::kube::shown::condition;
use gardend_crds::{
    Condition, ConditionStatus, GardenContainer, GardenNode, ORIGIN_GARDEN, ORIGIN_LABEL, declared_selector, is_kept,
    keep,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::HashMap;
use std::fmt::Debug;
use tokio::time::{Instant, sleep_until};

/// Who writes what a silent node does not.
const MANAGER: &str = "gardend-keeper";
/// Objects of one answer.
const PAGE: u32 = 500;

/// A node's Lease, as it was last seen to change.
struct Renewal {
    node: String,
    version: String,
    since: Instant,
    /// What follows from its silence has been done.
    marked: bool,
}

pub(super) struct Sweep {
    leases: Api<Lease>,
    containers: Api<GardenContainer>,
    /// Where containers are declared.
    declared: Vec<Api<GardenContainer>>,
    nodes: Api<GardenNode>,
    keeping: Keeping,
    /// By the Lease's name.
    seen: HashMap<String, Renewal>,
}

impl Sweep {
    pub(super) fn new(place: &Place, options: &Options) -> Self {
        let (client, keeping) = (&place.client, options.keeping.clone());
        let declared = options.declared.iter().flatten();
        Self {
            declared: declared.map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
            leases: Api::namespaced(place.client.clone(), &place.namespace),
            containers: Api::namespaced(place.client.clone(), &place.namespace),
            nodes: Api::all(place.client.clone()),
            keeping,
            seen: HashMap::new(),
        }
    }

    /// Not elected any more: what was seen is old by the time that we are again.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
    }

    pub(super) async fn look(&mut self, bucket: &mut Bucket, election: &mut Election) -> Result<(), Trouble> {
        self.note().await?;
        let now = Instant::now();
        let silent = |renewal: &Renewal| now.duration_since(renewal.since);
        let stale = self.seen.iter().filter(|(_, renewal)| silent(renewal) > self.keeping.stale);
        let due = stale.filter(|(_, renewal)| !renewal.marked || silent(renewal) > self.keeping.gone);
        let due: Vec<(String, String, bool)> = due
            .map(|(lease, renewal)| (lease.clone(), renewal.node.clone(), silent(renewal) > self.keeping.gone))
            .collect();
        for (lease, node, gone) in due {
            let mut turn = Turn { bucket, election };
            if gone {
                tracing::warn!(node, "a node's gardend is gone; its objects are removed");
                self.remove(&lease, &node, &mut turn).await?;
                self.seen.remove(&lease);
            } else {
                tracing::warn!(node, "a node's gardend is silent; its objects are Ready=Unknown");
                self.mark(&node, &mut turn).await?;
                if let Some(renewal) = self.seen.get_mut(&lease) {
                    renewal.marked = true;
                }
            }
        }
        Ok(())
    }

    /// Reads the Leases of all nodes.
    async fn note(&mut self) -> Result<(), Trouble> {
        // From the API server's memory: what is late by a moment does no harm here.
        let params = ListParams::default().labels(NODE_LEASE_LABEL).match_any();
        let listed = ask(self.leases.list(&params)).await?;
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.seen);
        for lease in listed {
            let Some(node) = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()) else { continue };
            let (name, version) = (lease.name_any(), lease.resource_version().unwrap_or_default());
            let known = before.remove(&name).filter(|known| known.version == version);
            let renewal = known.unwrap_or(Renewal { node, version, since: now, marked: false });
            self.seen.insert(name, renewal);
        }
        Ok(())
    }

    /// Its objects say that nobody knows.
    async fn mark(&self, node: &str, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        let unknown = condition(
            "Ready",
            ConditionStatus::Unknown,
            "NodeSilent",
            "the node's gardend has not renewed its Lease; what is shown here was true before",
        );
        let mirrored = std::iter::once((&self.containers, Selected::Mirrored));
        for (api, selected) in mirrored.chain(self.declared.iter().map(|api| (api, Selected::Declared))) {
            for object in objects(api, node, selected).await? {
                let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
                if !is_unknown(before) {
                    turn.wait().await?;
                    mark_one(api, &object, &unknown).await?;
                }
            }
        }
        if let Some(object) = ask(self.nodes.get_opt(node)).await? {
            let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            if !is_unknown(before) {
                turn.wait().await?;
                mark_one(&self.nodes, &object, &unknown).await?;
            }
        }
        Ok(())
    }

    /// They go, and its Lease last: it is what tells that there is something to do. Those that declare
    /// containers are their authors': they stay, and wait for nobody any more when they are deleted.
    async fn remove(&self, lease: &str, node: &str, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        for object in objects(&self.containers, node, Selected::Mirrored).await? {
            turn.wait().await?;
            delete(&self.containers, &object.name_any()).await?;
        }
        for api in &self.declared {
            for object in objects(api, node, Selected::Declared).await? {
                if is_kept(&object) {
                    turn.wait().await?;
                    release(api, &object).await?;
                }
            }
        }
        turn.wait().await?;
        delete(&self.nodes, node).await?;
        delete(&self.leases, lease).await
    }
}

/// Which of a node's objects.
#[derive(Clone, Copy)]
enum Selected {
    /// Those that a mirror wrote.
    Mirrored,
    /// Those that declare containers.
    Declared,
}

async fn objects(api: &Api<GardenContainer>, node: &str, selected: Selected) -> Result<Vec<GardenContainer>, Trouble> {
    let labels = match selected {
        Selected::Mirrored => format!("{ORIGIN_LABEL}={ORIGIN_GARDEN}"),
        Selected::Declared => declared_selector(),
    };
    let mut params = ListParams::default().fields(&format!("spec.nodeName={node}")).labels(&labels).limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = ask(api.list(&params)).await?;
        let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        objects.extend(page);
        match next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// Takes gardend's finalizer away. Somebody else's write meanwhile is not undone: the next look does it.
async fn release(api: &Api<GardenContainer>, object: &GardenContainer) -> Result<(), Trouble> {
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match ask(api.patch(&object.name_any(), &params, &Patch::Merge(keep(object, false)))).await {
        Ok(_) | Err(Trouble::NotFound(_)) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}

/// Waits for what a write needs: a token, and to be the one still.
struct Turn<'a> {
    bucket: &'a mut Bucket,
    election: &'a mut Election,
}

impl Turn<'_> {
    async fn wait(&mut self) -> Result<(), Trouble> {
        while !self.bucket.take(Instant::now()) {
            sleep_until(self.bucket.ready_at()).await;
        }
        if self.election.still().await? {
            return Ok(());
        }
        Err(Trouble::Conflict("another gardend looks after stale nodes by now".into()))
    }
}

fn is_unknown(conditions: &[Condition]) -> bool {
    conditions.iter().any(|one| one.kind == "Ready" && one.status == ConditionStatus::Unknown)
}

async fn mark_one<K>(api: &Api<K>, object: &K, unknown: &Condition) -> Result<(), Trouble>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = object.name_any();
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": { "conditions": [unknown] },
    });
    let params = PatchParams::apply(MANAGER).force();
    match ask(api.patch_status(&name, &params, &Patch::Apply(&patch))).await {
        Ok(_) | Err(Trouble::NotFound(_)) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}

async fn delete<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) -> Result<(), Trouble> {
    match ask(api.delete(name, &DeleteParams::background())).await {
        Ok(_) | Err(Trouble::NotFound(_)) => Ok(()),
        Err(trouble) => Err(trouble),
    }
}
