//! The loop: takes keys off the queue, does what [`crate::plan`] says, until each rests.
//!
//! Promises: one worker a key; a step that fails is tried again with backoff, and a create whose
//! step cannot succeed fails, with the stage and the cause; the loop itself never ends by an error.
//! A worker that panics counts as failed.
//!
//! Leaves to others: what is decided (`plan`), places that are nobody's (`places`), processes
//! (`processes`), what nobody woke (`sweeper`).

mod gone;
mod ready;
mod stop;

use crate::declared;
use crate::observe::Observation;
use crate::places;
use crate::plan::{Observed, Step, Wanted, next_step};
use crate::queue::Verdict;
use crate::record::{ContainerSpec, ContainerUid, Handle, SandboxId};
use crate::shared::{Key, Shared};
use crate::state::Container;
pub use ready::give_back;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// Steps in a row for one key, before others get their turn.
const MAX_STEPS: usize = 32;

/// Takes keys until the end.
pub async fn run(shared: Arc<Shared>) {
    loop {
        while let Some(key) = shared.take_key() {
            let worker = Worker { shared: Arc::clone(&shared), key, verdict: Verdict::Failed };
            shared.spawn(worker.work());
        }
        shared.rounds.send_modify(|rounds| *rounds += 1);
        let due = shared.next_key_due();
        tokio::select! {
            // Cancel-safe: a notification that comes meanwhile is kept.
            () = shared.queue_changed.notified() => {}
            // Cancel-safe: it is computed anew each time.
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// One look at one key. The queue is told how it ended however it ends.
struct Worker {
    shared: Arc<Shared>,
    key: Key,
    verdict: Verdict,
}

impl Worker {
    async fn work(mut self) {
        let began = Instant::now();
        self.verdict = match &self.key {
            Key::Container(uid) => container(&self.shared, uid).await,
            Key::Discarded(id) => places::remove(&self.shared, id).await,
            Key::Layers(uid) => places::release_layers(&self.shared, uid).await,
            Key::Pool(kind) => places::refill(&self.shared, *kind).await,
        };
        let (subject, failed) = ((&self.key).into(), self.verdict == Verdict::Failed);
        self.shared.options.observing.tell(Observation::Pass { subject, failed, took: began.elapsed() });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.finish_key(&self.key, self.verdict);
    }
}

/// What a step came to.
enum Done {
    /// Look again.
    Next,
    /// As far as it goes for now.
    Verdict(Verdict),
}

/// A container as a step needs it.
struct Subject {
    uid: ContainerUid,
    handle: Handle,
    spec: Arc<ContainerSpec>,
    sandbox: Option<SandboxId>,
    /// Its create was answered.
    answered: bool,
    wanted: Wanted,
    /// The request that waits for it.
    request: Span,
}

async fn container(shared: &Arc<Shared>, uid: &ContainerUid) -> Verdict {
    for _ in 0..MAX_STEPS {
        let Some((subject, observed)) = look(shared, uid) else { return Verdict::Rest };
        let step = next_step(subject.wanted, &observed);
        let began = Instant::now();
        let done = take(shared, &subject, step).instrument(span(&subject, step)).await;
        if !matches!(step, Step::Rest | Step::Wait) {
            let failed = matches!(done, Done::Verdict(_));
            shared.options.observing.tell(Observation::Step { step, failed, took: began.elapsed() });
        }
        match done {
            Done::Next => {}
            Done::Verdict(verdict) => return verdict,
        }
    }
    Verdict::After(Duration::ZERO)
}

fn look(shared: &Shared, uid: &ContainerUid) -> Option<(Subject, Observed)> {
    let state = shared.state();
    let container = state.containers.get(uid)?;
    let subject = Subject {
        uid: uid.clone(),
        handle: container.record.handle.clone(),
        spec: Arc::new(container.record.spec.clone()),
        sandbox: container.record.sandbox.clone(),
        answered: container.record.answered,
        wanted: container.wanted(),
        request: container.request.clone(),
    };
    Some((subject, container.observed(Instant::now(), shared.options.stop_grace)))
}

/// Of a step that a request waits for, within that of the request.
fn span(subject: &Subject, step: Step) -> Span {
    if subject.request.is_none() || matches!(step, Step::Rest | Step::Wait) {
        return Span::none();
    }
    tracing::info_span!(parent: &subject.request, "step", otel.name = step.name(), handle = %subject.handle, uid = %subject.uid)
}

async fn take(shared: &Arc<Shared>, subject: &Subject, step: Step) -> Done {
    tracing::debug!(handle = %subject.handle, uid = %subject.uid, ?step, "next step");
    match step {
        Step::Rest => Done::Verdict(declared::keep(shared, &subject.uid).await),
        Step::Wait => stop::wait_for_empty(shared, subject),
        Step::TakePlace => ready::take_place(shared, subject).await,
        Step::MakePlace => ready::make_place(shared, subject).await,
        Step::Furnish => ready::furnish(shared, subject).await,
        Step::Connect => ready::connect(shared, subject).await,
        Step::Confirm => ready::confirm(shared, subject).await,
        Step::Signal(mode) => stop::signal(shared, subject, mode).await,
        Step::Look => stop::look_for_processes(shared, subject).await,
        Step::FinishStop => stop::finish_stop(shared, subject).await,
        Step::RecordAbsence => gone::record_absence(shared, subject).await,
        Step::Kill => gone::kill(shared, subject).await,
        Step::ReleaseNetwork => gone::release_network(shared, subject).await,
        Step::Free => gone::free(shared, subject).await,
        Step::Release => gone::release(shared, subject).await,
        Step::Forget => gone::forget(shared, subject).await,
    }
}

/// Changes what is known of the container in memory.
fn know(shared: &Shared, uid: &ContainerUid, change: impl FnOnce(&mut Container)) {
    let mut state = shared.state();
    if let Some(container) = state.containers.get_mut(uid) {
        change(container);
        container.changed.send_replace(());
        state.followers.changed(uid);
    }
}
