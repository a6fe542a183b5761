//! On several threads, in real time, with a ledger on disk: many clients, and gardends that die.

mod common;

use common::{BOOT, command, request};
use gardend_controller::fake::FakeNode;
use gardend_controller::record::Properties;
use gardend_controller::{Controller, Ledger, Options};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Creates, runs and destroys until gardend is gone; keeps book of what it was told.
async fn client(garden: Controller, number: usize, there: Arc<Mutex<BTreeSet<String>>>) {
    for round in 0.. {
        let handle = format!("c{number}-{round}");
        if garden.create(request(&handle)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        there.lock().unwrap().insert(handle.clone());
        for _ in 0..3 {
            // Cut off by the death of gardend, as every error here.
            let Ok(process) = garden.run(&handle, command("echo hello")).await else { return };
            process.outcome().await;
        }
        if round % 4 != 0 {
            // From here on nobody can say, until it is answered.
            there.lock().unwrap().remove(&handle);
            if garden.destroy(&handle).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn many_clients_and_gardends_that_die_leave_what_they_were_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let fake = FakeNode::new();
    let there = Arc::new(Mutex::new(BTreeSet::new()));
    let options = Options { max_containers: 10_000, pool_size: 4, ..Options::default() };
    for life in 0..4 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
        let garden = runtime.block_on(async {
            let ledger = Ledger::open(&path).unwrap();
            Controller::start(options.clone(), ledger, fake.node(), BOOT).await.unwrap()
        });
        for number in 0..16 {
            runtime.spawn(client(garden.clone(), life * 100 + number, Arc::clone(&there)));
        }
        std::thread::sleep(Duration::from_millis(400 + 130 * life as u64));
        drop(garden);
        // Every task ends where it stands; the file is closed with the last of them.
        drop(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let ledger = Ledger::open(&path).unwrap();
        let garden = Controller::start(options, ledger.clone(), fake.node(), BOOT).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let contents = ledger.load().await.unwrap();
            let places: BTreeSet<_> = contents.sandboxes.iter().map(|row| row.id.clone()).collect();
            let files: BTreeSet<_> = contents.containers.iter().map(|row| row.uid.clone()).collect();
            let left = garden.list(&Properties::new(), true).len();
            let converged = left == contents.containers.len()
                && left + 4 == places.len()
                && places == fake.places().into_iter().collect()
                && files == fake.layers().into_iter().collect();
            if converged {
                break;
            }
            assert!(Instant::now() < deadline, "{left} containers, {} places, {} rows", places.len(), files.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let listed: BTreeSet<String> = garden.list(&Properties::new(), false).iter().map(ToString::to_string).collect();
        let there = there.lock().unwrap().clone();
        assert!(there.len() > 20, "only {} were made", there.len());
        println!("{} containers kept over 4 kills, {} processes run", there.len(), fake.spawned());
        assert!(there.is_subset(&listed), "{:?} are gone", there.difference(&listed).collect::<Vec<_>>());
        assert_eq!(fake.violations(), Vec::<String>::new());
    });
}
