//! kill -9 of gardend in the middle of creates and destroys: what was answered is there, what was
//! not is gone, and nothing is left without its partner.

use crate::census::{Rows, settles};
use crate::eventually;
use crate::rootfs;
use crate::server::Server;
use crate::wire::{Garden, Refusal};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CREATES: usize = 100;
const CLIENTS: usize = 8;

/// Has clients create until all is created or the server was killed. The handles that were answered.
fn create_and_kill(server: &mut Server, round: u64, kill_after: Duration) -> BTreeSet<String> {
    let garden = server.garden;
    let rootfs = server.scratch().join("root");
    let next = AtomicUsize::new(0);
    let answered = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CREATES {
                        return;
                    }
                    let handle = format!("r{round}-{number}");
                    match garden.create(&handle, &rootfs) {
                        Ok(()) => drop(answered.lock().expect("no client panics").insert(handle)),
                        Err(Refusal::Unanswered(_)) => return,
                        Err(said) => panic!("{handle}: {said:?}"),
                    }
                }
            });
        }
        std::thread::sleep(kill_after);
        server.kill();
    });
    answered.into_inner().expect("no client panics")
}

/// Destroys containers, of which some may be just being destroyed: by what was recorded before a kill.
fn destroy_all(garden: Garden, handles: Vec<String>) {
    for handle in handles {
        match garden.destroy(&handle) {
            Ok(()) => {}
            Err(Refusal::Said { kind, .. }) if kind == "ContainerNotFoundError" => {}
            Err(Refusal::Said { message, .. }) if message.contains("already being destroyed") => {}
            Err(why) => panic!("{handle}: {why:?}"),
        }
    }
}

#[test]
fn creates_cut_by_a_kill_are_there_when_answered_and_gone_when_not() {
    let mut server = Server::start(&["--pool-size", "2", "--max-containers", "150"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    // Instants from within the first create to well among the later ones.
    for (round, kill_after) in [35, 90, 260, 610, 1_300].into_iter().enumerate() {
        let answered = create_and_kill(&mut server, round as u64, Duration::from_millis(kill_after));
        // Between the answer's record and the client lies a moment in which neither can know of the other.
        let recorded = Rows::of(&server.ledger()).answered;
        assert!(answered.is_subset(&recorded), "answered and not recorded: {:?}", answered.difference(&recorded));
        let in_doubt = recorded.len() - answered.len();
        assert!(in_doubt <= CLIENTS, "{in_doubt} creates recorded as answered, with {CLIENTS} clients");

        server.restart();
        let garden = server.garden;
        assert_eq!(garden.list().into_iter().collect::<BTreeSet<_>>(), recorded, "after {kill_after} ms");
        println!("killed after {kill_after} ms: {} answered, {in_doubt} in doubt, all of them there", answered.len());
        for handle in answered.iter().take(5) {
            assert_eq!(garden.output(handle, "echo fine").expect("a process"), (0, "fine\n".into()));
        }
        let unanswered: Vec<String> = (0..CREATES)
            .map(|number| format!("r{round}-{number}"))
            .filter(|handle| !recorded.contains(handle))
            .collect();
        for handle in unanswered.iter().take(10) {
            garden.create(handle, &root).unwrap_or_else(|why| panic!("{handle} is not free: {why:?}"));
            garden.destroy(handle).expect("a destroy");
        }
        settles(&server, recorded.len(), 4);
        for handle in &recorded {
            garden.destroy(handle).expect("a destroy");
        }
        settles(&server, 0, 4);
    }
}

#[test]
fn destroys_cut_by_a_kill_are_finished() {
    let mut server = Server::start(&["--pool-size", "0"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    for kill_after in [3, 17, 40] {
        let handles: Vec<String> = (0..12).map(|number| format!("d{kill_after}-{number}")).collect();
        for handle in &handles {
            server.garden.create(handle, &root).expect("a container");
            drop(server.garden.run(handle, "", "sleep 1000", false).expect("a process"));
        }
        let garden = server.garden;
        let destroyed = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for handle in &handles {
                scope.spawn(|| {
                    if garden.destroy(handle).is_ok() {
                        destroyed.lock().expect("no client panics").insert(handle.clone());
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(kill_after));
            server.kill();
        });
        let destroyed = destroyed.into_inner().expect("no client panics");
        server.restart();
        let garden = server.garden;
        let left = garden.list();
        assert!(left.iter().all(|handle| !destroyed.contains(handle)), "answered as destroyed, and there: {left:?}");
        println!("killed {kill_after} ms into 12 destroys: {} answered, {} to go", destroyed.len(), left.len());
        destroy_all(garden, left);
        settles(&server, 0, 0);
    }
}

#[test]
fn lives_of_containers_under_kills_leave_nothing() {
    let mut server = Server::start(&["--pool-size", "2"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    let mut lives = 0;
    for round in 0..6 {
        let garden = server.garden;
        let finished = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for client in 0..6 {
                let (root, finished) = (&root, &finished);
                scope.spawn(move || {
                    // Until the server is gone; every error is one that a kill may cause.
                    for number in 0..1000 {
                        let handle = format!("l{round}-{client}-{number}");
                        let life = garden
                            .create(&handle, root)
                            .and_then(|()| garden.output(&handle, "echo alive"))
                            .and_then(|_| garden.destroy(&handle));
                        if life.is_err() {
                            return;
                        }
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(400 + 230 * round));
            server.kill();
        });
        lives += finished.into_inner();
        server.restart();
        destroy_all(server.garden, server.garden.list());
        eventually(Duration::from_secs(40), || {
            let left = server.garden.list_all();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
    println!("{lives} lives of containers, 6 kills");
    settles(&server, 0, 4);
}
