//! What the ports promise, as tests that every implementation passes: the fake here, the real
//! adapters in the package that has them.
//!
//! Each check is a function of a [`Contract`]; it panics where a promise is broken, and leaves
//! nothing behind where none is. [`check_all`] runs them one after the other.

mod images;
mod network;

use crate::options::Node;
use crate::ports::{
    FileStream, FilesError, Measured, NodeErrorKind, OutputStream, PidUsage, ProcessEvent, ReaderId, Signal, SpawnError,
};
use crate::record::{
    Addresses, ContainerSpec, ContainerUid, ExitStatus, Handle, ImageReference, Limits, ProcessSpec, ProcessUid,
    SandboxId, SandboxKind,
};
pub use network::NetworkChecks;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long anything may take that is promised.
const SOON: Duration = Duration::from_secs(20);

/// Programs of the container that the checks run, as the implementation's rootfs has them.
pub struct Programs {
    /// Ends with this code.
    pub exit: fn(u8) -> ProcessSpec,
    /// Writes these to stdout and stderr, as they are, and ends with 0.
    pub print: fn(&str, &str) -> ProcessSpec,
    /// Copies stdin to stdout, until stdin ends.
    pub cat: fn() -> ProcessSpec,
    /// Runs until a signal ends it.
    pub sleep: fn() -> ProcessSpec,
    /// Runs until it is killed.
    pub stubborn: fn() -> ProcessSpec,
}

/// An implementation, and what the checks need to know of it.
pub struct Contract {
    /// The ports of one gardend.
    pub node: Node,
    /// Its events, taken from the ports.
    pub events: tokio::sync::Mutex<mpsc::Receiver<ProcessEvent>>,
    /// A container that can be had.
    pub spec: ContainerSpec,
    /// One that cannot: a rootfs that is not there.
    pub impossible: ContainerSpec,
    /// An image that can be had, with the same programs, and one that cannot, where others can;
    /// `None`: this node has none.
    pub images: Option<(ImageReference, ImageReference)>,
    /// What of [`LIMITS`] this node keeps.
    pub kept: Limits,
    /// What runs in it.
    pub programs: Programs,
    /// What networks are tried with; `None`: this node makes none.
    pub network: Option<NetworkChecks>,
}

impl Contract {
    /// Takes the events of `node`, which nobody has taken before.
    pub fn new(
        node: Node,
        spec: ContainerSpec,
        impossible: ContainerSpec,
        images: (ImageReference, ImageReference),
        programs: Programs,
    ) -> Self {
        let events = tokio::sync::Mutex::new(node.processes.events());
        Self { node, events, spec, impossible, images: Some(images), kept: LIMITS, programs, network: None }
    }

    /// Of a node that has no images and keeps no limits.
    pub fn without_images_and_limits(
        node: Node,
        spec: ContainerSpec,
        impossible: ContainerSpec,
        programs: Programs,
    ) -> Self {
        let events = tokio::sync::Mutex::new(node.processes.events());
        Self { node, events, spec, impossible, images: None, kept: Limits::default(), programs, network: None }
    }

    /// With networks.
    pub fn with_network(self, network: NetworkChecks) -> Self {
        Self { network: Some(network), ..self }
    }

    /// The event that `wanted` is looking for; others are passed over.
    async fn event(&self, wanted: impl Fn(&ProcessEvent) -> bool) -> ProcessEvent {
        let mut events = self.events.lock().await;
        let found = async {
            loop {
                let event = events.recv().await.expect("events go on");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(SOON, found).await.expect("the event comes")
    }

    async fn exit_of(&self, process: &ProcessUid) -> ExitStatus {
        let event =
            self.event(|event| matches!(event, ProcessEvent::Exited { process: ended, .. } if ended == process));
        match event.await {
            ProcessEvent::Exited { status, .. } => status,
            other => panic!("{other:?} is no exit"),
        }
    }

    /// A furnished and connected place.
    async fn place(&self) -> Place<'_> {
        self.place_of(&self.spec, ContainerUid::generate(), None).await
    }

    /// The place of a container, with its network where it has addresses.
    async fn place_of(&self, spec: &ContainerSpec, uid: ContainerUid, addresses: Option<&Addresses>) -> Place<'_> {
        let id = SandboxId::generate();
        let handle = Handle::new(format!("contract-{uid}")).expect("a handle");
        let kind = SandboxKind::of(spec);
        self.node.sandboxes.ensure(&id, kind).await.expect("a place is made");
        let place = Place { contract: self, id, uid, handle };
        let network = addresses.map(|addresses| place.network(addresses));
        let furnished = self.node.rootfs.furnish(&place.id, &place.uid, &place.handle, spec, network.as_ref());
        furnished.await.expect("it is furnished");
        if let Some(network) = network {
            self.node.network.ensure(&|| Some(network.clone())).await.expect("its network is made");
        }
        assert_eq!(self.node.processes.connect(&place.id).await.expect("its init answers"), []);
        place
    }

