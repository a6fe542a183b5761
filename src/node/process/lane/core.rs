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

use super::reader::Reader;
use super::source::{ReadyGuard, Source};
use super::spool::Spool;
use crate::node::process::sys::SLOTS;
use gardend_controller::ports::ReaderId;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// What one call moves at most: a turn must not keep a worker or the lane's lock for long.
const CHUNK: usize = 1 << 20;
/// What one turn moves at most before it lets others run.
const TURN: usize = 1 << 20;
/// A reader that moves as much as this
const FAST: u64 = 4 << 20;
/// within this time, about 16 MB/s, does not stall.
const FAST_TIME: Duration = Duration::from_millis(250);
/// How long to wait where the kernel says both "would block" and "ready".
const CONTRADICTION: Duration = Duration::from_millis(1);

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

/// What the pump is to do now.
enum Course {
    /// Wait: for readers to catch up, or to come.
    Wait,
    /// Into this reader's socket.
    Direct(ReaderId),
    /// Into the spool, up to so many bytes.
    Spool(usize),
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

    /// Takes a place as of now.
    pub fn attach(&mut self, id: ReaderId) {
        self.lapse(Instant::now());
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
                && source.poll_terminal(context, TURN).is_ready()
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

    /// Feeds every reader from the spool.
    fn feed(&mut self, context: &mut Context<'_>, turn: &mut Turn) -> usize {
        let Some(spool) = &mut self.spool else { return 0 };
        let mut moved = 0;
        let mut gone = Vec::new();
        for (id, place) in &self.places {
            let Place::Reading { slot, reader, .. } = place else { continue };
            match feed_one(spool, *slot, reader, context, turn) {
                Ok(bytes) => moved += bytes,
                Err(()) => gone.push(*id),
            }
        }
        gone.into_iter().for_each(|id| self.abandon(id));
        moved
    }

    fn course(&self) -> Course {
        let Some(source) = &self.source else { return Course::Wait };
        let (end, draining) = (self.end(), source.draining());
        let (mut readers, mut fastest, mut slowest, mut direct) = (0, 0, u64::MAX, None);
        let mut held = false;
        for (id, place) in &self.places {
            match place {
                Place::Held { slot, .. } => {
                    held = true;
                    slowest = slowest.min(self.place(*slot));
                }
                Place::Reading { slot, .. } => {
                    let offset = self.place(*slot);
                    readers += 1;
                    fastest = fastest.max(offset);
                    slowest = slowest.min(offset);
                    direct = (offset == end).then_some(*id);
                }
                Place::Lapsed { .. } => {}
            }
        }
        if readers == 1 && !held {
            if let Some(id) = direct {
                return Course::Direct(id);
            }
            if !draining {
                return Course::Wait;
            }
        }
        if draining || (readers == 0 && !held) {
            return Course::Spool(source.allowed(CHUNK));
        }
        let for_readers = if readers == 0 { u64::MAX } else { (fastest + self.limits.window).saturating_sub(end) };
        let for_slowest = slowest.saturating_add(self.limits.spool).saturating_sub(end);
        match usize::try_from(for_readers.min(for_slowest)).unwrap_or(CHUNK).min(CHUNK) {
            0 => Course::Wait,
            room => Course::Spool(room),
        }
    }

    /// Moves from the pipe to where it is to go.
    fn pump(&mut self, context: &mut Context<'_>, turn: &mut Turn) -> usize {
        if self.source.as_ref().is_some_and(Source::drained) {
            self.source = None;
        }
        match self.course() {
            Course::Wait => 0,
            Course::Spool(room) => self.fill(room, context),
            Course::Direct(id) => match self.direct(id, context, turn) {
                // A slow reader does not keep what an ended process wrote in a pipe that a
                // grandchild can still write to.
                0 if self.source.as_ref().is_some_and(Source::draining) => {
                    let room = self.source.as_ref().map_or(0, |source| source.allowed(CHUNK));
                    self.fill(room, context)
                }
                moved => moved,
            },
        }
    }

    /// Pipe to socket. A full socket and an empty pipe look the same to splice(2): both are asked.
    fn direct(&mut self, id: ReaderId, context: &mut Context<'_>, turn: &mut Turn) -> usize {
        let Some(source) = &mut self.source else { return 0 };
        let Some(Place::Reading { reader, .. }) = self.places.get(&id) else { return 0 };
        let mut contradictions = 0;
        loop {
            let Poll::Ready(data) = source.poll_ready(context) else { return 0 };
            let Poll::Ready(room) = reader.socket().poll_write_ready(context) else { return 0 };
            let (Ok(mut data), Ok(mut room)) = (data, room) else { break };
            // No byte goes to a peer that has left: it would be gone.
            if reader.peer_closed() {
                break;
            }
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            let count = source.allowed(CHUNK);
            match splice(source.as_fd(), None, reader, None, count, flags) {
                Ok(0) => {
                    self.source = None;
                    return 0;
                }
                Ok(bytes) => {
                    source.taken(bytes);
                    return bytes;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if source.waiting() == 0 => clear(&mut data),
                Err(Errno::AGAIN) if !reader.writable() => room.clear_ready(),
                Err(Errno::AGAIN) => {
                    contradictions += 1;
                    if contradictions > 3 {
                        turn.deadline = Some(Instant::now() + CONTRADICTION);
                        return 0;
                    }
                }
                Err(_) => break,
            }
        }
        self.abandon(id);
        turn.again = true;
        0
    }

    /// Pipe to spool.
    fn fill(&mut self, room: usize, context: &mut Context<'_>) -> usize {
        loop {
            let Some(source) = &mut self.source else { return 0 };
            let Poll::Ready(data) = source.poll_ready(context) else { return 0 };
            let Ok(mut data) = data else {
                self.source = None;
                return 0;
            };
            let result = match &mut self.spool {
                Some(spool) => spool.fill(source.as_fd(), room),
                None if source.at_end() => Ok(0),
                // No file before there is something for it.
                None if source.waiting() == 0 => Err(Errno::AGAIN),
                None if self.spool_failed => Err(Errno::NOSPC),
                None => {
                    drop(data);
                    self.make_spool();
                    continue;
                }
            };
            match result {
                Ok(0) => {
                    self.source = None;
                    return 0;
                }
                Ok(bytes) => {
                    source.taken(bytes);
                    return bytes;
                }
                Err(Errno::AGAIN) => clear(&mut data),
                Err(Errno::INTR) => {}
                Err(error) => {
                    drop(data);
                    return self.without_room(error, room);
                }
            }
        }
    }

    fn make_spool(&mut self) {
        match Spool::create(&self.folder, self.name) {
            Ok(mut spool) => {
                // Until now nothing was spooled, and so every place is 0.
                spool.set_resume(0);
                self.slots().for_each(|slot| spool.take(slot, 0));
                self.spool = Some(spool);
            }
            Err(error) => {
                self.spool_failed = true;
                let folder = self.folder.display();
                tracing::error!(%error, %folder, stream = self.name, "no spool can be made: output that nobody reads is lost (is the run folder full?)");
            }
        }
    }

    /// The file system takes no more. Readers with something to read make room; without any, what
    /// is oldest goes, and then what is newest: the process never waits for a reader that is not there.
    fn without_room(&mut self, error: Errno, room: usize) -> usize {
        let end = self.end();
        let reading = |place: &Place| matches!(place, Place::Reading { .. });
        if self.places.values().any(|place| place.slot().is_some_and(|slot| self.place(slot) < end)) {
            return 0;
        }
        if self.places.values().any(reading) {
            // All are drained: one goes on straight from the pipe, the others cannot.
            let first = self.places.iter().find(|(_, place)| reading(place)).map(|(id, _)| *id);
            let others: Vec<ReaderId> = self
                .places
                .iter()
                .filter(|(id, place)| Some(**id) != first && place.slot().is_some())
                .map(|(id, _)| *id)
                .collect();
            tracing::warn!(%error, stream = self.name, others = others.len(), "the spool takes no more: one reader of several is kept");
            for id in others {
                if let Some(Place::Reading { reader, .. }) = self.remove(id) {
                    reader.cut();
                }
            }
            return usize::from(first.is_some());
        }
        let nobody = self.slots().next().is_none();
        let Some(source) = &mut self.source else { return 0 };
        if let Some(spool) = &mut self.spool
            && nobody
            && spool.resume() < end
        {
            tracing::warn!(%error, stream = self.name, "the spool takes no more: what nobody has read yet is dropped");
            spool.drop_below(end);
            spool.reset(std::iter::empty());
            return 1;
        }
        let lost = splice(source.as_fd(), None, &*self.void, None, room, SpliceFlags::NONBLOCK).unwrap_or(0);
        source.taken(lost);
        match &self.spool {
            Some(spool) => spool.count_dropped(lost as u64),
            None => self.dropped += lost as u64,
        }
        lost
    }

    /// Keeps the spool within its bound, and gives back what everybody has read.
    fn trim(&mut self, turn: &mut Turn) {
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
            spool.drop_below((end - bound).next_multiple_of(super::spool::UNIT).min(end));
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

fn clear(guard: &mut Option<ReadyGuard<'_>>) {
    if let Some(guard) = guard {
        guard.clear_ready();
    }
}

/// Spool to one socket. `Err` where its peer is gone.
fn feed_one(
    spool: &mut Spool,
    slot: usize,
    reader: &Reader,
    context: &mut Context<'_>,
    turn: &mut Turn,
) -> Result<usize, ()> {
    let mut contradictions = 0;
    while spool.place(slot) < spool.end() {
        let Poll::Ready(room) = reader.socket().poll_write_ready(context) else { return Ok(0) };
        let Ok(mut room) = room else { return Err(()) };
        if reader.peer_closed() {
            return Err(());
        }
        match spool.send(slot, reader.as_fd(), CHUNK) {
            Ok(0) => return Err(()),
            Ok(bytes) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if !reader.writable() => room.clear_ready(),
            Err(Errno::AGAIN) => {
                contradictions += 1;
                if contradictions > 3 {
                    turn.deadline = Some(Instant::now() + CONTRADICTION);
                    return Ok(0);
                }
            }
            Err(_) => return Err(()),
        }
    }
    Ok(0)
}
