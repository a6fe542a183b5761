//! Places on a real containerd, of every version, with every runtime.

mod common;

use common::containerd::{
    Census, Cleanup, Host, Version, assert_nothing_left, ctr, entries, folder, folders, pairs, places, processes,
    remove_all,
};
use gardend::node::containerd::{Containerd, MAPPED_ROOT, Options, Runtime};
use gardend::node::place::{Folders, InitProcess};
use gardend_controller::ports::{NodeErrorKind, SandboxSeen, Sandboxes};
use gardend_controller::record::{ContainerUid, Handle, SandboxId, SandboxKind};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const KINDS: [SandboxKind; 2] = [SandboxKind::Unprivileged, SandboxKind::Privileged];

/// A host's containerd, and the places of one gardend on it.
struct Fixture {
    places: Containerd,
    host: Host,
    folders: Folders,
    _cleanup: Cleanup,
    below: tempfile::TempDir,
}

impl Fixture {
    fn new(version: &Version, runtime: &Runtime) -> Self {
        let below = folder();
        let folders = folders(below.path());
        let host = Host::start(version, below.path());
        let places = places(&folders, &host.socket(), runtime);
        let cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
        Self { places, host, folders, _cleanup: cleanup, below }
    }

    fn assert_nothing_left(&self) {
        assert_nothing_left(&self.folders, self.below.path());
        for what in ["containers", "tasks"] {
            assert_eq!(ctr(&self.host.version, &self.host.socket(), &[what, "ls", "-q"]), "", "{what} left over");
        }
    }

    fn init(&self, id: &SandboxId) -> InitProcess {
        InitProcess::read(&self.folders.place(id)).unwrap().expect("init.pid")
    }
}

fn status(init: &InitProcess, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", init.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_either_kind_is_made_named_killed_and_removed_without_a_trace() {
    for (version, runtime) in pairs() {
        let fixture = Fixture::new(&version, &runtime);
        for kind in KINDS {
            let case = format!("{} {} {kind:?}", version.name, runtime.name());
            let id = SandboxId::generate();
            fixture.places.ensure(&id, kind).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            fixture.places.ensure(&id, kind).await.unwrap_or_else(|error| panic!("{case}, again: {error}"));
            let seen = SandboxSeen { id: id.clone(), running: true };
            assert_eq!(fixture.places.list().await.unwrap(), [seen], "{case}");
            check_init(&fixture.init(&id), kind, &case);

            let (uid, handle) = (ContainerUid::generate(), Handle::new("a task: ünï").unwrap());
            fixture.places.label(&id, &uid, &handle).await.unwrap();
            let info = ctr(&version, &fixture.host.socket(), &["containers", "info", id.as_str()]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["Labels"]["gardend.dev/handle"], "a task: ünï", "{case}");
            assert_eq!(info["Labels"]["gardend.dev/uid"], uid.as_str(), "{case}");
            assert_eq!(info["Labels"]["gardend.dev/owner"], fixture.places.owner().as_str(), "{case}");

            let init = fixture.init(&id);
            fixture.places.kill(&id).await.unwrap();
            assert!(!processes().iter().any(|(pid, _, _)| *pid == init.pid), "{case}: init lives");
            fixture.places.kill(&id).await.unwrap();
            assert_eq!(fixture.places.list().await.unwrap(), [SandboxSeen { id: id.clone(), running: false }]);
            fixture.places.remove(&id).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            fixture.places.remove(&id).await.unwrap_or_else(|error| panic!("{case}, again: {error}"));
            assert_eq!(fixture.places.list().await.unwrap(), [], "{case}");
            fixture.assert_nothing_left();
        }
    }
}

fn check_init(init: &InitProcess, kind: SandboxKind, case: &str) {
    let root = format!("/proc/{}/root", init.pid);
    assert_eq!(status(init, "NSpid").split('\t').next_back(), Some("1"), "{case}");
    let names: Vec<_> = entries(Path::new(&root)).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    for name in ["garden-init", "newroot", "proc", "dev", "sys", "ctl"] {
        assert!(names.iter().any(|found| found == name), "{case}: no {name} in {names:?}");
    }
    for device in ["null", "zero", "urandom", "tty", "pts/ptmx", "shm", "mqueue"] {
        assert!(Path::new(&format!("{root}/dev/{device}")).exists(), "{case}: no /dev/{device}");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", init.pid)).unwrap();
    let mount = |point: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(point));
        line.unwrap_or_else(|| panic!("{case}: nothing is mounted on {point}")).split(' ').nth(5).unwrap()
    };
    assert!(mount("/").starts_with("ro"), "{case}");
    let memory = mounts.lines().find(|line| line.split(' ').nth(4).unwrap().starts_with("/sys/fs/cgroup/"));
    let cgroup_access = memory.unwrap().split(' ').nth(5).unwrap();
    let own = fs::metadata(format!("{root}/ctl")).unwrap();
    assert_eq!(own.mode() & 0o777, 0o700, "{case}");
    assert_eq!(status(init, "CapInh"), "0000000000000000", "{case}");
    match kind {
        SandboxKind::Unprivileged => {
            assert_eq!(own.uid(), MAPPED_ROOT, "{case}");
            assert_eq!(status(init, "Uid").split('\t').next(), Some("4294967294"), "{case}");
            assert_eq!(status(init, "CapBnd"), "00000000a80425fb", "{case}");
            assert_eq!(status(init, "Seccomp"), "2", "{case}");
            assert!(mount("/sys").starts_with("ro") && cgroup_access.starts_with("ro"), "{case}");
            assert!(mount("/proc/kcore").len() > 1 && mount("/proc/sys").starts_with("ro"), "{case}");
            let map = fs::read_to_string(format!("/proc/{}/uid_map", init.pid)).unwrap();
            let map: Vec<_> = map.split_ascii_whitespace().collect();
            assert_eq!(map, ["0", "4294967294", "1", "1", "1", "4294967293"], "{case}");
        }
        SandboxKind::Privileged => {
            let own = fs::read_to_string("/proc/self/status").unwrap();
            let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
            assert_eq!(status(init, "CapEff"), own, "{case}");
            assert_eq!(status(init, "Seccomp"), "0", "{case}");
            assert!(mount("/sys").starts_with("rw") && cgroup_access.starts_with("rw"), "{case}");
            assert!(Path::new(&format!("{root}/dev/kmsg")).exists(), "{case}: no host devices");
        }
    }
}
