//! Events of the cluster: what happened to a container and cannot be read of its object.
//!
//! Each kind is told of a container a few times in a while, and of all together some a second at
//! most; what is more is counted and left out. The same words again are one event that counts.

use super::client::{FIELD_MANAGER, Place, ask};
use super::gauges::{Gauges, count};
use super::mirror::Bucket;
use gardend_controller::record::ContainerUid;
use gardend_controller::{Incident, IncidentKind};
use gardend_crds::GardenContainer;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Announcements that wait at most.
const WAITING: usize = 256;
/// Of one kind, of one container, in this time.
const TIMES: usize = 3;
const WHILE: Duration = Duration::from_secs(300);
/// The longest words that the API server takes.
const LONGEST_NOTE: usize = 1000;

/// Something to tell, of the object that stands for its container.
pub(super) struct Announcement {
    /// Where the object is; where those of containers are, if left out.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// Its uid, where it is known to be there: `kubectl describe` finds events by it.
    pub uid: Option<String>,
    /// What happened.
    pub incident: Incident,
}

/// Takes announcements; nobody waits for it. All clones are one, and with the last of them it ends.
#[derive(Clone)]
pub(super) struct Announcer {
    queue: mpsc::Sender<Announcement>,
    gauges: Arc<Gauges>,
    _task: Arc<JoinSet<()>>,
}

impl Announcer {
    pub(super) fn start(place: &Place, gauges: Arc<Gauges>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let reporter = Reporter { controller: "gardend.dev/gardend".into(), instance: Some(place.node.to_string()) };
        let recorder = Recorder::new(place.client.clone(), reporter);
        let mut task = JoinSet::new();
        task.spawn(publish_all(recorder, place.namespace.clone(), waiting, Arc::clone(&gauges)));
        Self { queue, gauges, _task: Arc::new(task) }
    }

    pub(super) fn say(&self, announcement: Announcement) {
        if self.queue.try_send(announcement).is_err() {
            count(&self.gauges.events_dropped);
        }
    }
}

async fn publish_all(
    recorder: Recorder,
    namespace: String,
    mut waiting: mpsc::Receiver<Announcement>,
    gauges: Arc<Gauges>,
) {
    let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let mut bucket = Bucket::new(number(1), number(20), Instant::now());
    let mut told = Told::default();
    while let Some(announcement) = waiting.recv().await {
        let incident = &announcement.incident;
        let now = Instant::now();
        // In this order: what is told of late is kept for a while, and is bounded by the bucket.
        if bucket.ready_at() > now || !told.once_more(&incident.container, incident.kind, now) {
            count(&gauges.events_dropped);
            continue;
        }
        bucket.take(now);
        let event = event(incident);
        let regarding = ObjectReference {
            api_version: Some(GardenContainer::api_version(&()).into_owned()),
            kind: Some(GardenContainer::kind(&()).into_owned()),
            name: Some(announcement.name),
            namespace: Some(announcement.namespace.unwrap_or_else(|| namespace.clone())),
            uid: announcement.uid,
            ..ObjectReference::default()
        };
        match ask(recorder.publish(&event, &regarding)).await {
            Ok(()) => count(&gauges.events_written),
            Err(trouble) => {
                count(&gauges.events_dropped);
                tracing::debug!(%trouble, manager = FIELD_MANAGER, "an event was not written");
            }
        }
    }
}

fn event(incident: &Incident) -> Event {
    let (reason, action) = match incident.kind {
        IncidentKind::OutOfMemory => ("OutOfMemory", "Running"),
        IncidentKind::Stuck => ("Stuck", "Destroying"),
        IncidentKind::ProcessLost => ("ProcessLost", "Running"),
        IncidentKind::CreateFailed => ("CreateFailed", "Creating"),
        IncidentKind::ProcessRestarted => ("ProcessRestarted", "Restarting"),
    };
    let words = format!("container '{}': {}", incident.handle, incident.message);
    Event {
        type_: EventType::Warning,
        reason: reason.into(),
        note: Some(
            words
                .chars()
                .scan(0, |bytes, c| {
                    *bytes += c.len_utf8();
                    (*bytes <= LONGEST_NOTE).then_some(c)
                })
                .collect(),
        ),
        action: action.into(),
        secondary: None,
    }
}

/// What was told of late.
#[derive(Default)]
struct Told {
    times: HashMap<(ContainerUid, IncidentKind), Vec<Instant>>,
}

impl Told {
    /// Whether this may be told now; it counts as told then.
    fn once_more(&mut self, container: &ContainerUid, kind: IncidentKind, now: Instant) -> bool {
        let recent = |time: &Instant| now.saturating_duration_since(*time) < WHILE;
        self.times.retain(|_, times| times.iter().any(recent));
        let times = self.times.entry((container.clone(), kind)).or_default();
        times.retain(recent);
        let may = times.len() < TIMES;
        if may {
            times.push(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::record::Handle;

    #[test]
    fn a_kind_is_told_of_a_container_a_few_times_in_a_while() {
        let (mut told, now) = (Told::default(), Instant::now());
        let (one, other) = (ContainerUid::generate(), ContainerUid::generate());
        let times = (0..10).filter(|_| told.once_more(&one, IncidentKind::OutOfMemory, now)).count();
        assert_eq!(times, TIMES);
        assert!(told.once_more(&one, IncidentKind::Stuck, now));
        assert!(told.once_more(&other, IncidentKind::OutOfMemory, now));
        assert!(told.once_more(&one, IncidentKind::OutOfMemory, now + WHILE));
        assert_eq!(told.times.len(), 1);
    }

    #[test]
    fn words_are_cut_to_what_an_event_may_hold() {
        let incident = Incident {
            container: ContainerUid::generate(),
            declared_by: None,
            handle: Handle::new("h").unwrap(),
            kind: IncidentKind::CreateFailed,
            message: "ä".repeat(5000),
            at: std::time::SystemTime::now(),
        };
        let event = event(&incident);
        assert_eq!(event.reason, "CreateFailed");
        let note = event.note.unwrap();
        assert!(note.starts_with("container 'h': ä") && note.len() <= LONGEST_NOTE);
    }
}