    async fn seen(&self, id: &SandboxId) -> Option<bool> {
        let seen = self.node.sandboxes.list().await.expect("places are listed");
        seen.iter().find(|place| place.id == *id).map(|place| place.running)
    }
}

struct Place<'a> {
    contract: &'a Contract,
    id: SandboxId,
    uid: ContainerUid,
    handle: Handle,
}

impl Place<'_> {
    async fn spawn(&self, spec: &ProcessSpec) -> ProcessUid {
        let uid = ProcessUid::generate();
        let pid = self.contract.node.processes.spawn(&self.id, &uid, &[], spec).await.expect("it starts");
        assert_ne!(pid, 1, "its pid on the host");
        uid
    }

    async fn remove(self) {
        let node = &self.contract.node;
        node.sandboxes.kill(&self.id).await.expect("it is killed");
        node.processes.disconnect(&self.id).await;
        if self.contract.network.is_some() {
            node.network.release(&self.uid).await.expect("its network is released");
            assert!(!self.linked().await, "it is gone");
        }
        node.rootfs.release(&self.uid).await.expect("its files are released");
        node.sandboxes.remove(&self.id).await.expect("it is removed");
        assert_eq!(self.contract.seen(&self.id).await, None);
        assert!(!node.rootfs.list().await.expect("files are listed").contains(&self.uid));
    }
}

/// Every check, one after the other.
pub async fn check_all(contract: &Contract) {
    a_place_is_made_once_killed_and_removed_any_number_of_times(contract).await;
    what_is_not_there_is_dead_and_removed(contract).await;
    an_impossible_rootfs_is_refused(contract).await;
    a_place_can_be_labelled(contract).await;
    exits_are_told_and_known_until_acknowledged(contract).await;
    what_cannot_be_started_says_why_and_leaves_nothing(contract).await;
    signals_end_what_they_reach(contract).await;
    a_place_tells_when_it_is_empty(contract).await;
    output_is_whole_and_apart_for_whoever_is_first(contract).await;
    output_that_was_not_read_stays_for_the_next(contract).await;
    a_later_reader_gets_what_comes_from_then_on(contract).await;
    input_arrives_and_ends(contract).await;
    unknown_readers_and_processes_end_at_once(contract).await;
    killing_a_place_ends_everything_in_it(contract).await;
    files_that_were_streamed_in_come_out_again(contract).await;
    files_that_cannot_be_streamed_are_refused_before_any_byte(contract).await;
    a_stream_that_is_none_is_an_error(contract).await;
    a_stream_that_flows_occupies_nobody_and_ends_with_its_place(contract).await;
    limits_are_in_force_as_they_were_asked_for(contract).await;
    figures_are_told_of_each_and_a_place_that_is_gone_harms_no_other(contract).await;
    what_is_left_is_told(contract).await;
    if let Some((image, no_image)) = &contract.images {
        images::check_all(contract, image, no_image).await;
    }
    if let Some(checks) = &contract.network {
        network::check_all(contract, checks).await;
    }
}

