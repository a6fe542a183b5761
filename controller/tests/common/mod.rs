//! What the tests of the controller share: a fake node, a ledger, and gardends on them.
#![allow(dead_code)]

use gardend_controller::fake::FakeNode;
use gardend_controller::record::{CreateRequest, Handle, ProcessId, ProcessSpec, Properties, WindowSize};
use gardend_controller::{Controller, Ledger, Options};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub const BOOT: &str = "11111111-1111-1111-1111-111111111111";

/// A node and a ledger: what outlives a gardend.
pub struct Machine {
    pub fake: FakeNode,
    pub ledger: Ledger,
    pub options: Options,
    pub boot: String,
}

impl Machine {
    pub fn new() -> Self {
        Self::with(Options { pool_size: 0, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        Self { fake: FakeNode::new(), ledger: Ledger::in_memory(), options, boot: BOOT.into() }
    }

    /// One more gardend on it.
    pub async fn gardend(&self) -> Controller {
        let started = Controller::start(self.options.clone(), self.ledger.clone(), self.fake.node(), &self.boot);
        started.await.expect("gardend starts")
    }

    /// Runs `life` with one more gardend, which is killed at its end.
    pub fn life<T>(&self, life: impl AsyncFnOnce(Controller) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        // Dropping the runtime ends every task where it stands, as kill -9 would.
        runtime.block_on(async { life(self.gardend().await).await })
    }

    /// That the node holds what the ledger holds, no more and no less, and nothing was harmed.
    pub async fn assert_converged(&self) {
        let contents = self.ledger.load().await.unwrap();
        let mut places: Vec<_> = contents.sandboxes.iter().map(|row| row.id.clone()).collect();
        places.sort();
        assert_eq!(self.fake.places(), places, "places on the node, and rows of places");
        let mut layers: Vec<_> = contents.containers.iter().map(|row| row.uid.clone()).collect();
        layers.sort();
        assert_eq!(self.fake.layers(), layers, "containers' files on the node, and rows of containers");
        // Of each: whose it is, where it is, and what is in force.
        let networks = self.fake.networks().into_iter();
        let mut networks: Vec<_> =
            networks.map(|one| (one.container, one.sandbox, one.addresses, one.ports_in, one.rules_out)).collect();
        let rows = contents
            .containers
            .into_iter()
            .filter_map(|row| Some((row.uid, row.sandbox.clone()?, row.addresses?, row.ports_in, row.rules_out)));
        let mut rows: Vec<_> = rows.collect();
        networks.sort_by(|one, other| one.0.cmp(&other.0));
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(networks, rows, "networks on the node, and rows of containers");
        assert_eq!(self.fake.cut_off(), [], "containers whose network lets nothing through");
        assert_eq!(self.fake.violations(), Vec::<String>::new());
    }
}

pub fn request(handle: &str) -> CreateRequest {
    CreateRequest { handle: Some(Handle::new(handle).unwrap()), ..CreateRequest::default() }
}

/// `words` as a program and its arguments.
pub fn command(words: &str) -> ProcessSpec {
    let mut words = words.split(' ').map(str::to_owned);
    ProcessSpec { path: words.next().unwrap(), args: words.collect(), ..ProcessSpec::default() }
}

pub fn named(id: &str, words: &str) -> ProcessSpec {
    ProcessSpec { id: Some(ProcessId::new(id).unwrap()), ..command(words) }
}

pub fn terminal(words: &str) -> ProcessSpec {
    ProcessSpec { tty: Some(WindowSize::DEFAULT), ..command(words) }
}

pub fn handles(controller: &Controller) -> Vec<String> {
    controller.list(&Properties::new(), true).iter().map(ToString::to_string).collect()
}

pub async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// A socket to send to, and where that arrives.
pub fn socket() -> (OwnedFd, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours.into(), theirs)
}

/// Everything that arrives, once the other end is closed.
pub fn received(mut socket: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}
