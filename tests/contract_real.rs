//! What the ports promise, of the real adapters together: every containerd with every runtime, the
//! kernel, garden-init. The fakes pass the same checks (controller/tests/contract.rs).

#[path = "common/containerd.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod containerd;
#[path = "common/image.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod image;
#[path = "common/rootfs.rs"]
mod rootfs;

use containerd::{Cleanup, Host, assert_nothing_left, folder, folders, pairs, places, remove_all};
use gardend::node::cgroup::{Groups, Layout, ResourceNode};
use gardend::node::images::{self, ImageNode};
use gardend::node::mount::{self, MountNode};
use gardend::node::network::{self, NetworkNode};
use gardend::node::process::{self, ProcessNode};
use gardend_controller::Node;
use gardend_controller::contract::{Contract, NetworkChecks, Programs, check_all};
use gardend_controller::record::{Addresses, ContainerSpec, ProcessSpec, RootfsSource};
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

fn network_checks() -> NetworkChecks {
    // The checks make ports of the last number of each.
    let addresses = [0, 4].map(|first| Addresses {
        address: [10, 80, 1, first + 2].into(),
        subnet: format!("10.80.1.{first}/30").parse().unwrap(),
        gateway: [10, 80, 1, first + 1].into(),
        ipv6: None,
    });
    let occupy = || {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        (listener.local_addr().unwrap().port(), Box::new(listener) as _)
    };
    NetworkChecks { addresses, occupy: Box::new(occupy) }
}

#[test]
fn every_port_keeps_its_promises_on_every_containerd_and_runtime() {
    for (version, runtime) in pairs() {
        println!("{} {}", version.name, runtime.name());
        let below = folder();
        let folders = folders(below.path());
        let _cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
        let host = Host::start(&version, below.path());
        let root = rootfs::unprivileged(&below.path().join("root"));
        let tokio = tokio::runtime::Runtime::new().unwrap();
        tokio.block_on(async {
            let sandboxes = Arc::new(places(&folders, &host.socket(), &runtime));
            let groups = Groups::new(Layout::of_machine().unwrap(), sandboxes.cgroups().clone());
            let options = process::Options::default();
            let processes = ProcessNode::new(folders.clone(), options).unwrap().with_groups(groups.clone());
            let resources = ResourceNode::new(folders.clone(), groups);
            let options = images::Options::default();
            let images = ImageNode::new(sandboxes.connection().clone(), sandboxes.owner().clone(), options).unwrap();
            let mounts = MountNode::new(folders.clone(), mount::Options::default()).unwrap();
            let node = Node {
                sandboxes: Arc::clone(&sandboxes) as _,
                rootfs: Arc::new(mounts.with_images(images.clone())),
                images: Arc::new(images),
                processes: Arc::new(processes.clone()),
                streams: Arc::new(processes.clone()),
                files: Arc::new(processes),
                resources: Arc::new(resources.clone()),
                network: Arc::new(NetworkNode::open(folders.clone(), network::Options::default()).unwrap()),
                metrics: Arc::new(resources),
            };
            let of = |path| ContainerSpec { rootfs: RootfsSource::Raw(path), ..ContainerSpec::default() };
            let layout = image::Layout::new(below.path().join("layout"));
            let layers = [image::busybox(below.path()), image::one_file("etc/motd", "hello")];
            let there = layout.image("1.0", &layers, &["IMAGE=yes"]);
            let pair = (there.parse().unwrap(), there.replace("1.0", "2.0").parse().unwrap());
            let contract = Contract::new(node, of(root), of("/no/such/folder".into()), pair, programs());
            let contract = contract.with_network(network_checks());
            check_all(&contract).await;
            remove_all(&sandboxes).await;
        });
        assert_nothing_left(&folders, below.path());
    }
}
