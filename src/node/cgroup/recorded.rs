//! Trees of cgroup files as two machines had them, for tests.

use super::{Layout, OWN, Place};
use gardend_controller::record::ProcessUid;
use std::fs;
use std::path::{Path, PathBuf};

/// The mounts of a hybrid machine.
pub const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
43 31 0:33 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
";
/// Those of one that has v2 alone.
pub const V2: &str = "\
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

/// The place's path in each hierarchy.
const PLACE: &str = "gardend/o/p";

/// What a place's files held: (file below the mounts, text). `P` is the place.
const V1_FILES: &[(&str, &str)] = &[
    ("unified/cgroup.controllers", "\n"),
    ("cpu/P/cpu.shares", "1024\n"),
    ("cpuacct/P/cpuacct.usage", "31415926\n"),
    ("cpuacct/P/cpuacct.usage_user", "21000000\n"),
    ("cpuacct/P/cpuacct.usage_sys", "10415926\n"),
    ("pids/P/pids.current", "3\n"),
    ("pids/P/pids.max", "max\n"),
    ("memory/P/memory.limit_in_bytes", "9223372036854771712\n"),
    ("memory/P/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    ("memory/P/memory.usage_in_bytes", "5242880\n"),
    ("memory/P/memory.memsw.usage_in_bytes", "5767168\n"),
    ("memory/P/memory.swappiness", "60\n"),
    ("memory/P/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
    (
        "memory/P/memory.stat",
        "cache 0\nrss 131072\nmapped_file 0\npgpgin 40\npgpgout 8\npgfault 91\npgmajfault 0\n\
         inactive_anon 0\nactive_anon 131072\ninactive_file 0\nactive_file 0\nunevictable 0\n\
         hierarchical_memory_limit 9223372036854771712\nhierarchical_memsw_limit 9223372036854771712\n\
         total_cache 3145728\ntotal_rss 1703936\ntotal_mapped_file 4096\ntotal_swap 524288\n\
         total_inactive_anon 0\ntotal_active_anon 1703936\ntotal_inactive_file 2097152\n\
         total_active_file 1048576\ntotal_unevictable 0\n",
    ),
];
const V1_RUN: &[(&str, &str)] = &[
    ("memory/P/run/memory.limit_in_bytes", "9223372036854771712\n"),
    ("memory/P/run/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    ("memory/P/run/memory.swappiness", "60\n"),
    ("memory/P/run/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    (
        "memory/P/run/memory.stat",
        "cache 3145728\nrss 1572864\nhierarchical_memory_limit 67108864\nhierarchical_memsw_limit 67108864\n\
         total_cache 3145728\ntotal_rss 1572864\ntotal_inactive_file 2097152\n",
    ),
    ("memory/P/run/cgroup.procs", ""),
    ("pids/P/run/pids.max", "max\n"),
    ("pids/P/run/pids.current", "2\n"),
    ("pids/P/run/cgroup.procs", ""),
];
const V2_FILES: &[(&str, &str)] = &[
    ("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n"),
    ("P/cgroup.procs", "4711\n"),
    ("P/cgroup.subtree_control", "\n"),
    ("P/cpu.weight", "100\n"),
    ("P/cpu.stat", "usage_usec 31415\nuser_usec 21000\nsystem_usec 10415\nnice_usec 0\nnr_periods 0\n"),
    ("P/pids.current", "3\n"),
    ("P/pids.max", "max\n"),
    ("P/memory.max", "max\n"),
    ("P/memory.current", "5242880\n"),
    ("P/memory.swap.current", "524288\n"),
    ("P/memory.swap.max", "max\n"),
    ("P/memory.events", "low 0\nhigh 0\nmax 31\noom 3\noom_kill 2\noom_group_kill 0\n"),
    (
        "P/memory.stat",
        "anon 1703936\nfile 3145728\nkernel 393216\nfile_mapped 4096\nswapcached 4096\n\
         inactive_anon 0\nactive_anon 1703936\ninactive_file 2097152\nactive_file 1048576\nunevictable 0\n\
         pgfault 310\npgmajfault 1\n",
    ),
];
const V2_RUN: &[(&str, &str)] = &[
    ("P/init/cgroup.procs", ""),
    ("P/run/cgroup.procs", ""),
    ("P/run/memory.max", "max\n"),
    ("P/run/memory.swap.max", "max\n"),
    ("P/run/pids.max", "max\n"),
    ("P/run/pids.current", "2\n"),
];

const V1_OWN: &[(&str, &str)] = &[
    ("memory/#/memory.limit_in_bytes", "9223372036854771712\n"),
    ("memory/#/memory.memsw.limit_in_bytes", "9223372036854771712\n"),
    ("memory/#/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
    ("memory/#/memory.stat", "cache 4096\nrss 8192\nhierarchical_memory_limit 1048576\ntotal_rss 8192\n"),
    ("memory/#/cgroup.procs", ""),
    ("pids/#/pids.max", "max\n"),
    ("pids/#/pids.current", "1\n"),
    ("pids/#/cgroup.procs", ""),
    ("cpu/#/cpu.shares", "1024\n"),
    ("cpu/#/cgroup.procs", ""),
    ("cpuacct/#/cgroup.procs", ""),
];
const V2_OWN: &[(&str, &str)] = &[
    ("#/memory.max", "max\n"),
    ("#/memory.swap.max", "max\n"),
    ("#/pids.max", "max\n"),
    ("#/cpu.weight", "100\n"),
    ("#/cgroup.procs", ""),
];

/// A tree in a folder of its own.
pub struct Recorded {
    folder: tempfile::TempDir,
    layout: Layout,
    run: &'static [(&'static str, &'static str)],
}

impl Recorded {
    pub fn v1() -> Self {
        Self::of(V1, V1_FILES, V1_RUN)
    }

    pub fn v2() -> Self {
        Self::of(V2, V2_FILES, V2_RUN)
    }

    pub fn without_controllers() -> Self {
        Self::of("", &[], &[])
    }

    fn of(table: &str, files: &[(&str, &str)], run: &'static [(&'static str, &'static str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), files);
        let layout = Layout::of(table, folder.path()).unwrap();
        Self { folder, layout, run }
    }

    /// The files that the kernel would show in groups as soon as they are made.
    pub fn prepare_run(&self, hierarchies: &[&str]) {
        let wanted = |(name, _): &&(&str, &str)| hierarchies.iter().any(|hierarchy| name.starts_with(hierarchy));
        put(self.root(), &self.run.iter().filter(wanted).copied().collect::<Vec<_>>());
    }

    /// The files of a process's own groups.
    pub fn prepare_process(&self, uid: &ProcessUid) {
        let files: &[(&str, &str)] = if self.layout.v1.is_empty() { V2_OWN } else { V1_OWN };
        for (name, text) in files {
            put(self.root(), &[(name.replace('#', &format!("P/{OWN}{uid}")).as_str(), text)]);
        }
    }

    /// As the kernel does.
    pub fn remove_process(&self, uid: &ProcessUid) {
        for mount in self.layout.v1.iter().map(|(_, mount)| mount) {
            let _ = fs::remove_dir_all(mount.join(PLACE).join(format!("{OWN}{uid}")));
        }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn place(&self) -> Place<'_> {
        Place { layout: &self.layout, path: PLACE.into() }
    }

    /// A place that is not there.
    pub fn gone(&self) -> Place<'_> {
        Place { layout: &self.layout, path: "gardend/o/gone".into() }
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(path(self.root(), name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(path(self.root(), name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(path(self.root(), name)).unwrap();
    }
}

fn put(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = path(root, name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn path(root: &Path, name: &str) -> PathBuf {
    root.join("sys/fs/cgroup").join(name.replace("P/", &format!("{PLACE}/")))
}
