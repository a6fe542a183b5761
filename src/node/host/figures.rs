//! What containers use, as far as /proc tells of their processes, and the limits that they have: none.
//!
//! Processor time is that of what runs, and of what init has taken note of the end of; of an ended
//! process whose parent runs, once that has taken note. Memory is what is resident; of pages that
//! several processes share, each has its part.

use super::container;
use crate::node::disk::Meter;
use crate::node::headroom;
use crate::node::place::{Folders, InitProcess};
use async_trait::async_trait;
use garden_init::descendants::{self, Seen};
use gardend_controller::ports::{
    CpuUsage, DiskUsage, Headroom, Measured, MemoryUsage, Metrics, NodeError, NodeErrorKind, OomSeen, PidUsage,
    Resources, Usage,
};
use gardend_controller::record::{ContainerSpec, ContainerUid, Limits, SandboxId};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long one that is asked of alone waits for a walk through its files, and each of many.
const WALK: Duration = Duration::from_secs(1);
const WALK_OF_MANY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Clone)]
pub struct Figures {
    folders: Folders,
    meter: Meter,
    /// Never sends: nothing is killed for want of a container's memory.
    _oom: Arc<mpsc::Sender<SandboxId>>,
}

impl Figures {
    /// Of containers in these folders.
    pub fn new(folders: Folders) -> Self {
        Self { folders, meter: Meter::default(), _oom: Arc::new(mpsc::channel(1).0) }
    }
}

#[async_trait]
impl Resources for Figures {
    async fn check(&self, _spec: &ContainerSpec) -> Result<(), NodeError> {
        Ok(())
    }

    async fn limit(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<(), NodeError> {
        let asked = spec.limits;
        tracing::warn!(%sandbox, ?asked, "limits of a container are not enforced (--backend host)");
        Ok(())
    }

    /// None, whatever was asked for.
    async fn in_force(
        &self,
        _sandbox: &SandboxId,
        _container: &ContainerUid,
        _spec: &ContainerSpec,
    ) -> Result<Limits, NodeError> {
        Ok(Limits::default())
    }

    async fn oom(&self, _sandbox: &SandboxId) -> Result<OomSeen, NodeError> {
        Ok(OomSeen::default())
    }

    fn oom_events(&self) -> mpsc::Receiver<SandboxId> {
        mpsc::channel(1).1
    }
}

#[async_trait]
impl Metrics for Figures {
    async fn usage(&self, of: Vec<Measured>) -> Vec<Result<Usage, NodeError>> {
        let many = of.len();
        let (folders, asked) = (self.folders.clone(), of.clone());
        let processes = tokio::task::spawn_blocking(move || {
            let all = descendants::all().unwrap_or_default();
            asked.iter().map(|one| of_place(&folders.place(&one.sandbox), &all)).collect::<Vec<_>>()
        });
        let Ok(processes) = processes.await else {
            let gone = || NodeError::new(NodeErrorKind::Unavailable, "gardend is shutting down");
            return (0..many).map(|_| Err(gone())).collect();
        };
        let deadline = Instant::now() + if many > 1 { WALK_OF_MANY } else { WALK };
        let mut usages = Vec::with_capacity(many);
        for (one, usage) in of.into_iter().zip(processes) {
            let Some(usage) = usage else {
                let message = format!("place {} is gone", one.sandbox);
                usages.push(Err(NodeError::new(NodeErrorKind::NotFound, message)));
                continue;
            };
            let size = self.meter.size(&container(&self.folders, &one.container), deadline).await;
            let disk = DiskUsage {
                total_bytes: size.bytes,
                total_inodes: size.inodes,
                exclusive_bytes: size.bytes,
                exclusive_inodes: size.inodes,
            };
            usages.push(Ok(Usage { disk, ..usage }));
        }
        usages
    }

    async fn headroom(&self) -> Result<Headroom, NodeError> {
        headroom::left(&self.folders).await
    }
}

/// `None` where its init does not run.
fn of_place(place: &Path, all: &[Seen]) -> Option<Usage> {
    let init = InitProcess::read(place).ok()??;
    let pid = Pid::from_raw(init.pid.try_into().ok()?)?;
    let own = all.iter().find(|seen| seen.pid == pid && seen.start_time == init.start_time && !seen.is_zombie)?;
    // Init's own work is nobody's, but what it knows of those that have ended.
    let own_stat = Stat::of(own.pid)?;
    let (mut user, mut system, mut precise) = (own_stat.ended_user, own_stat.ended_system, 0);
    let (mut threads, mut resident) = (0, 0);
    for seen in descendants::among(all, own.pid) {
        let Some(stat) = Stat::of(seen.pid) else { continue };
        user += stat.user + stat.ended_user;
        system += stat.system + stat.ended_system;
        threads += stat.threads;
        resident += memory(seen.pid);
        precise += on_processor(seen.pid);
    }
    let nanoseconds = |ticks: u64| ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1));
    let cpu = CpuUsage { total: 0, user: nanoseconds(user), system: nanoseconds(system) };
    Some(Usage {
        memory: MemoryUsage {
            stat: BTreeMap::from([("rss".to_owned(), resident), ("total_rss".to_owned(), resident)]),
            toward_limit: resident,
        },
        // Ticks are coarse: what has run for less than one has run all the same.
        cpu: CpuUsage { total: (cpu.user + cpu.system).max(precise), ..cpu },
        pids: PidUsage { current: threads, max: 0 },
        ..Usage::default()
    })
}

/// Of proc(5)'s stat, what is looked at here. Times are in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    user: u64,
    system: u64,
    ended_user: u64,
    ended_system: u64,
    threads: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        // The first here is proc(5)'s third.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        let is_zombie = matches!(fields.first(), Some(&("Z" | "X")));
        Some(Self {
            user: field(14)?,
            system: field(15)?,
            ended_user: field(16)?,
            ended_system: field(17)?,
            threads: if is_zombie { 0 } else { field(20)? },
        })
    }
}

/// In bytes. The figure of proc(5)'s stat is some pages off, which is all that a small process has.
fn memory(pid: Pid) -> u64 {
    let pid = pid.as_raw_nonzero();
    let parts = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let shared_out = parts.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    // One that may not be looked into, or has ended.
    let whole = || {
        let pages = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
        Some(pages.saturating_mul(rustix::param::page_size() as u64))
    };
    shared_out.map(|kilobytes: u64| kilobytes.saturating_mul(1024)).or_else(whole).unwrap_or(0)
}

/// In nanoseconds, of its first thread.
fn on_processor(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", pid.as_raw_nonzero())).unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_numbers_whatever_the_name_is() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 3 0 99 1000 55 18446744073709551615";
        let expected = Stat { user: 11, system: 12, ended_user: 13, ended_system: 14, threads: 3 };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(Stat::parse("7 (sh) S 1"), None);
        let me = rustix::process::getpid();
        assert!(Stat::of(me).unwrap().threads > 0 && memory(me) > 1 << 20 && on_processor(me) > 0);
    }
}
