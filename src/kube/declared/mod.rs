//! Containers that are declared by objects, in one namespace.
//!
//! ```text
//!   watch of the node's objects ─┐
//!   news of the controller ──────┼─▶ look: step? ──▶ work, one at a time for an object ──▶ controller
//!   work that is done ───────────┘        status? ──▶ one write (nothing, where it is the same)
//! ```
//! Owns the finalizer and the status of objects that are not a mirror's; compares the objects with
//! what the controller has recorded of them. A look reads what is true at that moment.
//!
//! Promises: nothing is destroyed for an object that was not heard of, unless the API server has
//! told of all that there are; while it is away what runs goes on, and is kept by the controller;
//! what was declared and could not be is tried again; no value of a secret is in a status, an event
//! or a log. Leaves to others: who may declare what (admission), and objects of nodes that are gone.

mod problem;
mod secrets;
mod status;
mod step;
mod wanted;
mod work;

use super::backoff::{about, backoff, part_of};
use super::client::{Place, Trouble};
use super::events::{Announcement, Announcer};
use super::gauges::{Gauges, count};
use super::mirror::{Budget, FAR_OFF, Heard, Watch, refusal};
use super::options::Options;
use gardend_controller::record::ContainerUid;
use gardend_controller::{Controller, Follower, Incident, News};
use gardend_crds::{GardenContainer, declared_selector};
use kube::{Api, ResourceExt};
use problem::{Failure, Problem};
use status::{Standing, status};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use step::{Step, step};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wanted::generation;
use work::Worker;

/// How soon what the node refused is tried again once something of the node has changed.
const NODE_CHANGED: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Declarer {
    namespace: String,
    options: Options,
    controller: Controller,
    follower: Follower,
    watch: Watch,
    announcer: Announcer,
    gauges: Arc<Gauges>,
    budget: Budget,
    worker: Worker,
    working: JoinSet<Done>,
    entries: HashMap<String, Entry>,
    names: HashMap<ContainerUid, String>,
    /// The API server has told of all that there are: before that, all would seem to be gone.
    listed: bool,
    failures: u32,
    resume_at: Instant,
    resync_at: Instant,
}

/// An object, or what is left of one.
struct Entry {
    object: Option<GardenContainer>,
    /// When it is looked at next.
    due: Option<Instant>,
    works: bool,
    /// Why the last work came to nothing, how often in a row, and when it is tried again.
    problem: Option<Problem>,
    failures: u32,
    try_at: Instant,
    /// When its status may be written next.
    write_at: Instant,
    refusals: u32,
}

/// Work that has ended.
struct Done {
    name: String,
    /// Of the object that it was done for.
    generation: Option<i64>,
    result: Result<Option<GardenContainer>, Failure>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            object: None,
            due: Some(now),
            works: false,
            problem: None,
            failures: 0,
            try_at: now,
            write_at: now,
            refusals: 0,
        }
    }

    fn look_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Takes what is not older than what is known. Another version is another chance.
    fn take(&mut self, object: GardenContainer, now: Instant) {
        let known = self.object.as_ref();
        if known.is_some_and(|known| known.uid() == object.uid() && version(known) > version(&object)) {
            return;
        }
        let version_that_counts = |object: &GardenContainer| {
            (object.uid(), object.metadata.generation, object.metadata.deletion_timestamp.is_some())
        };
        if known.map(version_that_counts) != Some(version_that_counts(&object)) {
            self.forgive(now);
        }
        self.object = Some(object);
        self.look_at(now);
    }

    fn forgive(&mut self, now: Instant) {
        self.problem = None;
        self.failures = 0;
        self.try_at = now;
    }
}