/// `ensure`, `kill` and `remove` are idempotent, and a list says how each place is.
pub async fn a_place_is_made_once_killed_and_removed_any_number_of_times(contract: &Contract) {
    let node = &contract.node;
    for kind in [SandboxKind::Unprivileged, SandboxKind::Privileged] {
        let id = SandboxId::generate();
        for _ in 0..2 {
            node.sandboxes.ensure(&id, kind).await.expect("a place is made");
            assert_eq!(contract.seen(&id).await, Some(true));
            assert!(node.sandboxes.is_current(&id, kind).await, "it was made just now");
            assert_eq!(node.processes.connect(&id).await.expect("its init answers"), []);
            assert!(!node.processes.occupied(&id).await.expect("its init answers"));
        }
        for _ in 0..2 {
            node.sandboxes.kill(&id).await.expect("it is killed");
            node.processes.disconnect(&id).await;
        }
        assert_ne!(contract.seen(&id).await, Some(true));
        node.processes.connect(&id).await.expect_err("nothing answers in a dead place");
        for _ in 0..2 {
            node.sandboxes.remove(&id).await.expect("it is removed");
        }
        assert_eq!(contract.seen(&id).await, None);
        assert!(!node.sandboxes.is_current(&id, kind).await, "what is not there is not to be had");
    }
}

/// A place and a container that never were can be killed, removed and released.
pub async fn what_is_not_there_is_dead_and_removed(contract: &Contract) {
    let id = SandboxId::generate();
    contract.node.sandboxes.kill(&id).await.expect("what is not there is dead");
    contract.node.processes.disconnect(&id).await;
    contract.node.sandboxes.remove(&id).await.expect("what is not there is removed");
    contract.node.rootfs.release(&ContainerUid::generate()).await.expect("what is not there is released");
}

/// `check` says `Invalid`, and what it does not refuse can be had.
pub async fn an_impossible_rootfs_is_refused(contract: &Contract) {
    contract.node.rootfs.check(&contract.spec).await.expect("it can be had");
    let refused = contract.node.rootfs.check(&contract.impossible).await.expect_err("it is not there");
    assert_eq!(refused.kind, NodeErrorKind::Invalid, "{refused}");
}

/// Any number of times.
pub async fn a_place_can_be_labelled(contract: &Contract) {
    let place = contract.place().await;
    for _ in 0..2 {
        contract.node.sandboxes.label(&place.id, &place.uid, &place.handle).await.expect("it is labelled");
    }
    place.remove().await;
}

/// An exit is an event, and what `connect` finds says so too until it was acknowledged.
pub async fn exits_are_told_and_known_until_acknowledged(contract: &Contract) {
    let place = contract.place().await;
    let processes = &contract.node.processes;
    for code in [0, 1, 77, 255] {
        let uid = place.spawn(&(contract.programs.exit)(code)).await;
        assert_eq!(contract.exit_of(&uid).await, ExitStatus::Code(code));
        let seen = processes.connect(&place.id).await.expect("its init answers");
        let seen = seen.iter().find(|seen| seen.uid == uid).expect("it is known");
        assert_eq!(seen.exit, Some(ExitStatus::Code(code)));
        for _ in 0..2 {
            processes.acknowledge(&place.id, &uid).await.expect("its init answers");
        }
        processes.signal(&place.id, &uid, Signal::Kill).await.expect("one that has ended is no error");
        contract.node.streams.forget(&uid).await;
        let seen = processes.connect(&place.id).await.expect("its init answers");
        assert!(seen.iter().all(|seen| seen.uid != uid), "it is forgotten");
    }
    place.remove().await;
}

/// A typed error, and no process.
pub async fn what_cannot_be_started_says_why_and_leaves_nothing(contract: &Contract) {
    let place = contract.place().await;
    let missing = ProcessSpec { path: "/there/is/no/such/program".into(), ..ProcessSpec::default() };
    let ghost = ProcessSpec { user: Some("no-such-user".into()), ..(contract.programs.exit)(0) };
    let uid = ProcessUid::generate();
    let refused = contract.node.processes.spawn(&place.id, &uid, &[], &missing).await.expect_err("it is missing");
    assert!(matches!(refused, SpawnError::ExecutableNotFound { .. }), "{refused}");
    assert!(refused.to_string().contains("executable file not found in $PATH"), "{refused}");
    let uid = ProcessUid::generate();
    let refused = contract.node.processes.spawn(&place.id, &uid, &[], &ghost).await.expect_err("nobody of that name");
    assert!(matches!(refused, SpawnError::UnknownUser { .. }), "{refused}");
    assert_eq!(contract.node.processes.connect(&place.id).await.expect("its init answers"), []);
    assert_eq!(contract.node.streams.attach(&uid), None);
    place.remove().await;
}

