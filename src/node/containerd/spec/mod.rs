//! The OCI spec of a blank place, in its two kinds.
//!
//! *Unprivileged*: a user namespace (by default root is the host's 4294967294, every other id is
//! itself, as the volumes of Garden's clients are owned), a small capability set, seccomp, masked and
//! read-only paths, cgroups and /sys read-only. *Privileged*: no user namespace, every capability
//! that gardend and containerd themselves may give, the host's devices, nothing masked, cgroups
//! writable: enough to run a container runtime within. An operator may give privileged ones less: see
//! [`crate::node::rights`]. All have their own pid, mount, network,
//! ipc, uts and cgroup namespaces; garden-init is pid 1.

mod allowed_device;
mod capabilities;
mod devices;
mod oci;
mod seccomp;
mod settings;

use crate::node::ids::{IdMap, Line};
use crate::node::rights::Rights;
pub use allowed_device::AllowedDevice;
pub use capabilities::CapabilitySet;
use garden_init::wire::CONTROL_DIR;
use gardend_controller::record::SandboxKind;
use oci::{
    Capabilities, Device, DeviceRule, IdMapping, Linux, Mount, Namespace, Process, Resources, Rlimit, Root, User,
};
pub use settings::{ProfileError, SeccompProfile, Settings};
use std::io;
use std::path::Path;

/// The annotation by which containerd's shim finds its group.
const GROUP_ANNOTATION: &str = "io.containerd.runc.v2.group";
/// The kernel's own ceiling for open files (fs.nr_open) unless it was raised.
const MAX_OPEN_FILES: u64 = 1_048_576;

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// With `/proc/interrupts`, `thermal_throttle` of each of these tells of other containers' work.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// What makes file systems of a program's own.
const FUSE: &str = "/dev/fuse";

/// What a place's spec is made of.
pub(super) struct Blank<'a> {
    /// Of which kind it is.
    pub kind: SandboxKind,
    /// The shared rootfs.
    pub root: &'a Path,
    /// The place's own folder.
    pub folder: &'a Path,
    /// As in every hierarchy.
    pub cgroup: String,
    /// Whom it shares its shim with.
    pub group: &'a str,
    /// What there is to give.
    pub ceiling: Ceiling,
    /// Whom an unprivileged one's users are on the host.
    pub id_map: &'a IdMap,
    /// What an operator has set.
    pub settings: &'a Settings,
}

/// What containerd and gardend have themselves, and so can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ceiling {
    /// In both bounding sets.
    pub capabilities: CapabilitySet,
    /// containerd's hard limit.
    pub open_files: u64,
    /// containerd's hard limit.
    pub core_bytes: u64,
}

/// The spec as JSON.
pub(super) fn of(blank: &Blank<'_>) -> io::Result<Vec<u8>> {
    let rights = blank.settings.rights(blank.kind);
    let capabilities: Vec<_> = match rights {
        Rights::Unprivileged => capabilities::UNPRIVILEGED.to_vec(),
        Rights::Fuse => capabilities::UNPRIVILEGED.into_iter().chain([capabilities::MOUNTS]).collect(),
        Rights::Full => blank.ceiling.capabilities.names().collect(),
    };
    let open_files = blank.ceiling.open_files.min(MAX_OPEN_FILES);
    let spec = oci::Spec {
        oci_version: "1.0.2",
        process: Process {
            user: User { uid: 0, gid: 0 },
            args: vec!["/garden-init"],
            env: Vec::new(),
            cwd: "/",
            capabilities: Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
            },
            rlimits: vec![
                Rlimit { resource: "RLIMIT_NOFILE", hard: open_files, soft: open_files },
                // Nobody collects what a crash leaves, and it counts as the container's files; who
                // wants one raises the limit.
                Rlimit { resource: "RLIMIT_CORE", hard: blank.ceiling.core_bytes, soft: 0 },
            ],
            no_new_privileges: false,
        },
        root: Root { path: text(blank.root)?, readonly: true },
        hostname: "blank",
        mounts: mounts(blank, rights)?,
        annotations: [(GROUP_ANNOTATION, blank.group.to_owned())].into(),
        linux: if rights.is_full() { privileged_linux(blank)? } else { unprivileged_linux(blank, rights) },
    };
    serde_json::to_vec(&spec).map_err(io::Error::other)
}

/// The rootfs in a spec that [`of`] made, maybe long ago.
pub(super) fn root_of(spec: &[u8]) -> Option<std::path::PathBuf> {
    let spec: serde_json::Value = serde_json::from_slice(spec).ok()?;
    Some(spec.get("root")?.get("path")?.as_str()?.into())
}

