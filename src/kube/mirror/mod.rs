//! The mirror: the node's records, shown as objects.
//!
//! ```text
//!   news of the controller ─┐
//!   watch of own objects ───┼─▶ book: what waits for a look ──bucket──▶ look: wanted? seen? ──▶ one write
//!   full comparison ────────┘                                            (nothing, where they are the same)
//! ```
//! One task; it is the only writer of its objects. A look reads what is true at that moment, so that
//! there is nothing to queue but names. A token is there before the look, and is spent by a write.
//!
//! Promises: writes are bounded by the bucket, memory by the containers that there are; a write that
//! would change nothing is not sent; after whatever was lost (news, watch, API server, objects) the
//! next full comparison has it level again. An API server that does not answer is asked with
//! backoff, and nobody else notices. Leaves to others: what may be shown (`shown`), leases.

mod book;
mod bucket;
mod node;
mod watch;
mod write;

use super::backoff::{about, backoff, part_of};
use super::client::{Place, Trouble};
use super::events::{Announcement, Announcer};
use super::gauges::{Gauges, count, set};
use super::names::container_object;
use super::options::{Detail, Options};
use super::shown::show;
use book::{Book, Seen};
pub(super) use bucket::{Bucket, Budget};
use gardend_controller::record::ContainerUid;
use gardend_controller::{Controller, Follower, Incident, News};
use gardend_crds::{GardenNodeStatus, Time};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
pub(super) use watch::{Heard, Watch};
use write::Writer;
pub(super) use write::{by_us, whole};

/// A time that does not come by itself.
pub(super) const FAR_OFF: Duration = Duration::from_secs(86_400 * 365);
/// After how long the node's object is looked at though nothing was heard: disks fill by themselves.
const NODE_LOOK: Duration = Duration::from_secs(30);
/// The longest time for which an object that is refused is left alone.
const LONGEST_REFUSAL: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Mirror {
    options: Options,
    controller: Controller,
    follower: Follower,
    writer: Writer,
    watch: Watch,
    announcer: Announcer,
    gauges: Arc<Gauges>,
    book: Book,
    /// The API server has told what it has: before that, all would seem to be missing.
    listed: bool,
    bucket: Budget,
    node: Node,
    /// Failures in a row of reaching the API server, and until when it is left alone.
    failures: u32,
    resume_at: Instant,
    resync_at: Instant,
}

/// The node's own object.
struct Node {
    started_at: Time,
    /// As the API server has it; `None`: not there, or not known to be.
    seen: Option<GardenNodeStatus>,
    /// Whether it was read since the last comparison.
    read: bool,
    due: Instant,
    not_before: Instant,
    refusals: u32,
}

/// What a look came to.
enum Looked {
    /// All is as it shall be.
    Level,
    /// Something was written.
    Wrote,
}

impl Mirror {
    /// `announcer` takes events, and `bucket` says how much may be written, by others too.
    pub(super) fn new(
        place: Place,
        options: Options,
        controller: Controller,
        gauges: Arc<Gauges>,
        announcer: Announcer,
        bucket: Budget,
    ) -> Self {
        let now = Instant::now();
        let containers = kube::Api::namespaced(place.client.clone(), &place.namespace);
        Self {
            follower: controller.follow(),
            writer: Writer::new(&place),
            watch: Watch::new(containers, place.node.as_str()),
            announcer,
            gauges,
            book: Book::default(),
            listed: false,
            bucket,
            node: Node { started_at: Time::now(), seen: None, read: false, due: now, not_before: now, refusals: 0 },
            failures: 0,
            resume_at: now,
            resync_at: now + about(options.resync),
            options,
            controller,
        }
    }

    pub(super) async fn run(mut self) {
        let begin = Instant::now() + part_of(self.options.start_jitter);
        self.watch.begin_at(begin);
        self.resume_at = begin;
        self.node.due = begin;
        self.note_all_containers();
        loop {
            let next = self.next_attempt();
            tokio::select! {
                // Cancel-safe: what was not taken is kept.
                news = self.follower.news() => self.take_news(news),
                // Cancel-safe: what was heard in part is kept.
                heard = self.watch.next(), if self.options.detail == Detail::Containers => self.hear(heard),
                // Cancel-safe: it is computed anew each time.
                () = sleep_until(next) => self.attempt().await,
                // Cancel-safe, likewise.
                () = sleep_until(self.resync_at) => self.resync(),
            }
            let (waiting, objects) = self.book.counts();
            self.gauges.set_waiting(waiting, self.book.next_due());
            set(&self.gauges.objects, objects);
        }
    }

    /// When there may be something to write, and it may be written.
    fn next_attempt(&self) -> Instant {
        let objects = self.book.next_due().filter(|_| self.listed);
        let due = objects.map_or(self.node_due(), |due| due.min(self.node_due()));
        due.max(self.bucket.ready_at()).max(self.resume_at)
    }

