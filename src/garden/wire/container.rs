//! `ContainerSpec`: what a create asks for.

use super::network::{NetIn, NetOutRule};
use super::{Unacceptable, absolute_path, check_env, non_empty};
use gardend_controller::record::{
    self, BindMode, BindOrigin, CreateRequest, Handle, ImageCredentials, ImageReference, RootfsSource,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerSpec {
    handle: String,
    grace_time: i64,
    rootfs: String,
    image: ImageRef,
    bind_mounts: Vec<BindMount>,
    network: String,
    properties: BTreeMap<String, String>,
    env: Vec<String>,
    privileged: bool,
    limits: Limits,
    netout_rules: Vec<NetOutRule>,
    netin: Vec<NetIn>,
}

/// Its user name and password serve the pull of an image alone and are kept nowhere.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRef {
    pub(super) uri: String,
    username: String,
    password: String,
}

impl ImageRef {
    /// What its registry shall be shown.
    pub(super) fn credentials(&self) -> Option<ImageCredentials> {
        let given = !self.username.is_empty() || !self.password.is_empty();
        given.then(|| ImageCredentials { username: self.username.clone(), password: self.password.clone() })
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageRef").field("uri", &self.uri).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BindMount {
    src_path: String,
    dst_path: String,
    mode: u8,
    origin: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    bandwidth_limits: BandwidthLimits,
    cpu_limits: CpuLimits,
    disk_limits: DiskLimits,
    memory_limits: MemoryLimits,
    pid_limits: PidLimits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BandwidthLimits {
    rate: u64,
    burst: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CpuLimits {
    pub weight: u64,
    pub limit_in_shares: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DiskLimits {
    inode_soft: u64,
    inode_hard: u64,
    byte_soft: u64,
    byte_hard: u64,
    scope: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct MemoryLimits {
    pub limit_in_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PidLimits {
    max: u64,
}

impl Limits {
    fn into_limits(self) -> Result<record::Limits, Unacceptable> {
        let disk_scope_exclusive = match self.disk_limits.scope {
            0 => false,
            1 => true,
            other => {
                let reason = format!("expected 0 (total) or 1 (exclusive), found {other}");
                return Err(Unacceptable::field("limits.disk_limits.scope", reason));
            }
        };
        let limits = record::Limits {
            bandwidth_rate: self.bandwidth_limits.rate,
            bandwidth_burst: self.bandwidth_limits.burst,
            cpu_weight: self.cpu_limits.weight,
            cpu_shares: self.cpu_limits.limit_in_shares,
            disk_inode_soft: self.disk_limits.inode_soft,
            disk_inode_hard: self.disk_limits.inode_hard,
            disk_byte_soft: self.disk_limits.byte_soft,
            disk_byte_hard: self.disk_limits.byte_hard,
            disk_scope_exclusive,
            memory_bytes: self.memory_limits.limit_in_bytes,
            pids_max: self.pid_limits.max,
        };
        // What a scope counts says nothing where nothing is counted.
        Ok(if limits.has_disk() { limits } else { record::Limits { disk_scope_exclusive: false, ..limits } })
    }
}

impl ContainerSpec {
    /// The request in the controller's words.
    pub(crate) fn into_request(self) -> Result<CreateRequest, Unacceptable> {
        let limits = self.limits.into_limits()?;
        let ports_in = self.netin.into_iter().enumerate();
        let ports_in = ports_in.map(|(index, port)| port.into_asked(&format!("netin[{index}].")));
        let rules_out = self.netout_rules.into_iter().enumerate();
        let rules_out = rules_out.map(|(index, rule)| rule.into_rule(&format!("netout_rules[{index}].")));
        check_env(&self.env)?;
        let handle = non_empty(self.handle).map(Handle::new).transpose()?;
        let grace_time = grace_time("grace_time", self.grace_time)?;
        let rootfs = rootfs(&self.rootfs, &self.image.uri)?;
        let bind_mounts = bind_mounts(&self.bind_mounts)?;
        let spec = record::ContainerSpec {
            rootfs,
            bind_mounts,
            env: self.env,
            privileged: self.privileged,
            limits,
            network: non_empty(self.network),
        };
        Ok(CreateRequest {
            handle,
            grace_time: Some(grace_time).filter(|time| !time.is_zero()),
            properties: self.properties,
            spec,
            ports_in: ports_in.collect::<Result<_, _>>()?,
            rules_out: rules_out.collect::<Result<_, _>>()?,
            credentials: self.image.credentials(),
        })
    }
}

/// Go's `time.Duration`: signed nanoseconds.
pub(crate) fn grace_time(field: &str, nanoseconds: i64) -> Result<Duration, Unacceptable> {
    let nanoseconds = u64::try_from(nanoseconds)
        .map_err(|_| Unacceptable::field(field, "is negative; give nanoseconds, or 0 for the server's default"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// `image.uri` wins over `rootfs`. A path means itself, letter by letter; in a `raw://` URI it is
/// percent-encoded, as in every URI.
pub(super) fn rootfs(rootfs: &str, image: &str) -> Result<RootfsSource, Unacceptable> {
    let (field, uri) = if image.is_empty() { ("rootfs", rootfs) } else { ("image.uri", image) };
    if uri.is_empty() {
        return Ok(RootfsSource::Default);
    }
    if uri.starts_with('/') {
        return absolute_path(|| field.to_owned(), uri).map(RootfsSource::Raw);
    }
    let wrong = |reason: String| Unacceptable::field(field, reason);
    if ImageReference::has_scheme(uri) {
        return uri
            .parse()
            .map(RootfsSource::image)
            .map_err(|error: record::InvalidReference| wrong(error.to_string()));
    }
    match uri.split_once(':') {
        Some(("raw", rest)) => raw_path(rest).map(RootfsSource::Raw).map_err(|reason| wrong(reason.to_owned())),
        Some((scheme, _)) if !scheme.contains('/') => Err(wrong(format!(
            "the scheme {scheme:?} is not known; give an image as docker://HOST/NAME:TAG or oci-layout:///PATH, \
             a folder as raw:///path or /path, or nothing for the default rootfs"
        ))),
        _ => Err(wrong(format!("{uri:?} is not an absolute path; give /path or raw:///path"))),
    }
}

fn raw_path(rest: &str) -> Result<PathBuf, &'static str> {
    let encoded = rest
        .strip_prefix("//")
        .filter(|path| path.starts_with('/'))
        .ok_or("a raw rootfs is written with three slashes, raw:///path")?;
    if encoded.contains(['?', '#']) {
        return Err("a raw rootfs has neither query nor fragment; write ? as %3F and # as %23");
    }
    let path = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| "the path is not UTF-8 once percent-decoded")?;
    if path.contains('\0') {
        return Err("holds a zero byte, which no path can");
    }
    Ok(PathBuf::from(path.into_owned()))
}

pub(super) fn bind_mounts(mounts: &[BindMount]) -> Result<Vec<record::BindMount>, Unacceptable> {
    let one = |(index, mount): (usize, &BindMount)| {
        let field = |name: &str| format!("bind_mounts[{index}].{name}");
        let mode = match mount.mode {
            0 => BindMode::ReadOnly,
            1 => BindMode::ReadWrite,
            other => {
                let reason = format!("expected 0 (read-only) or 1 (read-write), found {other}");
                return Err(Unacceptable::field(field("mode"), reason));
            }
        };
        let origin = match mount.origin {
            0 => BindOrigin::Host,
            1 => BindOrigin::Container,
            other => {
                let reason = format!("expected 0 (host) or 1 (container), found {other}");
                return Err(Unacceptable::field(field("origin"), reason));
            }
        };
        let source = absolute_path(|| field("src_path"), &mount.src_path)?;
        let target = absolute_path(|| field("dst_path"), &mount.dst_path)?;
        Ok(record::BindMount { source, target, mode, origin })
    };
    mounts.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garden::wire::json;
    use gardend_controller::record::RuleProtocol;
    use std::num::NonZeroU16;

    fn request(text: &str) -> Result<CreateRequest, String> {
        let spec: ContainerSpec = json::parse(text.as_bytes(), "").map_err(|error| error.to_string())?;
        spec.into_request().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_asked_for_is_the_default_container() {
        assert_eq!(request("{}").unwrap(), CreateRequest::default());
        let nulls = r#"{"handle":null,"image":null,"bind_mounts":null,"limits":null,"properties":null,"env":null}"#;
        assert_eq!(request(nulls).unwrap(), CreateRequest::default());
    }

    #[test]
    fn everything_that_can_be_had_is_carried_over() {
        let asked = request(
            r#"{"handle":"h","grace_time":1500000000,"rootfs":"/unused","image":{"uri":"raw:///r%20oot"},
            "bind_mounts":[{"src_path":"/a","dst_path":"/b","mode":1},{"src_path":"/c","dst_path":"/d","origin":1}],
            "properties":{"k":"v"},"env":["A=b","BARE"],"privileged":true,"netout_rules":[{"protocol":1}],
            "limits":{"disk_limits":{"scope":1}}}"#,
        )
        .unwrap();
        assert_eq!(asked.handle.unwrap().as_str(), "h");
        assert_eq!(asked.grace_time, Some(Duration::from_millis(1500)));
        assert_eq!(asked.properties["k"], "v");
        assert_eq!(asked.spec.rootfs, RootfsSource::Raw("/r oot".into()));
        assert_eq!(asked.spec.env, ["A=b", "BARE"]);
        assert!(asked.spec.privileged);
        let modes: Vec<_> = asked.spec.bind_mounts.iter().map(|mount| (mount.mode, mount.origin)).collect();
        assert_eq!(modes, [(BindMode::ReadWrite, BindOrigin::Host), (BindMode::ReadOnly, BindOrigin::Container)]);
    }

    #[test]
    fn a_rootfs_is_a_path_a_raw_uri_or_nothing() {
        assert_eq!(rootfs("/a%20b", "").unwrap(), RootfsSource::Raw("/a%20b".into()));
        assert_eq!(rootfs("/a", "raw:///b").unwrap(), RootfsSource::Raw("/b".into()));
        for (uri, part) in [
            ("docker:///BusyBox", "name \"library/BusyBox\""),
            ("oci:///x/y", "needs a host"),
            ("oci-layout://x", "three slashes"),
            ("preloaded:cflinuxfs4", "preloaded"),
            ("some/path", "not an absolute path"),
            ("some/path:tag", "not an absolute path"),
            ("raw:/x", "three slashes"),
            ("raw://host/x", "three slashes"),
            ("raw:///x?y", "neither query"),
            ("raw:///%00", "zero byte"),
            ("raw:///%ff", "UTF-8"),
        ] {
            let error = rootfs("", uri).unwrap_err().to_string();
            assert!(error.starts_with("image.uri: ") && error.contains(part), "{uri}: {error}");
        }
        assert!(rootfs("x", "").unwrap_err().to_string().starts_with("rootfs: "));
    }

    #[test]
    fn an_image_is_a_reference_with_credentials_that_do_not_show_themselves() {
        let text =
            r#"{"rootfs":"/unused","image":{"uri":"docker:///busybox#1.36","username":"alice","password":"hunter2"}}"#;
        let asked = request(text).unwrap();
        assert_eq!(asked.spec.rootfs, RootfsSource::image("docker:///busybox#1.36".parse().unwrap()));
        let credentials = asked.credentials.as_ref().unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("alice", "hunter2"));
        let spec: ContainerSpec = json::parse(text.as_bytes(), "").unwrap();
        assert!(!format!("{spec:?} {asked:?}").contains("hunter2"));
        assert_eq!(request(r#"{"rootfs":"docker:///busybox"}"#).unwrap().credentials, None);
    }

    #[test]
    fn limits_are_carried_over_by_their_names() {
        let asked = request(
            r#"{"limits":{"memory_limits":{"limit_in_bytes":1},"cpu_limits":{"limit_in_shares":2,"weight":3},
            "pid_limits":{"max":4},"bandwidth_limits":{"rate":5,"burst":6},
            "disk_limits":{"inode_soft":7,"inode_hard":8,"byte_soft":9,"byte_hard":10,"scope":1}}}"#,
        )
        .unwrap()
        .spec
        .limits;
        let seen = [asked.memory_bytes, asked.cpu_shares, asked.cpu_weight, asked.pids_max, asked.bandwidth_rate];
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        assert_eq!((asked.bandwidth_burst, asked.disk_inode_soft, asked.disk_inode_hard), (6, 7, 8));
        assert_eq!((asked.disk_byte_soft, asked.disk_byte_hard, asked.disk_scope_exclusive), (9, 10, true));
        assert_eq!(asked.shares(), 3);
        let error = request(r#"{"limits":{"disk_limits":{"scope":2}}}"#).unwrap_err();
        assert!(error.contains("limits.disk_limits.scope: expected 0"), "{error}");
        // A scope without a limit asks for nothing.
        assert_eq!(request(r#"{"limits":{"disk_limits":{"scope":1}}}"#).unwrap(), CreateRequest::default());
    }

    #[test]
    fn a_network_is_carried_over_and_what_is_wrong_in_it_is_refused_by_its_field() {
        let asked = request(
            r#"{"network":"10.0.0.0/30","netin":[{"container_port":80},{"host_port":1}],"netout_rules":[{"protocol":1}]}"#,
        )
        .unwrap();
        assert_eq!(asked.spec.network.as_deref(), Some("10.0.0.0/30"));
        let ports: Vec<_> = asked.ports_in.iter().map(|port| (port.host_port, port.container_port)).collect();
        assert_eq!(ports, [(None, NonZeroU16::new(80)), (NonZeroU16::new(1), None)]);
        assert_eq!(asked.rules_out[0].protocol, RuleProtocol::Tcp);
        let error = request(r#"{"netin":[{},{"host_port":70000}]}"#).unwrap_err();
        assert!(error.starts_with("netin[1].host_port: there is no port 70000"), "{error}");
        let error = request(r#"{"netout_rules":[{"networks":[{}]}]}"#).unwrap_err();
        assert!(error.starts_with("netout_rules[0].networks[0]: has neither"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, part) in [
            (r#"{"grace_time":-1}"#, "grace_time: is negative"),
            (r#"{"grace_time":9223372036854775808}"#, "grace_time is wrong: expected a whole number"),
            (r#"{"env":["A=b","=c"]}"#, "env[1]: has no name"),
            (r#"{"env":["A=\u0000"]}"#, "env[0]: holds a zero byte"),
            (r#"{"bind_mounts":[{"src_path":"/a","dst_path":"/b","mode":2}]}"#, "bind_mounts[0].mode: expected 0"),
            (r#"{"bind_mounts":[{"src_path":"/a","dst_path":"/b","origin":2}]}"#, "bind_mounts[0].origin: expected 0"),
            (r#"{"bind_mounts":[{"src_path":"a","dst_path":"/b"}]}"#, "bind_mounts[0].src_path: must be an absolute"),
            (r#"{"bind_mounts":[{"src_path":"/a"}]}"#, "bind_mounts[0].dst_path: is missing"),
            (r#"{"handle":"a/b"}"#, "cannot carry in a URL"),
        ] {
            let error = request(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