fn unprivileged_linux(blank: &Blank<'_>, rights: Rights) -> Linux {
    let mapping = |line: &Line| IdMapping { container: line.inside, host: line.outside, size: line.count };
    let mappings: Vec<_> = blank.id_map.lines().iter().map(mapping).collect();
    let mut allowed = blank.settings.allowed_devices.clone();
    if rights == Rights::Fuse {
        allowed.push(AllowedDevice::Node { path: FUSE.to_owned(), access: "rwm".to_owned() });
    }
    let (devices, rules) = devices::allowed(&allowed);
    // The runtime adds the usual ones (null, zero, tty, ...) to nothing.
    let nothing = DeviceRule { allow: false, kind: None, major: None, minor: None, access: "rwm".to_owned() };
    // A /proc with something hidden cannot be mounted anew by a runtime within. In a user namespace
    // what is there is the host's root's to write, who is nobody here.
    let hides = rights == Rights::Unprivileged;
    Linux {
        cgroups_path: blank.cgroup.clone(),
        namespaces: namespaces(&["user"]),
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        devices,
        resources: Resources { devices: std::iter::once(nothing).chain(rules).collect() },
        seccomp: blank.settings.filter(rights),
        masked_paths: if hides { masked(Path::new(PROCESSORS)) } else { Vec::new() },
        readonly_paths: if hides { READ_ONLY.to_vec() } else { Vec::new() },
    }
}

fn masked(processors: &Path) -> Vec<String> {
    let throttling = std::fs::read_dir(processors).into_iter().flatten().flatten();
    let throttling = throttling.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.is_dir());
    let throttling = throttling.filter_map(|path| path.into_os_string().into_string().ok());
    MASKED.into_iter().map(str::to_owned).chain(throttling).collect()
}

fn privileged_linux(blank: &Blank<'_>) -> io::Result<Linux> {
    let devices: Vec<Device> = devices::of_host(Path::new("/dev"))?;
    let everything = DeviceRule { allow: true, kind: None, major: None, minor: None, access: "rwm".to_owned() };
    Ok(Linux {
        cgroups_path: blank.cgroup.clone(),
        namespaces: namespaces(&[]),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
        devices,
        resources: Resources { devices: vec![everything] },
        seccomp: None,
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
    })
}

fn namespaces(further: &[&'static str]) -> Vec<Namespace> {
    ["pid", "ipc", "uts", "mount", "network", "cgroup"].iter().chain(further).map(|kind| Namespace { kind }).collect()
}

fn mounts(blank: &Blank<'_>, rights: Rights) -> io::Result<Vec<Mount>> {
    let mount = |destination, kind, options: &[&'static str]| Mount {
        destination,
        kind,
        source: kind.to_owned(),
        options: options.to_vec(),
    };
    let access = if rights.is_full() { "rw" } else { "ro" };
    Ok(vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
        Mount {
            destination: CONTROL_DIR,
            kind: "bind",
            source: text(blank.folder)?,
            options: vec!["bind", "rw", "nosuid", "noexec", "nodev"],
        },
    ])
}

