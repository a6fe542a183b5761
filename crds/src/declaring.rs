//! Objects that declare containers: which they are, and the finalizer that keeps them.

use crate::{DECLARED_FINALIZER, GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL};
use serde_json::{Value, json};

/// Selects them by their labels, among all GardenContainers.
pub fn declared_selector() -> String {
    format!("{ORIGIN_LABEL}!={ORIGIN_GARDEN}")
}

/// Whether it waits for its container to go.
pub fn is_kept(object: &GardenContainer) -> bool {
    object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == DECLARED_FINALIZER)
}

/// A merge patch after which it does, or does not. Whoever else changed the object meanwhile is not undone: the patch
/// is refused then.
pub fn keep(object: &GardenContainer, kept: bool) -> Value {
    let others = object.metadata.finalizers.iter().flatten().filter(|name| *name != DECLARED_FINALIZER);
    let finalizers: Vec<&str> = others.map(String::as_str).chain(kept.then_some(DECLARED_FINALIZER)).collect();
    json!({ "metadata": { "resourceVersion": object.metadata.resource_version, "finalizers": finalizers } })
}
