//! The definitions, as a real API server takes them.

use crate::server::{Server, eventually};
use crate::world::unique;
use serde_json::{Value, json};

fn object(spec: Value) -> Value {
    let meta = json!({ "name": unique("bad"), "namespace": "default" });
    json!({ "apiVersion": "gardend.dev/v1alpha1", "kind": "GardenContainer", "metadata": meta, "spec": spec })
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = json!({ "nodeName": "n1" });
    spec[field] = value;
    spec
}

#[test]
fn every_bad_object_is_refused_with_words_that_name_the_field() {
    let server = Server::shared();
    let process = |field: &str, value: Value| {
        let mut process = json!({ "name": "main", "path": "/bin/x" });
        process[field] = value;
        with("processes", json!([process]))
    };
    let table = [
        (json!({}), "spec.nodeName: Required value"),
        (json!({ "nodeName": "Node_1" }), "spec.nodeName"),
        (with("handle", json!("a/b")), "spec.handle holds what Garden clients cannot carry"),
        (with("handle", json!("..")), "spec.handle holds what Garden clients cannot carry"),
        (with("handle", json!("a\u{1}b")), "spec.handle holds what Garden clients cannot carry"),
        (with("handle", json!("")), "spec.handle"),
        (with("image", json!("busybox")), "spec.image"),
        (with("rootfs", json!("relative")), "spec.rootfs"),
        (json!({ "nodeName": "n1", "image": "docker:///a", "rootfs": "/a" }), "spec.rootfs: Forbidden: spec.image and"),
        (with("network", json!("nonsense")), "spec.network must be an address"),
        (with("graceTime", json!("5")), "spec.graceTime must be a duration"),
        (with("graceTime", json!("5 minutes")), "spec.graceTime must be a duration"),
        (with("properties", json!({ "gardend.x": "y" })), "spec.properties has a key that begins with gardend."),
        (with("limits", json!({ "memoryBytes": 0 })), "spec.limits.memoryBytes"),
        (with("limits", json!({ "diskBytesSoft": 5, "diskBytesHard": 3 })), "spec.limits.diskBytesSoft"),
        (with("limits", json!({ "diskInodesSoft": 5, "diskInodesHard": 3 })), "spec.limits.diskInodesSoft"),
        (with("limits", json!({ "bandwidthBurst": 5 })), "spec.limits.bandwidthBurst"),
        (with("limits", json!({ "diskScope": "Half" })), "spec.limits.diskScope"),
        (with("bindMounts", json!([{ "source": "a", "target": "/b" }])), "spec.bindMounts[0].source"),
        (with("bindMounts", json!([{ "source": "/a", "target": "b" }])), "spec.bindMounts[0].target"),
        (with("bindMounts", json!([{ "source": "/a", "target": "/b", "mode": "rw" }])), "spec.bindMounts[0].mode"),
        (
            with("bindMounts", json!([{ "source": "/a", "target": "/t" }, { "source": "/b", "target": "/t" }])),
            "spec.bindMounts[1]: Duplicate value",
        ),
        (with("env", json!([{ "name": "A=B", "value": "x" }])), "spec.env[0].name"),
        (
            with(
                "env",
                json!([{ "name": "A", "value": "x", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]),
            ),
            "spec.env[0].valueFrom: Forbidden: value and valueFrom exclude each other",
        ),
        (with("env", json!([{ "name": "A", "valueFrom": {} }])), "spec.env[0].valueFrom.secretKeyRef: Required value"),
        (process("name", json!("Main")), "spec.processes[0].name"),
        (process("path", json!("")), "spec.processes[0].path"),
        (process("dir", json!("tmp")), "spec.processes[0].dir"),
        (process("restartPolicy", json!("Sometimes")), "spec.processes[0].restartPolicy"),
        (with("privileged", json!("yes")), "spec.privileged"),
        (with("nodename", json!("n2")), "unknown field \"spec.nodename\""),
    ];
    let mut wrong = Vec::new();
    for (spec, words) in table {
        let refused = server.kubectl_with(&["create", "--validate=strict"], &object(spec.clone()));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        if refused.status.success() || !said.contains(words) {
            wrong.push(format!("{spec}: {said:?} instead of {words:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_a_container_is_cannot_be_changed_and_the_rest_can() {
    let server = Server::shared();
    let made = |spec: Value| {
        let mut object = object(spec);
        object["metadata"]["name"] = "fixed".into();
        server.kubectl_with(&["apply"], &object)
    };
    assert!(made(json!({ "nodeName": "n1", "handle": "h", "graceTime": "5m" })).status.success());
    for (spec, words) in [
        (json!({ "nodeName": "n2", "handle": "h" }), "spec.nodeName cannot be changed"),
        (json!({ "nodeName": "n1", "handle": "g" }), "spec.handle cannot be changed"),
        (json!({ "nodeName": "n1" }), "spec.handle cannot be changed"),
    ] {
        let refused = String::from_utf8_lossy(&made(spec).stderr).into_owned();
        assert!(refused.contains(words), "{refused}");
    }
    let changed = made(json!({ "nodeName": "n1", "handle": "h", "graceTime": "1h30m", "properties": { "a": "b" } }));
    assert!(changed.status.success());
    server.kubectl(&["delete", "gctr", "fixed"]);
}

/// Each field of a definition's schema that says what it is.
fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        leaves(property, &path, found);
        leaves(&property["items"], &path, found);
        found.push(path);
    }
}

#[test]
fn a_whole_object_reads_back_as_it_was_written() {
    let server = Server::shared();
    let written = [
        (include_str!("../../crds/examples/declared.yaml"), "gctr", "web"),
        (include_str!("../../crds/examples/mirrored.yaml"), "gctr", "build-0a1b2c3d4e5f"),
        (include_str!("../../crds/examples/node.yaml"), "gnode", "node-1.example"),
    ];
    let mut used = Vec::new();
    for (text, kind, name) in written {
        let object: Value = serde_yaml::from_str(text).unwrap();
        assert!(server.kubectl_with(&["create", "--validate=strict"], &object).status.success(), "{name}");
        // A status is written by whoever may, and not by the way.
        let status = json!({ "status": object["status"] }).to_string();
        if object.get("status").is_some() {
            server.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &status]);
        }
        let read: Value = serde_json::from_str(&server.kubectl(&["get", kind, name, "-o", "json"])).unwrap();
        assert_eq!((&read["spec"], &read["status"]), (&object["spec"], &object["status"]), "{name}");
        paths(&object, "", &mut used);
        server.kubectl(&["delete", kind, name]);
    }
    // The examples leave out nothing that there is.
    let mut all = Vec::new();
    for (name, content) in gardend_crds::files().unwrap() {
        let definition: Value = serde_yaml::from_str(&content).unwrap();
        let before = all.len();
        leaves(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut all);
        assert!(all.len() > before + 10, "{name}");
    }
    let missing: Vec<_> = all.iter().filter(|path| !used.contains(path)).collect();
    assert!(missing.is_empty(), "no example has {missing:?}");
}

fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = format!("{path}.{name}");
            found.push(path.clone());
            paths(value, &path, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| paths(item, path, found)),
        _ => {}
    }
}

#[test]
fn kubectl_explains_every_field_in_words() {
    let server = Server::shared();
    let explained = eventually("the schema is published", || {
        let output = server.try_kubectl(&["explain", "gctr.spec.graceTime"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()).ok_or_else(String::new)
    });
    assert!(explained.contains("FIELD: graceTime <string>"), "{explained}");
    assert!(explained.contains("How long it may go without a client before it is destroyed"), "{explained}");
    let tree = server.kubectl(&["explain", "gctr", "--recursive"]);
    for field in
        ["nodeName\t<string> -required-", "restartPolicy\t<string>", "lastOOM\t<Object>", "containerID\t<string>"]
    {
        assert!(tree.contains(field), "{field}: {tree}");
    }
    assert!(server.kubectl(&["explain", "gnode.status.conditions"]).contains("MirrorCurrent"));
    let all = server.kubectl(&["api-resources", "--categories=gardend", "--no-headers"]);
    let rows: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["gardencontainers", "gctr", "gardend.dev/v1alpha1", "true", "GardenContainer"]);
    assert_eq!(rows[1], ["gardennodes", "gnode", "gardend.dev/v1alpha1", "false", "GardenNode"]);
}
