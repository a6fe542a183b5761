//! SIGTERM: gardend ends well and soon, and its containers go on.

use crate::rootfs;
use crate::server::Server;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

#[test]
fn sigterm_ends_gardend_within_five_seconds_and_containers_go_on() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    server.garden.create("c", &root).expect("a container");
    let script = "echo on; while [ ! -e /go ]; do usleep 20000; done; echo off; exit 7";
    let attached = server.garden.run("c", "goes-on", script, false).expect("a process");
    let mut stdout = attached.stdout().expect("stdout");
    let mut seen = [0; 3];
    stdout.read_exact(&mut seen).expect("what it says first");
    assert_eq!(&seen, b"on\n");

    let (status, took) = server.terminate();
    println!("SIGTERM with a client attached: {status}, after {took:?}");
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut rest = Vec::new();
    // The stream ends; whether the client is told more is not promised.
    let _ = stdout.read_to_end(&mut rest);
    assert_eq!(rest, b"");

    File::create(root.join("go")).expect("the root file system is ours");
    server.restart();
    let mut attached = server.garden.attach("c", "goes-on").expect("its record");
    let mut output = String::new();
    attached.stdout().expect("stdout").read_to_string(&mut output).expect("its output");
    assert_eq!(output, "off\n");
    assert_eq!(attached.status().expect("its status"), 7);
    server.garden.destroy("c").expect("a destroy");
    crate::census::settles(&server, 0, 0);
}

#[test]
fn sigterm_in_the_middle_of_creates_answers_or_undoes_them() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    let garden = server.garden;
    let (status, took) = std::thread::scope(|scope| {
        for number in 0..8 {
            let root = &root;
            scope.spawn(move || garden.create(&format!("c{number}"), root));
        }
        std::thread::sleep(Duration::from_millis(60));
        server.terminate()
    });
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    let answered = crate::census::Rows::of(&server.ledger()).answered;
    server.restart();
    assert_eq!(server.garden.list(), answered.iter().cloned().collect::<Vec<_>>());
    crate::census::settles(&server, answered.len(), 0);
    for handle in answered {
        server.garden.destroy(&handle).expect("a destroy");
    }
    crate::census::settles(&server, 0, 0);
}

#[test]
fn an_adopted_containerd_is_the_same_one_and_not_a_second() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let before = server.containerd().expect("a containerd runs");
    server.terminate();
    assert_eq!(server.containerd(), Some(before), "containers need their containerd's socket to stay");
    server.restart();
    assert_eq!(server.containerd(), Some(before));
    server.kill();
    server.restart();
    assert_eq!(server.containerd(), Some(before));
    let run = server.run();
    let config = |process: &crate::census::Process| {
        process.name == "containerd" && process.command.contains(run.to_str().expect("UTF-8"))
    };
    assert_eq!(crate::census::processes().into_iter().filter(config).count(), 1);
}
