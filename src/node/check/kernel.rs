//! What the kernel offers, and what we may do with it.

use super::Line;
use super::version::Version;
use crate::node::containerd::{CapabilitySet, Runtime, hierarchies};
use crate::node::sys::{MountChange, set_mount_attributes};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsOpenFlags, OpenTreeFlags};
use rustix::process::PidfdFlags;
use std::collections::BTreeSet;
use std::fs;
use std::io;

/// The oldest kernel that has all we use.
const OLDEST_KERNEL: Version = Version::new(5, 15);
/// Without these no place can be made, furnished or killed.
const CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
];
/// What limits and metrics are made of.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Named in one place each, that we make for every container.
const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];

pub(super) fn lines(runtime: &Runtime) -> Vec<Line> {
    let mut lines = vec![kernel(), privileges()];
    lines.extend(cgroups(runtime));
    lines.extend([
        namespaces(),
        probe("mount API", "open_tree and mount_setattr", mount_api(), "needs a kernel from 5.12 and CAP_SYS_ADMIN"),
        probe(
            "openat2",
            "resolves beneath a root",
            openat2(),
            "needs a kernel from 5.6, and no seccomp profile that hides it",
        ),
        probe("pidfd", "names processes", pidfd(), "needs a kernel from 5.3, and no seccomp profile that hides it"),
        probe("overlay", "can be mounted", overlay(), "run `modprobe overlay`; a kernel without it cannot be used"),
        seccomp(),
    ]);
    lines
}

fn kernel() -> Line {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match Version::find(&release) {
        Some(version) if version < OLDEST_KERNEL => {
            Line::fail("kernel", release, format!("boot a kernel from {OLDEST_KERNEL} on"))
        }
        Some(_) => Line::ok("kernel", release),
        None => Line::warn(
            "kernel",
            format!("'{release}' is not understood"),
            format!("it must be from {OLDEST_KERNEL} on"),
        ),
    }
}

fn privileges() -> Line {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Line::fail("privileges", format!("uid {}", uid.as_raw()), "run gardend as root");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(own) = CapabilitySet::effective_in(&status) else {
        return Line::warn("privileges", "root; /proc/self/status names no capabilities", "mount /proc");
    };
    let missing: Vec<_> = CAPABILITIES.into_iter().filter(|name| !own.has(name)).collect();
    if !missing.is_empty() {
        let found = format!("root without {}", missing.join(", "));
        return Line::fail("privileges", found, "give gardend these capabilities (a privileged container has them)");
    }
    if !own.has("CAP_SYS_RESOURCE") {
        let remedy = "processes that ask for rlimits above containerd's own are refused; give it CAP_SYS_RESOURCE";
        return Line::warn("privileges", "root without CAP_SYS_RESOURCE", remedy);
    }
    Line::ok("privileges", "root")
}

fn cgroups(runtime: &Runtime) -> Vec<Line> {
    let Ok(mounts) = hierarchies() else {
        return vec![Line::fail("cgroups", "/proc/thread-self/mountinfo cannot be read", "mount /proc")];
    };
    let unified = mounts.iter().find_map(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let found = Found { v1: mounted_on_v1(&table), v2: unified.as_deref().map(words) };
    let mut lines = vec![controllers(&found)];
    lines.extend(hugetlb(&found, &table, runtime));
    lines
}

/// Controllers by the kind of hierarchy that they are in.
struct Found<'a> {
    v1: BTreeSet<&'a str>,
    v2: Option<BTreeSet<&'a str>>,
}

fn controllers(found: &Found<'_>) -> Line {
    let all: BTreeSet<_> = found.v1.iter().chain(found.v2.iter().flatten()).copied().collect();
    let kind = match (found.v1.is_empty(), &found.v2) {
        (true, Some(_)) => "v2",
        (false, Some(_)) => "v1 beside v2",
        (false, None) => "v1",
        (true, None) => {
            return Line::fail(
                "cgroups",
                "none is mounted",
                "mount cgroups, as systemd does, or `mount -t cgroup2 none /sys/fs/cgroup`",
            );
        }
    };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !all.contains(name)).collect();
    if missing.is_empty() {
        return Line::ok("cgroups", format!("{kind}, with {}", all.into_iter().collect::<Vec<_>>().join(", ")));
    }
    let remedy = "boot with them enabled (cgroup_enable=memory, no cgroup_disable)";
    Line::fail("cgroups", format!("{kind}, without {}", missing.join(", ")), remedy)
}

