//! Limits and figures of the fake node.

use super::Call;
use super::ports::{Life, not_there};
use crate::ports::{
    CpuUsage, DiskUsage, Headroom, Measured, MemoryUsage, Metrics, NodeError, OomSeen, PidUsage, Resources, Usage,
};
use crate::record::{ContainerSpec, ContainerUid, Limits, SandboxId};
use async_trait::async_trait;
use std::sync::PoisonError;
use tokio::sync::mpsc;

/// What is counted in, as pages are on a real node.
const PAGE: u64 = 4096;

#[async_trait]
impl Resources for Life {
    async fn check(&self, _spec: &ContainerSpec) -> Result<(), NodeError> {
        self.plain(Call::CheckLimits, |_| Ok(())).await
    }

    async fn limit(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<(), NodeError> {
        let limits = Limits { memory_bytes: spec.limits.memory_bytes / PAGE * PAGE, ..spec.limits };
        self.plain(Call::Limit, |world| {
            let before = world.places.get(sandbox).map(|place| place.limits).unwrap_or_default();
            let begins = |before: u64, now: u64| before == 0 && now > 0;
            let new_kind = begins(before.memory_bytes, limits.memory_bytes) || begins(before.pids_max, limits.pids_max);
            if new_kind && world.occupied(sandbox) {
                world.violated(format!("place {sandbox} was limited while something ran in it"));
            }
            let place = world.places.get_mut(sandbox).filter(|place| place.running);
            place.ok_or_else(|| not_there(sandbox))?.limits = limits;
            Ok(())
        })
        .await
    }

    async fn in_force(
        &self,
        sandbox: &SandboxId,
        _container: &ContainerUid,
        _spec: &ContainerSpec,
    ) -> Result<Limits, NodeError> {
        self.plain(Call::InForce, |world| {
            let place = world.places.get(sandbox).filter(|place| place.running);
            Ok(place.ok_or_else(|| not_there(sandbox))?.limits)
        })
        .await
    }

    async fn oom(&self, sandbox: &SandboxId) -> Result<OomSeen, NodeError> {
        self.plain(Call::Oom, |world| Ok(world.places.get(sandbox).ok_or_else(|| not_there(sandbox))?.oom.clone()))
            .await
    }

    fn oom_events(&self) -> mpsc::Receiver<SandboxId> {
        let mut events = self.oom_events.lock().unwrap_or_else(PoisonError::into_inner);
        events.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}

#[async_trait]
impl Metrics for Life {
    async fn usage(&self, of: Vec<Measured>) -> Vec<Result<Usage, NodeError>> {
        let usages = self.plain(Call::Usage, |world| {
            let usage = |one: &Measured| {
                let place = world.places.get(&one.sandbox).filter(|place| place.running);
                let place = place.ok_or_else(|| not_there(&one.sandbox))?;
                let alive = u64::try_from(place.alive).unwrap_or(u64::MAX);
                let stat = [("rss".to_owned(), alive * PAGE)].into();
                Ok(Usage {
                    memory: MemoryUsage { stat, toward_limit: alive * PAGE },
                    cpu: CpuUsage { total: 3, user: 2, system: 1 },
                    pids: PidUsage { current: alive, max: place.limits.pids_max },
                    disk: DiskUsage::default(),
                    network: None,
                })
            };
            Ok(of.iter().map(usage).collect())
        });
        match usages.await {
            Ok(usages) => usages,
            Err(error) => of.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn headroom(&self) -> Result<Headroom, NodeError> {
        self.plain(Call::Headroom, |world| Ok(world.headroom.clone())).await
    }
}