/// TERM and KILL, to one and to all.
pub async fn signals_end_what_they_reach(contract: &Contract) {
    let place = contract.place().await;
    let (node, programs) = (&contract.node, &contract.programs);
    let uid = place.spawn(&(programs.sleep)()).await;
    let other = place.spawn(&(programs.stubborn)()).await;
    node.processes.signal(&place.id, &uid, Signal::Terminate).await.expect("its init answers");
    assert_eq!(contract.exit_of(&uid).await, ExitStatus::Signal(15));
    let third = place.spawn(&(programs.sleep)()).await;
    node.processes.signal_all(&place.id, Signal::Terminate).await.expect("its init answers");
    assert_eq!(contract.exit_of(&third).await, ExitStatus::Signal(15));
    assert!(node.processes.occupied(&place.id).await.expect("its init answers"));
    node.processes.signal_all(&place.id, Signal::Kill).await.expect("its init answers");
    assert_eq!(contract.exit_of(&other).await, ExitStatus::Signal(9));
    place.remove().await;
}

/// `Emptied` comes, and `occupied` agrees.
pub async fn a_place_tells_when_it_is_empty(contract: &Contract) {
    let place = contract.place().await;
    let uid = place.spawn(&(contract.programs.sleep)()).await;
    assert!(contract.node.processes.occupied(&place.id).await.expect("its init answers"));
    contract.node.processes.signal(&place.id, &uid, Signal::Kill).await.expect("its init answers");
    contract.event(|event| matches!(event, ProcessEvent::Emptied { sandbox } if *sandbox == place.id)).await;
    assert!(!contract.node.processes.occupied(&place.id).await.expect("its init answers"));
    place.remove().await;
}

/// One output of a process, from a place in it to its end.
async fn output(contract: &Contract, uid: &ProcessUid, reader: ReaderId, stream: OutputStream) -> String {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    let received = tokio::task::spawn_blocking(move || {
        theirs.set_read_timeout(Some(SOON)).expect("a deadline");
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).map(|_| bytes)
    });
    contract.node.streams.read(uid, reader, stream, ours.into()).await;
    let bytes = received.await.expect("it is read").expect("it ends");
    String::from_utf8(bytes).expect("it is text")
}

/// Also when the process has ended before anybody attached.
pub async fn output_is_whole_and_apart_for_whoever_is_first(contract: &Contract) {
    let place = contract.place().await;
    let uid = place.spawn(&(contract.programs.print)("out", "err")).await;
    contract.exit_of(&uid).await;
    let reader = contract.node.streams.attach(&uid).expect("its streams are known");
    assert_eq!(output(contract, &uid, reader, OutputStream::Stdout).await, "out");
    assert_eq!(output(contract, &uid, reader, OutputStream::Stderr).await, "err");
    contract.node.streams.detach(&uid, reader);
    place.remove().await;
}

/// A place in the output that is given up without having been read.
pub async fn output_that_was_not_read_stays_for_the_next(contract: &Contract) {
    let place = contract.place().await;
    let uid = place.spawn(&(contract.programs.print)("out", "err")).await;
    contract.exit_of(&uid).await;
    let first = contract.node.streams.attach(&uid).expect("its streams are known");
    assert_eq!(output(contract, &uid, first, OutputStream::Stdout).await, "out");
    contract.node.streams.detach(&uid, first);
    let second = contract.node.streams.attach(&uid).expect("its streams are known");
    assert_ne!(first, second);
    assert_eq!(output(contract, &uid, second, OutputStream::Stderr).await, "err");
    assert_eq!(output(contract, &uid, second, OutputStream::Stdout).await, "");
    place.remove().await;
}

