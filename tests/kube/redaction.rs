//! No secret reaches the API server: every byte that it received is searched.

use crate::server::Server;
use crate::world::{World, eventually, is_ready, request};
use gardend::kube::ArgumentsAllowed;
use gardend_controller::record::{ImageCredentials, ProcessId, ProcessImage, ProcessSpec, RootfsSource};
use std::path::Path;
use std::sync::Arc;

/// Files of a folder that hold these bytes.
fn holding(folder: &Path, needle: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holding(&path, needle, found);
        } else if memchr::memmem::find(&std::fs::read(&path).unwrap_or_default(), needle.as_bytes()).is_some() {
            found.push(path.display().to_string());
        }
    }
}

/// In the audit log, which has the bodies of writes, and in etcd's own files.
fn received(server: &Server, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["log", "etcd"] {
        holding(&server.path().join(folder), needle, &mut found);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_may_be_a_secret_reaches_the_api_server() {
    // Of its own: no other test's bytes are in its files.
    let server = Arc::new(Server::start());
    let mut world = World::on(Arc::clone(&server)).await;
    world.options.policy.properties = Arc::new(["shown".to_owned()].into());
    world.start();
    let password =
        |place: &str| ImageCredentials { username: format!("user-{place}"), password: format!("hunter2-{place}") };
    let mut asked = request("redacted");
    asked.spec.env = vec!["TOKEN=hunter2-container-env".into()];
    asked.credentials = Some(password("image"));
    asked.properties = [("hidden", "hunter2-property"), ("shown", "visible-property")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    world.controller.create(asked).await.unwrap();
    let spec = ProcessSpec {
        id: Some(ProcessId::new("p").unwrap()),
        path: "/bin/echo".into(),
        args: vec!["--password=hunter2-argument".into()],
        env: vec!["TOKEN=hunter2-process-env".into()],
        image: Some(ProcessImage {
            rootfs: RootfsSource::image("docker:///alpine:3".parse().unwrap()),
            bind_mounts: Vec::new(),
            credentials: Some(password("process-image")),
        }),
        ..ProcessSpec::default()
    };
    world.controller.run("redacted", spec.clone()).await.unwrap().outcome().await;
    // The pull that fails is told of; with what is not.
    let mut missing = request("missing");
    missing.spec.rootfs = RootfsSource::image("docker://missing.example/x:1".parse().unwrap());
    missing.credentials = Some(password("failed-pull"));
    world.controller.create(missing).await.unwrap_err();
    world.controller.set_property("redacted", "hidden", "hunter2-later").await.unwrap();
    let shown = |object: &gardend_crds::GardenContainer| {
        is_ready(object) && object.status.as_ref().is_some_and(|status| status.processes.len() == 1)
    };
    world.wait_for("redacted", shown).await;
    eventually("the event is written", async || {
        let figures = world.figures();
        (figures.events_written > 0).then_some(()).ok_or_else(|| format!("{figures:?}"))
    })
    .await;
    world.level(1).await;
    world.stop().await;

    // The search finds what is there.
    for visible in ["visible-property", "/bin/echo", "docker:///busybox:1.36"] {
        assert!(received(&server, visible).iter().any(|file| file.contains("audit")), "{visible}");
        assert!(received(&server, visible).iter().any(|file| file.contains("etcd/")), "{visible}");
    }
    for secret in ["hunter2", "IMAGE=docker", "user-image", "user-process-image", "user-failed-pull"] {
        assert_eq!(received(&server, secret), [""; 0], "{secret}");
    }

    // Arguments are shown where the operator says so, and those alone.
    let mut open = World::on(Arc::clone(&server)).await;
    open.keep_arguments().await;
    open.options.policy.arguments = Some(ArgumentsAllowed::by_operator());
    open.start();
    open.create("open").await;
    open.controller.run("open", spec).await.unwrap().outcome().await;
    let shown = open.wait_for("open", |object| object.status.as_ref().is_some_and(|s| s.processes.len() == 1)).await;
    assert_eq!(
        shown.status.unwrap().processes[0].args.as_deref(),
        Some(&["--password=hunter2-argument".to_owned()][..])
    );
    open.stop().await;
    assert_eq!(received(&server, "hunter2-process-env"), [""; 0]);
}
