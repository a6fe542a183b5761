//! What every part of the controller holds: the state, the ledger, the node, the queue.
//!
//! [`Shared::edit`] is the one way to change a container's record: one change at a time, first in
//! the ledger, then in memory; where the ledger refuses, memory is as it was.

use crate::addresses::Pools;
use crate::counts::QueueCounts;
use crate::error::Error;
use crate::ledger::{Change, Durable, Ledger, LedgerError};
use crate::options::{Node, Options};
use crate::ports::{NodeError, NodeErrorKind};
use crate::queue::{Queue, Verdict};
use crate::record::{ContainerRecord, ContainerUid, SandboxId, SandboxKind};
use crate::state::{Arguments, Container, State};
use crate::timers::Timer;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// What the reconciler looks at, one worker each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A container, wanted or not.
    Container(ContainerUid),
    /// A place that nobody needs any more.
    Discarded(SandboxId),
    /// What a container without a record left on the host.
    Layers(ContainerUid),
    /// The blank places of a kind.
    Pool(SandboxKind),
}

/// How much may go on at once.
pub struct Limits {
    pub makes: Arc<Semaphore>,
    pub furnishings: Semaphore,
    pub removals: Semaphore,
    pub labels: Semaphore,
}

/// All of it.
pub struct Shared {
    pub options: Options,
    pub node: Node,
    pub ledger: Ledger,
    pub limits: Limits,
    state: Mutex<State>,
    queue: Mutex<Queue<Key>>,
    pub queue_changed: Notify,
    pub timers_changed: Notify,
    pub sweep_soon: Notify,
    /// The node's network may not be what it shall be.
    pub network_soon: Notify,
    /// Requests that run, and whether new ones are refused.
    pub gate: Gate,
    /// Held while a drain begins or ends.
    pub draining: tokio::sync::Mutex<()>,
    /// True once everything shall end.
    pub stopped: watch::Sender<bool>,
    /// How often the loop came round.
    pub rounds: watch::Sender<u64>,
    pub began: Instant,
}

impl Shared {
    pub fn new(options: Options, node: Node, ledger: Ledger) -> Arc<Self> {
        let at_least_one = |n: usize| n.clamp(1, Semaphore::MAX_PERMITS);
        let limits = Limits {
            makes: Arc::new(Semaphore::new(at_least_one(options.makes_at_once))),
            furnishings: Semaphore::new(at_least_one(options.furnishings_at_once)),
            removals: Semaphore::new(at_least_one(options.removals_at_once)),
            labels: Semaphore::new(2),
        };
        let state = State { pools: options.network.as_ref().map(Pools::new), ..State::default() };
        Arc::new(Self {
            options,
            node,
            ledger,
            limits,
            state: Mutex::new(state),
            queue: Mutex::default(),
            queue_changed: Notify::new(),
            timers_changed: Notify::new(),
            sweep_soon: Notify::new(),
            network_soon: Notify::new(),
            gate: Gate::default(),
            draining: tokio::sync::Mutex::default(),
            stopped: watch::Sender::new(false),
            rounds: watch::Sender::new(0),
            began: Instant::now(),
        })
    }

    /// The state. Never held across an await, and nothing with a `Drop` that locks is dropped
    /// under it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Key>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is news for this key.
    pub fn wake(&self, key: Key) {
        self.queue().wake(key);
        self.queue_changed.notify_one();
    }

    /// A look at this key would do no harm.
    pub fn nudge(&self, key: Key) {
        self.queue().nudge(key);
        self.queue_changed.notify_one();
    }

    pub fn take_key(&self) -> Option<Key> {
        self.queue().take(Instant::now())
    }

    pub fn queue_counts(&self) -> QueueCounts {
        self.queue().counts()
    }

    pub fn next_key_due(&self) -> Option<Instant> {
        self.queue().next_due()
    }

    pub fn finish_key(&self, key: &Key, verdict: Verdict) {
        // Without chance the delays are only less spread.
        let chance = getrandom::u32().map_or(0.5, |word| f64::from(word) / f64::from(u32::MAX));
        self.queue().finish(key, verdict, Instant::now(), chance);
        self.queue_changed.notify_one();
    }

    /// Whether arguments of processes are kept in memory.
    pub fn arguments(&self) -> Arguments {
        if self.options.keep_arguments { Arguments::Keep } else { Arguments::Drop }
    }

    /// Adds a timer to a state that is held.
    pub fn add_timer(&self, state: &mut State, at: Instant, timer: Timer) {
        if state.timers.add(at, timer) {
            self.timers_changed.notify_one();
        }
    }

