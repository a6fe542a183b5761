//! What an object declares, as the controller takes it.

use super::problem::Problem;
use super::secrets::Secrets;
use gardend_controller::record::{
    BindMode, BindMount, BindOrigin, ContainerSpec, CreateRequest, DeclaredBy, DeclaredProcess, Handle,
    ImageCredentials, ImageReference, Limits, PortInAsked, ProcessId, ProcessSpec, RestartPolicy, RootfsSource,
};
use gardend_crds::{self as crds, ContainerLimits, EnvVar, GardenContainer, GardenContainerSpec};
use kube::ResourceExt;
use std::num::NonZeroU16;
use std::time::Duration;

/// Which object this is.
pub(super) fn by(object: &GardenContainer) -> DeclaredBy {
    DeclaredBy {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
    }
}

/// Its version that counts.
pub(super) fn generation(object: &GardenContainer) -> i64 {
    object.metadata.generation.unwrap_or_default()
}

/// That version, written down, so that the next one can be compared with it.
pub(super) fn source(spec: &GardenContainerSpec) -> String {
    // Texts, numbers and lists: there is nothing in it that JSON could not hold.
    serde_json::to_string(spec).unwrap_or_default()
}

/// The image that it names.
pub(super) fn image(spec: &GardenContainerSpec) -> Result<Option<ImageReference>, Problem> {
    let parsed = spec.image.as_deref().map(str::parse::<ImageReference>).transpose();
    parsed.map_err(|error| Problem::invalid("image", error))
}

/// The container.
pub(super) fn request(
    object: &GardenContainer,
    secrets: &Secrets,
    credentials: Option<ImageCredentials>,
) -> Result<CreateRequest, Problem> {
    let spec = &object.spec;
    let rootfs = match (image(spec)?, &spec.rootfs) {
        (Some(image), _) => RootfsSource::image(image),
        (None, Some(folder)) => RootfsSource::Raw(folder.into()),
        (None, None) => RootfsSource::Default,
    };
    let by = by(object);
    let handle = spec.handle.clone().unwrap_or_else(|| format!("{}.{}", by.namespace, by.name));
    Ok(CreateRequest {
        handle: Some(Handle::new(handle).map_err(|error| Problem::invalid("handle", error))?),
        grace_time: grace_time(spec)?,
        properties: spec.properties.clone(),
        spec: ContainerSpec {
            rootfs,
            bind_mounts: spec.bind_mounts.iter().map(bind_mount).collect(),
            env: env(&spec.env, secrets)?,
            privileged: spec.privileged,
            limits: limits(spec),
            network: spec.network.clone(),
        },
        credentials,
        ports_in: spec.ports.iter().map(port).collect(),
        rules_out: Vec::new(),
    })
}

/// One of its processes; of two revisions the one that runs is replaced by the other.
pub(super) fn process(
    process: &crds::DeclaredProcess,
    revision: i64,
    secrets: &Secrets,
) -> Result<DeclaredProcess, Problem> {
    let id = ProcessId::new(process.name.clone()).map_err(|error| Problem::invalid("processes.name", error))?;
    let spec = ProcessSpec {
        id: Some(id.clone()),
        path: process.path.clone(),
        args: process.args.clone(),
        env: env(&process.env, secrets)?,
        dir: process.dir.clone(),
        user: process.user.clone(),
        ..ProcessSpec::default()
    };
    Ok(DeclaredProcess { id, spec, restart: restart(process), revision })
}

pub(super) fn restart(process: &crds::DeclaredProcess) -> RestartPolicy {
    match process.restart_policy {
        None | Some(crds::RestartPolicy::Always) => RestartPolicy::Always,
        Some(crds::RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
        Some(crds::RestartPolicy::Never) => RestartPolicy::Never,
    }
}

fn env(env: &[EnvVar], secrets: &Secrets) -> Result<Vec<String>, Problem> {
    env.iter().map(|variable| secrets.variable(variable)).collect()
}

fn bind_mount(mount: &crds::BindMount) -> BindMount {
    BindMount {
        source: (&mount.source).into(),
        target: (&mount.target).into(),
        mode: match mount.mode {
            Some(crds::BindMode::ReadWrite) => BindMode::ReadWrite,
            None | Some(crds::BindMode::ReadOnly) => BindMode::ReadOnly,
        },
        origin: match mount.origin {
            Some(crds::BindOrigin::Container) => BindOrigin::Container,
            None | Some(crds::BindOrigin::Host) => BindOrigin::Host,
        },
    }
}

pub(super) fn port(port: &crds::DeclaredPort) -> PortInAsked {
    PortInAsked {
        host_port: port.host_port.and_then(NonZeroU16::new),
        container_port: NonZeroU16::new(port.container_port),
    }
}

pub(super) fn limits(spec: &GardenContainerSpec) -> Limits {
    let Some(limits) = &spec.limits else { return Limits::default() };
    let ContainerLimits { disk_scope, .. } = limits;
    let number = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0);
    Limits {
        bandwidth_rate: number(limits.bandwidth_rate),
        bandwidth_burst: number(limits.bandwidth_burst),
        cpu_weight: number(limits.cpu_weight),
        cpu_shares: 0,
        disk_inode_soft: number(limits.disk_inodes_soft),
        disk_inode_hard: number(limits.disk_inodes_hard),
        disk_byte_soft: number(limits.disk_bytes_soft),
        disk_byte_hard: number(limits.disk_bytes_hard),
        disk_scope_exclusive: *disk_scope == Some(crds::DiskScope::Exclusive),
        memory_bytes: number(limits.memory_bytes),
        pids_max: number(limits.pids),
    }
}

/// As 90s, 5m, 1h30m.
pub(super) fn grace_time(spec: &GardenContainerSpec) -> Result<Option<Duration>, Problem> {
    let Some(text) = spec.grace_time.as_deref() else { return Ok(None) };
    let parsed = duration(text)
        .ok_or_else(|| Problem::invalid("graceTime", format!("'{text}' is no duration as 90s, 5m or 1h30m")));
    parsed.map(Some)
}

fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        let (unit, millis) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [("90s", 90_000), ("1h30m", 5_400_000), ("1m500ms", 60_500), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["5", "m", "1d", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
