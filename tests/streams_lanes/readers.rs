//! Readers that come, go, stall, and are several.

use crate::flow::{checked, claim, count, reading, to_end};
use crate::place::{Checker, LONG, Place, connection, eventually, spec};
use gardend::node::process::Options;
use gardend_controller::ports::{OutputStream, Processes, Streams};
use gardend_controller::record::ProcessUid;
use rustix::net::{Shutdown, shutdown};
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_readers_stalls_and_neither_the_process_nor_the_other_waits() {
    let place = Place::new();
    let node = place.node(Options { spool_bytes: 256 * MIB, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 64 * MIB;
    let args = [format!("cat >/dev/null; seq 1 9000000 | head -c {total}")];
    node.spawn(&place.sandbox, &process, &[], &spec("sh", &["-c", &args[0]])).await.unwrap();
    let (fast, _) = reading(&node, &process, OutputStream::Stdout);
    let (slow, slow_read) = reading(&node, &process, OutputStream::Stdout);
    node.close_stdin(&process).await;
    let start = Instant::now();
    let first = timeout(LONG, to_end(fast)).await.unwrap();
    println!("64 MiB beside a stalled reader in {:?}", start.elapsed());
    assert_eq!(first.len() as u64, total);
    assert!(!slow_read.is_finished());
    let second = timeout(LONG, to_end(slow)).await.unwrap();
    assert!(first == second, "the stalled reader got other bytes");
    timeout(LONG, slow_read).await.unwrap().unwrap();
    let expected: String = (1..=9_000_000u64).map(|n| format!("{n}\n")).collect();
    assert!(first == expected.as_bytes()[..total as usize], "the bytes are not what was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_further_behind_than_the_spool_holds_loses_its_connection_and_knows_it() {
    let place = Place::new();
    let node = place.node(Options { spool_bytes: 4 * MIB, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 64 * MIB;
    node.spawn(
        &place.sandbox,
        &process,
        &[],
        &spec("sh", &["-c", &format!("cat >/dev/null; head -c {total} /dev/zero")]),
    )
    .await
    .unwrap();
    let (fast, _) = reading(&node, &process, OutputStream::Stdout);
    let (mut slow, slow_read) = reading(&node, &process, OutputStream::Stdout);
    node.close_stdin(&process).await;
    assert_eq!(timeout(LONG, to_end(fast)).await.unwrap().len() as u64, total);
    timeout(LONG, slow_read).await.unwrap().unwrap();
    let error = spawn_blocking(move || slow.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_in_turn_get_every_byte_once() {
    let place = Place::new();
    let node = place.node(Options { spool_bytes: 256 * MIB, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 128 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let mut checker = Checker::default();
    let mut turns = 0;
    while checker.seen < total {
        let (mut client, read) = reading(&node, &process, OutputStream::Stdout);
        turns += 1;
        checker = spawn_blocking(move || {
            let mut buffer = vec![0; 64 << 10];
            let enough = checker.seen + turns % 7 * 999_999;
            while checker.seen < enough {
                match client.read(&mut buffer).unwrap() {
                    0 => return checker,
                    bytes => checker.check(&buffer[..bytes]),
                }
            }
            // Has enough, and reads what is already on its way.
            shutdown(&client, Shutdown::Write).unwrap();
            checker.drain(&mut client).unwrap();
            checker
        })
        .await
        .unwrap();
        timeout(LONG, read).await.unwrap().unwrap();
        if turns % 3 == 0 {
            // Some go to the spool meanwhile.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    println!("128 MiB to {turns} readers in turn");
    assert!(turns > 3, "{turns}");
    assert_eq!(node.dropped(&process), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_nobody_reads_never_blocks_and_the_newest_is_kept() {
    let place = Place::new();
    let bound = 8 * MIB;
    let claim_grace = Duration::from_millis(100);
    let node = place.node(Options { spool_bytes: bound, claim_grace, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 64 * MIB;
    let mut events = node.events();
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    timeout(LONG, events.recv()).await.unwrap();
    eventually("moving", || place.counter.written.load(Ordering::SeqCst) == total).await;
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    eventually("forgetting", || place.has_forgotten(&process)).await;
    let dropped = node.dropped(&process).unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    let mut checker = Checker { seen: dropped };
    let seen = spawn_blocking(move || {
        checker.drain(&mut { client }).unwrap();
        checker.seen
    });
    assert_eq!(seen.await.unwrap(), total);
    println!("64 MiB that nobody read: {dropped} bytes dropped, {} kept", total - dropped);
    assert!(total - dropped <= bound && total - dropped >= bound - 2 * MIB, "{dropped}");
    // It was read once; there is nothing left for another.
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"");
    node.forget(&process).await;
    assert!(!place.folders().spool(&process).exists());
    assert_eq!(node.attach(&process), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_further_reader_gets_what_comes_from_its_attach_on() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (mut first, _) = reading(&node, &process, OutputStream::Stdout);
    node.write_stdin(&process, b"one ").await;
    let mut got = [0; 4];
    first = spawn_blocking(move || {
        first.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one ");
        first
    })
    .await
    .unwrap();
    let reader = node.attach(&process).unwrap();
    node.write_stdin(&process, b"two ").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (second, _) = claim(&node, &process, reader, OutputStream::Stdout);
    node.write_stdin(&process, b"three").await;
    node.close_stdin(&process).await;
    assert_eq!(to_end(first).await, b"two three");
    assert_eq!(to_end(second).await, b"two three");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_dropped_between_a_start_and_the_first_attach() {
    let place = Place::new();
    let node = place.node(Options { spool_bytes: 4 * MIB, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 32 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    // Whoever asked for it may be slow to say so: the machine is busy, say.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let written = place.counter.written.load(Ordering::SeqCst);
    assert!(written > 4 * MIB && written < 8 * MIB, "{written}");
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    assert_eq!(checked(client).await, total);
    assert_eq!(node.dropped(&process), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_reader_that_connects_late_loses_nothing_and_one_that_never_does_holds_nothing() {
    let place = Place::new();
    let grace = Duration::from_millis(300);
    let node = place.node(Options { spool_bytes: 4 * MIB, claim_grace: grace, ..Options::default() });
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 32 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let reader = node.attach(&process).unwrap();
    tokio::time::sleep(grace / 2).await;
    // The spool holds what it may, then the process waits for the reader that said it would come.
    let written = place.counter.written.load(Ordering::SeqCst);
    assert!(written < 8 * MIB, "{written}");
    let (client, _) = claim(&node, &process, reader, OutputStream::Stdout);
    assert_eq!(checked(client).await, total);
    assert_eq!(node.dropped(&process), Some(0));

    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let reader = node.attach(&process).unwrap();
    eventually("running on", || node.dropped(&process) > Some(0)).await;
    let (client, _) = claim(&node, &process, reader, OutputStream::Stdout);
    let late = to_end(client).await;
    assert!(!late.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_reader_slows_the_process_and_memory_stays_constant() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 512 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    let mut written = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = place.counter.written.load(Ordering::SeqCst);
        if now == written && written > 0 {
            break;
        }
        written = now;
        assert!(written < 40 * MIB, "it goes on although its reader has stalled");
    }
    assert!(written < 40 * MIB, "{written}");
    drop(client);
    // Without a reader it goes on at once.
    eventually("going on", || place.counter.written.load(Ordering::SeqCst) > written + 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_while_nothing_flows_is_noticed() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (client, read) = reading(&node, &process, OutputStream::Stdout);
    drop(client);
    timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
    node.write_stdin(&process, b"for the next one").await;
    node.close_stdin(&process).await;
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"for the next one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_cancelled_leaves_its_place_to_the_next() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (first, read) = reading(&node, &process, OutputStream::Stdout);
    node.write_stdin(&process, b"one ").await;
    let mut first = spawn_blocking(move || {
        let mut first = first;
        first.read_exact(&mut [0; 4]).unwrap();
        first
    })
    .await
    .unwrap();
    read.abort();
    assert!(read.await.unwrap_err().is_cancelled());
    node.write_stdin(&process, b"two").await;
    node.close_stdin(&process).await;
    let (second, _) = reading(&node, &process, OutputStream::Stdout);
    assert_eq!(to_end(second).await, b"two");
    assert_eq!(spawn_blocking(move || first.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_talks_gets_its_output_and_a_clean_end() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    (&client).write_all(&[0; 100_000]).unwrap();
    node.write_stdin(&process, b"output").await;
    node.close_stdin(&process).await;
    assert_eq!(to_end(client).await, b"output");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_to_unix_sockets_too() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 64 * MIB;
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string()])).await.unwrap();
    let reader = node.attach(&process).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let read = {
        let (node, process) = (node.clone(), process.clone());
        tokio::spawn(async move { node.read(&process, reader, OutputStream::Stdout, near.into()).await })
    };
    let seen = spawn_blocking(move || {
        let mut checker = Checker::default();
        checker.drain(&mut { far }).unwrap();
        checker.seen
    });
    assert_eq!(seen.await.unwrap(), total);
    timeout(LONG, read).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_of_two_readers_by_way_of_the_spool() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 512 * MIB;
    node.spawn(
        &place.sandbox,
        &process,
        &[],
        &spec("sh", &["-c", &format!("cat >/dev/null; head -c {total} /dev/zero")]),
    )
    .await
    .unwrap();
    let clients: Vec<_> = (0..2).map(|_| reading(&node, &process, OutputStream::Stdout).0).collect();
    node.close_stdin(&process).await;
    let start = Instant::now();
    let drains: Vec<_> = clients.into_iter().map(|mut client| spawn_blocking(move || count(&mut client))).collect();
    for drain in drains {
        assert_eq!(drain.await.unwrap(), total);
    }
    println!("512 MiB to two readers: {:.2} GB/s each", total as f64 / 1e9 / start.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_ended_process_outlives_gardend() {
    let place = Place::new();
    let process = ProcessUid::generate();
    {
        let node = place.node(Options::default());
        node.connect(&place.sandbox).await.unwrap();
        node.spawn(&place.sandbox, &process, &[], &spec("echo", &["left over"])).await.unwrap();
        let mut events = node.events();
        timeout(LONG, events.recv()).await.unwrap();
        node.acknowledge(&place.sandbox, &process).await.unwrap();
        eventually("forgetting", || place.has_forgotten(&process)).await;
    }
    let node = place.node(Options::default());
    assert_eq!(node.connect(&place.sandbox).await.unwrap(), []);
    let other = ProcessUid::generate();
    std::fs::create_dir_all(place.folders().spool(&other)).unwrap();
    node.retain(std::slice::from_ref(&process)).await;
    assert!(!place.folders().spool(&other).exists());
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"left over\n");
    let (server, client) = connection();
    drop(server);
    drop(client);
}
