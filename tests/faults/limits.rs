//! Limits across kills: that of containers under clients that all come at once; those of a container,
//! whose processes wait in their init until they are where their limits are.

use crate::rootfs;
use crate::server::Server;
use crate::wire::Refusal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn fifty_creates_at_once_fill_the_limit_exactly_also_after_a_kill() {
    let mut server = Server::start(&["--pool-size", "0", "--max-containers", "10"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    for round in 0..2 {
        let garden = server.garden;
        let outcomes: Vec<Result<(), Refusal>> = std::thread::scope(|scope| {
            let root = &root;
            let clients: Vec<_> =
                (0..50).map(|number| scope.spawn(move || garden.create(&format!("c{round}-{number}"), root))).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(made, 10, "round {round}");
        for said in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(said.message().contains("limit of 10"), "{}", said.message());
        }
        server.kill();
        server.restart();
        assert_eq!(server.garden.list().len(), 10);
        server.garden.create("one-more", &root).expect_err("the limit holds");
        for handle in server.garden.list() {
            server.garden.destroy(&handle).expect("a destroy");
        }
    }
    crate::census::settles(&server, 0, 0);
}

/// Every process writes its number down. One that was told to run has, whatever befell gardend
/// meanwhile; none has twice; one that was still held when gardend died is gone.
#[test]
fn a_held_process_runs_once_or_never_across_kills() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    let limits = json!({"memory_limits": {"limit_in_bytes": 256 << 20}, "pid_limits": {"max": 1000}});
    let spec = json!({"handle": "c", "image": {"uri": &root}, "limits": limits});
    server.garden.call("POST", "/containers", &spec).expect("a container");
    let next = AtomicUsize::new(0);
    let mut told = Vec::new();
    let (mut asked, mut unanswered) = (0, 0);
    for round in 0..6 {
        let (garden, next, over) = (server.garden, &next, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(move || {
                        let (mut told, mut asked) = (Vec::new(), 0);
                        while !over.load(Ordering::Relaxed) {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            asked += 1;
                            match garden.run("c", &format!("p{number}"), &format!("echo {number} >> /ran"), false) {
                                Ok(_) => told.push(number),
                                Err(_) => return (told, asked),
                            }
                        }
                        (told, asked)
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(150 + 37 * round));
            server.kill();
            over.store(true, Ordering::Relaxed);
            for client in clients {
                let (mut ran, tried) = client.join().expect("a client");
                unanswered += tried - ran.len();
                asked += tried;
                told.append(&mut ran);
            }
        });
        server.restart();
    }
    assert_eq!(server.garden.output("c", "sleep 1; echo fine").expect("it is answered"), (0, "fine\n".into()));
    let mut ran: BTreeMap<usize, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(root.join("ran")).expect("something has run").lines() {
        *ran.entry(line.parse().expect("a number")).or_default() += 1;
    }
    println!(
        "6 kills: {asked} processes asked for, {} told to run, {unanswered} unanswered, {} have run",
        told.len(),
        ran.len()
    );
    assert!(ran.values().all(|times| *times == 1), "some ran twice: {ran:?}");
    let missing: Vec<_> = told.iter().filter(|number| !ran.contains_key(number)).collect();
    assert!(missing.is_empty(), "told to run, and have not: {missing:?}");
    // Nothing waits to be released for ever: one garden-init, and what was asked for just now.
    let metrics = server.garden.call("GET", "/containers/c/metrics", &Value::Null).expect("figures");
    assert_eq!(metrics["PidStat"], json!({"Current": 0, "Max": 1000}));
    let inits = crate::census::processes().into_iter().filter(|process| process.name == "garden-init");
    let owner = gardend::node::containerd::OwnerMark::of(&server.state(), &server.run()).expect("its mark");
    let mine = inits.filter(|process| process.cgroups.contains(&format!("/gardend/{}/", owner.as_str())));
    assert_eq!(mine.count(), 1, "a process waits in its init");
    server.garden.destroy("c").expect("a destroy");
    crate::census::settles(&server, 0, 0);
}
