//! What runs in places, and what flows in and out: the ports [`Processes`], [`Streams`] and `Files`,
//! over one connection to each place's garden-init.
//!
//! Owns the connections ([`link`]), gardend's ends of every process's streams ([`ends`],
//! [`stdin`], [`lane`]) and the spool folders. Promises that a process is started at most once,
//! that output is exact over any death of gardend ([`lane`] says how), and that an init which
//! answers garbage, or nothing, harms its own container alone.
//! Leaves to others: making places, what a record says, and when a process is forgotten.
//!
//! Descriptors: one for each connected place; three for each process that runs (two outputs,
//! stdin; with a terminal its master and the relay's two ends), one more for each output that was
//! spooled, one for each reader. A hundred processes with readers and a backlog are 700.
//! [`raise_descriptor_limit`] once at the start makes room for them.

mod adopt;
mod ends;
mod entry;
mod files;
mod held;
mod image;
pub mod lane;
mod limits;
mod link;
mod pid;
mod spec;
mod stdin;
mod sys;

use crate::node::cgroup::Groups;
use crate::node::place::Folders;
use adopt::{Inner, LinkState};
use async_trait::async_trait;
use ends::Ends;
use entry::Process;
use garden_init::wire;
use garden_init::wire::Request;
use gardend_controller::ports::{
    NodeError, NodeErrorKind, OutputStream, ProcessEvent, ProcessSeen, Processes, ReaderId, Signal, SpawnError, Streams,
};
use gardend_controller::record::{ProcessImage, ProcessSpec, ProcessUid, SandboxId, WindowSize};
pub use image::Images;
use limits::Limits;
use link::{Link, Pending};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The numbers of the streams and of the talk with inits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the spool keeps of each output that nobody reads (at least 4 MiB; beyond it the
    /// oldest 2 MiB at a time are dropped).
    pub spool_bytes: u64,
    /// How far a process may run ahead of the fastest of several readers.
    pub window_bytes: u64,
    /// The size of each output's pipe, where the node allows it.
    pub output_pipe_bytes: usize,
    /// The size of stdin's pipe, where the node allows it.
    pub input_pipe_bytes: usize,
    /// How long an attached reader that has not connected holds output back for itself.
    pub claim_grace: Duration,
    /// How long an init may take to be connected to and to tell what it knows.
    pub connect_deadline: Duration,
    /// How long an init may take to start a process.
    pub spawn_deadline: Duration,
    /// How long an init may take to answer anything else.
    pub call_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spool_bytes: 16 << 20,
            window_bytes: 1 << 20,
            output_pipe_bytes: 1 << 20,
            input_pipe_bytes: 256 << 10,
            claim_grace: Duration::from_secs(10),
            connect_deadline: Duration::from_secs(1),
            spawn_deadline: Duration::from_secs(30),
            call_deadline: Duration::from_secs(5),
        }
    }
}

/// Raises the number of descriptors that this process may have open as far as it may. Once, at
/// the start. Answers the number in force.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current }
}

/// Both ports. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ProcessNode {
    inner: Arc<Inner>,
    images: Option<Arc<Images>>,
    /// Where processes are held to limits; nowhere for a node without places of its own.
    limits: Option<Arc<Limits>>,
}

impl ProcessNode {
    /// Within the runtime that everything will run on.
    ///
    /// # Errors
    /// Where not even /dev/null can be opened.
    pub fn new(folders: Folders, options: Options) -> std::io::Result<Self> {
        Inner::new(folders, options).map(|inner| Self { inner, images: None, limits: None })
    }

    /// The same, with processes that have an image of their own.
    #[must_use]
    pub fn with_images(self, images: Images) -> Self {
        Self { images: Some(Arc::new(images)), ..self }
    }

    /// Processes of places that have limits join these groups before they run.
    #[must_use]
    pub fn with_groups(self, groups: Groups) -> Self {
        let limits = Limits::new(groups, self.inner.folders().clone());
        Self { limits: Some(Arc::new(limits)), ..self }
    }

