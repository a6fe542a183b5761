//! A node of the cluster: a fake node, the real controller on it, and the mirror of that.

use crate::server::{PATIENCE, Server};
use gardend::kube::{Kube, NodeFacts, NodeName, Options, Place, Versions, connect};
use gardend_controller::fake::FakeNode;
use gardend_controller::record::{CreateRequest, Handle, ImageReference, ProcessId, ProcessSpec, RootfsSource};
use gardend_controller::{self as controller, Controller, Ledger, NetworkOptions};
use gardend_crds::{ConditionStatus, GardenContainer, GardenNode, ORIGIN_GARDEN, ORIGIN_LABEL};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, PostParams};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// See the module. It has a namespace and a name of its own.
pub struct World {
    pub server: Arc<Server>,
    pub fake: FakeNode,
    pub controller: Controller,
    pub place: Place,
    pub options: Options,
    kube: Option<Kube>,
}

/// A name that no other test has.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// As quick as it can be, for tests that do not count.
pub fn brisk(node: NodeName) -> Options {
    let facts = || NodeFacts {
        versions: Versions {
            gardend: "0.0.1".into(),
            containerd: Some("2.0.0".into()),
            runtime: Some("runc 1.2.3".into()),
            kernel: Some("6.1.0".into()),
        },
        memory_bytes: Some(8 << 30),
        disk_bytes: Some(100 << 30),
        disk_free: Some(50 << 30),
    };
    Options {
        start_jitter: Duration::ZERO,
        settle: Duration::from_millis(50),
        node_settle: Duration::from_millis(200),
        writes_per_second: 200.try_into().unwrap(),
        write_burst: 200.try_into().unwrap(),
        ..Options::new(node, Arc::new(facts))
    }
}

impl World {
    /// On the API server that tests share; its mirror is not started yet.
    pub async fn new() -> Self {
        Self::on(Server::shared()).await
    }

    pub async fn on(server: Arc<Server>) -> Self {
        let namespace = unique("ns");
        let world = Self::without_namespace(server, &namespace).await;
        world.make_namespace().await;
        world
    }

    pub async fn without_namespace(server: Arc<Server>, namespace: &str) -> Self {
        let node: NodeName = unique("node").parse().unwrap();
        let place = connect(Some(&server.kubeconfig()), Some(namespace), node.clone()).await.unwrap();
        let fake = FakeNode::new();
        let options = controller::Options {
            pool_size: 0,
            network: Some(NetworkOptions::default()),
            create_deadline: Duration::from_secs(30),
            ..controller::Options::default()
        };
        let controller = Controller::start(options, Ledger::in_memory(), fake.node(), "boot").await.unwrap();
        Self { server, fake, controller, place, options: brisk(node), kube: None }
    }

    pub async fn make_namespace(&self) {
        let api: Api<Namespace> = Api::all(self.place.client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(self.place.namespace.clone());
        api.create(&PostParams::default(), &namespace).await.unwrap();
    }

    pub fn start(&mut self) {
        self.kube =
            Some(Kube::start(self.place.clone(), self.options.clone(), self.controller.clone(), Arc::default()));
    }

    pub async fn stop(&mut self) {
        if let Some(kube) = self.kube.take() {
            kube.stop().await;
        }
    }

    pub fn figures(&self) -> gardend::kube::Figures {
        self.kube.as_ref().expect("it was started").gauges().read()
    }

    pub fn node(&self) -> &str {
        self.place.node.as_str()
    }

    pub fn containers(&self) -> Api<GardenContainer> {
        Api::namespaced(self.place.client.clone(), &self.place.namespace)
    }

    pub fn nodes(&self) -> Api<GardenNode> {
        Api::all(self.place.client.clone())
    }

    /// Objects of mirrors in the namespace.
    pub async fn objects(&self) -> Vec<GardenContainer> {
        let params = ListParams::default().labels(&format!("{ORIGIN_LABEL}={ORIGIN_GARDEN}"));
        self.containers().list(&params).await.unwrap().items
    }

    /// The object of a handle, where it is as `wanted` says.
    pub async fn object(
        &self,
        handle: &str,
        wanted: impl Fn(&GardenContainer) -> bool,
    ) -> Result<GardenContainer, String> {
        let objects = self.objects().await;
        let found = objects.into_iter().find(|object| object.spec.handle.as_deref() == Some(handle));
        match found {
            Some(object) if wanted(&object) => Ok(object),
            other => Err(format!("{other:?}")),
        }
    }

    /// Waits for it.
    pub async fn wait_for(&self, handle: &str, wanted: impl Fn(&GardenContainer) -> bool) -> GardenContainer {
        eventually(handle, async || self.object(handle, &wanted).await).await
    }

    /// Waits until the mirror has nothing to do, and the API server has `objects` objects.
    pub async fn level(&self, objects: usize) {
        eventually("the mirror is level", async || {
            let (figures, found) = (self.figures(), self.objects().await.len());
            let level =
                figures.waiting == 0 && !figures.away && found == objects && figures.objects as usize == objects;
            level.then_some(()).ok_or_else(|| format!("{found} objects, {figures:?}"))
        })
        .await;
    }

    /// Waits until this comes true of it.
    pub async fn eventually<T>(&self, what: &str, look: impl AsyncFn(&Self) -> Result<T, String>) -> T {
        eventually(what, async || look(self).await).await
    }

    /// Has a controller that keeps arguments, in place of the one that does not.
    pub async fn keep_arguments(&mut self) {
        let options = controller::Options { pool_size: 0, keep_arguments: true, ..controller::Options::default() };
        self.controller = Controller::start(options, Ledger::in_memory(), self.fake.node(), "boot").await.unwrap();
    }

    pub async fn create(&self, handle: &str) {
        self.controller.create(request(handle)).await.unwrap();
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.server.kubectl(&[&["-n", &self.place.namespace], args].concat())
    }
}

/// Waits until this comes true, and fails with why it does not.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// The same for what takes its time.
pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = tokio::time::Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(tokio::time::Instant::now() < end, "not within {patience:?}: {what}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fails where it takes too long.
pub async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it is done in time")
}

pub fn request(handle: &str) -> CreateRequest {
    let image: ImageReference = "docker:///busybox:1.36".parse().unwrap();
    let mut request = CreateRequest { handle: Some(Handle::new(handle).unwrap()), ..CreateRequest::default() };
    request.spec.rootfs = RootfsSource::image(image);
    request
}

pub fn process(id: &str, words: &str) -> ProcessSpec {
    let mut words = words.split(' ').map(str::to_owned);
    ProcessSpec {
        id: Some(ProcessId::new(id).unwrap()),
        path: words.next().unwrap(),
        args: words.collect(),
        ..ProcessSpec::default()
    }
}

pub fn condition(object: &GardenContainer, kind: &str) -> Option<ConditionStatus> {
    let conditions = &object.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.kind == kind).map(|condition| condition.status)
}

pub fn is_ready(object: &GardenContainer) -> bool {
    condition(object, "Ready") == Some(ConditionStatus::True)
}
