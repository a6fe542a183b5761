//! What the API server and its etcd had to do in a while: as they count it themselves, and the kernel.

use crate::server::Server;
use gardend::kube::Place;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between two questions of somebody else.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Clone, Debug)]
pub struct Cost {
    pub took: Duration,
    /// Writes that were answered with success, by resource.
    pub writes: BTreeMap<String, u64>,
    /// Requests that were turned away since there were too many.
    pub turned_away: u64,
    pub apiserver_cpu: f64,
    pub etcd_cpu: f64,
    pub etcd_bytes: u64,
    /// How long somebody else waited for an object: the median, and the longest of 100.
    pub others: Option<(Duration, Duration)>,
}

impl Cost {
    /// Of the resources that mirrors write within their buckets.
    pub fn mirror_writes(&self) -> u64 {
        ["gardencontainers", "gardennodes"].iter().filter_map(|resource| self.writes.get(*resource)).sum()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(f, "{seconds:.0} s:")?;
        for (resource, writes) in &self.writes {
            write!(f, " {writes} writes of {resource} ({:.0}/s),", *writes as f64 / seconds)?;
        }
        write!(
            f,
            " API server {:.1} s of processors ({:.2} of one), etcd {:.1} s, its file grew by {:.1} MB",
            self.apiserver_cpu,
            self.apiserver_cpu / seconds,
            self.etcd_cpu,
            self.etcd_bytes as f64 / 1e6
        )?;
        if self.turned_away > 0 {
            write!(f, ", {} requests turned away", self.turned_away)?;
        }
        if let Some((median, worst)) = self.others {
            write!(f, ", others waited {median:.0?} (p50), {worst:.0?} (p99)")?;
        }
        Ok(())
    }
}

/// Begins to measure.
pub struct Meter<'a> {
    server: &'a Server,
    began: Instant,
    before: Reading,
}

impl<'a> Meter<'a> {
    pub fn start(server: &'a Server) -> Self {
        Self { server, began: Instant::now(), before: Reading::of(server) }
    }

    pub fn read(self, others: Option<(Duration, Duration)>) -> Cost {
        let (took, after) = (self.began.elapsed(), Reading::of(self.server));
        let before = self.before;
        let since = |resource: &String, now: u64| now - before.writes.get(resource).copied().unwrap_or(0);
        let writes = after.writes.iter().map(|(resource, now)| (resource.clone(), since(resource, *now)));
        Cost {
            took,
            writes: writes.filter(|(_, many)| *many > 0).collect(),
            turned_away: after.turned_away - before.turned_away,
            apiserver_cpu: after.apiserver_cpu - before.apiserver_cpu,
            etcd_cpu: after.etcd_cpu - before.etcd_cpu,
            etcd_bytes: after.etcd_bytes.saturating_sub(before.etcd_bytes),
            others,
        }
    }
}

struct Reading {
    writes: BTreeMap<String, u64>,
    turned_away: u64,
    apiserver_cpu: f64,
    etcd_cpu: f64,
    etcd_bytes: u64,
}

impl Reading {
    fn of(server: &Server) -> Self {
        let page = server.kubectl(&["get", "--raw", "/metrics"]);
        let (mut writes, mut turned_away) = (BTreeMap::new(), 0);
        for line in page.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| Some(line.split_once(&format!("{name}=\""))?.1.split_once('"')?.0);
            let (verb, code) = (label("verb").unwrap_or_default(), label("code").unwrap_or_default());
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0) as u64;
            if code == "429" {
                turned_away += value;
            }
            if ["APPLY", "POST", "PUT", "PATCH", "DELETE"].contains(&verb) && code.starts_with('2') {
                *writes.entry(label("resource").unwrap_or_default().to_owned()).or_default() += value;
            }
        }
        Self {
            writes,
            turned_away,
            apiserver_cpu: server.cpu_seconds("kube-apiserver"),
            etcd_cpu: server.cpu_seconds("etcd"),
            etcd_bytes: server.etcd_bytes(),
        }
    }
}

/// Somebody else, who reads an object ten times a second.
pub struct Bystander {
    end: oneshot::Sender<()>,
    task: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    pub fn start(place: &Place) -> Self {
        let (end, mut ended) = oneshot::channel();
        let api: Api<Namespace> = Api::all(place.client.clone());
        let name = Arc::new(place.namespace.clone());
        let task = tokio::spawn(async move {
            let mut took = Vec::new();
            while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let begin = Instant::now();
                if api.get(&name).await.is_ok() {
                    took.push(begin.elapsed());
                }
                tokio::time::sleep(PAUSE).await;
            }
            took
        });
        Self { end, task }
    }

    pub async fn stop(self) -> (Duration, Duration) {
        // It may have ended by itself.
        let _ = self.end.send(());
        let mut took = self.task.await.expect("it asks");
        took.sort();
        let at = |part: f64| took.get((took.len() as f64 * part) as usize).or(took.last()).copied().unwrap_or_default();
        (at(0.5), at(0.99))
    }
}