    fn node_due(&self) -> Instant {
        self.node.due.max(self.node.not_before)
    }

    fn take_news(&mut self, news: News) {
        let now = Instant::now();
        if news.node {
            self.node.due = self.node.due.min(now);
        }
        if self.options.detail != Detail::Containers {
            return;
        }
        for uid in news.containers {
            self.note_container(&uid, now);
        }
        let ours = news.incidents.iter().filter(|incident| incident.declared_by.is_none());
        ours.for_each(|incident| self.announce(incident));
    }

    fn note_container(&mut self, uid: &ContainerUid, now: Instant) {
        let view = self.controller.view(uid);
        // One that is declared has an object already, which is not ours to make.
        let view = view.filter(|view| view.declared.is_none());
        let name = view.map(|view| container_object(&self.options.node, &view.handle, uid));
        self.book.container_changed(uid, name, now);
    }

    /// Every container that there is, and every one of which an object is known.
    fn note_all_containers(&mut self) {
        if self.options.detail != Detail::Containers {
            return;
        }
        let now = Instant::now();
        let mut uids = self.controller.container_uids();
        uids.extend(self.book.containers());
        uids.iter().for_each(|uid| self.note_container(uid, now));
    }

    fn announce(&self, incident: &Incident) {
        let (name, uid) = match self.book.object_of(&incident.container) {
            Some((name, seen)) => (name.clone(), seen.and_then(|seen| seen.uid.clone())),
            None => (container_object(&self.options.node, &incident.handle, &incident.container), None),
        };
        self.announcer.say(Announcement { namespace: None, name, uid, incident: incident.clone() });
    }