/// While the first goes on where it was.
pub async fn a_later_reader_gets_what_comes_from_then_on(contract: &Contract) {
    let place = contract.place().await;
    let streams = &contract.node.streams;
    let uid = place.spawn(&(contract.programs.cat)()).await;
    let first = streams.attach(&uid).expect("its streams are known");
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    let reading = streams.read(&uid, first, OutputStream::Stdout, ours.into());
    let client = async {
        streams.write_stdin(&uid, b"one ").await;
        let mut theirs = read_exactly(theirs, b"one ").await;
        let second = streams.attach(&uid).expect("its streams are known");
        streams.write_stdin(&uid, b"two").await;
        theirs = read_exactly(theirs, b"two").await;
        streams.close_stdin(&uid).await;
        assert_eq!(output(contract, &uid, second, OutputStream::Stdout).await, "two");
        theirs
    };
    let ((), theirs) = tokio::join!(reading, client);
    drop(theirs);
    place.remove().await;
}

async fn read_exactly(mut socket: UnixStream, expected: &'static [u8]) -> UnixStream {
    let reading = tokio::task::spawn_blocking(move || {
        socket.set_read_timeout(Some(SOON)).expect("a deadline");
        let mut bytes = vec![0; expected.len()];
        socket.read_exact(&mut bytes).expect("it arrives");
        assert_eq!(bytes, expected);
        socket
    });
    reading.await.expect("it arrives")
}

/// A second end and data after it are harmless.
pub async fn input_arrives_and_ends(contract: &Contract) {
    let place = contract.place().await;
    let streams = &contract.node.streams;
    let uid = place.spawn(&(contract.programs.cat)()).await;
    let reader = streams.attach(&uid).expect("its streams are known");
    streams.write_stdin(&uid, b"to and fro").await;
    for _ in 0..2 {
        streams.close_stdin(&uid).await;
        streams.write_stdin(&uid, b"too late").await;
    }
    assert_eq!(output(contract, &uid, reader, OutputStream::Stdout).await, "to and fro");
    assert_eq!(contract.exit_of(&uid).await, ExitStatus::Code(0));
    place.remove().await;
}

/// None of these waits for anything.
pub async fn unknown_readers_and_processes_end_at_once(contract: &Contract) {
    let place = contract.place().await;
    let uid = place.spawn(&(contract.programs.sleep)()).await;
    let nobody = ReaderId(u64::MAX);
    assert_eq!(output(contract, &uid, nobody, OutputStream::Stdout).await, "");
    let unknown = ProcessUid::generate();
    assert_eq!(output(contract, &unknown, nobody, OutputStream::Stderr).await, "");
    assert_eq!(contract.node.streams.attach(&unknown), None);
    contract.node.streams.write_stdin(&unknown, b"x").await;
    contract.node.streams.close_stdin(&unknown).await;
    contract.node.streams.detach(&unknown, nobody);
    contract.node.streams.forget(&unknown).await;
    place.remove().await;
}

/// Readers get their end.
pub async fn killing_a_place_ends_everything_in_it(contract: &Contract) {
    let place = contract.place().await;
    let uid = place.spawn(&(contract.programs.stubborn)()).await;
    let reader = contract.node.streams.attach(&uid).expect("its streams are known");
    let node = &contract.node;
    let killing = async {
        node.sandboxes.kill(&place.id).await.expect("it is killed");
        node.processes.disconnect(&place.id).await;
    };
    let (output, ()) = tokio::join!(output(contract, &uid, reader, OutputStream::Stdout), killing);
    assert_eq!(output, "");
    node.processes.occupied(&place.id).await.expect_err("nothing answers in a dead place");
    place.remove().await;
}

/// A tar stream with one file of this name and content.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    let size = format!("{:011o}", content.len());
    let fields: [(usize, &[u8]); 7] = [
        (100, b"0000644"),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, size.as_bytes()),
        (136, b"00000000000"),
        (148, b"        "),
        (156, b"0"),
    ];
    for (at, text) in fields {
        header[at..at + text.len()].copy_from_slice(text);
    }
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut stream = [&header[..], content].concat();
    stream.resize(stream.len().next_multiple_of(512) + 1024, 0);
    stream
}

