//! Who is connected and what is known: connections by place, processes by uid, and what an init's
//! words change in them.

use super::ends::Ready;
use super::entry::{Makings, Process};
use super::lane::{Limits, spool};
use super::link::{Known, Link, Pace, Pending};
use super::{Options, no_answer, pid, spec};
use crate::node::place::Folders;
use garden_init::wire::{Event, ProcessKey, Request, Streams};
use gardend_controller::ports::{NodeError, NodeErrorKind, ProcessEvent, ProcessSeen, ReaderId};
use gardend_controller::record::{ProcessUid, SandboxId};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Events that wait for the controller.
const EVENTS: usize = 1024;

/// What a connection attempt came to, once it has.
type Attempt = Option<Result<(), NodeError>>;

/// A place's connection.
pub enum LinkState {
    /// Being made.
    Connecting(watch::Receiver<Attempt>),
    /// Made.
    Ready(Arc<Link>),
}

/// Everything that all clones share.
pub struct Inner {
    pub options: Options,
    folders: Folders,
    makings: Makings,
    links: Mutex<HashMap<SandboxId, LinkState>>,
    processes: Mutex<HashMap<ProcessUid, Arc<Process>>>,
    events: mpsc::Sender<ProcessEvent>,
    receiver: Mutex<Option<mpsc::Receiver<ProcessEvent>>>,
    readers: AtomicU64,
}

