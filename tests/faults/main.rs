//! What gardend promises when something fails, on real parts: a gardend, its containerd, the
//! kernel (docs/architecture.md and the reliability promises). Every test has a server of its own;
//! all need root. Figures are printed (`cargo test --test faults -- --nocapture`).

#[path = "../common/census.rs"]
mod census;
#[path = "../common/rootfs.rs"]
mod rootfs;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/wire.rs"]
mod wire;

mod containerd;
mod creates;
mod ledger;
mod limits;
mod neighbours;
mod refusals;
mod restart;
mod shutdown;

use std::time::{Duration, Instant};

/// Asks again until there is no complaint.
fn eventually(limit: Duration, mut complaint: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + limit;
    while let Err(said) = complaint() {
        assert!(Instant::now() < end, "not within {limit:?}: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
