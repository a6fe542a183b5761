//! Figures of what there is at one moment, written from a snapshot that each scrape renews.

use gardend_controller::record::{Phase, SandboxKind};
use gardend_controller::{Counts, Health};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the controller; `None` while gardend starts.
    pub counts: Option<Counts>,
    /// How well it is.
    pub health: Vec<Health>,
    /// Of the node.
    pub extra: Extra,
}

/// What the controller does not know of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Shims that places share.
    pub shims: usize,
    /// Images, and what their files take.
    pub images: Option<(usize, u64)>,
}

#[derive(Debug)]
pub(super) struct Collected(pub(super) Arc<Mutex<Snapshot>>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Snapshot { counts, health, extra } = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let healthy: Vec<_> =
            health.iter().map(|check| ([("check", check.name)], check.result.is_ok().into())).collect();
        family(&mut encoder, "healthy", "1 where a check of readiness succeeds, 0 where it fails", &healthy)?;
        if let Some((number, bytes)) = extra.images {
            one(&mut encoder, "images", "Images on the node", number as i64)?;
            one(&mut encoder, "image_store_bytes", "What the files of images take", bytes as i64)?;
        }
        one(&mut encoder, "shims", "Shims of containerd that places share", extra.shims as i64)?;
        match counts {
            Some(counts) => of_counts(&mut encoder, &counts),
            None => Ok(()),
        }
    }
}

fn of_counts(encoder: &mut DescriptorEncoder, counts: &Counts) -> fmt::Result {
    let phases: Vec<_> =
        counts.containers.iter().map(|(of, number)| ([("phase", phase(*of))], *number as i64)).collect();
    family(encoder, "containers", "Containers in each phase, those that are being swept included", &phases)?;
    let gauges = [
        ("containers_max", "Containers at most", counts.max_containers),
        ("containers_stuck", "Containers that cannot be killed at present", counts.stuck),
        ("containers_failing", "Containers whose last step failed and is tried again", counts.failing),
        ("processes", "Processes that run or are being started", counts.processes),
        ("processes_kept", "Records of ended processes that are kept", counts.ended_processes),
        ("attached_clients", "Clients that are attached to processes", counts.attached),
        ("pool_target", "Blank places that there shall be of each kind in use", counts.pool_target),
        ("draining", "1 where the node is being drained and takes no new containers", usize::from(counts.draining)),
        (
            "pressure",
            "1 where new containers are refused for want of memory or disk",
            usize::from(counts.pressure.shortage().is_some()),
        ),
        ("reconcile_ready", "Things that the reconciler is to look at now", counts.queue.ready),
        ("reconcile_delayed", "Things that the reconciler is to look at later", counts.queue.delayed),
        ("reconcile_running", "Things that the reconciler is looking at", counts.queue.running),
    ];
    for (name, help, value) in gauges {
        one(encoder, name, help, value as i64)?;
    }
    let mut places = Vec::new();
    for (of, number) in &counts.places {
        let states = [
            ("making", number.making),
            ("pooled", number.pooled),
            ("used", number.used),
            ("discarded", number.discarded),
        ];
        places.extend(states.map(|(state, number)| ([("kind", kind(*of)), ("state", state)], number as i64)));
    }
    family(encoder, "places", "Places, by their kind and whose they are", &places)?;
    let addresses = counts.addresses.unwrap_or_default();
    one(encoder, "addresses_used", "Subnets of the pool that containers have", addresses.used as i64)?;
    one(encoder, "addresses_max", "Subnets of the pool; 0 where containers have no network", addresses.total as i64)?;
    one(encoder, "host_ports_used", "Ports of the node that lead to containers", addresses.ports as i64)
}

fn one(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: i64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn family<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: &[([(&'static str, &'static str); N], i64)],
) -> fmt::Result {
    if series.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        let gauge = ConstGauge::new(*value);
        gauge.encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Creating => "creating",
        Phase::Ready => "ready",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Destroying => "destroying",
        Phase::Gone => "gone",
    }
}

fn kind(kind: SandboxKind) -> &'static str {
    match kind {
        SandboxKind::Unprivileged => "unprivileged",
        SandboxKind::Privileged => "privileged",
    }
}
