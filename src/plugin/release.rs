//! Objects that declare containers, once no gardend of the release is left: nobody would take the finalizer away
//! that keeps them until their containers are gone, and what is deleted would hang.
//!
//! Promises: nothing else of an object is touched; what somebody else changes meanwhile stays so.

use super::cluster::{Cluster, list};
use super::kubeconfig::words;
use crate::cli::outcome::Failure;
use crate::cli::output::note;
use gardend_crds::{DECLARED_FINALIZER, GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Error, ResourceExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// From one try to the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Waits until the last pod of gardend's has ended, since it would keep its objects again, and lets them go.
pub(super) async fn release(cluster: &Cluster, namespaces: &[String], deadline: Instant) -> Result<(), Failure> {
    wait_for_pods_to_go(cluster, deadline).await?;
    for namespace in namespaces {
        let released = in_time(deadline, async || let_go(cluster, namespace).await).await?;
        note(&format!("namespace '{namespace}': objects that wait for gardend no more: {released}"));
    }
    Ok(())
}

async fn wait_for_pods_to_go(cluster: &Cluster, deadline: Instant) -> Result<(), Failure> {
    loop {
        let left = in_time(deadline, async || cluster.pods().await).await?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() + PAUSE >= deadline {
            let names: Vec<String> = left.into_iter().map(|pod| pod.name).collect();
            return Err(Failure::Words(format!(
                "pods of gardend's still run, and would keep their objects again: {}",
                names.join(", ")
            )));
        }
        sleep(PAUSE).await;
    }
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
    let of_others = ListParams::default().labels(&format!("{ORIGIN_LABEL}!={ORIGIN_GARDEN}"));
    let objects = match list(&api, of_others).await {
        Ok(objects) => objects,
        // The definitions are gone, and all objects with them.
        Err(Error::Api(status)) if status.code == 404 => return Ok(0),
        Err(error) => return Err(Failure::Words(words(&error))),
    };
    let mut released = 0;
    for object in objects {
        let others: Vec<&String> = object.finalizers().iter().filter(|name| *name != DECLARED_FINALIZER).collect();
        if others.len() == object.finalizers().len() {
            continue;
        }
        let patch = json!({ "metadata": { "resourceVersion": object.resource_version(), "finalizers": others } });
        match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => released += 1,
            Err(Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(Failure::Words(format!("object '{}': {}", object.name_any(), words(&error))));
            }
        }
    }
    Ok(released)
}
