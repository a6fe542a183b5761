//! Two gardends with different folders and ports live side by side.

use crate::census::settles;
use crate::eventually;
use crate::rootfs;
use crate::server::Server;
use std::time::Duration;

#[test]
fn two_gardends_share_a_machine_and_nothing_else() {
    let mut one = Server::start(&["--pool-size", "1"]);
    let mut two = Server::start(&["--pool-size", "1"]);
    let roots = [&one, &two].map(|server| rootfs::unprivileged(&server.scratch().join("root")));
    assert_ne!(one.garden.address, two.garden.address);
    one.garden.create("same", &roots[0]).expect("a container of the one");
    two.garden.create("same", &roots[1]).expect("a container of the other");
    drop(two.garden.run("same", "stays", "sleep 1000", false).expect("a process"));

    one.garden.destroy("same").expect("a destroy");
    one.kill();
    one.restart();
    settles(&one, 0, 2);
    one.terminate();

    assert_eq!(two.garden.output("same", "pidof sleep | wc -w").expect("a process"), (0, "1\n".into()));
    two.kill();
    two.restart();
    settles(&two, 1, 2);
    assert_eq!(two.garden.output("same", "pidof sleep | wc -w").expect("a process"), (0, "1\n".into()));
    two.garden.destroy("same").expect("a destroy");
    settles(&two, 0, 2);
}

#[test]
fn two_gardends_on_one_containerd_touch_only_their_own() {
    let one = Server::start(&["--pool-size", "1"]);
    let socket = one.run().join("containerd/containerd.sock");
    let two = Server::start(&["--pool-size", "0", "--containerd", socket.to_str().expect("UTF-8")]);
    let root = rootfs::unprivileged(&one.scratch().join("root"));
    one.garden.create("of-one", &root).expect("a container of the one");
    two.garden.create("of-two", &root).expect("a container of the other");
    // Longer than a sweep: neither takes the other's places for leftovers.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(one.garden.output("of-one", "echo fine").expect("a process"), (0, "fine\n".into()));
    assert_eq!(two.garden.output("of-two", "echo fine").expect("a process"), (0, "fine\n".into()));
    two.garden.destroy("of-two").expect("a destroy");
    eventually(Duration::from_secs(40), || {
        let places = std::fs::read_dir(two.run().join("places")).map_err(|error| error.to_string())?.count();
        if places == 0 { Ok(()) } else { Err(format!("{places} places")) }
    });
    one.garden.destroy("of-one").expect("a destroy");
    drop(two);
    settles(&one, 0, 2);
}