    /// Bytes of a process's output that had to be dropped because nobody read them in time.
    pub fn dropped(&self, process: &ProcessUid) -> Option<u64> {
        Some(self.inner.process(process)?.lanes().iter().map(|lane| lane.dropped()).sum())
    }

    async fn start(
        &self,
        link: &Arc<Link>,
        process: &ProcessUid,
        request: &[u8],
        spec: &ProcessSpec,
        to_join: Vec<PathBuf>,
    ) -> Result<u32, SpawnError> {
        let (ends, theirs) = self.ends(link, spec)?;
        let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let key = spec::key(process);
        let (held, joining) = held::join_when_held(link, key, to_join);
        let answered = ask(link, key, ends, held, request, &fds).await?;
        drop(theirs);
        let joining =
            async { joining.await.map_err(|error| SpawnError::Other(format!("process {:?}: {error}", spec.path))) };
        self.answer(link, key, (joining, answered), spec).await
    }

    /// A process with an image of its own is made here, and given to its init.
    async fn start_with_image(
        &self,
        link: &Arc<Link>,
        sandbox: &SandboxId,
        process: &ProcessUid,
        wanted: wire::SpawnSpec,
        (spec, image): (&ProcessSpec, &ProcessImage),
        to_join: &[PathBuf],
    ) -> Result<u32, SpawnError> {
        let images =
            self.images.as_ref().ok_or_else(|| SpawnError::Other("this node gives processes no images".into()))?;
        let has_terminal = spec.tty.is_some();
        let (ends, theirs) = self.ends(link, spec)?;
        // Of each pipe's two ends the first is the process's; a relay is all its init's.
        let (own, inits): (Vec<_>, Vec<_>) =
            theirs.into_iter().enumerate().partition(|(index, _)| !has_terminal && index % 2 == 0);
        let bare = |ends: Vec<(usize, OwnedFd)>| ends.into_iter().map(|(_, end)| end).collect::<Vec<_>>();
        let (own, inits) = (bare(own), bare(inits));
        let (status, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| {
                SpawnError::Other(format!("no socket can be made for process {:?}: {error}", spec.path))
            })?;
        let waiting = images.make((sandbox, process), image, wanted, &far, &own, to_join).await;
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(error) => {
                images.release(sandbox, process).await;
                return Err(error);
            }
        };
        drop((far, own));
        let key = spec::key(process);
        let request =
            wire::encode(&Request::Adopt { key, pid: waiting.inside, has_terminal }).map_err(spec::encoding)?;
        let fds: Vec<BorrowedFd<'_>> =
            [waiting.pidfd.as_fd(), status.as_fd()].into_iter().chain(inits.iter().map(AsFd::as_fd)).collect();
        let answered = ask(link, key, ends, None, &request, &fds).await?;
        drop((status, inits));
        let pid = self.answer(link, key, (std::future::ready(Ok(())), answered), spec).await?;
        waiting.handed_over();
        Ok(pid)
    }

    fn ends(&self, link: &Link, spec: &ProcessSpec) -> Result<(Ends, Vec<OwnedFd>), SpawnError> {
        let options = &self.inner.options;
        let made = match spec.tty {
            None => Ends::pipes(options.output_pipe_bytes, options.input_pipe_bytes),
            Some(_) => Ends::relay(options.output_pipe_bytes),
        };
        made.and_then(|(ends, theirs)| ends::give(&theirs, link.owner()).map(|()| (ends, theirs)))
            .map_err(|error| SpawnError::Other(format!("no pipes can be made for process {:?}: {error}", spec.path)))
    }

    /// Waits for what came of it, once it was let go on.
    async fn answer(
        &self,
        link: &Link,
        key: wire::ProcessKey,
        (let_go, answered): (impl Future<Output = Result<(), SpawnError>>, Answered),
        spec: &ProcessSpec,
    ) -> Result<u32, SpawnError> {
        let gone = |reason: String| SpawnError::InitGone { reason };
        let deadline = self.inner.options.spawn_deadline;
        let answer = async {
            let_go.await?;
            match answered.await {
                Ok(Ok(pid)) => Ok(pid),
                Ok(Err(failure)) => Err(spec::refusal(failure, spec)),
                Err(_) => Err(gone(link.gone().unwrap_or_else(|| "its connection is gone".into()))),
            }
        };
        match timeout(deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                link.give_up_spawn(key);
                Err(gone(format!("no answer within {deadline:?}")))
            }
        }
    }

    async fn tell(&self, process: &Process, request: &Request) -> Result<(), NodeError> {
        let unavailable = |reason| {
            NodeError::new(NodeErrorKind::Unavailable, format!("the container's init does not answer: {reason}"))
        };
        let link = process.link().upgrade().ok_or_else(|| unavailable("it is not connected".into()))?;
        link.send(request, &[]).await.map_err(unavailable)
    }
}

