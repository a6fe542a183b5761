//! The steps from wherever it is to gone. Killing is a step towards ready too, for a place that
//! is of no further use.

use super::ready::refused_by_ledger;
use super::{Done, Subject, know};
use crate::drain;
use crate::ledger::{Change, Durable};
use crate::news::{Incident, IncidentKind};
use crate::plan::{Place, Wanted};
use crate::ports::{NodeError, NodeErrorKind};
use crate::processes;
use crate::queue::Verdict;
use crate::record::{Desired, Phase, ProcessUid, Stage};
use crate::shared::{Key, Shared};
use crate::state::{Role, add_event};
use std::sync::Arc;
use std::time::SystemTime;

pub(super) async fn record_absence(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let recorded = shared.edit(&subject.uid, Durable::Reboot, Vec::new(), |record| {
        record.desired = Desired::Absent;
        record.generation += 1;
        record.status.phase = Phase::Destroying;
    });
    match recorded.await {
        Ok(()) => Done::Next,
        Err(error) => refused_by_ledger(shared, subject, error),
    }
}

pub(super) async fn kill(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let Some(id) = &subject.sandbox else {
        know(shared, &subject.uid, |container| container.place = Place::Nothing);
        return Done::Next;
    };
    processes::end_all(shared, &subject.uid, subject.wanted);
    if let Err(error) = shared.node.sandboxes.kill(id).await {
        return does_not_go(shared, subject, Stage::Kill, error);
    }
    shared.node.processes.disconnect(id).await;
    let mut state = shared.state();
    if let Some(sandbox) = state.sandboxes.get_mut(id) {
        sandbox.role = Role::Discarded;
    }
    if let Some(container) = state.containers.get_mut(&subject.uid) {
        // Written with the next step; a crash before only kills the dead once more.
        container.place = Place::Nothing;
        container.record.sandbox = None;
        container.record.status.furnished = false;
        container.stuck = None;
        if subject.wanted == Wanted::Present {
            container.record.status.phase = Phase::Creating;
            if let Some(why) = container.why_spoilt.take().filter(|_| subject.answered) {
                add_event(&mut container.record, format!("made again: {why}"));
            }
        }
    }
    state.followers.changed(&subject.uid);
    drop(state);
    shared.wake(Key::Discarded(id.clone()));
    Done::Next
}

/// What must be gone before the handle is given back is not: it is tried for ever.
fn does_not_go(shared: &Shared, subject: &Subject, stage: Stage, error: NodeError) -> Done {
    tracing::warn!(handle = %subject.handle, uid = %subject.uid, %stage, %error, "container does not go; it is tried again");
    let mut stuck = false;
    know(shared, &subject.uid, |container| {
        add_event(&mut container.record, format!("Stuck: {error}"));
        container.record.status.stage = Some(stage);
        container.record.status.failures += 1;
        container.record.status.message = Some(error.message.clone());
        container.last_failure = Some((stage, error.clone()));
        if error.kind == NodeErrorKind::Stuck {
            stuck = container.stuck.is_none();
            container.stuck = Some(error.clone());
        }
    });
    if stuck {
        let state = shared.state();
        state.followers.tell(&Incident {
            container: subject.uid.clone(),
            declared_by: state.declared_by(&subject.uid),
            handle: subject.handle.clone(),
            kind: IncidentKind::Stuck,
            message: format!("{stage} does not succeed, and is tried again: {error}"),
            at: SystemTime::now(),
        });
    }
    Done::Verdict(Verdict::Failed)
}

pub(super) async fn release_network(shared: &Arc<Shared>, subject: &Subject) -> Done {
    if let Err(error) = shared.node.network.release(&subject.uid).await {
        return does_not_go(shared, subject, Stage::ReleaseNetwork, error);
    }
    let mut state = shared.state();
    let Some(container) = state.containers.get_mut(&subject.uid) else { return Done::Verdict(Verdict::Rest) };
    container.networked = false;
    container.stuck = None;
    let freed = container.freed;
    state.followers.changed(&subject.uid);
    if freed {
        // By the start: its record, which nobody was told of, counts for nothing.
        state.give_back_addresses(&subject.uid);
    }
    Done::Next
}

pub(super) async fn free(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let freed = shared.edit(&subject.uid, Durable::Crash, Vec::new(), |record| {
        record.desired = Desired::Absent;
        record.sandbox = None;
        record.addresses = None;
        record.ports_in = Vec::new();
        record.status.phase = Phase::Gone;
    });
    let recorded = freed.await;
    if let Err(error) = &recorded {
        // It is dead; after a restart it is only found dead once more.
        tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "the end was not recorded");
    }
    tracing::info!(handle = %subject.handle, uid = %subject.uid, "container is gone");
    let mut state = shared.state();
    state.free(&subject.uid);
    if recorded.is_ok() {
        // Otherwise they stay its own until its row is gone: after a crash it would claim them.
        state.give_back_addresses(&subject.uid);
    }
    if let Some(container) = state.containers.get(&subject.uid) {
        container.changed.send_replace(());
    }
    Done::Next
}

pub(super) async fn release(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let permit = shared.limits.removals.acquire().await;
    let released = shared.node.rootfs.release(&subject.uid).await;
    drop(permit);
    match released {
        Ok(()) => {
            know(shared, &subject.uid, |container| container.released = true);
            Done::Next
        }
        Err(error) => {
            tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "its files are not released; it is tried again");
            Done::Verdict(Verdict::Failed)
        }
    }
}

pub(super) async fn forget(shared: &Arc<Shared>, subject: &Subject) -> Done {
    let deleted = shared.ledger.commit(vec![Change::DeleteContainer(subject.uid.clone())], Durable::Crash).await;
    if let Err(error) = deleted {
        tracing::warn!(handle = %subject.handle, uid = %subject.uid, %error, "its rows are not deleted; it is tried again");
        return Done::Verdict(Verdict::Failed);
    }
    let processes: Vec<ProcessUid> = shared.state().forget(&subject.uid);
    for process in processes {
        shared.node.streams.forget(&process).await;
    }
    drain::tell(shared);
    Done::Verdict(Verdict::Rest)
}