/// On cgroup v1 crun makes its cgroup in every hierarchy that the kernel has, also in one that is
/// not mounted.
fn hugetlb(found: &Found<'_>, table: &str, runtime: &Runtime) -> Option<Line> {
    let needed = runtime.name() == "crun" && !found.v1.is_empty() && enabled(table).contains("hugetlb");
    if !needed {
        return None;
    }
    let path = "/sys/fs/cgroup/hugetlb";
    Some(if found.v1.contains("hugetlb") {
        Line::ok("hugetlb cgroup", "mounted, as crun needs it")
    } else {
        let remedy = format!("run `mkdir -p {path} && mount -t cgroup -o hugetlb cgroup {path}`, or use runc");
        Line::fail("hugetlb cgroup", "not mounted, and crun on cgroup v1 cannot make a container then", remedy)
    })
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_ascii_whitespace().collect()
}

/// /proc/cgroups: name, hierarchy (0: on none, or on v2), number of cgroups, enabled.
fn rows(table: &str) -> impl Iterator<Item = (&str, bool, bool)> {
    table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        Some((fields.next()?, fields.next()? != "0", fields.nth(1)? == "1"))
    })
}

fn mounted_on_v1(table: &str) -> BTreeSet<&str> {
    rows(table).filter(|(_, mounted, _)| *mounted).map(|(name, ..)| name).collect()
}

fn enabled(table: &str) -> BTreeSet<&str> {
    rows(table).filter(|(.., enabled)| *enabled).map(|(name, ..)| name).collect()
}

fn namespaces() -> Line {
    let allowed = |kind: &&&str| {
        let maximum = fs::read_to_string(format!("/proc/sys/user/max_{kind}_namespaces")).ok();
        maximum.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|maximum| maximum > 0)
    };
    let missing: Vec<_> = NAMESPACES.iter().filter(|kind| !allowed(kind)).copied().collect();
    if missing.is_empty() {
        return Line::ok("namespaces", NAMESPACES.join(", "));
    }
    let remedy = "set user.max_KIND_namespaces above 0 with sysctl, and boot a kernel that has them";
    Line::fail("namespaces", format!("none of the kind {} may be made", missing.join(", ")), remedy)
}

fn probe(name: &str, works: &str, result: io::Result<()>, remedy: &str) -> Line {
    match result {
        Ok(()) => Line::ok(name, works),
        Err(error) => Line::fail(name, error.to_string(), remedy),
    }
}

fn mount_api() -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // Of a folder that is no mount point, so that nothing but this one mount is copied.
    let tree = rustix::mount::open_tree(CWD, "/proc/self", flags)?;
    let private = MountChange { private: true, ..MountChange::default() };
    set_mount_attributes(&tree, c"", &private)
}

fn openat2() -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(())
}

fn pidfd() -> io::Result<()> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(())
}

fn overlay() -> io::Result<()> {
    // Also loads its module. Nothing is mounted: the context goes with its descriptor.
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    Ok(())
}

fn seccomp() -> Line {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Line::ok("seccomp", "filters"),
        _ => Line::fail("seccomp", "the kernel has no filters", "boot a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::check::Verdict;

    const TABLE: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t9\t1\npids\t8\t1\t1\nhugetlb\t0\t1\t1\n";

    #[test]
    fn crun_on_v1_needs_the_hugetlb_hierarchy_and_is_told_the_command() {
        let found = Found { v1: mounted_on_v1(TABLE), v2: Some(BTreeSet::new()) };
        let line = hugetlb(&found, TABLE, &Runtime::crun()).unwrap();
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.remedy.unwrap().contains("mount -t cgroup -o hugetlb"));
        assert_eq!(hugetlb(&found, TABLE, &Runtime::runc()), None);
        let mounted = TABLE.replace("hugetlb\t0", "hugetlb\t9");
        let found = Found { v1: mounted_on_v1(&mounted), v2: None };
        assert_eq!(hugetlb(&found, &mounted, &Runtime::crun()).unwrap().verdict, Verdict::Ok);
        let found = Found { v1: BTreeSet::new(), v2: Some(words("cpu memory pids hugetlb")) };
        assert_eq!(hugetlb(&found, TABLE, &Runtime::crun()), None, "v2 does not need it");
    }

    #[test]
    fn a_missing_controller_is_named() {
        let line = controllers(&Found { v1: BTreeSet::new(), v2: Some(words("cpu pids")) });
        assert_eq!((line.verdict, line.found.as_str()), (Verdict::Fail, "v2, without memory"));
        let line = controllers(&Found { v1: mounted_on_v1(TABLE), v2: None });
        assert_eq!((line.verdict, line.found.as_str()), (Verdict::Ok, "v1, with cpu, memory, pids"));
        assert_eq!(controllers(&Found { v1: BTreeSet::new(), v2: None }).verdict, Verdict::Fail);
    }

    #[test]
    fn a_probe_that_fails_says_why_and_what_to_do() {
        let line = probe("openat2", "works", Err(io::Error::from_raw_os_error(libc::ENOSYS)), "a newer kernel");
        assert!(line.verdict == Verdict::Fail && line.found.contains("not implemented"), "{line:?}");
    }
}
