//! One process: its two lanes, its stdin, and when its init may forget it.

use super::ends::Ready;
use super::lane::core::Core;
use super::lane::{Lane, Limits, Source, Spool};
use super::link::Link;
use super::spec;
use super::stdin::Stdin;
use garden_init::wire::Request;
use gardend_controller::ports::OutputStream;
use gardend_controller::record::{ExitStatus, ProcessUid, SandboxId};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::runtime::Handle;

/// What all processes are made with.
#[derive(Clone)]
pub struct Makings {
    pub limits: Limits,
    pub runtime: Handle,
    pub void: Arc<OwnedFd>,
}

/// How far a process is.
#[derive(Default)]
struct State {
    pid: u32,
    exit: Option<ExitStatus>,
    acknowledged: bool,
    /// Its init has been told to forget it.
    forgotten: bool,
    link: Weak<Link>,
}

/// One process.
pub struct Process {
    pub uid: ProcessUid,
    /// `None` for one that is only known by its spool.
    pub sandbox: Option<SandboxId>,
    stdout: Arc<Lane>,
    stderr: Arc<Lane>,
    stdin: Stdin,
    state: Mutex<State>,
    runtime: Handle,
}

impl Process {
    /// One whose streams are `ready`; its spool, if there is one, is gone on with.
    pub fn new(
        makings: &Makings,
        uid: ProcessUid,
        sandbox: Option<SandboxId>,
        folder: &Path,
        ready: Ready,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let lane = |name: &'static str, source: Option<Source>| {
                let spool = Spool::open(folder, name).unwrap_or_else(|error| {
                    let folder = folder.display();
                    tracing::error!(%error, %folder, stream = name, "a spool cannot be opened: what is in it is lost");
                    None
                });
                let void = Arc::clone(&makings.void);
                let core = Core::new(makings.limits, folder.to_owned(), name, source, spool, void);
                let process = Weak::clone(weak);
                Lane::new(core, makings.runtime.clone(), move || {
                    if let Some(process) = process.upgrade() {
                        process.settle();
                    }
                })
            };
            let stdin = Stdin::new(spec::key(&uid), ready.stdin);
            let (stdout, stderr) = (lane("stdout", ready.stdout), lane("stderr", ready.stderr));
            let (state, runtime) = (Mutex::default(), makings.runtime.clone());
            Self { uid, sandbox, stdout, stderr, stdin, state, runtime }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has asked for it and will attach to it.
    pub fn expect_reader(&self) {
        self.lanes().iter().for_each(|lane| lane.expect_first());
    }

    /// Starts to move its output.
    pub fn start(&self) {
        self.stdout.start();
        self.stderr.start();
    }

    /// By which connection its init is reached from now on, and its pid on the host.
    pub fn set_link(&self, link: &Arc<Link>, pid: u32) {
        let mut state = self.state();
        state.link = Arc::downgrade(link);
        // A new connection has not been told.
        state.forgotten = false;
        state.pid = pid;
    }

    /// By which connection its init is reached.
    pub fn link(&self) -> Weak<Link> {
        self.state().link.clone()
    }

    /// Its pid on the host, and how it ended; `None` once its init has forgotten it.
    pub fn seen(&self) -> Option<(u32, Option<ExitStatus>)> {
        let state = self.state();
        (!state.forgotten).then_some((if state.exit.is_some() { 0 } else { state.pid }, state.exit))
    }

    /// It has ended. False where that was known.
    pub fn exit(&self, status: ExitStatus) -> bool {
        let first = self.state().exit.replace(status).is_none();
        self.end_streams();
        first
    }

    /// Nothing is heard of it any more: what it wrote until now is all.
    pub fn end_streams(&self) {
        self.stdin.end();
        self.stdout.exit();
        self.stderr.exit();
        self.settle();
    }

    /// Its streams have ended although it has not, as far as is known.
    pub fn cut_off(&self) -> bool {
        self.state().exit.is_none() && self.stdout.moved() && self.stderr.moved()
    }

    /// How it ended is in the ledger.
    pub fn acknowledge(&self) {
        self.state().acknowledged = true;
        self.settle();
    }

    /// How it ended is in the ledger, or will never be known.
    pub fn is_over(&self) -> bool {
        self.state().acknowledged
    }

    /// Its record goes.
    pub fn close(&self) {
        self.stdin.end();
        self.stdout.close();
        self.stderr.close();
        self.acknowledge();
    }

    /// Lets its init forget it, once that is safe: its status is in the ledger, and its output is
    /// in sockets or in the spool.
    fn settle(&self) {
        if !(self.stdout.moved() && self.stderr.moved()) {
            return;
        }
        let link = {
            let mut state = self.state();
            if state.exit.is_none() || !state.acknowledged || state.forgotten {
                return;
            }
            state.forgotten = true;
            state.link.upgrade()
        };
        if let Some(link) = link {
            let key = spec::key(&self.uid);
            self.runtime.spawn(async move {
                // One that does not arrive: the connection is gone, and the next one tells of it again.
                let _ = link.send(&Request::Forget { key }, &[]).await;
            });
        }
    }

    /// One of its outputs.
    pub fn lane(&self, stream: OutputStream) -> &Arc<Lane> {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    /// Both of its outputs.
    pub fn lanes(&self) -> [&Arc<Lane>; 2] {
        [&self.stdout, &self.stderr]
    }

    /// Its input.
    pub fn stdin(&self) -> &Stdin {
        &self.stdin
    }
}
