//! One output's state, and one turn of its work. Synchronous: a turn does what can be done now
//! and leaves wakers where it would have to wait. The lane's lock is held for a turn, so that
//! attaching, leaving and moving bytes never overlap.
//!
//! ```text
//!                    nobody            one, drained             any other readers or places
//! pipe -> spool      all, drop oldest  -                        up to WINDOW ahead of the fastest
//! pipe -> socket     -                 all (splice)             -
//! spool -> socket    -                 -                        each from its own place (sendfile)
//! ```
//! There is no note of which of these is in force, so there is none to be wrong after a crash: it
//! follows from the places. A byte goes from the pipe straight into a socket only when that
//! reader's place is the spool's end and no other place is held; then nothing in the spool is
//! older than it, and nobody else is owed it. A byte goes into the spool in every other case.

mod bounds;
mod pump;

use super::reader::Reader;
use super::source::Source;
use super::spool::Spool;
use crate::node::process::sys::SLOTS;
use gardend_controller::ports::ReaderId;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Whoever attaches first to a new process; readers are numbered from 1.
const FIRST: ReaderId = ReaderId(0);
/// What one turn moves at most before it lets others run.
const TURN: usize = 1 << 20;
/// What is pumped from a terminal at once, before it goes on from the relay.
const RELAYED: usize = 64 << 10;

/// The numbers of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What the spool keeps of one output.
    pub spool: u64,
    /// How far the pump runs ahead of the fastest of several readers.
    pub window: u64,
    /// How long a place that nobody has connected for holds output back.
    pub claim_grace: Duration,
}

/// A reader's place.
#[derive(Debug)]
enum Place {
    /// Taken, not connected yet.
    Held { slot: usize, until: Instant },
    /// Not connected in time; it holds nothing, but may still come.
    Lapsed { offset: u64 },
    /// Connected.
    Reading { slot: usize, reader: Reader, lag: Option<Lag> },
}

/// A reader that is as far behind as the spool holds, and so holds the others back. It may, as
/// long as it is fast: one that has not moved [`FAST`] bytes within [`FAST_TIME`] is cut off.
/// (Two readers of the same speed can come to be that far apart by the luck of scheduling.)
#[derive(Clone, Copy, Debug)]
struct Lag {
    since: Instant,
    offset: u64,
}

impl Place {
    fn slot(&self) -> Option<usize> {
        match self {
            Self::Held { slot, .. } | Self::Reading { slot, .. } => Some(*slot),
            Self::Lapsed { .. } => None,
        }
    }
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Turn {
    /// There is more to do at once.
    pub again: bool,
    /// Look again then, whatever happens.
    pub deadline: Option<Instant>,
    /// No output comes any more, and all of it is in the spool or with readers.
    pub moved: bool,
    /// Nothing is left to do until somebody attaches and reads.
    pub idle: bool,
}

/// One output.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    folder: PathBuf,
    name: &'static str,
    source: Option<Source>,
    spool: Option<Spool>,
    places: BTreeMap<ReaderId, Place>,
    waker: Option<Waker>,
    /// /dev/null, where output goes that there is no room for.
    void: Arc<OwnedFd>,
    /// Lost without a spool to count it in.
    dropped: u64,
    spool_failed: bool,
    /// A task works on this.
    pub running: bool,
}

impl Core {
    /// An output whose spool, if any, was opened already.
    pub fn new(
        limits: Limits,
        folder: PathBuf,
        name: &'static str,
        source: Option<Source>,
        spool: Option<Spool>,
        void: Arc<OwnedFd>,
    ) -> Self {
        let places = BTreeMap::new();
        let (waker, dropped, spool_failed, running) = (None, 0, false, false);
        Self { limits, folder, name, source, spool, places, waker, void, dropped, spool_failed, running }
    }

