//! What keeps the spool within its bound: holes below what everybody has read, the oldest dropped
//! where nobody reads, and the end of readers that stall.

use super::{Core, Lag, Place, Turn};
use crate::node::process::lane::spool::UNIT;
use std::time::Duration;
use tokio::time::Instant;

/// A reader that moves as much as this
const FAST: u64 = 4 << 20;
/// within this time, about 16 MB/s, does not stall.
const FAST_TIME: Duration = Duration::from_millis(250);

impl Core {
    /// Keeps the spool within its bound, and gives back what everybody has read.
    pub(super) fn trim(&mut self, turn: &mut Turn) {
        let (end, bound) = (self.end(), self.limits.spool);
        if self.spool.is_none() || end == 0 {
            return;
        }
        self.cut_the_stalled(turn);
        let slots: Vec<usize> = self.slots().collect();
        let Some(spool) = &mut self.spool else { return };
        let lowest = slots.iter().map(|slot| spool.place(*slot)).min();
        if lowest.is_none() && end - spool.resume() > bound {
            let first = spool.dropped() == 0;
            spool.drop_below((end - bound).next_multiple_of(UNIT).min(end));
            if first {
                let folder = self.folder.display();
                tracing::warn!(%folder, stream = self.name, bound, "nobody reads this output: its oldest bytes are dropped");
            }
        }
        let lowest = lowest.unwrap_or_else(|| spool.resume());
        spool.free_below(lowest);
        if lowest == end && spool.reset(slots.into_iter()) {
            for place in self.places.values_mut() {
                if let Place::Lapsed { offset } = place {
                    *offset = 0;
                }
            }
        }
    }

    /// Of several readers, those that hold the others back and are not fast lose their connection.
    /// The only one never does, and none does once there is nothing left to wait for.
    fn cut_the_stalled(&mut self, turn: &mut Turn) {
        let (end, bound, now) = (self.end(), self.limits.spool, Instant::now());
        let flowing = self.source.as_ref().is_some_and(|source| !source.draining());
        let several = self.slots().count() > 1;
        let spool = self.spool.as_ref();
        let mut stalled = Vec::new();
        for (id, place) in &mut self.places {
            let Place::Reading { slot, lag, .. } = place else { continue };
            let offset = spool.map_or(0, |spool| spool.place(*slot));
            let behind = end - offset;
            if !flowing || !several || behind < bound.saturating_sub(FAST) {
                *lag = None;
                continue;
            }
            let watched = match lag {
                Some(watched) if now - watched.since < FAST_TIME => *watched,
                Some(watched) if behind >= bound && offset - watched.offset.min(offset) < FAST => {
                    stalled.push(*id);
                    continue;
                }
                Some(_) => Lag { since: now, offset },
                None if behind >= bound => Lag { since: now, offset },
                None => continue,
            };
            *lag = Some(watched);
            let look_again = watched.since + FAST_TIME;
            turn.deadline = Some(turn.deadline.map_or(look_again, |deadline| deadline.min(look_again)));
        }
        for id in stalled {
            if let Some(Place::Reading { reader, .. }) = self.remove(id) {
                tracing::warn!(
                    stream = self.name,
                    "a reader is further behind than the spool holds and loses its connection"
                );
                reader.cut();
                // The others may go on.
                turn.again = true;
            }
        }
    }
}