impl Inner {
    pub fn new(folders: Folders, options: Options) -> std::io::Result<Arc<Self>> {
        let limits = Limits {
            spool: options.spool_bytes.max(2 * spool::UNIT),
            window: options.window_bytes,
            claim_grace: options.claim_grace,
        };
        let void = Arc::new(std::fs::OpenOptions::new().write(true).open("/dev/null")?.into());
        let makings = Makings { limits, runtime: Handle::current(), void };
        let (events, receiver) = mpsc::channel(EVENTS);
        Ok(Arc::new(Self {
            options,
            folders,
            makings,
            links: Mutex::default(),
            processes: Mutex::default(),
            events,
            receiver: Mutex::new(Some(receiver)),
            readers: AtomicU64::new(1),
        }))
    }

    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    pub fn links(&self) -> MutexGuard<'_, HashMap<SandboxId, LinkState>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, HashMap<ProcessUid, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take_receiver(&self) -> Option<mpsc::Receiver<ProcessEvent>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn next_reader(&self) -> ReaderId {
        ReaderId(self.readers.fetch_add(1, Ordering::Relaxed))
    }

    pub fn process(&self, process: &ProcessUid) -> Option<Arc<Process>> {
        self.processes().get(process).cloned()
    }

    pub fn of_sandbox(&self, sandbox: &SandboxId) -> Vec<Arc<Process>> {
        self.processes().values().filter(|process| process.sandbox.as_ref() == Some(sandbox)).cloned().collect()
    }

    /// The place's connection, if it is made.
    pub fn link(&self, sandbox: &SandboxId) -> Result<Arc<Link>, NodeError> {
        match self.links().get(sandbox) {
            Some(LinkState::Ready(link)) => Ok(Arc::clone(link)),
            _ => Err(no_answer(sandbox, "it is not connected")),
        }
    }

    /// An ended process of which only the spool is left; `None` where nothing is.
    pub fn revive(&self, uid: &ProcessUid) -> Option<Arc<Process>> {
        let folder = self.folders.spool(uid);
        if !folder.is_dir() {
            return None;
        }
        let mut processes = self.processes();
        let make = || Process::new(&self.makings, uid.clone(), None, &folder, Ready::default());
        Some(Arc::clone(processes.entry(uid.clone()).or_insert_with(make)))
    }

    /// Removes all that is kept of a process.
    pub async fn forget(&self, uid: &ProcessUid) {
        let process = self.processes().remove(uid);
        if let Some(process) = process {
            process.close();
        }
        self.remove_spools(vec![uid.clone()]).await;
    }

    /// Removes the spools of processes that are neither known nor among these.
    pub async fn retain(&self, wanted: &[ProcessUid]) {
        let Ok(folders) = std::fs::read_dir(self.folders.spools()) else { return };
        let wanted: HashSet<&ProcessUid> = wanted.iter().collect();
        let found = folders.flatten().filter_map(|folder| ProcessUid::parse(folder.file_name().to_str()?));
        let unwanted = found.filter(|uid| !wanted.contains(uid) && self.process(uid).is_none()).collect();
        self.remove_spools(unwanted).await;
    }

    async fn remove_spools(&self, uids: Vec<ProcessUid>) {
        let folders: Vec<_> = uids.iter().map(|uid| self.folders.spool(uid)).collect();
        let remove = move || {
            for folder in folders {
                match std::fs::remove_dir_all(&folder) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let folder = folder.display();
                        tracing::warn!(%error, %folder, "a spool cannot be removed; it is removed at the next start");
                    }
                }
            }
        };
        // An error is a runtime that is going down; the next start removes them.
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Connects, or finds the connection made (or being made).
    pub async fn connect(self: &Arc<Self>, sandbox: &SandboxId) -> Result<Vec<ProcessSeen>, NodeError> {
        let mut attempt = {
            let mut links = self.links();
            match links.get(sandbox) {
                Some(LinkState::Ready(_)) => return Ok(self.seen(sandbox)),
                Some(LinkState::Connecting(attempt)) => attempt.clone(),
                None => {
                    let (done, attempt) = watch::channel(None);
                    links.insert(sandbox.clone(), LinkState::Connecting(attempt.clone()));
                    // A task of its own: whoever asked may go away, the others still wait.
                    self.makings.runtime.spawn(Arc::clone(self).attempt(sandbox.clone(), done));
                    attempt
                }
            }
        };
        let done = attempt.wait_for(Option::is_some).await.map(|done| (*done).clone());
        match done {
            Ok(Some(Ok(()))) => Ok(self.seen(sandbox)),
            Ok(Some(Err(error))) => Err(error),
            _ => Err(no_answer(sandbox, "the attempt to connect was given up")),
        }
    }

    /// Whether a process runs, or how it ended has yet to be recorded.
    pub fn is_kept(&self, uid: &ProcessUid) -> bool {
        self.process(uid).is_some_and(|process| !process.is_over())
    }

    fn seen(&self, sandbox: &SandboxId) -> Vec<ProcessSeen> {
        let seen = |process: &Arc<Process>| {
            let (pid, exit) = process.seen()?;
            Some(ProcessSeen { uid: process.uid.clone(), pid, exit })
        };
        self.of_sandbox(sandbox).iter().filter_map(seen).collect()
    }

    async fn attempt(self: Arc<Self>, sandbox: SandboxId, done: watch::Sender<Attempt>) {
        let result = self.take_over(&sandbox).await;
        let outcome = {
            let mut links = self.links();
            // A disconnect meanwhile took the entry away.
            let ours = matches!(links.get(&sandbox), Some(LinkState::Connecting(attempt)) if attempt.same_channel(&done.subscribe()));
            match result {
                Ok(link) if ours => {
                    links.insert(sandbox.clone(), LinkState::Ready(Arc::clone(&link)));
                    self.makings.runtime.spawn(Arc::clone(&self).listen(sandbox, link));
                    Ok(())
                }
                Ok(link) => {
                    link.fail("its place is gone");
                    self.of_sandbox(&sandbox).iter().for_each(|process| process.end_streams());
                    Err(no_answer(&sandbox, "its place is gone"))
                }
                Err(reason) => {
                    if ours {
                        links.remove(&sandbox);
                    }
                    let message = format!("the init of place {sandbox} cannot be connected to: {reason}");
                    Err(NodeError::new(NodeErrorKind::Unavailable, message))
                }
            }
        };
        done.send_replace(Some(outcome));
    }

    async fn take_over(&self, sandbox: &SandboxId) -> Result<Arc<Link>, String> {
        let place = self.folders.place(sandbox);
        let (link, peer, known) = Link::connect(&place, self.options.connect_deadline).await?;
        let link = Arc::new(link);
        let children = match peer.filter(|_| known.iter().any(|known| known.exit.is_none())) {
            Some(init) => tokio::task::spawn_blocking(move || pid::of_children(init)).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let on_host: HashMap<i32, u32> = children.into_iter().collect();
        for known in known {
            let pid = on_host.get(&known.pid).copied().unwrap_or(0);
            self.keep(sandbox, &link, known, pid)?;
        }
        Ok(link)
    }

    /// Takes over a process that an init has kept.
    fn keep(&self, sandbox: &SandboxId, link: &Arc<Link>, known: Known, pid: u32) -> Result<(), String> {
        let uid = spec::uid(known.key).ok_or("it knows a process by a name that is not ours")?;
        let ready = Ready::kept(known.streams, known.fds)?;
        let process = {
            let mut processes = self.processes();
            let before = processes.get(&uid).cloned();
            match before {
                Some(process) if process.sandbox.as_ref().is_some_and(|other| other != sandbox) => {
                    return Err("it claims a process of another place".into());
                }
                // Known from an earlier connection: its streams never stopped.
                Some(process) if process.sandbox.is_some() && !process.cut_off() => process,
                before => {
                    if let Some(before) = before {
                        before.close();
                    }
                    let folder = self.folders.spool(&uid);
                    let process = Process::new(&self.makings, uid.clone(), Some(sandbox.clone()), &folder, ready);
                    processes.insert(uid, Arc::clone(&process));
                    process
                }
            }
        };
        process.set_link(link, pid);
        process.start();
        if known.streams == (Streams::Pipes { stdin: true }) && process.stdin().was_closed() {
            self.send(link, Request::CloseStdin { key: known.key });
        }
        if let Some(exit) = known.exit {
            process.exit(spec::status(exit));
        }
        Ok(())
    }

    /// Hears an init out, until its connection ends.
    async fn listen(self: Arc<Self>, sandbox: SandboxId, link: Arc<Link>) {
        let (mut packets, mut events) = (Pace::packets(), Pace::events());
        let reason = loop {
            let received = tokio::select! {
                // Cancel-safe: a token stays cancelled.
                () = link.closed.cancelled() => return,
                // Cancel-safe, as it says.
                received = link.receive() => received,
            };
            let handled = match received {
                Ok((event, fds)) => self.handle(&sandbox, &link, event, fds),
                Err(reason) => Err(reason),
            };
            match handled {
                Ok(None) => {}
                Ok(Some(event)) => {
                    self.tell(event).await;
                    events.step().await;
                }
                Err(reason) => break reason,
            }
            packets.step().await;
        };
        if link.fail(&reason) {
            self.drop_link(&sandbox, &link);
            self.tell(ProcessEvent::InitGone { sandbox, reason }).await;
        }
    }

    fn drop_link(&self, sandbox: &SandboxId, link: &Arc<Link>) {
        let mut links = self.links();
        if matches!(links.get(sandbox), Some(LinkState::Ready(current)) if Arc::ptr_eq(current, link)) {
            links.remove(sandbox);
        }
    }

    async fn tell(&self, event: ProcessEvent) {
        // Nobody listens: there is no controller any more.
        let _ = self.events.send(event).await;
    }

    /// What an init's word changes, and what the controller is to hear of it.
    fn handle(
        &self,
        sandbox: &SandboxId,
        link: &Arc<Link>,
        event: Event,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<ProcessEvent>, String> {
        match event {
            Event::Hello { .. } | Event::Known { .. } | Event::KnownEnd => Err("it said hello twice".into()),
            Event::Spawned { key, .. } => {
                let pending = link.take_spawn(key).ok_or("it started a process that nobody asked for")?;
                self.spawned(sandbox, link, key, pending, fds)?;
                Ok(None)
            }
            Event::SpawnFailed { key, error } => {
                let pending = link.take_spawn(key).ok_or("it refused a process that nobody asked for")?;
                let _ = pending.answer.send(Err(error));
                Ok(None)
            }
            Event::Held { key } => {
                let held = link.take_held(key).ok_or("it holds a process that nobody asked it to")?;
                let pidfd = fds.into_iter().next().ok_or("a process without its pidfd")?;
                // Nobody waits any more: it is killed by whoever gave up.
                let _ = held.send(pidfd);
                Ok(None)
            }
            Event::Exited { key, exit } => {
                let process = spec::uid(key).and_then(|uid| self.process(&uid));
                let Some(process) = process.filter(|process| process.sandbox.as_ref() == Some(sandbox)) else {
                    self.send(link, Request::Forget { key });
                    return Ok(None);
                };
                let status = spec::status(exit);
                let first = process.exit(status);
                let event = ProcessEvent::Exited { sandbox: sandbox.clone(), process: process.uid.clone(), status };
                Ok(first.then_some(event))
            }
            Event::Emptied => Ok(Some(ProcessEvent::Emptied { sandbox: sandbox.clone() })),
            Event::Occupied { token, occupied } => {
                link.answer_occupied(token, occupied);
                Ok(None)
            }
            Event::Pong { .. } => Ok(None),
        }
    }

    fn spawned(
        &self,
        sandbox: &SandboxId,
        link: &Arc<Link>,
        key: ProcessKey,
        pending: Pending,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let mut fds = fds.into_iter();
        let pidfd = fds.next().ok_or("a process without its pidfd")?;
        let pid = pid::of_pidfd(pidfd.as_fd()).ok_or("a process with something else than its pidfd")?;
        let uid = spec::uid(key).ok_or("a process by a name that is not ours")?;
        if pending.overdue {
            // The caller was told that it failed: it must not run. Its exit is nobody's.
            self.send(link, Request::Signal { key, signal: libc::SIGKILL });
            return Ok(());
        }
        let ready = pending.ends.ready(fds.next())?;
        let process = Process::new(&self.makings, uid.clone(), Some(sandbox.clone()), &self.folders.spool(&uid), ready);
        process.set_link(link, pid);
        process.expect_reader();
        self.processes().insert(uid, Arc::clone(&process));
        process.start();
        let _ = pending.answer.send(Ok(pid));
        Ok(())
    }

    fn send(&self, link: &Arc<Link>, request: Request) {
        let link = Arc::clone(link);
        self.makings.runtime.spawn(async move {
            // One that does not arrive: the connection is gone, and with it what it was about.
            let _ = link.send(&request, &[]).await;
        });
    }
}