    /// Takes the waker of the task that works on this, because there is something new to do.
    pub fn wake(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    /// No output comes any more.
    pub fn moved(&self) -> bool {
        self.source.is_none()
    }

    /// Bytes that nobody has read and nobody will.
    pub fn dropped(&self) -> u64 {
        self.dropped + self.spool.as_ref().map_or(0, Spool::dropped)
    }

    /// The process has ended.
    pub fn exit(&mut self) {
        if let Some(source) = &mut self.source {
            source.exit();
        }
    }

    /// Everything ends now: the record of the process goes.
    pub fn close(&mut self) {
        self.source = None;
        for (_, place) in std::mem::take(&mut self.places) {
            if let Place::Reading { reader, .. } = place {
                reader.finish();
            }
        }
        self.spool = None;
    }

    /// Keeps a place for whoever attaches first: nothing of a new process's output is dropped, as
    /// what nobody reads may be, before the client that asked for it had a chance to read.
    pub fn expect_first(&mut self) {
        self.attach(FIRST);
    }

    /// Takes a place as of now.
    pub fn attach(&mut self, id: ReaderId) {
        self.lapse(Instant::now());
        if let Some(Place::Held { slot, .. }) = self.places.remove(&FIRST) {
            self.places.insert(id, Place::Held { slot, until: Instant::now() + self.limits.claim_grace });
            return;
        }
        // A full file system may have room again.
        self.spool_failed = false;
        // Whoever has left counts for nobody, also before the runtime has told.
        let left = |(id, place): (&ReaderId, &Place)| match place {
            Place::Reading { reader, .. } => reader.peer_closed().then_some(*id),
            _ => None,
        };
        let left: Vec<ReaderId> = self.places.iter().filter_map(left).collect();
        left.into_iter().for_each(|id| self.abandon(id));
        let offset = if self.slots().next().is_some() { self.end() } else { self.resume() };
        let place = match self.free_slot() {
            Some(slot) => {
                if let Some(spool) = &mut self.spool {
                    spool.take(slot, offset);
                }
                Place::Held { slot, until: Instant::now() + self.limits.claim_grace }
            }
            None => Place::Lapsed { offset },
        };
        self.places.insert(id, place);
    }

    /// Gives a place up that nobody has connected for.
    pub fn detach(&mut self, id: ReaderId) {
        if !matches!(self.places.get(&id), Some(Place::Reading { .. })) {
            self.remove(id);
        }
    }

    /// Connects a reader to its place; gives it back where there is none.
    pub fn claim(&mut self, id: ReaderId, reader: Reader) -> Result<(), Reader> {
        let slot = match self.places.get(&id) {
            Some(Place::Held { slot, .. }) => *slot,
            Some(Place::Lapsed { offset }) => {
                let offset = *offset;
                let lowest = self.slots().map(|slot| self.place(slot)).min();
                let offset = lowest.map_or_else(|| self.resume(), |lowest| offset.max(lowest));
                let Some(slot) = self.free_slot() else { return Err(reader) };
                if let Some(spool) = &mut self.spool {
                    spool.take(slot, offset);
                }
                slot
            }
            Some(Place::Reading { .. }) | None => return Err(reader),
        };
        self.places.insert(id, Place::Reading { slot, reader, lag: None });
        Ok(())
    }

    /// Lets a connected reader go without its socket's end: whoever waited for it has gone.
    pub fn abandon(&mut self, id: ReaderId) {
        if let Some(Place::Reading { reader, .. }) = self.remove(id) {
            reader.finish();
        }
    }

    /// Does what can be done now.
    pub fn turn(&mut self, context: &mut Context<'_>) -> Turn {
        self.waker = Some(context.waker().clone());
        let mut turn = Turn::default();
        let mut moved = 0;
        loop {
            self.lapse(Instant::now());
            self.part_from_the_gone(context);
            if let Some(source) = &mut self.source
                && source.poll_terminal(context, RELAYED).is_ready()
            {
                turn.again = true;
            }
            let progress = self.feed(context, &mut turn) + self.pump(context, &mut turn);
            self.trim(&mut turn);
            self.end_the_finished();
            if progress == 0 {
                break;
            }
            moved += progress;
            if moved >= TURN {
                turn.again = true;
                break;
            }
        }
        turn.moved = self.moved();
        let reading = self.places.values().any(|place| matches!(place, Place::Reading { .. }));
        turn.idle = turn.moved && !reading;
        let lapse = self.places.values().filter_map(|place| match place {
            Place::Held { until, .. } => Some(*until),
            _ => None,
        });
        turn.deadline = turn.deadline.into_iter().chain(lapse).min();
        turn
    }

    fn end(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::end)
    }

    fn resume(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::resume)
    }

    fn place(&self, slot: usize) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.place(slot))
    }

    /// The slots of those who are owed output.
    fn slots(&self) -> impl Iterator<Item = usize> {
        self.places.values().filter_map(Place::slot)
    }

    fn free_slot(&self) -> Option<usize> {
        let taken: std::collections::BTreeSet<usize> = self.slots().collect();
        (0..SLOTS).find(|slot| !taken.contains(slot))
    }

    /// Takes a place away; the last one is where the next reader starts.
    fn remove(&mut self, id: ReaderId) -> Option<Place> {
        let place = self.places.remove(&id)?;
        if let Some(slot) = place.slot() {
            let last = self.slots().next().is_none();
            if let Some(spool) = &mut self.spool {
                if last {
                    let offset = spool.place(slot);
                    spool.set_resume(offset);
                }
                spool.release(slot);
            }
        }
        Some(place)
    }

    /// Places that nobody has connected for in time hold nothing any more.
    fn lapse(&mut self, now: Instant) {
        let late = |(id, place): (&ReaderId, &Place)| match place {
            Place::Held { until, .. } if *until <= now => Some(*id),
            _ => None,
        };
        let late: Vec<ReaderId> = self.places.iter().filter_map(late).collect();
        for id in late {
            if let Some(slot) = self.places.get(&id).and_then(Place::slot) {
                let offset = self.place(slot);
                self.remove(id);
                self.places.insert(id, Place::Lapsed { offset });
            }
        }
    }

    fn part_from_the_gone(&mut self, context: &mut Context<'_>) {
        let gone = |(id, place): (&ReaderId, &mut Place)| match place {
            Place::Reading { reader, .. } => reader.poll_gone(context).then_some(*id),
            _ => None,
        };
        let gone: Vec<ReaderId> = self.places.iter_mut().filter_map(gone).collect();
        gone.into_iter().for_each(|id| self.abandon(id));
    }

    /// Readers who have everything that ever comes.
    fn end_the_finished(&mut self) {
        if self.source.is_some() {
            return;
        }
        let end = self.end();
        let finished = |(id, place): (&ReaderId, &Place)| match place {
            Place::Reading { slot, .. } if self.place(*slot) == end => Some(*id),
            _ => None,
        };
        let finished: Vec<ReaderId> = self.places.iter().filter_map(finished).collect();
        finished.into_iter().for_each(|id| self.abandon(id));
    }
}