fn text(path: &Path) -> io::Result<String> {
    let refusal = || io::Error::other(format!("{} is not UTF-8, and so cannot stand in an OCI spec", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::rights::PrivilegedMode;
    use serde_json::{Value, json};

    fn spec(kind: SandboxKind) -> Value {
        spec_with(kind, &Settings::default())
    }

    fn spec_with(kind: SandboxKind, settings: &Settings) -> Value {
        let blank = Blank {
            kind,
            root: Path::new("/state/blank/1"),
            folder: Path::new("/run/places/1"),
            cgroup: "/gardend/o/1".into(),
            group: "g",
            ceiling: Ceiling { capabilities: CapabilitySet(0b11), open_files: u64::MAX, core_bytes: 7 },
            id_map: &IdMap::garden(),
            settings,
        };
        let bytes = of(&blank).unwrap();
        assert_eq!(root_of(&bytes).unwrap(), Path::new("/state/blank/1"));
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn an_unprivileged_place_is_root_of_its_own_user_namespace_only() {
        let spec = spec(SandboxKind::Unprivileged);
        let mapping = json!([
            {"containerID": 0, "hostID": 4294967294u32, "size": 1},
            {"containerID": 1, "hostID": 1, "size": 4294967293u32},
        ]);
        assert_eq!(spec["linux"]["uidMappings"], mapping);
        assert_eq!(spec["linux"]["gidMappings"], mapping);
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
        assert!(spec["process"]["capabilities"].get("inheritable").is_none());
        assert_eq!(spec["annotations"], json!({"io.containerd.runc.v2.group": "g"}));
    }

    #[test]
    fn a_privileged_place_has_what_there_is_to_give_and_no_more() {
        let spec = spec(SandboxKind::Privileged);
        assert_eq!(spec["process"]["capabilities"]["permitted"], json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE"]));
        assert!(spec["linux"].get("uidMappings").is_none() && spec["linux"].get("seccomp").is_none());
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["process"]["rlimits"][0]["hard"], 1_048_576);
        assert_eq!(spec["process"]["rlimits"][1], json!({"type": "RLIMIT_CORE", "hard": 7, "soft": 0}));
        assert!(!spec["linux"]["namespaces"].as_array().unwrap().contains(&json!({"type": "user"})));
    }

    #[test]
    fn what_a_processor_tells_of_its_heat_is_masked_where_it_does() {
        let processors = tempfile::tempdir().unwrap();
        for name in ["cpu0/thermal_throttle", "cpu1/cache"] {
            std::fs::create_dir_all(processors.path().join(name)).unwrap();
        }
        let paths = masked(processors.path());
        assert_eq!(paths.len(), MASKED.len() + 1);
        assert!(paths.last().unwrap().ends_with("cpu0/thermal_throttle"), "{paths:?}");
    }

    #[test]
    fn with_fuse_only_a_privileged_place_mounts_within_its_own_user_namespace() {
        let settings = Settings { privileged_mode: PrivilegedMode::FuseOnly, ..Settings::default() };
        let fuse = spec_with(SandboxKind::Privileged, &settings);
        assert_eq!(fuse["linux"]["uidMappings"][0]["hostID"], 4294967294u32);
        let capabilities = fuse["process"]["capabilities"]["bounding"].as_array().unwrap();
        assert!(capabilities.len() == 15 && capabilities.contains(&json!("CAP_SYS_ADMIN")), "{capabilities:?}");
        let rules = fuse["linux"]["seccomp"]["syscalls"].as_array().unwrap();
        let rule = |name: &str| {
            rules.iter().filter(|rule| rule["names"].as_array().unwrap().contains(&json!(name))).collect::<Vec<_>>()
        };
        for allowed in ["mount", "unshare", "clone", "clone3", "setns", "pivot_root"] {
            let rules = rule(allowed);
            assert_eq!(rules.len(), 1, "{allowed}");
            assert!(rules[0]["action"] == "SCMP_ACT_ALLOW" && rules[0].get("args").is_none(), "{allowed}");
        }
        for refused in ["bpf", "init_module", "kexec_load", "reboot", "perf_event_open"] {
            assert!(rule(refused).is_empty(), "{refused}");
        }
        assert_eq!(rule("keyctl")[0]["errnoRet"], 38);
        assert_eq!(fuse["linux"]["maskedPaths"], json!([]));
        assert_eq!(fuse["linux"]["readonlyPaths"], json!([]));
        let cgroups = fuse["mounts"].as_array().unwrap().iter().find(|mount| mount["type"] == "cgroup").unwrap();
        assert!(cgroups["options"].as_array().unwrap().contains(&json!("ro")));
        assert_eq!(spec_with(SandboxKind::Unprivileged, &settings), spec(SandboxKind::Unprivileged));
    }

    #[test]
    fn with_ignore_a_privileged_place_is_as_any_other() {
        let settings = Settings { privileged_mode: PrivilegedMode::Ignore, ..Settings::default() };
        assert_eq!(spec_with(SandboxKind::Privileged, &settings), spec(SandboxKind::Unprivileged));
    }

    #[test]
    fn an_operators_filter_takes_the_place_of_ours_where_there_is_one() {
        let own = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let with = |seccomp| Settings { seccomp, ..Settings::default() };
        let of_own = with(SeccompProfile::Own(Box::new(own.clone())));
        assert_eq!(spec_with(SandboxKind::Unprivileged, &of_own)["linux"]["seccomp"], own);
        assert!(spec_with(SandboxKind::Privileged, &of_own)["linux"].get("seccomp").is_none());
        let none = spec_with(SandboxKind::Unprivileged, &with(SeccompProfile::Unconfined));
        assert!(none["linux"].get("seccomp").is_none());
        assert_eq!(none["process"], spec(SandboxKind::Unprivileged)["process"], "all else is as it was");
    }

    #[test]
    fn allowed_devices_are_there_in_places_that_have_none() {
        let settings = Settings {
            allowed_devices: vec!["/dev/null:r".parse().unwrap(), "b 7:* rw".parse().unwrap()],
            ..Settings::default()
        };
        let linux = &spec_with(SandboxKind::Unprivileged, &settings)["linux"];
        assert_eq!(linux["devices"][0]["path"], "/dev/null");
        assert_eq!(
            linux["resources"]["devices"],
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
                {"allow": true, "type": "b", "major": 7, "access": "rw"},
            ])
        );
    }
}