#[async_trait]
impl Processes for ProcessNode {
    async fn connect(&self, sandbox: &SandboxId) -> Result<Vec<ProcessSeen>, NodeError> {
        let seen = self.inner.connect(sandbox).await?;
        if let Some(limits) = &self.limits {
            limits.take_over(&self.inner, sandbox).await;
        }
        Ok(seen)
    }

    async fn disconnect(&self, sandbox: &SandboxId) {
        if let Some(LinkState::Ready(link)) = self.inner.links().remove(sandbox) {
            link.fail("its place is gone");
        }
        for process in self.inner.of_sandbox(sandbox) {
            process.end_streams();
        }
        if let Some(limits) = &self.limits {
            limits.drop_place(sandbox);
        }
        if let Some(images) = &self.images {
            images.release_all(sandbox).await;
        }
    }

    async fn spawn(
        &self,
        sandbox: &SandboxId,
        process: &ProcessUid,
        env: &[String],
        spec: &ProcessSpec,
    ) -> Result<u32, SpawnError> {
        let link = || self.inner.link(sandbox).map_err(|error| SpawnError::InitGone { reason: error.message });
        let room = match &self.limits {
            Some(limits) => Some(limits.room(sandbox, process, &spec.limits).await?),
            None => None,
        };
        let to_join = room.as_ref().map(|room| room.to_join().to_vec()).unwrap_or_default();
        if let Some(image) = &spec.image {
            let wanted = spec::wanted(env, spec)?;
            return self.start_with_image(&link()?, sandbox, process, wanted, (spec, image), &to_join).await;
        }
        let start = if to_join.is_empty() { spec::Start::Now } else { spec::Start::Held };
        let request = spec::request(start, spec::key(process), env, spec)?;
        let link = link()?;
        self.start(&link, process, &request, spec, to_join).await
    }

    async fn signal(&self, _sandbox: &SandboxId, process: &ProcessUid, signal: Signal) -> Result<(), NodeError> {
        let Some(process) = self.inner.process(process) else { return Ok(()) };
        match process.seen() {
            Some((_, None)) => {
                let key = spec::key(&process.uid);
                self.tell(&process, &Request::Signal { key, signal: number(signal) }).await
            }
            _ => Ok(()),
        }
    }

    async fn signal_all(&self, sandbox: &SandboxId, signal: Signal) -> Result<(), NodeError> {
        let link = self.inner.link(sandbox)?;
        link.send(&Request::SignalAll { signal: number(signal) }, &[])
            .await
            .map_err(|reason| no_answer(sandbox, &reason))
    }

