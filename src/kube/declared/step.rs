//! What is to be done about one object, and its container.
//!
//! Pure. Of an edit it says whether it can be had in place, or of which fields the container has to
//! be made again.

use super::wanted::{by, generation, source};
use gardend_controller::DeclaredContainer;
use gardend_controller::record::DeclaredBy;
use gardend_crds::{GardenContainer, GardenContainerSpec, is_kept};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as declared, or nothing is declared and nothing there.
    Rest,
    /// The controller is about it.
    Wait,
    /// Its container is to go.
    Destroy(DeclaredBy),
    /// Its container is gone: the object may go.
    Release,
    /// There is to be a container.
    Make,
    /// There is one, and its object does not wait for it: somebody thought the node gone.
    Keep,
    /// Another version is to be put in force, in place.
    Change,
    /// Another version cannot be, for these fields: the container is made again.
    Recreate(Vec<&'static str>),
}

/// The next one. On a node that is `draining` nothing new is made, and an object whose container
/// is gone does not wait for the node meanwhile: it may not come back.
pub(super) fn step(object: Option<&GardenContainer>, current: Option<&DeclaredContainer>, draining: bool) -> Step {
    let Some(object) = object else {
        return current.map_or(Step::Rest, |current| Step::Destroy(current.declaration.by.clone()));
    };
    let is_leaving = object.metadata.deletion_timestamp.is_some();
    let Some(current) = current else {
        return match (is_leaving, is_kept(object)) {
            (true, true) => Step::Release,
            (true, false) => Step::Rest,
            (false, true) if draining => Step::Release,
            (false, _) => Step::Make,
        };
    };
    if is_leaving || current.going || current.declaration.by != by(object) {
        return Step::Destroy(current.declaration.by.clone());
    }
    if !current.made {
        return Step::Wait;
    }
    if current.declaration.generation == generation(object) {
        return if is_kept(object) { Step::Rest } else { Step::Keep };
    }
    match serde_json::from_str(&current.declaration.source) {
        Ok(before) => match fixed(&before, &object.spec) {
            fields if fields.is_empty() => Step::Change,
            fields => Step::Recreate(fields),
        },
        // By a gardend that wrote it otherwise.
        Err(_) if current.declaration.source == source(&object.spec) => Step::Change,
        Err(_) => Step::Recreate(vec!["spec"]),
    }
}

