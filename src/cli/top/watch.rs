//! What the server tells, asked for again and again.

use super::super::client::{Client, ClientError, wire};
use super::super::stats::NO_LIMIT;
use super::model::{Sample, Seen, Used};
use gardend_controller::record::Properties;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Asks one server.
pub(super) struct Watch {
    client: Client,
    interval: Duration,
    /// Of memory, by handle. They do not change.
    limits: BTreeMap<String, Option<u64>>,
}

impl Watch {
    pub(super) fn new(client: Client, interval: Duration) -> Self {
        Self { client, interval, limits: BTreeMap::new() }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Asks until nobody listens any more; at once where `soon` says so.
    pub(super) async fn run(mut self, to: Sender<Result<Sample, String>>, soon: Arc<Notify>) {
        loop {
            let told = self.look().await.map_err(|error| error.to_string());
            // The first rates shall not take long to come.
            let first = told.is_ok() && self.limits.is_empty();
            if to.send(told).is_err() {
                return;
            }
            let pause = if first { self.interval.min(Duration::from_millis(500)) } else { self.interval };
            tokio::select! {
                // Cancel-safe: it starts anew each time.
                () = sleep(pause) => {}
                // Cancel-safe: a notification that comes meanwhile is kept.
                () = soon.notified() => {}
            }
        }
    }

    /// One look at everything.
    pub(super) async fn look(&mut self) -> Result<Sample, ClientError> {
        let handles = self.client.list(&Properties::new()).await?;
        let at = Instant::now();
        if handles.is_empty() {
            return Ok(Sample { at, containers: BTreeMap::new() });
        }
        let infos = self.client.bulk_info(&handles).await?;
        let known: BTreeSet<&String> = handles.iter().collect();
        let mut asked = handles.clone();
        asked.extend(of_one_container(&infos).into_iter().filter(|id| !known.contains(id)));
        let mut figures = self.client.bulk_metrics(&asked).await?;
        self.limits.retain(|handle, _| known.contains(handle));
        let mut containers = BTreeMap::new();
        for (handle, info) in infos {
            // One that has gone since, or does not answer just now.
            let Ok(info) = info else { continue };
            let limit = self.limit(&handle).await;
            let used = figures.remove(&handle).and_then(Result::ok).map(|metrics| used(&metrics, limit));
            let process = |id: String| {
                let used = figures.get(&id).and_then(|answer| answer.as_ref().ok());
                let used = used.filter(|_| !known.contains(&id)).map(|metrics| self::used(metrics, None));
                (id, used)
            };
            let processes = info.process_ids.into_iter().map(process).collect();
            containers.insert(handle, Seen { state: info.state, used, processes });
        }
        Ok(Sample { at, containers })
    }

    async fn limit(&mut self, handle: &str) -> Option<u64> {
        if let Some(known) = self.limits.get(handle) {
            return *known;
        }
        // A server that cannot tell, or a container that has just gone: none is known.
        let limit = self.client.memory_limit(handle).await.map(|limit| limit.limit_in_bytes).unwrap_or(0);
        let limit = Some(limit).filter(|limit| (1..NO_LIMIT).contains(limit));
        self.limits.insert(handle.to_owned(), limit);
        limit
    }
}

/// Ids of processes that are one container's alone: figures are asked for by the id.
fn of_one_container<E>(infos: &BTreeMap<String, Result<wire::ContainerInfo, E>>) -> BTreeSet<String> {
    let (mut once, mut often) = (BTreeSet::new(), BTreeSet::new());
    for id in infos.values().flatten().flat_map(|info| &info.process_ids) {
        if !once.insert(id.clone()) {
            often.insert(id.clone());
        }
    }
    &once - &often
}

fn used(metrics: &wire::Metrics, memory_limit: Option<u64>) -> Used {
    Used {
        cpu: Duration::from_nanos(metrics.cpu_stat.usage),
        memory: metrics.memory_stat.toward_limit,
        memory_limit,
        network: metrics.network_stat.map(|network| (network.rx_bytes, network.tx_bytes)),
        pids: metrics.pid_stat.current,
        age: Duration::from_nanos(metrics.age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_two_containers_use_is_nobodys_figures() {
        let info = |ids: &[&str]| {
            let process_ids = ids.iter().map(|id| (*id).to_owned()).collect();
            Ok::<_, ()>(wire::ContainerInfo { process_ids, ..Default::default() })
        };
        let infos = [("a".to_owned(), info(&["x", "y"])), ("b".to_owned(), info(&["y", "z"]))].into();
        assert_eq!(of_one_container(&infos).into_iter().collect::<Vec<_>>(), ["x", "z"]);
    }
}
