//! One process, one reader: output, input, exit.

use crate::place::{Checker, LONG, Place, connection, eventually, spec};
use gardend::node::process::{Options, ProcessNode};
use gardend_controller::ports::{OutputStream, ProcessEvent, Processes, SpawnError, Streams};
use gardend_controller::record::{ExitStatus, ProcessUid, WindowSize};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// Reads one output in the background; the client's end of it.
pub fn reading(node: &ProcessNode, process: &ProcessUid, stream: OutputStream) -> (TcpStream, JoinHandle<()>) {
    let reader = node.attach(process).expect("the process is known");
    claim(node, process, reader, stream)
}

/// Connects a reader that has attached before.
pub fn claim(
    node: &ProcessNode,
    process: &ProcessUid,
    reader: gardend_controller::ports::ReaderId,
    stream: OutputStream,
) -> (TcpStream, JoinHandle<()>) {
    let (server, client) = connection();
    let (node, process) = (node.clone(), process.clone());
    (client, tokio::spawn(async move { node.read(&process, reader, stream, server).await }))
}

pub async fn to_end(mut client: TcpStream) -> Vec<u8> {
    let read = move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).map(|_| bytes)
    };
    spawn_blocking(read).await.unwrap().unwrap()
}

/// Reads to the end and counts.
pub fn count(client: &mut TcpStream) -> u64 {
    let mut buffer = vec![0; 1 << 20];
    let mut seen = 0;
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => return seen,
            bytes => seen += bytes as u64,
        }
    }
}

