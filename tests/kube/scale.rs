//! A cluster's worth of mirrors on one API server, beside a write for each change.

use crate::fleet::{CHANGES, Churn, Fleet, Rates};
use crate::server::Server;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn rate(of: u32) -> NonZeroU32 {
    of.try_into().unwrap()
}

/// `make bench-kube` sets GARDEND_TEST_NODES, and then it is a minute of what docs/kubernetes.md calls busy.
#[tokio::test(flavor = "multi_thread")]
async fn mirrors_of_many_nodes_write_what_they_may_and_a_fraction_of_what_changed() {
    let server = Arc::new(Server::start());
    let nodes = number("GARDEND_TEST_NODES", 12) as usize;
    let whole = std::env::var_os("GARDEND_TEST_NODES").is_some();
    let rates = Rates { a_second: rate(1), burst: rate(5) };
    let (idle, churn, patience) = match whole {
        // 20 containers a minute.
        true => {
            let busy = Churn { containers: 20, pause: Duration::from_secs(3), life: Duration::from_secs(12) };
            (Duration::from_secs(20), busy, Duration::from_secs(1))
        }
        false => {
            let busy = Churn { containers: 30, pause: Duration::from_millis(200), life: Duration::from_secs(1) };
            (Duration::ZERO, busy, Duration::from_secs(120))
        }
    };
    let mirrored = Fleet::new(&server, nodes).await.mirrored(rates, idle, churn).await;
    let each = Fleet::new(&server, nodes).await.written_each(churn, patience).await;

    let changes = nodes * churn.containers * CHANGES;
    println!("{nodes} nodes, {} containers on each, {changes} changes in all", churn.containers);
    println!("  mirrors, idle, {}", mirrored.idle);
    println!("  mirrors, busy, {}", mirrored.busy);
    println!(
        "    level {:.1?} after the last change; {} writes of at most {:.0}, from the start on",
        mirrored.level_after, mirrored.written, mirrored.most
    );
    println!("  a write for each change, {}", each.busy);
    println!("    {} of {} were written", each.written, each.changes);

    // As the mirrors count, and as the API server does: a write that nobody waited for any more is one.
    assert!((mirrored.written as f64) <= mirrored.most, "{} > {}", mirrored.written, mirrored.most);
    assert!((mirrored.busy.mirror_writes() as f64) <= mirrored.most, "{} > {}", mirrored.busy, mirrored.most);
    assert_eq!(mirrored.left, 0, "objects of containers that are gone");
    assert!(mirrored.written > 3 * nodes as u64, "nothing was shown at all");
    if !whole {
        assert_eq!(each.written, changes, "every change is a write");
        assert!(each.written as u64 >= 3 * mirrored.written, "{} written, {changes} changes", mirrored.written);
    }
}
