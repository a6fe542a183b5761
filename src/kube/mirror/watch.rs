//! The node's own objects, as the API server tells of them: all of them first, then each change.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use gardend_crds::GardenContainer;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::Instant;

/// What was heard.
pub(in crate::kube) enum Heard {
    /// All that there are.
    Listed(Vec<GardenContainer>),
    /// One is new or another than before.
    Changed(Box<GardenContainer>),
    /// One is gone.
    Deleted(Box<GardenContainer>),
    /// The stream broke; it begins again once [`Watch::begin_at`] was called.
    Broken(watcher::Error),
}

/// Nobody's watch grows with the cluster: the API server sends what is of this node alone.
pub(in crate::kube) struct Watch {
    api: Api<GardenContainer>,
    config: watcher::Config,
    begin_at: Instant,
    stream: Option<BoxStream<'static, watcher::Result<Event<GardenContainer>>>>,
    listing: Vec<GardenContainer>,
}

impl Watch {
    pub(in crate::kube) fn new(api: Api<GardenContainer>, node: &str) -> Self {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        Self { api, config, begin_at: Instant::now(), stream: None, listing: Vec::new() }
    }

    /// Of these alone.
    pub(in crate::kube) fn labelled(mut self, selector: &str) -> Self {
        self.config = self.config.labels(selector);
        self
    }

    /// Begins anew, with all that there are, at this time.
    pub(in crate::kube) fn begin_at(&mut self, at: Instant) {
        self.stream = None;
        self.listing.clear();
        self.begin_at = at;
    }

    /// What is heard next. Dropped before it is done, nothing is lost.
    pub(in crate::kube) async fn next(&mut self) -> Heard {
        loop {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    tokio::time::sleep_until(self.begin_at).await;
                    self.stream.insert(watcher(self.api.clone(), self.config.clone()).boxed())
                }
            };
            match stream.next().await {
                Some(Ok(Event::Init)) => self.listing.clear(),
                Some(Ok(Event::InitApply(object))) => self.listing.push(object),
                Some(Ok(Event::InitDone)) => return Heard::Listed(std::mem::take(&mut self.listing)),
                Some(Ok(Event::Apply(object))) => return Heard::Changed(Box::new(object)),
                Some(Ok(Event::Delete(object))) => return Heard::Deleted(Box::new(object)),
                Some(Err(error)) => {
                    // Not polled again, which would ask again at once.
                    self.begin_at(Instant::now() + super::FAR_OFF);
                    return Heard::Broken(error);
                }
                None => self.stream = None,
            }
        }
    }
}