/// Versions of one kind are numbers that grow; 0 where it does not say.
fn version(object: &GardenContainer) -> u64 {
    object.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Declarer {
    /// For one namespace of this place's cluster.
    pub(super) fn new(
        place: &Place,
        namespace: String,
        options: Options,
        controller: Controller,
        gauges: Arc<Gauges>,
        announcer: Announcer,
        budget: Budget,
    ) -> Self {
        let now = Instant::now();
        let api = Api::namespaced(place.client.clone(), &namespace);
        let worker = Worker::new(place.client.clone(), &namespace, controller.clone(), budget.clone(), options.clone());
        Self {
            namespace,
            follower: controller.follow(),
            watch: Watch::new(api, place.node.as_str()).labelled(&declared_selector()),
            announcer,
            gauges,
            budget,
            worker,
            working: JoinSet::new(),
            entries: HashMap::new(),
            names: HashMap::new(),
            listed: false,
            failures: 0,
            resume_at: now,
            resync_at: now + about(options.resync),
            options,
            controller,
        }
    }

    pub(super) async fn run(mut self) {
        self.watch.begin_at(Instant::now() + part_of(self.options.start_jitter));
        loop {
            let due = self.entries.values().filter_map(|entry| entry.due).min().filter(|_| self.listed);
            let next = due.unwrap_or_else(|| Instant::now() + FAR_OFF);
            tokio::select! {
                // Cancel-safe: what was not taken is kept.
                news = self.follower.news() => self.take_news(news),
                // Cancel-safe: what was heard in part is kept.
                heard = self.watch.next() => self.hear(heard),
                // Cancel-safe, likewise.
                Some(done) = self.working.join_next() => {
                    if let Ok(done) = done {
                        self.take_done(done);
                    }
                }
                // Cancel-safe: it is computed anew each time.
                () = sleep_until(next) => self.look_at_due().await,
                // Cancel-safe, likewise.
                () = sleep_until(self.resync_at) => {
                    self.resync_at = Instant::now() + about(self.options.resync);
                    self.watch.begin_at(Instant::now());
                }
            }
        }
    }

    fn take_news(&mut self, news: News) {
        let now = Instant::now();
        for uid in news.containers {
            let declared = self.controller.view(&uid).and_then(|view| view.declared);
            let name = match declared {
                Some(declared) if declared.by.namespace == self.namespace => {
                    self.names.insert(uid, declared.by.name.clone());
                    Some(declared.by.name)
                }
                Some(_) => None,
                None => self.names.remove(&uid),
            };
            if let Some(entry) = name.and_then(|name| self.entries.get_mut(&name)) {
                entry.look_at(now);
            }
        }
        if news.node {
            let refused = |entry: &&mut Entry| entry.problem.as_ref().is_some_and(Problem::is_the_nodes);
            for entry in self.entries.values_mut().filter(refused) {
                entry.try_at = entry.try_at.min(now + NODE_CHANGED);
                entry.look_at(entry.try_at);
            }
        }
        news.incidents.iter().for_each(|incident| self.announce(incident));
    }

    fn announce(&self, incident: &Incident) {
        let Some(by) = incident.declared_by.as_ref().filter(|by| by.namespace == self.namespace) else { return };
        self.announcer.say(Announcement {
            namespace: Some(by.namespace.clone()),
            name: by.name.clone(),
            uid: Some(by.uid.clone()),
            incident: incident.clone(),
        });
    }

    fn hear(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Listed(objects) => {
                self.listed = true;
                self.failures = 0;
                let listed: HashSet<String> = objects.iter().map(ResourceExt::name_any).collect();
                objects.into_iter().for_each(|object| self.entry(object.name_any(), now).take(object, now));
                let gone = self.entries.iter_mut().filter(|(name, _)| !listed.contains(*name));
                gone.for_each(|(_, entry)| entry.object = None);
                for one in self.controller.declared() {
                    let by = one.declaration.by;
                    if by.namespace == self.namespace {
                        self.names.insert(one.uid, by.name.clone());
                        self.entry(by.name, now);
                    }
                }
                self.entries.values_mut().for_each(|entry| entry.look_at(now));
            }
            Heard::Changed(object) => self.entry(object.name_any(), now).take(*object, now),
            Heard::Deleted(object) => {
                let entry = self.entry(object.name_any(), now);
                if entry.object.as_ref().is_none_or(|known| known.uid() == object.uid()) {
                    entry.object = None;
                    entry.forgive(now);
                    entry.look_at(now);
                }
            }
            Heard::Broken(error) => {
                let wait = self.not_answered(&error.to_string(), None);
                self.watch.begin_at(now + wait);
            }
        }
    }

    fn entry(&mut self, name: String, now: Instant) -> &mut Entry {
        self.entries.entry(name).or_insert_with(|| Entry::new(now))
    }

    fn not_answered(&mut self, why: &str, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        count(&self.gauges.failed);
        if self.failures.is_power_of_two() {
            tracing::warn!(
                why,
                namespace = self.namespace,
                "declared containers cannot be read or told of; they go on"
            );
        }
        let wait = backoff(self.failures).max(asked.unwrap_or_default());
        self.resume_at = Instant::now() + wait;
        wait
    }

    fn take_done(&mut self, done: Done) {
        let now = Instant::now();
        let trouble = match &done.result {
            Err(Failure::Trouble(Trouble::Away { why, retry_after })) => Some(self.not_answered(why, *retry_after)),
            _ => None,
        };
        let Some(entry) = self.entries.get_mut(&done.name) else { return };
        entry.works = false;
        entry.look_at(now);
        // Another version has come meanwhile: this says nothing of it.
        let is_old = entry.object.as_ref().and_then(|object| object.metadata.generation) != done.generation;
        match done.result {
            Ok(object) => {
                entry.forgive(now);
                if let Some(object) = object.filter(|_| entry.object.is_some()) {
                    entry.take(object, now);
                }
            }
            Err(_) if is_old => {}
            Err(Failure::Trouble(said)) => {
                tracing::debug!(object = done.name, %said, "a declared container's object was not written");
                entry.failures = entry.failures.saturating_add(1);
                entry.try_at = now + trouble.unwrap_or_else(|| backoff(entry.failures));
            }
            Err(Failure::Problem(problem)) => {
                entry.failures = entry.failures.saturating_add(1);
                entry.try_at = now + refusal(entry.failures);
                if entry.failures.is_power_of_two() {
                    let (times, reason, why) = (entry.failures, problem.reason, &problem.message);
                    tracing::warn!(
                        object = done.name,
                        namespace = self.namespace,
                        times,
                        reason,
                        why,
                        "a container is not as declared; it is tried again"
                    );
                }
                entry.problem = Some(problem);
            }
        }
    }

    async fn look_at_due(&mut self) {
        let now = Instant::now();
        let due = |(_, entry): &(&String, &Entry)| entry.due.is_some_and(|due| due <= now);
        let names: Vec<String> = self.entries.iter().filter(due).map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.act(name, now);
        }
        for name in &names {
            self.tell(name).await;
        }
    }

    /// Begins the next step for one, where none is under way.
    fn act(&mut self, name: &str, now: Instant) {
        let current = self.controller.declared_as(&self.namespace, name);
        let draining = self.controller.draining();
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.due = None;
        if entry.works {
            return;
        }
        let step = step(entry.object.as_ref(), current.as_ref(), draining);
        match step {
            Step::Rest if entry.object.is_none() => {
                self.entries.remove(name);
                return;
            }
            Step::Rest => {
                entry.forgive(now);
                return;
            }
            Step::Wait => return,
            _ if now < entry.try_at => {
                entry.due = Some(entry.try_at);
                return;
            }
            _ => {}
        }
        entry.works = true;
        // What comes of it soon is told at once.
        entry.write_at = entry.write_at.max(now + self.options.settle);
        let (worker, name, object) = (self.worker.clone(), name.to_owned(), entry.object.clone());
        self.working.spawn(async move {
            let generation = object.as_ref().map(generation);
            let result = worker.work(step, object, current).await;
            Done { name, generation, result }
        });
    }

    /// Writes its status, where it is another than the API server has.
    async fn tell(&mut self, name: &str) {
        let now = Instant::now();
        let may = self.budget.ready_at().max(self.resume_at);
        let current = self.controller.declared_as(&self.namespace, name);
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(object) = &entry.object else { return };
        let current = current.filter(|current| current.declaration.by == wanted::by(object));
        let view = current.and_then(|current| self.controller.view(&current.uid));
        if object.metadata.deletion_timestamp.is_some() && view.is_none() {
            return;
        }
        let standing = entry.problem.as_ref().map_or(Standing::Well, Standing::Problem);
        let wanted = status(object, view.as_ref(), &standing, &self.options);
        if object.status.as_ref() == Some(&wanted) {
            return;
        }
        let write_at = entry.write_at.max(may);
        if now < write_at {
            entry.look_at(write_at);
            return;
        }
        let written = self.worker.write_status(name, &wanted).await;
        let now = Instant::now();
        match written {
            Ok(object) => {
                count(&self.gauges.statuses_written);
                self.failures = 0;
                entry.refusals = 0;
                entry.write_at = now + self.options.settle;
                entry.take(object, now);
            }
            Err(Trouble::Away { why, retry_after }) => {
                entry.look_at(now);
                self.not_answered(&why, retry_after);
            }
            // It is gone, and that will be heard.
            Err(Trouble::NotFound(_)) => entry.write_at = now + refusal(1),
            Err(Trouble::Conflict(why) | Trouble::Refused(why)) => {
                count(&self.gauges.refused);
                entry.refusals = entry.refusals.saturating_add(1);
                if entry.refusals.is_power_of_two() {
                    tracing::warn!(
                        object = name,
                        times = entry.refusals,
                        why,
                        "a declared container's status is refused"
                    );
                }
                entry.write_at = now + refusal(entry.refusals);
                entry.look_at(entry.write_at);
            }
        }
    }
}
