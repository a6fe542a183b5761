//! A containerd that gardend runs itself: started, adopted, restarted, never doubled.

mod common;

use common::containerd::{
    Cleanup, Version, assert_nothing_left, ctr, debian, eventually, folder, folders, kill, pinned, places, processes,
    remove_all, versions,
};
use gardend::node::check::{self, Subject, Verdict};
use gardend::node::containerd::managed::{Managed, ManagedError};
use gardend::node::containerd::{Endpoint, Runtime};
use gardend::node::place::Folders;
use gardend_controller::ports::{SandboxSeen, Sandboxes};
use gardend_controller::record::{SandboxId, SandboxKind};
use std::path::Path;
use std::time::{Duration, Instant};

struct Fixture {
    folders: Folders,
    _cleanup: Cleanup,
    below: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let below = folder();
        let folders = folders(below.path());
        Self { _cleanup: Cleanup { folders: folders.clone(), below: below.path().to_owned() }, folders, below }
    }

    async fn start(&self, version: &Version) -> Managed {
        Managed::start(&version.containerd, &self.folders).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every containerd that was started with our configuration.
    fn running(&self) -> Vec<u32> {
        let config = self.folders.run().join("containerd/config.toml").display().to_string();
        let all = processes().into_iter().filter(|(_, command, _)| command.contains(&config));
        all.map(|(pid, _, _)| pid).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.running().into_iter().for_each(kill);
    }
}

fn session(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(3).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_left_running_is_adopted_with_its_places_and_never_doubled() {
    for version in versions() {
        let fixture = Fixture::new();
        let managed = fixture.start(&version).await;
        let pid = managed.pid().unwrap();
        assert_eq!(fixture.running(), [pid], "{}", version.name);
        assert_eq!(session(pid), pid.to_string(), "it is out of reach of our terminal's signals");
        let id = SandboxId::generate();
        let first = places(&fixture.folders, managed.socket(), &Runtime::runc());
        first.ensure(&id, SandboxKind::Unprivileged).await.unwrap();
        let second = Managed::start(&version.containerd, &fixture.folders).await.unwrap_err();
        assert!(matches!(second, ManagedError::Taken(_)), "{second}");

        // As after the end of a gardend: nobody watches any more, containerd goes on.
        drop((managed, first));
        eventually(Duration::from_secs(5), "the lock is free", || fixture.running() == [pid]);
        let managed = restart(&fixture, &version).await;
        assert_eq!((managed.pid(), fixture.running()), (Some(pid), vec![pid]));
        let again = places(&fixture.folders, managed.socket(), &Runtime::runc());
        assert_eq!(again.list().await.unwrap(), [SandboxSeen { id, running: true }]);
        remove_all(&again).await;
        assert_nothing_left(&fixture.folders, fixture.below.path());
        managed.stop().await;
        assert_eq!(fixture.running(), Vec::<u32>::new(), "{}", version.name);
    }
}

/// The lock of a supervisor that was dropped goes when its task has been cancelled.
async fn restart(fixture: &Fixture, version: &Version) -> Managed {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match Managed::start(&version.containerd, &fixture.folders).await {
            Ok(managed) => return managed,
            Err(ManagedError::Taken(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_is_started_again_and_its_places_go_on() {
    for version in versions() {
        let fixture = Fixture::new();
        let managed = fixture.start(&version).await;
        let places = places(&fixture.folders, managed.socket(), &Runtime::crun());
        let id = SandboxId::generate();
        places.ensure(&id, SandboxKind::Privileged).await.unwrap();
        let mut pids = managed.watch_pid();
        for _ in 0..2 {
            let old = managed.pid().unwrap();
            kill(old);
            let new = pids.wait_for(|pid| pid.is_some_and(|pid| pid != old));
            tokio::time::timeout(Duration::from_secs(20), new).await.expect("started again").unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let seen = loop {
                match places.list().await {
                    Ok(seen) => break seen,
                    Err(error) => assert!(common::containerd::may_help(&error) && Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert_eq!(seen, [SandboxSeen { id: id.clone(), running: true }], "{}", version.name);
            assert_eq!(fixture.running().len(), 1);
        }
        remove_all(&places).await;
        assert_nothing_left(&fixture.folders, fixture.below.path());
        managed.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_containers_are_in_our_namespace_and_it_has_nothing_that_is_not_needed() {
    for version in versions() {
        let fixture = Fixture::new();
        let managed = fixture.start(&version).await;
        let plugins = ctr(&version, managed.socket(), &["plugins", "ls"]);
        for needed in ["overlayfs", "content", "leases", "tasks", "walking"] {
            assert!(plugins.lines().any(|line| line.contains(needed) && line.contains(" ok")), "{needed}: {plugins}");
        }
        for unneeded in ["cri", "nri", "devmapper", "restart", "podsandbox"] {
            assert!(!plugins.split_ascii_whitespace().any(|word| word == unneeded), "{unneeded}: {plugins}");
        }
        managed.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_run_is_told_with_its_last_words_and_leaves_nothing_running() {
    let fixture = Fixture::new();
    let missing = Managed::start(Path::new("/nowhere/containerd"), &fixture.folders).await.unwrap_err();
    assert!(missing.to_string().contains("--containerd-binary"), "{missing}");
    let broken = fixture.below.path().join("broken");
    common::containerd::script(&broken, "echo cannot find my spectacles >&2; exit 1");
    let error = Managed::start(&broken, &fixture.folders).await.unwrap_err();
    assert!(error.to_string().contains("cannot find my spectacles"), "{error}");
    assert!(error.to_string().contains("ended before"), "{error}");
    // And the folders are free for one that can.
    fixture.start(&debian()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_is_killed_and_replaced_at_the_next_start() {
    let fixture = Fixture::new();
    let version = debian();
    let managed = fixture.start(&version).await;
    let pid = managed.pid().unwrap();
    drop(managed);
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
    let managed = restart(&fixture, &version).await;
    assert_ne!(managed.pid(), Some(pid));
    assert_eq!(fixture.running(), [managed.pid().unwrap()]);
    managed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_passes_on_this_machine_before_and_after_containerd_runs() {
    let fixture = Fixture::new();
    let version = pinned();
    let mut subject = Subject {
        network: None,
        folders: fixture.folders.clone(),
        containerd: Endpoint::Managed { binary: version.containerd.clone() },
        socket: None,
        runtime: Runtime::runc(),
    };
    let verdicts = |report: &check::Report| {
        let failed: Vec<_> = report.lines.iter().filter(|line| line.verdict == Verdict::Fail).cloned().collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(report.failures(), Vec::<String>::new());
        report.lines.iter().find(|line| line.name == "containerd").unwrap().found.clone()
    };
    assert!(verdicts(&check::run(&subject).await).contains("2.4"), "as the program prints it");
    let managed = fixture.start(&version).await;
    subject.socket = Some(managed.socket().to_owned());
    assert!(verdicts(&check::run(&subject).await).contains("2.4"), "as the service tells it");
    managed.stop().await;
    let report = check::run(&subject).await;
    assert!(report.failures()[0].contains("containerd.sock"), "{:?}", report.failures());
}