    /// Changes a container's record by `change`, which may be called twice, together with other
    /// rows. Goes on to the end also when nobody waits for it any more.
    pub async fn edit(
        self: &Arc<Self>,
        uid: &ContainerUid,
        durable: Durable,
        beside: Vec<Change>,
        change: impl Fn(&mut ContainerRecord) + Send + 'static,
    ) -> Result<(), Error> {
        let (shared, uid) = (Arc::clone(self), uid.clone());
        let Some(lock) = shared.state().containers.get(&uid).map(|container| Arc::clone(&container.edit)) else {
            return Err(Error::ContainerNotFound(uid.to_string()));
        };
        let lock = lock.lock_owned().await;
        let edit = async move {
            let _one_at_a_time = lock;
            let mut record = {
                let state = shared.state();
                let container = state.containers.get(&uid);
                container.ok_or_else(|| Error::ContainerNotFound(uid.to_string()))?.record.clone()
            };
            change(&mut record);
            let mut changes = vec![Change::UpdateContainer(Box::new(record))];
            changes.extend(beside);
            shared.ledger.commit(changes, durable).await?;
            if let Some(container) = shared.state().containers.get_mut(&uid) {
                change(&mut container.record);
                container.changed.send_replace(());
            }
            shared.state().followers.changed(&uid);
            Ok(())
        };
        let task = tokio::spawn(edit.in_current_span());
        task.await.unwrap_or_else(|error| Err(Error::Ledger(error.to_string())))
    }

    /// What the loop does for this container from now on, it does for the request at hand: until the
    /// answer is dropped, its spans and events are that one's.
    pub fn ask_for(self: &Arc<Self>, uid: &ContainerUid) -> AskedFor {
        let span = Span::current();
        if let Some(container) = self.state().containers.get_mut(uid) {
            container.request = span.clone();
        }
        AskedFor { shared: Arc::clone(self), uid: uid.clone(), span }
    }

    /// Waits until `look` has an answer; `None` once the container is gone from memory.
    pub async fn watch<T>(&self, uid: &ContainerUid, mut look: impl FnMut(&Container) -> Option<T>) -> Option<T> {
        let mut changed = self.state().containers.get(uid)?.changed.subscribe();
        loop {
            if let Some(answer) = look(self.state().containers.get(uid)?) {
                return Some(answer);
            }
            changed.changed().await.ok()?;
        }
    }

    /// Notes whether containerd answers, as far as this result tells.
    pub fn heard<T>(&self, result: &Result<T, NodeError>) {
        let mut state = self.state();
        match result {
            Ok(_) if state.unavailable.is_none() => {}
            Ok(_) => {
                state.unavailable = None;
                state.followers.node_changed();
            }
            Err(error) if error.kind == NodeErrorKind::Unavailable => {
                if state.unavailable.is_none() {
                    tracing::warn!(%error, "a part of the node does not answer");
                    self.sweep_soon.notify_one();
                    state.followers.node_changed();
                }
                state.unavailable = Some(error.clone());
            }
            Err(_) => {}
        }
    }

    /// Runs something until it ends or everything shall.
    pub fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let mut stopped = self.stopped.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Cancel-safe: nothing is lost when it is not polled again.
                _ = stopped.wait_for(|stopped| *stopped) => {}
                // Cancelled only when gardend ends, as a crash at that instant would.
                () = work => {}
            }
        });
    }
}

/// See [`Shared::ask_for`].
#[must_use = "what is done is the request's until this is dropped"]
pub struct AskedFor {
    shared: Arc<Shared>,
    uid: ContainerUid,
    span: Span,
}

impl Drop for AskedFor {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let container = state.containers.get_mut(&self.uid);
        // Somebody else may have asked meanwhile.
        let ours = container.filter(|container| container.request.id() == self.span.id());
        let released = ours.map(|container| std::mem::replace(&mut container.request, Span::none()));
        drop(state);
        // A span may end with it, and whoever is told of that is not ours.
        drop(released);
    }
}

impl From<LedgerError> for Error {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.to_string())
    }
}

/// Lets requests in, until it is closed.
#[derive(Default)]
pub struct Gate {
    inside: watch::Sender<(usize, bool)>,
}

impl Gate {
    /// A pass for one request, held while it runs.
    pub fn enter(&self) -> Result<Pass<'_>, Error> {
        let entered = self.inside.send_if_modified(|(inside, closed)| {
            *inside += usize::from(!*closed);
            !*closed
        });
        if entered { Ok(Pass { gate: self }) } else { Err(Error::ShuttingDown) }
    }

    /// Lets nobody in any more, and waits until nobody is inside.
    pub async fn close(&self) {
        self.inside.send_modify(|(_, closed)| *closed = true);
        let mut inside = self.inside.subscribe();
        // It cannot fail: the sender is here.
        let _ = inside.wait_for(|(inside, _)| *inside == 0).await;
    }
}

/// See [`Gate::enter`].
pub struct Pass<'a> {
    gate: &'a Gate,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.inside.send_modify(|(inside, _)| *inside -= 1);
    }
}