pub async fn checked(mut client: TcpStream) -> u64 {
    let check = move || {
        let mut checker = Checker::default();
        checker.drain(&mut client).unwrap();
        checker.seen
    };
    spawn_blocking(check).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_of_random_bytes_arrive_as_they_are() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let file = place.run.path().join("random");
    let mut random = vec![0; 64 << 20];
    getrandom::fill(&mut random).unwrap();
    std::fs::write(&file, &random).unwrap();
    let process = ProcessUid::generate();
    let mut events = node.events();
    let pid = node.spawn(&place.sandbox, &process, &[], &spec("cat", &[file.to_str().unwrap()])).await.unwrap();
    assert!(pid > 0);
    let (client, read) = reading(&node, &process, OutputStream::Stdout);
    let got = to_end(client).await;
    assert_eq!(Sha256::digest(&got), Sha256::digest(&random));
    timeout(LONG, read).await.unwrap().unwrap();
    let exited =
        ProcessEvent::Exited { sandbox: place.sandbox.clone(), process: process.clone(), status: ExitStatus::Code(0) };
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), Some(exited));
    assert!(!place.has_forgotten(&process));
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    eventually("forgetting", || place.has_forgotten(&process)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_and_stderr_are_apart() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &["A=1".into()], &spec("sh", &["-c", "echo out $A; echo err >&2"]))
        .await
        .unwrap();
    let reader = node.attach(&process).unwrap();
    let (out, _) = claim(&node, &process, reader, OutputStream::Stdout);
    let (err, _) = claim(&node, &process, reader, OutputStream::Stderr);
    assert_eq!(to_end(out).await, b"out 1\n");
    assert_eq!(to_end(err).await, b"err\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_go_in_as_they_are_and_the_end_of_stdin_arrives() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("sha256sum", &[])).await.unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    let mut random = vec![0; 64 << 20];
    getrandom::fill(&mut random).unwrap();
    let start = Instant::now();
    for chunk in random.chunks(32 << 10) {
        node.write_stdin(&process, chunk).await;
    }
    node.close_stdin(&process).await;
    println!("64 MiB of stdin in {:?}", start.elapsed());
    node.close_stdin(&process).await;
    node.write_stdin(&process, b"after the end").await;
    let sum: String = Sha256::digest(&random).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(String::from_utf8(to_end(client).await).unwrap(), format!("{sum}  -\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_several_writers_arrive_whole() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("cat", &[])).await.unwrap();
    let (client, _) = reading(&node, &process, OutputStream::Stdout);
    let writers: Vec<_> = (0..8u8)
        .map(|writer| {
            let (node, process) = (node.clone(), process.clone());
            tokio::spawn(async move {
                for _ in 0..16 {
                    node.write_stdin(&process, &[b'a' + writer; 100_000]).await;
                }
            })
        })
        .collect();
    let got = tokio::spawn(to_end(client));
    for writer in writers {
        writer.await.unwrap();
    }
    node.close_stdin(&process).await;
    let got = got.await.unwrap();
    assert_eq!(got.len(), 8 * 16 * 100_000);
    assert!(got.chunks(100_000).all(|chunk| chunk.iter().all(|byte| *byte == chunk[0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_for_a_process_that_does_not_read_waits_and_is_discarded_at_its_exit() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("sleep", &["60"])).await.unwrap();
    let data = vec![0; 1 << 20];
    let write = node.write_stdin(&process, &data);
    tokio::pin!(write);
    assert!(timeout(Duration::from_millis(100), &mut write).await.is_err());
    node.signal(&place.sandbox, &process, gardend_controller::ports::Signal::Kill).await.unwrap();
    timeout(LONG, write).await.unwrap();
    timeout(LONG, node.write_stdin(&process, &data)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_s_output_arrives_as_it_is_and_its_stderr_ends_at_once() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let total = 16u64 << 20;
    let mut spec = spec("counter", &[&total.to_string()]);
    spec.tty = Some(WindowSize::DEFAULT);
    node.spawn(&place.sandbox, &process, &[], &spec).await.unwrap();
    let reader = node.attach(&process).unwrap();
    let (err, _) = claim(&node, &process, reader, OutputStream::Stderr);
    assert_eq!(to_end(err).await, b"");
    let (out, _) = claim(&node, &process, reader, OutputStream::Stdout);
    let start = Instant::now();
    assert_eq!(checked(out).await, total);
    println!("16 MiB through a terminal in {:?}", start.elapsed());
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    eventually("forgetting", || place.has_forgotten(&process)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_that_holds_the_pipe_does_not_hold_the_end_back() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let script = "sleep 60 & echo $!; exit 3";
    node.spawn(&place.sandbox, &process, &[], &spec("sh", &["-c", script])).await.unwrap();
    let (client, read) = reading(&node, &process, OutputStream::Stdout);
    let start = Instant::now();
    let got = String::from_utf8(to_end(client).await).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    timeout(LONG, read).await.unwrap().unwrap();
    let grandchild = rustix::process::Pid::from_raw(got.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(grandchild, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_leaves_nothing_in_the_pipe_although_its_reader_is_slow() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    // More than its small sockets hold, and no more than these and the pipe.
    let total = 1u64 << 20;
    let mut events = node.events();
    node.spawn(&place.sandbox, &process, &[], &spec("counter", &[&total.to_string(), "grandchild"])).await.unwrap();
    let reader = node.attach(&process).unwrap();
    let (server, client) = connection();
    rustix::net::sockopt::set_socket_send_buffer_size(&server, 16 << 10).unwrap();
    let read = tokio::spawn({
        let (node, process) = (node.clone(), process.clone());
        async move { node.read(&process, reader, OutputStream::Stdout, server).await }
    });
    timeout(LONG, events.recv()).await.unwrap();
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    eventually("forgetting", || place.has_forgotten(&process)).await;
    assert_eq!(checked(client).await, total);
    timeout(LONG, read).await.unwrap().unwrap();
    place.end_grandchildren();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let error = node.spawn(&place.sandbox, &process, &[], &spec("/no/such", &[])).await.unwrap_err();
    assert_eq!(error, SpawnError::ExecutableNotFound { program: "/no/such".into() });
    assert_eq!(node.attach(&process), None);
    assert!(!node.occupied(&place.sandbox).await.unwrap());
    let large = spec("true", &["x".repeat(200_000).as_str()]);
    assert!(matches!(node.spawn(&place.sandbox, &process, &[], &large).await, Err(SpawnError::NotExecutable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_process_or_reader_gets_the_end_at_once() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let process = ProcessUid::generate();
    let (client, read) = claim(&node, &process, gardend_controller::ports::ReaderId(1), OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"");
    read.await.unwrap();
    node.spawn(&place.sandbox, &process, &[], &spec("sleep", &["60"])).await.unwrap();
    let (client, _) = claim(&node, &process, gardend_controller::ports::ReaderId(99), OutputStream::Stdout);
    assert_eq!(to_end(client).await, b"");
    node.signal(&place.sandbox, &process, gardend_controller::ports::Signal::Kill).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_of_one_reader_over_loopback() {
    let place = Place::new();
    let node = place.node(Options::default());
    node.connect(&place.sandbox).await.unwrap();
    let total: u64 = 1 << 30;
    let floor = spawn_blocking(move || bare_splice(total)).await.unwrap();
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &spec("head", &["-c", &total.to_string(), "/dev/zero"])).await.unwrap();
    let start = Instant::now();
    let (mut client, _) = reading(&node, &process, OutputStream::Stdout);
    let seen = spawn_blocking(move || count(&mut client));
    assert_eq!(seen.await.unwrap(), total);
    let rate = total as f64 / 1e9 / start.elapsed().as_secs_f64();
    println!("1 GiB to one reader over loopback: {rate:.2} GB/s; a bare splice loop beside it: {floor:.2} GB/s");
    assert_eq!(node.dropped(&process), Some(0));
}

/// GB/s of the same program by a thread that does nothing but splice, with calls that block.
fn bare_splice(total: u64) -> f64 {
    let (reading, writing) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writing, 1 << 20).unwrap();
    let mut head = std::process::Command::new("head");
    head.args(["-c", &total.to_string(), "/dev/zero"]).stdout(writing);
    let start = Instant::now();
    let mut child = head.spawn().unwrap();
    drop(head);
    let (server, mut client) = connection();
    let relay = std::thread::spawn(move || {
        let flags = rustix::pipe::SpliceFlags::MOVE;
        while rustix::pipe::splice(&reading, None, &server, None, 1 << 20, flags).unwrap() > 0 {}
    });
    assert_eq!(count(&mut client), total);
    let elapsed = start.elapsed().as_secs_f64();
    relay.join().unwrap();
    child.wait().unwrap();
    total as f64 / 1e9 / elapsed
}