    async fn occupied(&self, sandbox: &SandboxId) -> Result<bool, NodeError> {
        let link = self.inner.link(sandbox)?;
        let ask = async {
            let (token, answered) = link.expect_occupied()?;
            link.send(&Request::IsOccupied { token }, &[]).await?;
            answered.await.map_err(|_| link.gone().unwrap_or_else(|| "its connection is gone".into()))
        };
        let deadline = self.inner.options.call_deadline;
        // Cancel-safe: an answer that comes later finds nobody and is dropped.
        let answer = timeout(deadline, ask).await.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}")));
        answer.map_err(|reason| no_answer(sandbox, &reason))
    }

    async fn acknowledge(&self, sandbox: &SandboxId, process: &ProcessUid) -> Result<(), NodeError> {
        if let Some(process) = self.inner.process(process) {
            process.acknowledge();
        }
        if let Some(limits) = &self.limits {
            limits.tidy(&self.inner, sandbox).await;
        }
        if let Some(images) = &self.images {
            images.release(sandbox, process).await;
        }
        Ok(())
    }

    fn events(&self) -> mpsc::Receiver<ProcessEvent> {
        // There is one receiver; whoever asks again gets one that has ended.
        self.inner.take_receiver().unwrap_or_else(|| mpsc::channel(1).1)
    }
}

#[async_trait]
impl Streams for ProcessNode {
    fn attach(&self, process: &ProcessUid) -> Option<ReaderId> {
        let process = self.inner.process(process).or_else(|| self.inner.revive(process))?;
        let reader = self.inner.next_reader();
        process.lanes().iter().for_each(|lane| lane.attach(reader));
        Some(reader)
    }

    fn detach(&self, process: &ProcessUid, reader: ReaderId) {
        if let Some(process) = self.inner.process(process) {
            process.lanes().iter().for_each(|lane| lane.detach(reader));
        }
    }

    async fn read(&self, process: &ProcessUid, reader: ReaderId, stream: OutputStream, socket: OwnedFd) {
        match self.inner.process(process) {
            Some(process) => process.lane(stream).read(reader, socket).await,
            None => lane::refuse(socket),
        }
    }

    async fn write_stdin(&self, process: &ProcessUid, data: &[u8]) {
        if let Some(process) = self.inner.process(process) {
            process.stdin().write(data).await;
        }
    }

    async fn close_stdin(&self, process: &ProcessUid) {
        if let Some(process) = self.inner.process(process) {
            process.stdin().close(process.link()).await;
        }
    }

    async fn resize(&self, process: &ProcessUid, size: WindowSize) {
        let Some(process) = self.inner.process(process) else { return };
        let key = spec::key(&process.uid);
        if let Err(error) = self.tell(&process, &Request::Resize { key, columns: size.columns, rows: size.rows }).await
        {
            tracing::debug!(%error, "a window size did not reach the init");
        }
    }

    async fn forget(&self, process: &ProcessUid) {
        self.inner.forget(process).await;
    }

    async fn retain(&self, processes: &[ProcessUid]) {
        self.inner.retain(processes).await;
    }
}

/// What came of a spawn: the pid on the host.
type Answered = oneshot::Receiver<Result<u32, wire::SpawnFailure>>;

/// Asks an init for a process; where its answer will come.
async fn ask(
    link: &Link,
    key: wire::ProcessKey,
    ends: Ends,
    held: Option<oneshot::Sender<OwnedFd>>,
    request: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<Answered, SpawnError> {
    let gone = |reason: String| SpawnError::InitGone { reason };
    let (answer, answered) = oneshot::channel();
    link.expect_spawn(key, Pending { ends, answer, held, overdue: false }).map_err(gone)?;
    if let Err(reason) = link.send_encoded(request, fds).await {
        link.take_spawn(key);
        return Err(gone(reason));
    }
    Ok(answered)
}

fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    }
}

fn no_answer(sandbox: &SandboxId, reason: &str) -> NodeError {
    NodeError::new(NodeErrorKind::Unavailable, format!("the init of place {sandbox} does not answer: {reason}"))
}
