//! What the ports promise, of the backend `host`: plain processes, and none of images and limits.

use gardend::node::host::{Figures, HostFiles, HostNetwork, HostPlaces, HostProcesses, NoImages};
use gardend::node::place::Folders;
use gardend::node::process::{self, ProcessNode};
use gardend_controller::Node;
use gardend_controller::contract::{Contract, Programs, check_all};
use gardend_controller::record::{ContainerSpec, ProcessSpec, RootfsSource};
use std::sync::Arc;

fn shell(script: &str, arguments: &[&str]) -> ProcessSpec {
    let args = ["-c", script].iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    ProcessSpec { path: "/bin/sh".into(), args, ..ProcessSpec::default() }
}

fn programs() -> Programs {
    Programs {
        exit: |code| shell(&format!("exit {code}"), &[]),
        print: |out, err| shell(r#"printf %s "$0"; printf %s "$1" >&2"#, &[out, err]),
        cat: || shell("exec cat", &[]),
        sleep: || shell("exec sleep 1000", &[]),
        stubborn: || shell("trap '' TERM; exec sleep 1000", &[]),
    }
}

fn node(folders: &Folders) -> Node {
    let processes = ProcessNode::new(folders.clone(), process::Options::default()).unwrap();
    let on_host = Arc::new(HostProcesses::new(processes.clone(), folders.clone()));
    let figures = Arc::new(Figures::new(folders.clone()));
    Node {
        sandboxes: Arc::new(HostPlaces::open(folders.clone()).unwrap()),
        rootfs: Arc::new(HostFiles::open(folders.clone()).unwrap()),
        images: Arc::new(NoImages),
        processes: Arc::clone(&on_host) as _,
        streams: Arc::new(processes),
        files: on_host,
        resources: Arc::clone(&figures) as _,
        network: Arc::new(HostNetwork::new(61001..=65534)),
        metrics: figures,
    }
}

/// Ends what a test that failed has left running.
struct Cleanup(Folders);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for id in inits_of(&self.0) {
            let pid = std::fs::read_to_string(self.0.places().join(id).join("init.pid")).unwrap_or_default();
            let pid = pid.split(' ').next().and_then(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
            pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

fn inits_of(folders: &Folders) -> Vec<String> {
    let ids: Vec<_> = std::fs::read_dir(folders.places()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    ids.into_iter().map(|id| id.to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_keeps_its_promises_on_the_host_itself() {
    let below = tempfile::tempdir().unwrap();
    let folders = Folders::new(below.path().join("state"), below.path().join("run"));
    let root = below.path().join("root");
    for folder in [folders.state(), folders.run(), &root] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::create_dir(folders.places()).unwrap();
    let _cleanup = Cleanup(folders.clone());
    let of = |path| ContainerSpec { rootfs: RootfsSource::Raw(path), ..ContainerSpec::default() };
    let impossible = of("/no/such/folder".into());
    let contract = Contract::without_images_and_limits(node(&folders), of(root), impossible, programs());
    check_all(&contract).await;
    assert!(inits_of(&folders).is_empty(), "{:?}", inits_of(&folders));
    for kept in ["containers", "links"] {
        assert_eq!(std::fs::read_dir(folders.state().join("host").join(kept)).unwrap().count(), 0, "{kept}");
    }
}