    fn hear(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Listed(objects) => {
                let seen = objects.iter().filter_map(|object| Some((write::name(object), Seen::of(object)?)));
                self.book.listed(seen.collect(), now);
                self.listed = true;
                self.note_all_containers();
                self.answered();
            }
            Heard::Changed(object) => {
                self.book.heard(&write::name(&object), Seen::of(&object), book::version(&object), now);
            }
            Heard::Deleted(object) => self.book.deleted(&write::name(&object), book::version(&object), now),
            Heard::Broken(error) => {
                let wait = self.not_answered(&error.to_string(), None);
                self.watch.begin_at(now + wait);
            }
        }
    }

    /// Everything is compared, with a fresh list of what the API server has.
    fn resync(&mut self) {
        let now = Instant::now();
        self.resync_at = now + about(self.options.resync);
        self.node.read = false;
        self.node.due = now;
        self.watch.begin_at(now);
        self.note_all_containers();
        self.book.look_at_all(now);
    }

    /// The API server has answered, though it did not before: what was missed meanwhile is not known.
    fn answered(&mut self) {
        let was_away = std::mem::take(&mut self.failures) > 0;
        self.gauges.away.store(false, Relaxed);
        if was_away {
            tracing::info!("the API server answers again");
        }
    }

    /// It has not, or serves nobody. How long to wait.
    fn not_answered(&mut self, why: &str, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        count(&self.gauges.failed);
        if !self.gauges.away.swap(true, Relaxed) {
            tracing::warn!(why, "the API server does not answer; containers are served, and shown once it does");
        }
        let wait = backoff(self.failures).max(asked.unwrap_or_default());
        self.resume_at = Instant::now() + wait;
        wait
    }

    /// One look, which may write once. There is a token.
    async fn attempt(&mut self) {
        let now = Instant::now();
        if now < self.bucket.ready_at() || now < self.resume_at {
            return;
        }
        // The node's own object is one of many, and comes first: it is rarely due.
        if now >= self.node_due() {
            self.attempt_node().await;
        } else if self.listed
            && let Some((name, container)) = self.book.take(now)
        {
            let was_away = self.failures > 0;
            match self.look(&name, container.as_ref()).await {
                Ok(Looked::Level) => {
                    self.book.forget_if_unheard_of(&name);
                }
                Ok(Looked::Wrote) => {
                    self.answered();
                    if was_away {
                        self.resync();
                    }
                }
                Err(trouble) => self.container_trouble(&name, trouble),
            }
        }
    }

    /// Compares what is wanted with what is seen, and writes the first thing that differs.
    async fn look(&mut self, name: &str, container: Option<&ContainerUid>) -> Result<Looked, Trouble> {
        let view = container.and_then(|uid| self.controller.view(uid)).filter(|view| view.declared.is_none());
        let seen = self.book.seen(name);
        let Some(view) = view else {
            if seen.is_none_or(|seen| seen.going) {
                return Ok(Looked::Level);
            }
            self.bucket.spend().await;
            self.writer.delete(name).await?;
            count(&self.gauges.objects_deleted);
            self.book.removed(name);
            return Ok(Looked::Wrote);
        };
        let shown = show(&view, &self.options.node, &self.options.policy);
        let seen = match seen {
            // What is being deleted is made again once it is gone.
            Some(seen) if seen.going => return Ok(Looked::Level),
            Some(seen) if seen.spec == shown.spec() => seen.clone(),
            other => {
                let is_there = other.is_some();
                self.bucket.spend().await;
                let object = match is_there {
                    true => self.writer.container_spec(name, &shown).await?,
                    false => self.writer.container(name, &shown).await?,
                };
                count(&self.gauges.objects_written);
                self.book.written(name, Seen::of(&object), book::version(&object));
                // Its status is next.
                self.book.look(name, Instant::now());
                return Ok(Looked::Wrote);
            }
        };
        if seen.status == shown.status(seen.generation, &seen.conditions) {
            return Ok(Looked::Level);
        }
        self.bucket.spend().await;
        let object = self.writer.container_status(name, &shown, seen.generation, &seen.conditions).await?;
        count(&self.gauges.statuses_written);
        self.book.written(name, Seen::of(&object), book::version(&object));
        self.book.settle(name, Instant::now() + self.options.settle, false);
        Ok(Looked::Wrote)
    }

    fn container_trouble(&mut self, name: &str, trouble: Trouble) {
        let now = Instant::now();
        match trouble {
            Trouble::Away { why, retry_after } => {
                self.not_answered(&why, retry_after);
                self.book.look(name, now);
            }
            // Somebody deleted it, or (of an object) its definition or namespace is not there.
            Trouble::NotFound(why) if self.book.seen(name).is_none() => self.refused(name, &why),
            Trouble::NotFound(_) => self.book.missing(name, now),
            Trouble::Conflict(why) | Trouble::Refused(why) => self.refused(name, &why),
        }
    }

    fn refused(&mut self, name: &str, why: &str) {
        count(&self.gauges.refused);
        let times = self.book.refused(name);
        if times.is_power_of_two() {
            tracing::warn!(object = name, times, why, "the API server refuses an object; it is tried again");
        }
        self.book.settle(name, Instant::now() + refusal(times), true);
    }

    async fn attempt_node(&mut self) {
        let was_away = self.failures > 0;
        self.node.due = Instant::now() + NODE_LOOK;
        match self.look_at_node().await {
            Ok(Looked::Level) => self.node.refusals = 0,
            Ok(Looked::Wrote) => {
                self.node.refusals = 0;
                self.answered();
                if was_away {
                    self.resync();
                }
            }
            Err(Trouble::Away { why, retry_after }) => {
                self.not_answered(&why, retry_after);
                self.node.due = Instant::now();
            }
            Err(trouble) => {
                count(&self.gauges.refused);
                self.node.seen = None;
                self.node.read = false;
                self.node.refusals = self.node.refusals.saturating_add(1);
                if self.node.refusals.is_power_of_two() {
                    tracing::warn!(%trouble, times = self.node.refusals, "the node's own object is refused");
                }
                self.node.due = Instant::now();
                self.node.not_before = Instant::now() + refusal(self.node.refusals);
            }
        }
    }

    async fn look_at_node(&mut self) -> Result<Looked, Trouble> {
        if !self.node.read {
            let object = self.writer.read_node().await?;
            self.node.seen = object.map(|object| object.status.unwrap_or_default());
            self.node.read = true;
        }
        let ask = Arc::clone(&self.options.facts);
        // It reads files.
        let facts = tokio::task::spawn_blocking(move || ask()).await.unwrap_or_default();
        let behind = self.book.behind(Instant::now());
        let before = self.node.seen.as_ref().map(|seen| seen.conditions.as_slice()).unwrap_or_default();
        let view = self.controller.view_node();
        let wanted = node::status(&view, &facts, behind, self.node.started_at, before);
        match &self.node.seen {
            Some(seen) if *seen == wanted => {
                self.node.not_before = Instant::now() + self.options.node_settle;
                return Ok(Looked::Level);
            }
            Some(_) => {
                self.bucket.spend().await;
                let object = self.writer.node_status(&wanted).await?;
                count(&self.gauges.statuses_written);
                self.node.seen = object.status;
                self.node.not_before = Instant::now() + self.options.node_settle;
            }
            None => {
                self.bucket.spend().await;
                let object = self.writer.node().await?;
                count(&self.gauges.objects_written);
                self.node.seen = Some(object.status.unwrap_or_default());
                self.node.due = Instant::now();
            }
        }
        Ok(Looked::Wrote)
    }
}

/// How long an object is left alone that was refused so many times in a row.
pub(super) fn refusal(times: u32) -> Duration {
    backoff(times).max(Duration::from_secs(1 << times.min(8))).min(LONGEST_REFUSAL)
}