/// The pipe, as something that blocks.
fn blocking(pipe: OwnedFd) -> std::io::PipeWriter {
    std::io::PipeWriter::from(pipe)
}

/// Writes all of it, as far as it is taken, and closes the pipe.
async fn stream_into(stream: FileStream, bytes: Vec<u8>) -> Result<(), FilesError> {
    let mut pipe = blocking(stream.pipe);
    let writing = tokio::task::spawn_blocking(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match pipe.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                // Nobody takes more: the outcome says why.
                Err(_) => return,
            }
        }
    });
    writing.await.expect("it is written");
    stream.outcome.await
}

async fn all_of(stream: FileStream) -> (Vec<u8>, Result<(), FilesError>) {
    let mut pipe = std::io::PipeReader::from(stream.pipe);
    let reading = tokio::task::spawn_blocking(move || {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => return bytes,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let bytes = reading.await.expect("it is read");
    (bytes, stream.outcome.await)
}

/// As often as is asked.
pub async fn files_that_were_streamed_in_come_out_again(contract: &Contract) {
    let place = contract.place().await;
    let files = &contract.node.files;
    let content = vec![b'x'; 100_000];
    let stream = files.stream_in(&place.id, "", "/contract/new").await.expect("it begins");
    stream_into(stream, tar_of("name", &content)).await.expect("it is unpacked");
    for user in ["", "root"] {
        let stream = files.stream_out(&place.id, user, "/contract/new/").await.expect("it begins");
        let (bytes, outcome) = all_of(stream).await;
        outcome.expect("it is whole");
        assert!(bytes.len() % 512 == 0 && bytes.ends_with(&[0; 1024]), "it is a tar stream");
        assert!(bytes.windows(content.len()).any(|part| part == content), "the content is in it");
    }
    place.remove().await;
}

/// With the reason.
pub async fn files_that_cannot_be_streamed_are_refused_before_any_byte(contract: &Contract) {
    let place = contract.place().await;
    let files = &contract.node.files;
    let missing = files.stream_out(&place.id, "", "/contract/missing").await.err().expect("it is not there");
    assert!(matches!(&missing, FilesError::File { reason, .. } if reason == "No such file or directory"), "{missing}");
    for direction in ["in", "out"] {
        let refused = match direction {
            "in" => files.stream_in(&place.id, "no-such-user", "/contract").await.err(),
            _ => files.stream_out(&place.id, "no-such-user", "/").await.err(),
        };
        assert_eq!(refused, Some(FilesError::UnknownUser { user: "no-such-user".into() }), "{direction}");
    }
    let nowhere = files.stream_in(&SandboxId::generate(), "", "/").await.err().expect("there is no such place");
    assert!(matches!(nowhere, FilesError::NoAnswer { .. }), "{nowhere}");
    place.remove().await;
}

/// Also one that ends early.
pub async fn a_stream_that_is_none_is_an_error(contract: &Contract) {
    let place = contract.place().await;
    let files = &contract.node.files;
    let whole = tar_of("name", &[b'x'; 5000]);
    for bytes in [vec![b'x'; 200_000], whole[..3000].to_vec(), Vec::new()] {
        let stream = files.stream_in(&place.id, "", "/contract").await.expect("it begins");
        let failed = stream_into(stream, bytes).await.expect_err("it is broken");
        assert!(matches!(failed, FilesError::Stream(_)), "{failed}");
    }
    place.remove().await;
}

/// Killing the place ends it with an error.
pub async fn a_stream_that_flows_occupies_nobody_and_ends_with_its_place(contract: &Contract) {
    let place = contract.place().await;
    let node = &contract.node;
    let FileStream { pipe, outcome } = node.files.stream_in(&place.id, "", "/contract").await.expect("it begins");
    let mut pipe = blocking(pipe);
    pipe.write_all(&tar_of("name", b"")[..512]).expect("it is taken");
    assert!(!node.processes.occupied(&place.id).await.expect("its init answers"));
    node.sandboxes.kill(&place.id).await.expect("it is killed");
    node.processes.disconnect(&place.id).await;
    drop(pipe);
    let ended = outcome.await.expect_err("it was not whole");
    assert!(matches!(ended, FilesError::Killed | FilesError::Stream(_)), "{ended}");
    place.remove().await;
}

/// What the checks limit a place to: whole pages, and processes enough for the programs.
pub const LIMITS: Limits = Limits {
    bandwidth_rate: 0,
    bandwidth_burst: 0,
    cpu_weight: 512,
    cpu_shares: 0,
    disk_inode_soft: 0,
    disk_inode_hard: 0,
    disk_byte_soft: 0,
    disk_byte_hard: 0,
    disk_scope_exclusive: false,
    memory_bytes: 64 << 20,
    pids_max: 40,
};

/// Any number of times, and without them there are none.
pub async fn limits_are_in_force_as_they_were_asked_for(contract: &Contract) {
    let place = contract.place().await;
    let resources = &contract.node.resources;
    let unlimited = resources.in_force(&place.id, &place.uid, &contract.spec).await.expect("it is read");
    assert_eq!((unlimited.memory_bytes, unlimited.shares(), unlimited.pids_max), (0, 0, 0));
    let spec = ContainerSpec { limits: LIMITS, ..contract.spec.clone() };
    resources.check(&spec).await.expect("these can be had");
    for _ in 0..2 {
        resources.limit(&place.id, &spec).await.expect("they are put in force");
    }
    let seen = resources.in_force(&place.id, &place.uid, &spec).await.expect("they are read");
    let kept = contract.kept;
    assert_eq!((seen.memory_bytes, seen.shares(), seen.pids_max), (kept.memory_bytes, kept.shares(), kept.pids_max));
    // What runs there obeys them and is started as ever.
    let uid = place.spawn(&(contract.programs.exit)(3)).await;
    assert_eq!(contract.exit_of(&uid).await, ExitStatus::Code(3));
    assert_eq!(resources.oom(&place.id).await.expect("it is told").kills, 0);
    place.remove().await;
}

/// In the order in which they were asked of.
pub async fn figures_are_told_of_each_and_a_place_that_is_gone_harms_no_other(contract: &Contract) {
    let place = contract.place().await;
    let spec = ContainerSpec { limits: LIMITS, ..contract.spec.clone() };
    contract.node.resources.limit(&place.id, &spec).await.expect("limits are put in force");
    let here = Measured {
        sandbox: place.id.clone(),
        container: place.uid.clone(),
        rootfs: spec.rootfs.clone(),
        process: None,
    };
    let gone = Measured { sandbox: SandboxId::generate(), container: ContainerUid::generate(), ..here.clone() };
    let before = contract.node.metrics.usage(vec![here.clone()]).await.remove(0).expect("there are figures");
    assert_eq!(before.pids, PidUsage { current: 0, max: contract.kept.pids_max });
    let uid = place.spawn(&(contract.programs.sleep)()).await;
    let usages = contract.node.metrics.usage(vec![gone, here]).await;
    let [gone, here] = &usages[..] else { panic!("{} answers to two questions", usages.len()) };
    assert_eq!(gone.as_ref().expect_err("it is not there").kind, NodeErrorKind::NotFound);
    let here = here.as_ref().expect("there are figures");
    assert_eq!(here.pids, PidUsage { current: 1, max: contract.kept.pids_max });
    assert!(here.memory.toward_limit > 0 && here.cpu.total > 0 && !here.memory.stat.is_empty(), "{here:?}");
    contract.node.processes.signal(&place.id, &uid, Signal::Kill).await.expect("its init answers");
    contract.exit_of(&uid).await;
    place.remove().await;
}

/// What is left is no more than there is.
pub async fn what_is_left_is_told(contract: &Contract) {
    let left = contract.node.metrics.headroom().await.expect("the node says what it has left");
    let memory = left.memory.expect("it knows its memory");
    assert!(memory.free <= memory.total && memory.total > 0, "{memory:?}");
    assert!(!left.disks.is_empty(), "it writes somewhere");
    for (folder, room) in left.disks {
        assert!(room.free <= room.total && room.total > 0, "{folder}: {room:?}");
    }
}
