//! Clients' holds on processes, and what flows through them.
//!
//! A stream id names a [`Slot`](crate::state::Slot): a place in both outputs. It outlives its
//! attachment for [`Options::stream_linger`](crate::Options::stream_linger), but gives way to the
//! next client that comes, so that this one gets what was not read; when it is fetched after that,
//! it takes a new place.

use crate::error::Error;
use crate::grace::Busy;
use crate::ports::{OutputStream, ReaderId, Signal};
use crate::record::{ProcessId, ProcessUid, WindowSize};
use crate::service::Outcome;
use crate::shared::Shared;
use crate::state::{Process, Slot, State};
use crate::timers::Timer;
use crate::{places, processes};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// One client's hold on a process. Dropping it detaches: the process goes on, its stdin is closed
/// after [`Options::detach_grace`](crate::Options::detach_grace) unless somebody attaches
/// meanwhile, and its stream id can be fetched for
/// [`Options::stream_linger`](crate::Options::stream_linger) more.
pub struct Attachment {
    shared: Arc<Shared>,
    busy: Busy,
    uid: ProcessUid,
    id: ProcessId,
    stream_id: String,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Attachment {
    /// Takes hold of a process whose record is there.
    pub(crate) fn open(shared: &Arc<Shared>, busy: Busy, uid: ProcessUid, id: ProcessId) -> Result<Self, Error> {
        let outcome = {
            let mut state = shared.state();
            let process = state.processes.get_mut(&uid).ok_or_else(|| Error::ProcessNotFound(id.to_string()))?;
            process.attached += 1;
            process.attaches += 1;
            process.outcome.subscribe()
        };
        let reader = take_place(shared, &uid);
        let stream_id = ProcessUid::generate().to_string();
        if let Some(process) = shared.state().processes.get_mut(&uid) {
            process.streams.insert(stream_id.clone(), Slot { reader, held: true, ..Slot::default() });
        }
        Ok(Self { shared: Arc::clone(shared), busy, uid, id, stream_id, outcome })
    }

    /// The process's id.
    pub fn process_id(&self) -> &ProcessId {
        &self.id
    }

    /// What the client names when it fetches stdout and stderr. Safe in a URL.
    pub fn stream_id(&self) -> &str {
        &self.stream_id
    }

    /// Waits until the process has ended and that is in the ledger, or can never be known. Can be
    /// called again, and concurrently with everything else.
    pub async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        let told = match outcome.wait_for(Option::is_some).await {
            Ok(told) => told.clone(),
            Err(_) => None,
        };
        processes::seen(&self.shared, &self.uid);
        told.unwrap_or_else(|| Outcome::Failed("the container is gone".into()))
    }

    /// Writes to stdin; waits while the pipe is full. After its end: discarded.
    pub async fn write_stdin(&self, data: &[u8]) {
        self.shared.node.streams.write_stdin(&self.uid, data).await;
    }

    /// Ends stdin (a pipe's; a terminal's stays open).
    pub async fn close_stdin(&self) {
        self.shared.node.streams.close_stdin(&self.uid).await;
    }

    /// Gives the terminal a new size.
    pub async fn resize(&self, size: WindowSize) {
        self.shared.node.streams.resize(&self.uid, size).await;
    }

    /// Signals the process. One that has ended is no error.
    ///
    /// # Errors
    /// [`Error::Node`] where its init does not answer.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        let sandbox = {
            let state = self.shared.state();
            if !state.processes.get(&self.uid).is_some_and(Process::alive) {
                return Ok(());
            }
            state.containers.get(self.busy.uid()).and_then(|container| container.record.sandbox.clone())
        };
        let Some(sandbox) = sandbox else { return Ok(()) };
        let signalled = self.shared.node.processes.signal(&sandbox, &self.uid, signal).await;
        if let Err(error) = &signalled
            && error.kind == crate::ports::NodeErrorKind::NotFound
        {
            places::init_gone(&self.shared, &sandbox, &error.message);
        }
        Ok(signalled?)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let now = Instant::now();
        let Some(process) = state.processes.get_mut(&self.uid) else { return };
        process.attached = process.attached.saturating_sub(1);
        let stdin = close_stdin_later(process);
        let done = process.streams.get_mut(&self.stream_id).is_none_or(|slot| {
            slot.held = false;
            slot.flowing == 0 && slot.finished == [true; 2]
        });
        if let Some(timer) = stdin {
            self.shared.add_timer(&mut state, now + self.shared.options.detach_grace, timer);
        }
        if done {
            drop(state);
            close_slot(&self.shared, &self.uid, &self.stream_id);
        } else {
            let timer = Timer::Stream(self.uid.clone(), self.stream_id.clone());
            self.shared.add_timer(&mut state, now + self.shared.options.stream_linger, timer);
        }
    }
}

