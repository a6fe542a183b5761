//! What those who watch over a gardend are told of its mirror, by its `/metrics`.

use crate::real::Gardend;
use crate::server::eventually;
use crate::world::World;
use serde_json::json;
use std::path::Path;

fn until(gardend: &Gardend, series: &str, wanted: impl Fn(f64) -> bool) {
    eventually(series, || {
        let figure = gardend.figure(series);
        wanted(figure).then_some(()).ok_or_else(|| figure.to_string())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_how_a_real_gardend_s_mirror_does() {
    let world = World::new().await;
    let writes = |kind: &str| format!(r#"gardend_kube_writes_total{{kind="{kind}"}}"#);
    let gardend = Gardend::mirroring(&world, &["--kube-write-burst", "50"]);
    for handle in ["a", "b", "c"] {
        gardend.garden().create(handle, gardend.rootfs()).unwrap();
    }
    until(&gardend, "gardend_kube_objects", |figure| figure == 3.0);
    until(&gardend, "gardend_kube_objects_waiting", |figure| figure == 0.0);
    assert_eq!(world.objects().await.len(), 3);
    // The node's own, too.
    until(&gardend, &writes("object"), |figure| figure == 4.0);
    until(&gardend, &writes("status"), |figure| figure >= 4.0);
    assert_eq!(gardend.figure(&writes("delete")), 0.0);
    gardend.garden().destroy("b").unwrap();
    until(&gardend, &writes("delete"), |figure| figure == 1.0);
    until(&gardend, "gardend_kube_objects", |figure| figure == 2.0);

    // A file of the first bind mount is in the way of the second's: found once the create was begun.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let bind = |source: &Path, target: &str| json!({ "src_path": source, "dst_path": target });
    let binds = [bind(folder.path(), "/a"), bind(folder.path(), "/a/file")];
    let body = json!({ "handle": "fails", "image": { "uri": gardend.rootfs() }, "bind_mounts": binds });
    let refusal = gardend.garden().call("POST", "/containers", &body).unwrap_err();
    assert!(refusal.message().contains("file"), "{}", refusal.message());
    until(&gardend, r#"gardend_kube_events_total{outcome="written"}"#, |figure| figure == 1.0);
    let events = world.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    assert_eq!(events, "CreateFailed");

    let healthy = [
        "gardend_kube_api_away",
        "gardend_kube_lag_seconds",
        "gardend_kube_lease_failures_total",
        r#"gardend_kube_events_total{outcome="dropped"}"#,
        r#"gardend_kube_failures_total{reason="refused"}"#,
        r#"gardend_kube_failures_total{reason="unanswered"}"#,
    ];
    for series in healthy {
        assert_eq!(gardend.figure(series), 0.0, "{series}");
    }
}
