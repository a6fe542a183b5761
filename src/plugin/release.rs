//! Objects that declare containers, once no gardend of the release is left: nobody would take the finalizer away
//! that keeps them until their containers are gone, and what is deleted would hang.
//!
//! Promises: nothing else of an object is touched; what somebody else changes meanwhile stays so.

use super::cleanup::PAUSE;
use super::cluster::{Cluster, list};
use super::kubeconfig::words;
use crate::cli::outcome::Failure;
use crate::cli::output::note;
use gardend_crds::{GardenContainer, declared_selector, is_kept, keep};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Error, ResourceExt};
use tokio::time::{Instant, sleep};

/// Waits until the last pod of gardend's has ended, since it would keep its objects again, and lets them go.
pub(super) async fn release(cluster: &Cluster, namespaces: &[String], deadline: Instant) -> Result<(), Failure> {
    in_time(deadline, async || no_pods(cluster).await).await?;
    for namespace in namespaces {
        let released = in_time(deadline, async || let_go(cluster, namespace).await).await?;
        note(&format!("namespace '{namespace}': objects that wait for gardend no more: {released}"));
    }
    Ok(())
}

async fn no_pods(cluster: &Cluster) -> Result<(), Failure> {
    let names: Vec<String> = cluster.pods().await?.into_iter().map(|pod| pod.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let names = names.join(", ");
    Err(Failure::Words(format!("pods of gardend's still run, and would keep their objects again: {names}")))
}

/// Asks again while there is time.
async fn in_time<T>(deadline: Instant, ask: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
    loop {
        match ask().await {
            Err(_) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
            other => return other,
        }
    }
}

/// All of a namespace; how many.
async fn let_go(cluster: &Cluster, namespace: &str) -> Result<usize, Failure> {
    let api: Api<GardenContainer> = Api::namespaced(cluster.client.clone(), namespace);
    let objects = match list(&api, ListParams::default().labels(&declared_selector())).await {
        Ok(objects) => objects,
        // The definitions are gone, and all objects with them.
        Err(Error::Api(status)) if status.code == 404 => return Ok(0),
        Err(error) => return Err(Failure::Words(words(&error))),
    };
    let mut released = 0;
    for object in objects.into_iter().filter(is_kept) {
        let patch = Patch::Merge(keep(&object, false));
        match api.patch(&object.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => released += 1,
            Err(Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(Failure::Words(format!("object '{}': {}", object.name_any(), words(&error))));
            }
        }
    }
    Ok(released)
}