/// The timer that ends the stdin of a process that nobody holds, where that shall be.
pub fn close_stdin_later(process: &Process) -> Option<Timer> {
    let left_alone = process.attached == 0 && process.alive() && process.record.spec.tty.is_none();
    left_alone.then(|| Timer::Stdin(process.record.uid.clone(), process.attaches))
}

/// Nobody may have come to a process since it was left alone.
pub fn stdin_is_due(shared: &Arc<Shared>, uid: &ProcessUid, attaches: u64) {
    let state = shared.state();
    let still = state
        .processes
        .get(uid)
        .is_some_and(|process| process.attached == 0 && process.attaches == attaches && process.alive());
    drop(state);
    if still {
        let (shared_, uid) = (Arc::clone(shared), uid.clone());
        shared.spawn(async move { shared_.node.streams.close_stdin(&uid).await });
    }
}

/// A stream id's time is over, unless somebody uses it.
pub fn stream_is_due(shared: &Shared, uid: &ProcessUid, stream_id: &str) {
    let mut state = shared.state();
    let Some(slot) = slot(&mut state, uid, stream_id) else { return };
    if slot.flowing > 0 {
        let timer = Timer::Stream(uid.clone(), stream_id.to_owned());
        shared.add_timer(&mut state, Instant::now() + shared.options.stream_linger, timer);
        return;
    }
    drop(state);
    close_slot(shared, uid, stream_id);
}

fn slot<'a>(state: &'a mut State, uid: &ProcessUid, stream_id: &str) -> Option<&'a mut Slot> {
    state.processes.get_mut(uid)?.streams.get_mut(stream_id)
}

/// A place in a process's outputs, for which those that only linger give way.
fn take_place(shared: &Shared, uid: &ProcessUid) -> Option<ReaderId> {
    let lingering: Vec<ReaderId> = {
        let mut state = shared.state();
        let slots = state.processes.get_mut(uid)?.streams.values_mut();
        let lingering = slots.filter(|slot| !slot.held && slot.flowing == 0);
        lingering.filter_map(|slot| slot.reader.take()).collect()
    };
    for reader in lingering {
        shared.node.streams.detach(uid, reader);
    }
    shared.node.streams.attach(uid)
}

fn close_slot(shared: &Shared, uid: &ProcessUid, stream_id: &str) {
    let removed = shared.state().processes.get_mut(uid).and_then(|process| process.streams.remove(stream_id));
    if let Some(reader) = removed.and_then(|slot| slot.reader) {
        shared.node.streams.detach(uid, reader);
    }
}

/// One output of an attachment, ready to flow.
pub struct Output {
    flow: Option<Flow>,
}

/// An output that has a stream id to flow for. Dropping it says that it has ended.
struct Flow {
    shared: Arc<Shared>,
    _busy: Busy,
    uid: ProcessUid,
    stream_id: String,
    stream: OutputStream,
}

impl Output {
    /// Looks the stream id up; one that is not known gives an output that closes at once.
    pub(crate) fn open(shared: &Arc<Shared>, busy: Busy, uid: ProcessUid, id: &str, stream: OutputStream) -> Self {
        let mut state = shared.state();
        let known = slot(&mut state, &uid, id).map(|slot| slot.flowing += 1).is_some();
        drop(state);
        let flow = || Flow { shared: Arc::clone(shared), _busy: busy, uid, stream_id: id.to_owned(), stream };
        Self { flow: known.then(flow) }
    }

    /// Moves the output into a connected non-blocking socket until the end of either, then closes
    /// the socket with FIN.
    pub async fn send_to(self, socket: OwnedFd) {
        let Some(flow) = self.flow else { return };
        let streams = &flow.shared.node.streams;
        if let Some(reader) = flow.reader() {
            streams.read(&flow.uid, reader, flow.stream, socket).await;
            flow.finished();
        }
    }
}

impl Flow {
    /// Its place in the output; a new one where the old one gave way.
    fn reader(&self) -> Option<ReaderId> {
        if let Some(reader) = slot(&mut self.shared.state(), &self.uid, &self.stream_id)?.reader {
            return Some(reader);
        }
        let taken = take_place(&self.shared, &self.uid)?;
        let mut state = self.shared.state();
        let slot = slot(&mut state, &self.uid, &self.stream_id);
        match slot.map(|slot| *slot.reader.get_or_insert(taken)) {
            Some(reader) if reader == taken => Some(taken),
            // The other output took one meanwhile, or the process is gone.
            other => {
                drop(state);
                self.shared.node.streams.detach(&self.uid, taken);
                other
            }
        }
    }

    fn finished(&self) {
        if let Some(slot) = slot(&mut self.shared.state(), &self.uid, &self.stream_id) {
            slot.finished[usize::from(self.stream == OutputStream::Stderr)] = true;
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(slot) = slot(&mut state, &self.uid, &self.stream_id) else { return };
        slot.flowing -= 1;
        let done = !slot.held && slot.flowing == 0 && slot.finished == [true; 2];
        drop(state);
        if done {
            close_slot(&self.shared, &self.uid, &self.stream_id);
        }
    }
}
