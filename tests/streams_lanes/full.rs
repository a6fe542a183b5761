//! A run folder without room: nobody waits for it, and a reader's bytes stay exact.

use crate::flow::{checked, claim, reading, to_end};
use crate::place::{Checker, LONG, Place, counters, spec};
use gardend::node::process::Options;
use gardend_controller::ports::{OutputStream, Processes, Streams};
use gardend_controller::record::ProcessUid;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::sync::atomic::Ordering;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;

/// A place on a tmpfs of its own, of 3 MiB.
struct Small {
    place: Option<Place>,
    folder: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(c"size=3m"))
            .expect("the rights of root are needed");
        let mut small = Self { place: None, folder };
        small.place = Some(Place::in_folder(tempfile::tempdir_in(small.folder.path()).unwrap()));
        small
    }

    fn place(&self) -> &Place {
        self.place.as_ref().unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.place = None;
        let _ = unmount(self.folder.path(), UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_nobody_reads_goes_on_and_what_is_lost_is_counted() {
    let small = Small::new();
    let place = small.place();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 32 * MIB;
    let mut events = node.events();
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    timeout(LONG, events.recv()).await.unwrap();
    assert_eq!(place.counter.written.load(Ordering::SeqCst), total);
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    let kept = to_end(client).await.len() as u64;
    assert_eq!(kept + node.dropped(&process).unwrap(), total);
    println!("a spool without room: {kept} of {total} bytes kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_gets_every_byte_although_there_is_no_room() {
    let small = Small::new();
    let place = small.place();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 32 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let reader = node.attach(&process).unwrap();
    // The place is held until it connects, and what there is room for is kept for it.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(place.counter.written.load(Ordering::SeqCst) < total);
    let (client, _) = claim(&node, &process, reader, OutputStream::Stdout);
    assert_eq!(checked(client).await, total);
    assert_eq!(node.dropped(&process), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_readers_each_gets_every_byte_or_knows_that_it_does_not() {
    let small = Small::new();
    let place = small.place();
    // All the room there is belongs to somebody else.
    let fill = || std::fs::write(place.run.path().join("other"), vec![0; 4 << 20]);
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let clients: Vec<_> = (0..2).map(|_| reading(&node, &process, OutputStream::Stdout).0).collect();
    fill().unwrap_err();
    let bytes: Vec<u8> = counters(0, 8 * MIB);
    let reads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            spawn_blocking(move || {
                let mut checker = Checker::default();
                checker.drain(&mut client).map(|()| checker.seen)
            })
        })
        .collect();
    for chunk in bytes.chunks(64 << 10) {
        timeout(LONG, node.write_stdin(&process, chunk)).await.unwrap();
    }
    node.close_stdin(&process).await;
    let mut whole = 0;
    for read in reads {
        match timeout(LONG, read).await.unwrap().unwrap() {
            Ok(seen) => {
                assert_eq!(seen, 8 * MIB);
                whole += 1;
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(whole, 1);
}
