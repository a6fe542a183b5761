//! Places on a real containerd, of every version, with every runtime.

mod common;

use common::containerd::{
    Census, Cleanup, Host, Version, assert_nothing_left, ctr, entries, folder, folders, pairs, places, processes,
    remove_all,
};
use gardend::node::containerd::{Containerd, Runtime};
use gardend::node::ids::IdMap;
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
            assert_eq!(own.uid(), IdMap::garden().root(), "{case}");
            assert_eq!(status(init, "Uid").split('\t').next(), Some("4294967294"), "{case}");
            assert_eq!(status(init, "CapBnd"), "00000000a80425fb", "{case}");
            assert_eq!(status(init, "Seccomp"), "2", "{case}");
            assert!(mount("/sys").starts_with("ro") && cgroup_access.starts_with("ro"), "{case}");
            assert!(!mount("/proc/timer_list").is_empty() && mount("/proc/sys").starts_with("ro"), "{case}");
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

/// One pair of each containerd and each runtime.
fn two_pairs() -> Vec<(Version, Runtime)> {
    let mut pairs = pairs().into_iter();
    [pairs.next(), pairs.next_back()].into_iter().flatten().collect()
}

async fn ensure_many(places: &Containerd, count: usize, kind: SandboxKind) -> Vec<SandboxId> {
    let ids: Vec<_> = (0..count).map(|_| SandboxId::generate()).collect();
    let made = futures_util::future::join_all(ids.iter().map(|id| places.ensure(id, kind))).await;
    for (id, made) in ids.iter().zip(made) {
        made.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    ids
}

async fn remove_many(places: &Containerd, ids: &[SandboxId]) {
    let removed = futures_util::future::join_all(ids.iter().map(|id| places.remove(id))).await;
    for (id, removed) in ids.iter().zip(removed) {
        removed.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_places_at_once_share_few_shims_and_none_is_left() {
    for (version, runtime) in two_pairs() {
        let fixture = Fixture::new(&version, &runtime);
        let ids = ensure_many(&fixture.places, 50, SandboxKind::Unprivileged).await;
        let census = Census::take(&fixture.folders, fixture.below.path());
        assert_eq!(census.count("process in a place"), 50, "{census:#?}");
        assert_eq!(census.count("shim"), 50usize.div_ceil(16), "{census:#?}");
        assert_eq!(census.count("mount"), 0, "{census:#?}");
        // The founders go first: the others must not miss them.
        remove_many(&fixture.places, &ids[..25]).await;
        let more = ensure_many(&fixture.places, 10, SandboxKind::Unprivileged).await;
        let running = fixture.places.list().await.unwrap();
        assert_eq!(running.iter().filter(|seen| seen.running).count(), 35);
        remove_many(&fixture.places, &[&ids[25..], &more].concat()).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_come_and_go_at_random_in_parallel_and_none_is_lost() {
    let (version, runtime) = pairs().remove(1);
    let fixture = Fixture::new(&version, &runtime);
    let places = &fixture.places;
    let one = |n: usize| async move {
        for _ in 0..6 {
            let kind = KINDS[n % 2];
            let id = SandboxId::generate();
            places.ensure(&id, kind).await.unwrap_or_else(|error| panic!("{id}: {error}"));
            tokio::time::sleep(Duration::from_millis((n as u64 * 37) % 90)).await;
            places.kill(&id).await.unwrap();
            places.remove(&id).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        }
    };
    futures_util::future::join_all((0..12).map(one)).await;
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_containerd_is_away_places_run_and_are_killed_and_afterwards_all_is_as_before() {
    for (version, runtime) in two_pairs() {
        let mut fixture = Fixture::new(&version, &runtime);
        let ids = ensure_many(&fixture.places, 4, SandboxKind::Unprivileged).await;
        fixture.host.kill();
        for result in [
            fixture.places.list().await.map(drop),
            fixture.places.ensure(&SandboxId::generate(), SandboxKind::Privileged).await,
            fixture.places.remove(&ids[0]).await,
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind, NodeErrorKind::Unavailable, "{error}");
            assert!(error.message.contains("containerd.sock"), "{error}");
        }
        fixture.places.ensure(&ids[1], SandboxKind::Unprivileged).await.unwrap();
        fixture.places.kill(&ids[2]).await.unwrap();
        fixture.host.restart();
        let seen = fixture.places.list().await.unwrap();
        let running: Vec<_> = seen.iter().filter(|seen| seen.running).map(|seen| seen.id.clone()).collect();
        let mut expected = vec![ids[1].clone(), ids[3].clone()];
        expected.sort();
        assert_eq!(running, expected, "{seen:?}");
        ensure_many(&fixture.places, 2, SandboxKind::Privileged).await;
        remove_all(&fixture.places).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_that_dies_in_the_middle_of_creates_and_removes_leaves_nothing_behind() {
    for (version, runtime) in two_pairs() {
        let mut fixture = Fixture::new(&version, &runtime);
        let old = ensure_many(&fixture.places, 6, SandboxKind::Unprivileged).await;
        for round in 0..4u64 {
            let ids: Vec<_> = (0..8).map(|_| SandboxId::generate()).collect();
            let creates = futures_util::future::join_all(ids.iter().map(|id| fixture.places.ensure(id, KINDS[0])));
            let removes = futures_util::future::join_all(old.iter().map(|id| fixture.places.remove(id)));
            let host = &mut fixture.host;
            let death = async {
                tokio::time::sleep(Duration::from_millis(40 + 60 * round)).await;
                tokio::task::block_in_place(|| {
                    host.kill();
                    host.restart();
                });
            };
            let (made, _, ()) = tokio::join!(creates, removes, death);
            for (id, made) in ids.iter().zip(&made) {
                // One that failed may run all the same: the answer may be what was lost.
                assert!(made.is_err() || fixture.running(id), "{id} is said to run");
            }
        }
        remove_all(&fixture.places).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_that_were_dropped_half_way_are_found_and_removed_by_the_next_gardend() {
    for (version, runtime) in two_pairs() {
        let mut fixture = Fixture::new(&version, &runtime);
        for round in 0..4u64 {
            let ids: Vec<_> = (0..8).map(|_| SandboxId::generate()).collect();
            let creates = futures_util::future::join_all(ids.iter().map(|id| fixture.places.ensure(id, KINDS[0])));
            let _ = tokio::time::timeout(Duration::from_millis(30 + 50 * round), creates).await;
            // What a kill -9 leaves: nothing in memory.
            fixture.places = places(&fixture.folders, &fixture.host.socket(), &runtime);
            for id in &ids {
                match fixture.places.ensure(id, KINDS[0]).await {
                    Ok(()) => assert!(fixture.running(id), "{id} is said to run"),
                    Err(error) => assert!(error.message.contains("half made"), "{error}"),
                }
            }
        }
        remove_all(&fixture.places).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gardends_on_one_containerd_do_not_see_each_other() {
    let (version, runtime) = pairs().remove(0);
    let one = Fixture::new(&version, &runtime);
    let below = folder();
    let folders = folders(below.path());
    let other = places(&folders, &one.host.socket(), &Runtime::crun());
    let _cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
    let mine = ensure_many(&one.places, 2, SandboxKind::Unprivileged).await;
    let theirs = ensure_many(&other, 1, SandboxKind::Privileged).await;
    let ids = |seen: Vec<SandboxSeen>| seen.into_iter().map(|seen| seen.id).collect::<Vec<_>>();
    let mut expected = mine.clone();
    expected.sort();
    assert_eq!(ids(one.places.list().await.unwrap()), expected);
    assert_eq!(ids(other.list().await.unwrap()), theirs);
    remove_all(&one.places).await;
    assert_eq!(other.list().await.unwrap(), [SandboxSeen { id: theirs[0].clone(), running: true }]);
    remove_all(&other).await;
    one.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_killed_also_where_only_its_cgroup_is_known() {
    let (version, runtime) = pairs().remove(2);
    let fixture = Fixture::new(&version, &runtime);
    let ids = ensure_many(&fixture.places, 2, SandboxKind::Unprivileged).await;
    let inits: Vec<_> = ids.iter().map(|id| fixture.init(id)).collect();
    fs::remove_file(fixture.folders.place(&ids[0]).join("init.pid")).unwrap();
    fs::write(fixture.folders.place(&ids[1]).join("init.pid"), "torn").unwrap();
    for (id, init) in ids.iter().zip(inits) {
        fixture.places.kill(id).await.unwrap();
        assert!(!processes().iter().any(|(pid, _, _)| *pid == init.pid), "init of {id} lives");
        fixture.places.remove(id).await.unwrap();
    }
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_keep_joining_a_cgroup_do_not_keep_its_place_from_going() {
    let (version, runtime) = pairs().remove(0);
    let fixture = Fixture::new(&version, &runtime);
    for id in ensure_many(&fixture.places, 4, SandboxKind::Unprivileged).await {
        let path = fixture.places.cgroups().path(&id);
        let cgroups: Vec<_> = gardend::node::containerd::hierarchies()
            .unwrap()
            .into_iter()
            .map(|hierarchy| hierarchy.join(path.trim_start_matches('/')))
            .filter(|cgroup| cgroup.join("cgroup.procs").exists())
            .collect();
        // As a runtime does whose create was cut off: one joins just when another was killed.
        let joining = std::thread::spawn(move || {
            let end = std::time::Instant::now() + Duration::from_millis(300);
            let mut joined = 0;
            while std::time::Instant::now() < end {
                let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
                let all =
                    cgroups.iter().all(|cgroup| fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).is_ok());
                if !all {
                    let _ = child.kill();
                }
                joined += u32::from(all);
                child.wait().unwrap();
            }
            joined
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        fixture.places.remove(&id).await.unwrap();
        assert!(joining.join().unwrap() > 0, "none joined");
    }
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_place_dies_also_where_it_has_frozen_a_cgroup_of_its_own() {
    let (version, runtime) = pairs().remove(0);
    let fixture = Fixture::new(&version, &runtime);
    let id = ensure_many(&fixture.places, 1, SandboxKind::Privileged).await.remove(0);
    let init = fixture.init(&id);
    for (file, frozen) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
        for hierarchy in gardend::node::containerd::hierarchies().unwrap() {
            let place = hierarchy.join(fixture.places.cgroups().path(&id).trim_start_matches('/'));
            if place.join(file).exists() {
                let child = place.join("its-own");
                fs::create_dir(&child).unwrap();
                fs::write(child.join("cgroup.procs"), init.pid.to_string()).unwrap();
                fs::write(child.join(file), frozen).unwrap();
                fs::write(place.join(file), frozen).unwrap();
            }
        }
    }
    let before = std::time::Instant::now();
    fixture.places.kill(&id).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    fixture.places.remove(&id).await.unwrap();
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_die_is_said_to_be_stuck_and_dies_once_it_can() {
    let (version, runtime) = pairs().remove(0);
    let fixture = Fixture::new(&version, &runtime);
    let ids = ensure_many(&fixture.places, 2, SandboxKind::Unprivileged).await;
    let hierarchies = gardend::node::containerd::hierarchies().unwrap();
    let Some(freezer) = hierarchies.iter().find(|path| path.ends_with("freezer")) else {
        return; // Only cgroup v1 has a freezer that SIGKILL does not get through.
    };
    // Not one of the place's own, so that it is not thawed.
    let foreign = freezer.join(format!("gardend-test-{}", std::process::id()));
    fs::create_dir(&foreign).unwrap();
    let init = fixture.init(&ids[0]);
    fs::write(foreign.join("cgroup.procs"), init.pid.to_string()).unwrap();
    fs::write(foreign.join("freezer.state"), "FROZEN").unwrap();
    let before = std::time::Instant::now();
    let (stuck, other) = tokio::join!(fixture.places.kill(&ids[0]), fixture.places.kill(&ids[1]));
    let took = before.elapsed();
    other.unwrap();
    fs::write(foreign.join("freezer.state"), "THAWED").unwrap();
    let stuck = stuck.unwrap_err();
    assert_eq!(stuck.kind, NodeErrorKind::Stuck, "{stuck}");
    assert!(stuck.message.contains(&format!("pid {}", init.pid)), "{stuck}");
    assert!(took < Duration::from_millis(15_500), "{took:?}");
    for id in &ids {
        fixture.places.remove(id).await.unwrap();
    }
    common::containerd::eventually(Duration::from_secs(5), "the test's cgroup goes", || {
        fs::remove_dir(&foreign).is_ok()
    });
    fixture.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_hangs_affects_its_own_group_only() {
    for (version, runtime) in two_pairs() {
        let fixture = Fixture::new(&version, &runtime);
        let ids = ensure_many(&fixture.places, 3, SandboxKind::Unprivileged).await;
        let shim = fixture.shims().remove(0);
        signal(shim, rustix::process::Signal::STOP);
        // One create finds out, and pays for it; the others do not.
        let before = std::time::Instant::now();
        let error = fixture.places.ensure(&SandboxId::generate(), KINDS[0]).await.unwrap_err();
        assert_eq!(error.kind, NodeErrorKind::Unavailable, "{error}");
        assert!(before.elapsed() < Duration::from_secs(25), "{:?}", before.elapsed());
        let before = std::time::Instant::now();
        ensure_many(&fixture.places, 3, SandboxKind::Unprivileged).await;
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        fixture.places.kill(&ids[0]).await.unwrap();
        assert_eq!(fixture.places.remove(&ids[0]).await.unwrap_err().kind, NodeErrorKind::Unavailable);
        assert_eq!(fixture.places.list().await.unwrap().iter().filter(|seen| seen.running).count(), 5);
        signal(shim, rustix::process::Signal::CONT);
        remove_all(&fixture.places).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_killed_leaves_nothing_that_cannot_be_removed() {
    for (version, runtime) in two_pairs() {
        let fixture = Fixture::new(&version, &runtime);
        ensure_many(&fixture.places, 3, SandboxKind::Unprivileged).await;
        common::containerd::kill(fixture.shims()[0]);
        let id = SandboxId::generate();
        // It may meet the shim's death; the next one may not.
        if fixture.places.ensure(&id, KINDS[0]).await.is_err() {
            ensure_many(&fixture.places, 1, SandboxKind::Unprivileged).await;
        }
        remove_all(&fixture.places).await;
        fixture.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_whose_runtime_is_missing_is_not_made_and_says_why() {
    let (version, _) = pairs().remove(0);
    let fixture = Fixture::new(&version, &"/nowhere/runc".parse().unwrap());
    let id = SandboxId::generate();
    let error = fixture.places.ensure(&id, KINDS[0]).await.unwrap_err();
    assert!(error.message.contains("/nowhere/runc"), "{error}");
    let again = fixture.places.ensure(&id, KINDS[0]).await.unwrap_err();
    assert!(again.kind == NodeErrorKind::Failed && again.message.contains("half made"), "{again}");
    fixture.places.remove(&id).await.unwrap();
    fixture.assert_nothing_left();
}

impl Fixture {
    fn running(&self, id: &SandboxId) -> bool {
        let init = InitProcess::read(&self.folders.place(id)).ok().flatten();
        init.is_some_and(|init| init.open().is_ok_and(|pidfd| pidfd.is_some()))
            && self.folders.place(id).join("init.sock").exists()
    }

    fn shims(&self) -> Vec<u32> {
        let below = self.below.path().to_str().unwrap();
        let shims = processes()
            .into_iter()
            .filter(|(_, command, _)| command.contains("containerd-shim") && command.contains(below));
        shims.map(|(pid, _, _)| pid).collect()
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
