//! Many nodes of a cluster in one process: on each a fake node, the real controller and the real
//! mirror with a client of its own; and what is done on them, the same whoever tells of it.

mod cost;
mod naive;

use crate::server::Server;
use crate::world::{World, eventually_within, process, unique};
use cost::{Bystander, Cost, Meter};
use futures_util::future::join_all;
use gardend::kube::Options;
use gardend_controller::ports::Signal;
use naive::Naive;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Until everything is shown that is to be: as many nodes as these are take their time.
const LEVEL: Duration = Duration::from_secs(300);

/// What shows of a container with two processes: object and status, twice two of processes, its end.
pub const CHANGES: usize = 7;

/// What happens on each node.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    /// Containers of each node.
    pub containers: usize,
    /// Between two of them.
    pub pause: Duration,
    /// How long each lives.
    pub life: Duration,
}

/// How much each mirror may write.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub a_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// See the module.
pub struct Fleet {
    server: Arc<Server>,
    nodes: Vec<World>,
}

/// What a fleet's mirrors came to.
pub struct Mirrored {
    /// While nothing happened on the nodes.
    pub idle: Cost,
    /// While it did.
    pub busy: Cost,
    /// From the end of that until all was shown as it was.
    pub level_after: Duration,
    /// Writes of mirrors that may have been since they were started: bursts, and what the time gives.
    pub most: f64,
    /// Those that were, as the mirrors count.
    pub written: u64,
    /// Objects of containers that are still there.
    pub left: usize,
}

/// What it comes to where each change is written.
pub struct Written {
    pub busy: Cost,
    /// Changes that there were, and those of them that were written.
    pub changes: usize,
    pub written: usize,
}

impl Fleet {
    /// In a namespace of its own; nothing is told of it yet.
    pub async fn new(server: &Arc<Server>, many: usize) -> Self {
        let namespace = unique("fleet");
        let first = World::without_namespace(Arc::clone(server), &namespace).await;
        first.make_namespace().await;
        let others = (1..many).map(|_| World::without_namespace(Arc::clone(server), &namespace));
        let mut nodes = vec![first];
        nodes.extend(join_all(others).await);
        Self { server: Arc::clone(server), nodes }
    }

    /// With mirrors, idle for a while and then in use.
    pub async fn mirrored(mut self, rates: Rates, idle: Duration, churn: Churn) -> Mirrored {
        let started = Instant::now();
        for node in &mut self.nodes {
            let defaults = Options::new(node.place.node.clone(), Arc::clone(&node.options.facts));
            node.options = Options { writes_per_second: rates.a_second, write_burst: rates.burst, ..defaults };
            node.start();
        }
        self.level("the nodes are shown").await;

        let meter = Meter::start(&self.server);
        sleep_until(Instant::now() + idle).await;
        let idle = meter.read(None);

        let meter = Meter::start(&self.server);
        let bystander = Bystander::start(&self.nodes[0].place);
        self.use_all(churn, None).await;
        let busy = meter.read(Some(bystander.stop().await));
        let ended = Instant::now();
        self.level("all is shown").await;
        let level_after = ended.elapsed();
        let left = self.nodes[0].objects().await.len();
        let figures = self.nodes.iter().map(World::figures);
        let written = figures.map(|of| of.objects_written + of.statuses_written + of.objects_deleted).sum();
        let each = f64::from(rates.burst.get()) + started.elapsed().as_secs_f64() * f64::from(rates.a_second.get());
        let most = each * self.nodes.len() as f64;
        join_all(self.nodes.iter_mut().map(World::stop)).await;
        Mirrored { idle, busy, level_after, most, written, left }
    }

    /// With each change written. What has not been written `patience` after the last of them is given up.
    pub async fn written_each(self, churn: Churn, patience: Duration) -> Written {
        let naive: Vec<_> = self.nodes.iter().map(|node| Naive::start(&node.place)).collect();
        let meter = Meter::start(&self.server);
        let bystander = Bystander::start(&self.nodes[0].place);
        self.use_all(churn, Some(&naive)).await;
        let end = Instant::now() + patience;
        let written = join_all(naive.into_iter().map(|one| one.finish(end))).await;
        let busy = meter.read(Some(bystander.stop().await));
        let changes = self.nodes.len() * churn.containers * CHANGES;
        Written { busy, changes, written: written.into_iter().sum() }
    }

    async fn level(&self, what: &str) {
        eventually_within(LEVEL, what, async || {
            let late = self.nodes.iter().find(|node| {
                let figures = node.figures();
                figures.waiting > 0 || figures.away || figures.objects > 0 || figures.statuses_written == 0
            });
            late.map_or(Ok(()), |node| Err(format!("{}: {:?}", node.node(), node.figures())))
        })
        .await;
    }

    /// The same on all nodes, though not all at once.
    async fn use_all(&self, churn: Churn, told: Option<&[Naive]>) {
        let begin = Instant::now();
        let nodes = self.nodes.iter().enumerate();
        join_all(nodes.map(|(number, node)| {
            let shift = churn.pause.mul_f64(number as f64 / self.nodes.len() as f64);
            let told = told.map(|all| &all[number]);
            let lives = (0..churn.containers as u32)
                .map(move |number| live(node, number, begin + shift + churn.pause * number, churn.life, told));
            join_all(lives)
        }))
        .await;
    }
}

/// The life of one container, in which two processes run one after the other.
async fn live(node: &World, number: u32, begin: Instant, life: Duration, told: Option<&Naive>) {
    let handle = format!("build-{number}");
    let tell = || told.map(|naive| naive.changed(&node.controller, &handle));
    sleep_until(begin).await;
    node.create(&handle).await;
    if let Some(naive) = told {
        naive.made(&node.controller, &handle);
    }
    for (number, id) in ["get", "task"].into_iter().enumerate() {
        let part = life / 5 * (2 * number as u32 + 1);
        sleep_until(begin + part).await;
        let running = node.controller.run(&handle, process(id, "sleep")).await.unwrap();
        tell();
        sleep_until(begin + part + life / 5).await;
        running.signal(Signal::Kill).await.unwrap();
        running.outcome().await;
        tell();
    }
    sleep_until(begin + life).await;
    if let Some(naive) = told {
        naive.goes(&node.controller, &handle);
    }
    node.controller.destroy(&handle).await.unwrap();
}
