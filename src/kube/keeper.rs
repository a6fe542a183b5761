//! One gardend of the cluster looks after the objects of nodes whose gardend is silent.
//!
//! Which one it is says a Lease, `gardend-keeper`. It looks at the nodes' Leases: of one that was
//! not renewed for a while the objects become Ready=Unknown, and after a longer while they, the
//! node's own and its Lease are removed; those that declare containers stay, without the finalizer
//! that only their node's gardend would take away. Time is counted here, from when a renewal was seen, so
//! that clocks of nodes do not matter.
//!
//! Its writes have a bucket of their own. A node that comes back writes its own objects again.

mod election;
mod sweep;

use super::backoff::{about, backoff};
use super::client::Place;
use super::mirror::Bucket;
use super::options::Options;
use election::Election;
use sweep::Sweep;
use tokio::time::Instant;

/// Stands for election, and does the work while elected, until the end.
pub(super) async fn run(place: Place, options: Options) {
    let keeping = options.keeping.clone();
    let mut bucket = Bucket::new(options.writes_per_second, options.write_burst, Instant::now());
    let mut election = Election::new(&place, keeping.stale);
    let mut sweep = Sweep::new(&place, &options);
    let mut failures = 0;
    loop {
        let wait = match election.stand().await {
            Ok(true) => match sweep.look(&mut bucket, &mut election).await {
                Ok(()) => {
                    failures = 0;
                    about(keeping.look)
                }
                Err(trouble) => {
                    failures += 1;
                    tracing::debug!(%trouble, "stale nodes were not looked after");
                    backoff(failures).max(keeping.look)
                }
            },
            Ok(false) => {
                failures = 0;
                sweep.forget();
                about(keeping.candidate)
            }
            Err(trouble) => {
                failures += 1;
                tracing::debug!(%trouble, "who looks after stale nodes is not known");
                backoff(failures).max(keeping.look)
            }
        };
        tokio::time::sleep(wait).await;
    }
}
