//! The mirror as one would write it without thinking of the API server: each change is a write, and
//! they are sent one after the other, whether they change anything that shows or not.

use gardend::kube::{NodeName, Place, Shown, ShownPolicy, container_object, show};
use gardend_controller::Controller;
use gardend_crds::{GardenContainer, ORIGIN_GARDEN, ORIGIN_LABEL};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

enum Change {
    Object(String, Shown),
    Status(String, Shown),
    Gone(String),
}

/// See the module. It takes any number of changes: nothing else is a write for each.
pub struct Naive {
    node: NodeName,
    queue: mpsc::UnboundedSender<Change>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Naive {
    pub fn start(place: &Place) -> Self {
        let (queue, changes) = mpsc::unbounded_channel();
        let written = Arc::<AtomicUsize>::default();
        let api = Api::namespaced(place.client.clone(), &place.namespace);
        let task = tokio::spawn(write_all(api, changes, Arc::clone(&written)));
        Self { node: place.node.clone(), queue, written, task }
    }

    pub fn made(&self, controller: &Controller, handle: &str) {
        let (name, shown) = self.look(controller, handle);
        self.say(Change::Object(name.clone(), shown.clone()));
        self.say(Change::Status(name, shown));
    }

    pub fn changed(&self, controller: &Controller, handle: &str) {
        let (name, shown) = self.look(controller, handle);
        self.say(Change::Status(name, shown));
    }

    /// Told while it is still there.
    pub fn goes(&self, controller: &Controller, handle: &str) {
        let (name, _) = self.look(controller, handle);
        self.say(Change::Gone(name));
    }

    fn say(&self, change: Change) {
        assert!(self.queue.send(change).is_ok(), "a write failed");
    }

    fn look(&self, controller: &Controller, handle: &str) -> (String, Shown) {
        let views = controller.container_uids().into_iter().filter_map(|uid| controller.view(&uid));
        let view = views.into_iter().find(|view| view.handle.as_str() == handle).expect("it is there");
        let name = container_object(&self.node, &view.handle, &view.uid);
        (name, show(&view, &self.node, &ShownPolicy::default()))
    }

    /// How many have been written by then; what waits is given up.
    pub async fn finish(self, by: Instant) -> usize {
        let Self { queue, written, mut task, .. } = self;
        drop(queue);
        match timeout_at(by, &mut task).await {
            Ok(ended) => ended.expect("all could be written"),
            Err(_) => task.abort(),
        }
        written.load(Relaxed)
    }
}

async fn write_all(api: Api<GardenContainer>, mut changes: mpsc::UnboundedReceiver<Change>, written: Arc<AtomicUsize>) {
    let params = PatchParams::apply("naive").force();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Object(name, shown) => {
                let object = json!({
                    "apiVersion": "gardend.dev/v1alpha1",
                    "kind": "GardenContainer",
                    "metadata": { "name": name, "labels": { ORIGIN_LABEL: ORIGIN_GARDEN } },
                    "spec": shown.spec(),
                });
                api.patch(&name, &params, &Patch::Apply(&object)).await.expect("it is taken");
            }
            Change::Status(name, shown) => {
                let status = json!({ "status": shown.status(None, &[]) });
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("it is taken");
            }
            Change::Gone(name) => {
                api.delete(&name, &DeleteParams::background()).await.expect("it is there");
            }
        }
        written.fetch_add(1, Relaxed);
    }
}