/// Fields that are others than before and cannot be changed in place.
fn fixed(before: &GardenContainerSpec, after: &GardenContainerSpec) -> Vec<&'static str> {
    let limited = |spec: &GardenContainerSpec| {
        let limits = spec.limits.clone().unwrap_or_default();
        (limits.memory_bytes.is_some(), limits.pids.is_some())
    };
    let disk = |spec: &GardenContainerSpec| {
        let limits = spec.limits.clone().unwrap_or_default();
        let bytes = (limits.disk_bytes_soft, limits.disk_bytes_hard);
        (bytes, limits.disk_inodes_soft, limits.disk_inodes_hard, limits.disk_scope)
    };
    let ((memory, pids), (memory_now, pids_now)) = (limited(before), limited(after));
    let fields = [
        ("image", before.image != after.image),
        ("rootfs", before.rootfs != after.rootfs),
        ("env", before.env != after.env),
        ("privileged", before.privileged != after.privileged),
        ("network", before.network != after.network),
        ("bindMounts", before.bind_mounts != after.bind_mounts),
        ("limits.memoryBytes", memory != memory_now),
        ("limits.pids", pids != pids_now),
        ("limits of the disk", disk(before) != disk(after)),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::record::{ContainerUid, Declaration, Handle};
    use gardend_crds::DECLARED_FINALIZER;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn spec(fields: Value) -> GardenContainerSpec {
        let mut spec = json!({ "nodeName": "n", "image": "docker:///busybox" });
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn object(generation: i64, image: &str) -> GardenContainer {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "u1", "generation": generation,
            "finalizers": [DECLARED_FINALIZER] });
        let spec = json!({ "nodeName": "n", "image": image });
        let object = json!({ "apiVersion": "gardend.dev/v1alpha1", "kind": "GardenContainer",
            "metadata": metadata, "spec": spec });
        serde_json::from_value(object).unwrap()
    }

    fn container(of: &GardenContainer) -> DeclaredContainer {
        DeclaredContainer {
            uid: ContainerUid::generate(),
            handle: Handle::new("web").unwrap(),
            declaration: Declaration {
                by: by(of),
                generation: generation(of),
                source: source(&of.spec),
                processes: Vec::new(),
                runs: BTreeMap::new(),
            },
            made: true,
            going: false,
        }
    }

    #[test]
    fn what_is_there_becomes_what_is_declared() {
        let declared = object(1, "docker:///busybox");
        let made = container(&declared);
        let destroy = Step::Destroy(by(&declared));
        assert_eq!(step(None, None, false), Step::Rest);
        assert_eq!(step(None, Some(&made), false), destroy);
        assert_eq!(step(Some(&declared), None, false), Step::Make);
        assert_eq!(step(Some(&declared), Some(&made), false), Step::Rest);
        assert_eq!(step(Some(&declared), Some(&DeclaredContainer { made: false, ..made.clone() }), false), Step::Wait);
        assert_eq!(step(Some(&declared), Some(&DeclaredContainer { going: true, ..made.clone() }), false), destroy);
        assert_eq!(step(Some(&object(2, "docker:///busybox")), Some(&made), false), Step::Change);
        assert_eq!(step(Some(&object(2, "docker:///alpine")), Some(&made), false), Step::Recreate(vec!["image"]));

        let drained = |object, container| step(Some(object), container, true);
        let mut freed = declared.clone();
        freed.metadata.finalizers = None;
        assert_eq!(drained(&declared, Some(&made)), Step::Rest, "what there is stays until the drain destroys it");
        assert_eq!(drained(&declared, None), Step::Release, "the node may not come back");
        assert_eq!(drained(&freed, None), Step::Make, "and is refused, for who looks");
        assert_eq!(step(Some(&freed), Some(&made), false), Step::Keep);

        let mut another = declared.clone();
        another.metadata.uid = Some("u2".into());
        assert_eq!(step(Some(&another), Some(&made), false), destroy, "it is of one that is gone");
        let mut leaving = declared;
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(step(Some(&leaving), Some(&made), false), destroy);
        assert_eq!(step(Some(&leaving), None, false), Step::Release);
        leaving.metadata.finalizers = None;
        assert_eq!(step(Some(&leaving), None, false), Step::Rest);
    }

    #[test]
    fn what_can_be_changed_in_place_is_told_from_what_cannot() {
        let before = spec(json!({ "limits": { "memoryBytes": 100, "cpuWeight": 5 } }));
        for (after, fields) in [
            (json!({ "limits": { "memoryBytes": 200 }, "properties": { "a": "b" }, "graceTime": "5m" }), &[][..]),
            (
                json!({ "limits": { "memoryBytes": 100 }, "ports": [{ "containerPort": 80 }],
                "processes": [{ "name": "p", "path": "p" }], "imagePullSecrets": [{ "name": "s" }] }),
                &[],
            ),
            (json!({ "limits": { "cpuWeight": 5 } }), &["limits.memoryBytes"]),
            (json!({ "limits": { "memoryBytes": 100, "pids": 5 } }), &["limits.pids"]),
            (json!({ "limits": { "memoryBytes": 100, "diskBytesHard": 5 } }), &["limits of the disk"]),
            (
                json!({ "image": "docker:///alpine", "privileged": true, "limits": { "memoryBytes": 1 } }),
                &["image", "privileged"],
            ),
            (json!({ "env": [{ "name": "A" }], "limits": { "memoryBytes": 1 } }), &["env"]),
        ] {
            assert_eq!(fixed(&before, &spec(after.clone())), fields, "{after}");
        }
    }
}
