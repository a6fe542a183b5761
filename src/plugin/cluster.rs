//! What the API server knows: objects of containers, and gardend's pods.

use super::args::Access;
use super::kubeconfig;
use super::nodes::{self, GardendPod, gardend_pods};
use super::ps;
use super::resolve::{Target, among_objects, only};
use crate::cli::outcome::Failure;
use gardend_crds::GardenContainer;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Error};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Objects in one answer.
const PAGE: u32 = 500;

/// A cluster, and where in it gardend is.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Where gardend listens, seen from its pod; `None`: where its pod says.
    pub(super) target: Option<String>,
    selector: String,
    /// The only node that counts.
    node: Option<String>,
}

impl Cluster {
    /// As its caller is told; whether it answers is not asked.
    pub(super) async fn connect(access: &Access) -> Result<Self, Failure> {
        let (client, namespace) = kubeconfig::client(access).await?;
        let (target, selector, node) = (access.target.clone(), access.selector.clone(), access.node.clone());
        Ok(Self { client, namespace, target, selector, node })
    }

    /// The one that this pod is in.
    pub(super) fn in_pod(namespace: String, selector: String) -> Result<Self, Failure> {
        Ok(Self { client: kubeconfig::in_pod()?, namespace, target: None, selector, node: None })
    }

    /// Objects of containers; `None` where the cluster knows of none such.
    pub(super) async fn objects(&self) -> Result<Option<Vec<GardenContainer>>, Failure> {
        let mut params = ListParams::default();
        if let Some(node) = &self.node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let objects = list(&Api::namespaced(self.client.clone(), &self.namespace), params).await;
        match objects {
            Ok(objects) => Ok(Some(objects)),
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(Failure::Words(kubeconfig::words(&error))),
        }
    }

    /// gardend's pods, of this node alone where one is named.
    pub(super) async fn pods(&self) -> Result<Vec<GardendPod>, Failure> {
        self.pods_of(self.node.as_deref()).await
    }

    async fn pods_of(&self, node: Option<&str>) -> Result<Vec<GardendPod>, Failure> {
        let mut params = ListParams::default().labels(&self.selector);
        if let Some(node) = node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let pods: Vec<Pod> = list(&Api::namespaced(self.client.clone(), &self.namespace), params)
            .await
            .map_err(|error| Failure::Words(kubeconfig::words(&error)))?;
        Ok(gardend_pods(pods))
    }

    /// The pod that answers for a node.
    pub(super) async fn pod_on(&self, node: &str) -> Result<GardendPod, Failure> {
        nodes::on_node(self.pods_of(Some(node)).await?, node, &self.namespace, &self.selector)
    }

    /// The node that is named, or the only one that there is.
    pub(super) async fn only_node(&self) -> Result<String, Failure> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => nodes::only_node(&self.pods().await?, &self.namespace, &self.selector),
        }
    }

    /// The pods to ask, of which there is at least one.
    pub(super) async fn some_pods(&self) -> Result<Vec<GardendPod>, Failure> {
        let pods = self.pods().await?;
        if pods.is_empty() { Err(nodes::no_pods(&self.namespace, &self.selector)) } else { Ok(pods) }
    }

    /// The container that is meant. What no object shows, the nodes are asked for.
    pub(super) async fn find(&self, wanted: &str) -> Result<Target, Failure> {
        let objects = self.objects().await?.unwrap_or_default();
        if let Some(target) = only(among_objects(&objects, wanted), wanted)? {
            return Ok(target);
        }
        if let Some(node) = &self.node {
            return Ok(Target { node: node.clone(), handle: wanted.to_owned(), object: None });
        }
        let (rows, silent) = ps::ask_nodes(self).await?;
        let found = rows.into_iter().filter(|row| row.handle == wanted);
        let found = found.map(|row| Target { node: row.node, handle: row.handle, object: None }).collect();
        only(found, wanted)?.ok_or_else(|| {
            let unknown = silent.iter().map(|(node, why)| format!("; node {node} could not be asked: {why}"));
            Failure::Words(format!(
                "no container is '{wanted}' in namespace '{}'{}",
                self.namespace,
                unknown.collect::<String>()
            ))
        })
    }

    /// One object, with all that it has.
    pub(super) async fn object(&self, name: &str) -> Result<GardenContainer, Failure> {
        let objects = Api::namespaced(self.client.clone(), &self.namespace);
        match timeout(DEADLINE, objects.get(name)).await {
            Ok(object) => object.map_err(|error| Failure::Words(kubeconfig::words(&error))),
            Err(_) => Err(Failure::Words(kubeconfig::words(&silent()))),
        }
    }

    /// Events of a container's object.
    pub(super) async fn events(&self, object: &str) -> Result<Vec<Event>, Failure> {
        let of_object = format!("involvedObject.kind=GardenContainer,involvedObject.name={object}");
        let params = ListParams::default().fields(&of_object);
        list(&Api::namespaced(self.client.clone(), &self.namespace), params)
            .await
            .map_err(|error| Failure::Words(kubeconfig::words(&error)))
    }
}

/// All of a list, page by page.
pub(super) async fn list<K>(api: &Api<K>, mut params: ListParams) -> Result<Vec<K>, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    params = params.limit(PAGE);
    loop {
        let page = timeout(DEADLINE, api.list(&params)).await.unwrap_or_else(|_| Err(silent()))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => params = params.continue_token(&more),
            None => return Ok(all),
        }
    }
}

fn silent() -> Error {
    Error::Service(format!("it did not answer within {} s", DEADLINE.as_secs()).into())
}
