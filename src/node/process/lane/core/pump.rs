//! Where bytes go in a turn: from the spool to each reader, from the pipe to the spool or to the one
//! reader that has everything else.

use super::{Core, Place, Turn};
use crate::node::process::lane::reader::Reader;
use crate::node::process::lane::source::{ReadyGuard, Source};
use crate::node::process::lane::spool::Spool;
use gardend_controller::ports::ReaderId;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// What one call moves at most: a turn must not keep a worker or the lane's lock for long.
const CHUNK: usize = 1 << 20;
/// How long to wait where the kernel says both "would block" and "ready".
const CONTRADICTION: Duration = Duration::from_millis(1);

/// What the pump is to do now.
enum Course {
    /// Wait: for readers to catch up, or to come.
    Wait,
    /// Into this reader's socket.
    Direct(ReaderId),
    /// Into the spool, up to so many bytes.
    Spool(usize),
}

impl Core {
    /// Feeds every reader from the spool.
    pub(super) fn feed(&mut self, context: &mut Context<'_>, turn: &mut Turn) -> usize {
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
    pub(super) fn pump(&mut self, context: &mut Context<'_>, turn: &mut Turn) -> usize {
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
            if others.is_empty() {
                return 0;
            }
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
        if !self.spool_failed {
            self.spool_failed = true;
            tracing::error!(%error, stream = self.name, "the spool takes no more: output that nobody reads is lost (is the run folder full?)");
        }
        let lost = splice(source.as_fd(), None, &*self.void, None, room, SpliceFlags::NONBLOCK).unwrap_or(0);
        source.taken(lost);
        match &self.spool {
            Some(spool) => spool.count_dropped(lost as u64),
            None => self.dropped += lost as u64,
        }
        lost
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
