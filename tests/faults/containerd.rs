//! containerd that dies, and containerd that is not there.

use crate::census::settles;
use crate::eventually;
use crate::rootfs;
use crate::server::{Server, refused};
use crate::wire::Refusal;
use rustix::process::{Signal, kill_process};
use std::io::Read;
use std::time::Duration;

#[test]
fn containerd_killed_in_the_middle_of_creates_comes_back_and_leaves_nothing_half_made() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    server.garden.create("stays", &root).expect("a container");
    let script = "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); usleep 5000; done";
    let attached = server.garden.run("stays", "counter", script, false).expect("a process");
    let mut stdout = attached.stdout().expect("stdout");
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).expect("the connection is not gardend's to cut");
        output
    });

    let garden = server.garden;
    let before = server.containerd().expect("a containerd runs");
    let outcomes: Vec<Result<(), Refusal>> = std::thread::scope(|scope| {
        let root = &root;
        let clients: Vec<_> =
            (0..8).map(|number| scope.spawn(move || garden.create(&format!("c{number}"), root))).collect();
        std::thread::sleep(Duration::from_millis(50));
        kill_process(before, Signal::KILL).expect("it runs");
        // What runs does not need containerd.
        assert_eq!(garden.output("stays", "echo fine").expect("a process"), (0, "fine\n".into()));
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    for said in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(!said.message().is_empty());
    }
    println!("containerd killed under 8 creates: {made} succeeded, the others were told why");
    eventually(Duration::from_secs(30), || match server.containerd() {
        Some(now) if now != before => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually(Duration::from_secs(30), || garden.ping().map_err(|why| format!("{why:?}")));
    garden.create("afterwards", &root).expect("a container");
    assert_eq!(garden.output("afterwards", "echo fine").expect("a process"), (0, "fine\n".into()));
    settles(&server, 2 + made, 0);

    std::fs::write(root.join("stop"), "").expect("the root file system is ours");
    let output = reader.join().expect("the reader");
    let expected: String = (0..output.lines().count()).map(|number| format!("{number}\n")).collect();
    assert_eq!(output, expected);
    for handle in garden.list() {
        garden.destroy(&handle).expect("a destroy");
    }
    settles(&server, 0, 0);
    let (status, _) = server.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn places_of_a_containerd_that_died_while_gardend_was_down_are_adopted() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    server.garden.create("c", &root).expect("a container");
    drop(server.garden.run("c", "sleeper", "sleep 1000", false).expect("a process"));
    let containerd = server.containerd().expect("a containerd runs");
    server.kill();
    kill_process(containerd, Signal::KILL).expect("it runs");
    server.restart();
    assert_eq!(server.garden.output("c", "pidof sleep | wc -w").expect("a process"), (0, "1\n".into()));
    server.garden.destroy("c").expect("a destroy");
    settles(&server, 0, 0);
}

#[test]
fn a_containerd_that_is_not_there_is_said_by_its_name() {
    let server = Server::new(&[]);
    let missing = server.scratch().join("missing");
    for option in ["--containerd", "--containerd-binary"] {
        let mut command = server.command();
        command.arg(option).arg(&missing);
        let (status, said) = refused(command);
        assert!(!status.success(), "{said}");
        assert!(said.contains(missing.to_str().expect("UTF-8")), "{option}: {said}");
    }
}

#[test]
fn a_containerd_that_cannot_start_is_said_with_what_it_said() {
    let server = Server::new(&[]);
    let broken = server.scratch().join("containerd");
    std::fs::write(&broken, "#!/bin/sh\necho 'a reason of its own' >&2\nexit 3\n").expect("the folder is ours");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&broken, mode).expect("the file is ours");
    let mut command = server.command();
    command.arg("--containerd-binary").arg(&broken);
    let (status, said) = refused(command);
    assert!(!status.success(), "{said}");
    assert!(said.contains(broken.to_str().expect("UTF-8")), "{said}");
}
