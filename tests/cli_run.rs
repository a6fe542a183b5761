//! `run`, `attach` and `ps` without a terminal, by what the real binary says and exits with.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::{Said, eventually, finished, gardend, outcome, said};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};

fn started(server: &Garden, args: &[&str]) -> Child {
    let mut command = gardend(server, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads the first line that it writes; the rest stays.
fn first_line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn spec(said: &Said) -> Value {
    assert_eq!((said.status, said.stderr.as_str()), (0, ""), "{said:?}");
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn the_exit_status_is_the_processs_and_its_outputs_stay_apart() {
    let server = Garden::with_container("h");
    for status in [0, 1, 42, 255] {
        let said = said(&server, &["run", "h", "exit", &status.to_string()]);
        let expected = Said { status, stdout: "to stdout\n".to_owned(), stderr: "to stderr\n".to_owned() };
        assert_eq!(said, expected);
    }
}

#[test]
fn a_process_is_asked_for_as_the_flags_say() {
    let server = Garden::with_container("h");
    let args = [
        "run",
        "--id",
        "p",
        "-u",
        "alice",
        "-w",
        "/work",
        "-e",
        "A=1",
        "-e",
        "B=",
        "--rlimit",
        "nofile=64",
        "--rlimit",
        "stack=unlimited",
        "h",
        "--",
        "spec",
        "-x",
        "--",
        "y z",
    ];
    let expected = json!({
        "id": "p", "path": "spec", "args": ["-x", "--", "y z"], "env": ["A=1", "B="], "dir": "/work",
        "user": "alice", "rlimits": {"nofile": 64, "stack": u64::MAX},
    });
    assert_eq!(spec(&said(&server, &args)), expected);
    assert_eq!(spec(&said(&server, &["run", "h", "spec"])), json!({"path": "spec"}));
}

#[test]
fn a_terminal_is_asked_for_with_its_kind() {
    let server = Garden::with_container("h");
    let asked = spec(&said(&server, &["run", "-t", "h", "spec"]));
    assert_eq!(asked, json!({"path": "spec", "env": ["TERM=xterm-test"], "tty": {}}));
    let own = spec(&said(&server, &["run", "-t", "-e", "TERM=dumb", "h", "spec"]));
    assert_eq!(own["env"], json!(["TERM=dumb"]));
}

#[test]
fn a_process_that_does_not_start_gives_the_status_that_docker_gives() {
    let server = Garden::with_container("h");
    for (args, status, words) in [
        (&["run", "h", "missing"][..], 127, "exec: \"missing\": executable file not found in $PATH"),
        (&["run", "h", "/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied"),
        (&["run", "x", "true"], 125, "unknown handle: x"),
        (&["run", "h"], 125, "gardend run [OPTIONS] h PROGRAM"),
        (&["run", "--bogus", "h", "true"], 125, "unexpected argument '--bogus'"),
        (&["run", "h", "-t", "sh"], 125, "options go before it"),
        (&["run", "--rootfs", "/x", "h", "true"], 125, "say --rm"),
        (&["run", "-it", "h", "sh"], 125, "stdin is not a terminal"),
        (&["attach", "h", "nobody"], 125, "unknown process: nobody"),
        (&["attach", "-t", "h", "nobody"], 125, "--no-stdin"),
        (&["run", "h", "lost"], 125, "its container was destroyed"),
    ] {
        let said = said(&server, args);
        assert_eq!((said.status, said.stdout.as_str()), (status, ""), "{args:?}: {said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }
}

#[test]
fn stdin_goes_to_the_process_when_asked_for_and_ends_at_once_when_not() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "-i", "h", "cat"]);
    let text = "ünïcode \"quoted\" \\ \u{1F331}\n".repeat(20_000);
    let mut stdin = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let got = outcome(child);
    writer.join().unwrap();
    assert_eq!((got.status, got.stderr.as_str()), (0, ""));
    assert_eq!(got.stdout, text);
    // Nobody ends this stdin, and the process ends all the same.
    let mut quiet = started(&server, &["run", "h", "cat"]);
    let held = quiet.stdin.take();
    let got = outcome(quiet);
    drop(held);
    assert_eq!(got, Said { status: 0, stdout: String::new(), stderr: String::new() });
}

#[test]
fn stdin_that_is_no_text_is_said_so() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "-i", "h", "cat"]);
    child.stdin.take().unwrap().write_all(b"a\xffb").unwrap();
    let got = outcome(child);
    assert_eq!((got.status, got.stdout.as_str()), (0, "a\u{FFFD}b"));
    assert!(got.stderr.contains("no UTF-8 text"), "{got:?}");
}

#[test]
fn every_byte_of_output_arrives() {
    let server = Garden::with_container("h");
    let total = 32 << 20;
    let mut child = started(&server, &["run", "h", "bytes", &total.to_string()]);
    let mut stdout = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    assert_eq!(outcome(child).status, 0);
    assert_eq!(stdout.len(), total);
    let wrong = stdout.iter().enumerate().find(|(at, byte)| **byte != (at * 31 % 251) as u8);
    assert_eq!(wrong, None);
}

#[test]
fn an_interrupt_asks_then_kills_then_leaves() {
    let server = Garden::with_container("h");
    let mut willing = started(&server, &["run", "--id", "willing", "h", "wait"]);
    assert_eq!(first_line(&mut willing), "ready");
    signal(&willing, Signal::INT);
    assert_eq!(outcome(willing).status, 143);

    let mut stubborn = started(&server, &["run", "--id", "stubborn", "h", "wait", "stubborn"]);
    assert_eq!(first_line(&mut stubborn), "ready");
    signal(&stubborn, Signal::TERM);
    server.wait_to_be_told(r#"stubborn: {"process_id":"stubborn","signal":0}"#);
    signal(&stubborn, Signal::INT);
    assert_eq!(outcome(stubborn).status, 137);

    let mut immortal = started(&server, &["run", "--id", "immortal", "h", "wait", "immortal"]);
    assert_eq!(first_line(&mut immortal), "ready");
    signal(&immortal, Signal::INT);
    server.wait_to_be_told(r#"immortal: {"process_id":"immortal","signal":0}"#);
    signal(&immortal, Signal::INT);
    server.wait_to_be_told(r#"immortal: {"process_id":"immortal","signal":1}"#);
    signal(&immortal, Signal::INT);
    let left = outcome(immortal);
    assert_eq!(left.status, 130);
    assert_eq!(left.stderr, "gardend: left process 'immortal' of 'h'; `gardend attach h immortal` comes back to it\n");
}

#[test]
fn an_interrupt_reaches_a_process_that_does_not_read_its_stdin() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "-i", "--id", "deaf", "h", "deaf"]);
    assert_eq!(first_line(&mut child), "ready");
    let mut stdin = child.stdin.take().unwrap();
    // Until the process ends, this waits for somebody who reads.
    let writer = std::thread::spawn(move || while stdin.write_all(&[b'x'; 65536]).is_ok() {});
    server.wait_to_be_told("deaf: {\"process_id\":\"deaf\",\"source\":0");
    signal(&child, Signal::INT);
    assert_eq!(outcome(child).status, 143);
    writer.join().unwrap();
}

#[test]
fn an_interrupt_while_the_process_starts_is_held_for_it() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--id", "p", "h", "slow"]);
    server.wait_to_be_told("POST /containers/h/processes");
    signal(&child, Signal::INT);
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "gardend: waiting for the process to start, to end it; once more leaves at once\n");
    server.go_on();
    assert_eq!(outcome(child).status, 143);

    let server = Garden::with_container("h");
    let child = started(&server, &["run", "h", "slow"]);
    server.wait_to_be_told("POST /containers/h/processes");
    signal(&child, Signal::INT);
    signal(&child, Signal::TERM);
    let status = outcome(child).status;
    assert!(status == 130 || status == 143, "{status}");
}

#[test]
fn signals_that_the_parent_ignores_are_left_ignored() {
    let server = Garden::with_container("h");
    let binary = env!("CARGO_BIN_EXE_gardend");
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &format!("trap '' HUP; exec {binary} run --id p h wait")]);
    command.env("GARDEND_TARGET", server.target()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    assert_eq!(first_line(&mut child), "ready");
    signal(&child, Signal::HUP);
    signal(&child, Signal::TERM);
    assert_eq!(outcome(child).status, 143);
    let signals = server.told().iter().filter(|line| line.contains("\"signal\"")).count();
    assert_eq!(signals, 1, "the hang-up was passed on");
}

#[test]
fn without_the_proxy_an_interrupt_leaves_at_once() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--sig-proxy=false", "--id", "p", "h", "wait"]);
    assert_eq!(first_line(&mut child), "ready");
    signal(&child, Signal::INT);
    let left = outcome(child);
    assert_eq!(left.status, 130);
    assert!(left.stderr.contains("left process 'p' of 'h'"), "{left:?}");
    assert!(!server.told().iter().any(|line| line.contains("\"signal\"")));
    assert_eq!(said(&server, &["ps", "-q", "h"]).stdout, "p\n");
}

#[test]
fn a_detached_process_goes_on_and_can_be_attached_to() {
    let server = Garden::with_container("h");
    let detached = said(&server, &["run", "-d", "--id", "p", "h", "wait"]);
    assert_eq!(detached, Said { status: 0, stdout: "p\n".to_owned(), stderr: String::new() });
    server.wait_to_be_told(r#"p: {"process_id":"p","source":0}"#);
    let started_as_json = said(&server, &["run", "-d", "--json", "--id", "q", "h", "wait"]);
    let started_as_json: Value = serde_json::from_str(&started_as_json.stdout).unwrap();
    assert_eq!(started_as_json, json!({"handle": "h", "process": "q"}));
    assert_eq!(said(&server, &["ps", "h"]).stdout, "HANDLE  PROCESS\nh       p\nh       q\n");

    let mut attached = started(&server, &["attach", "h", "p"]);
    assert_eq!(first_line(&mut attached), "ready");
    signal(&attached, Signal::INT);
    assert_eq!(outcome(attached).status, 143);
    assert_eq!(said(&server, &["ps", "-q"]).stdout, "q\n");
    let rows: Value = serde_json::from_str(&said(&server, &["ps", "--json"]).stdout).unwrap();
    assert_eq!(rows, json!([{"handle": "h", "process": "q"}]));
}

#[test]
fn attach_leaves_stdin_alone_unless_asked_for() {
    let server = Garden::with_container("h");
    said(&server, &["run", "-d", "-i", "--id", "p", "h", "cat"]);
    let mut watching = started(&server, &["attach", "h", "p"]);
    drop(watching.stdin.take());
    let mut writing = started(&server, &["attach", "-i", "h", "p"]);
    server.wait_to_be_told("GET /containers/h/processes/p/attaches/stream-2/stderr");
    assert!(!server.told().iter().any(|line| line.contains("\"source\":0")), "{:?}", server.told());
    writing.stdin.take().unwrap().write_all(b"words").unwrap();
    assert_eq!(outcome(watching).status, 0);
    assert_eq!(outcome(writing).status, 0);
}

#[test]
fn a_reader_of_stdout_that_went_away_ends_the_process_quietly() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--id", "p", "h", "yes"]);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    drop(reader);
    let said = outcome(child);
    assert_eq!((said.status, said.stderr.as_str()), (141, ""));
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":0}"#);
}

#[test]
fn attach_leaves_the_process_running_when_its_reader_went_away() {
    let server = Garden::with_container("h");
    said(&server, &["run", "-d", "--id", "p", "h", "yes"]);
    let mut child = started(&server, &["attach", "h", "p"]);
    assert_eq!(first_line(&mut child), "y");
    drop(child.stdout.take());
    assert_eq!(outcome(child).status, 141);
    assert_eq!(said(&server, &["ps", "-q"]).stdout, "p\n");
}

#[test]
fn run_rm_makes_a_container_and_destroys_it_afterwards() {
    let server = Garden::start();
    let args = ["run", "--rm", "--rootfs", "/srv/x", "-v", "/a:/b", "-e", "A=1", "--", "exit", "5"];
    let expected = Said { status: 5, stdout: "to stdout\n".to_owned(), stderr: "to stderr\n".to_owned() };
    assert_eq!(said(&server, &args), expected);
    assert!(server.containers().is_empty());
    let create = server.wait_to_be_told("POST /containers {");
    assert!(create.contains("\"grace_time\":300000000000") && create.contains("/srv/x"), "{create}");
    assert!(server.wait_to_be_told("/processes {").contains(r#""env":["A=1"]"#));
    // Also where the process does not start.
    assert_eq!(said(&server, &["run", "--rm", "missing"]).status, 127);
    assert!(server.containers().is_empty());
    assert_eq!(said(&server, &["run", "--rm", "--rootfs", "/missing", "true"]).status, 125);
}

#[test]
fn a_session_outlives_its_server() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--id", "p", "h", "two-lines"]);
    assert_eq!(first_line(&mut child), "one");
    server.crash();
    server.come_back();
    server.wait_to_be_told("GET /containers/h/processes/p/attaches");
    server.go_on();
    let said = outcome(child);
    assert_eq!((said.status, said.stdout.as_str()), (3, "two\n"), "{said:?}");
    assert_eq!(said.stderr, "gardend: the connection was lost; attaching again when gardend is back\n");
}

#[test]
fn a_session_whose_stdin_may_have_lost_bytes_does_not_pretend() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "-i", "--id", "p", "h", "cat"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"data\n").unwrap();
    assert_eq!(first_line(&mut child), "data");
    server.crash();
    let said = outcome(child);
    assert_eq!(said.status, 125);
    assert!(said.stderr.contains("was lost during POST /containers/h/processes"), "{said:?}");
    assert!(said.stderr.contains("`gardend attach h p` comes back to it"), "{said:?}");
}

#[test]
fn an_interrupt_ends_the_wait_for_a_server_that_does_not_come_back() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--id", "p", "h", "two-lines"]);
    assert_eq!(first_line(&mut child), "one");
    server.crash();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("attaching again"), "{line}");
    signal(&child, Signal::INT);
    assert_eq!(outcome(child).status, 130);
}

#[test]
fn a_process_that_was_forgotten_meanwhile_is_not_waited_for() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["run", "--id", "p", "h", "two-lines"]);
    assert_eq!(first_line(&mut child), "one");
    server.crash();
    server.forget("p");
    server.come_back();
    let said = outcome(child);
    assert_eq!(said.status, 125);
    assert!(said.stderr.contains("process 'p' of 'h' is no longer known"), "{said:?}");
}

#[test]
fn shell_reads_commands_from_a_pipe_and_falls_back_to_sh() {
    let server = Garden::with_container("h");
    let mut child = started(&server, &["shell", "-u", "bob", "h"]);
    child.stdin.take().unwrap().write_all(b"q").unwrap();
    let said = outcome(child);
    assert_eq!((said.status, said.stdout.as_str()), (7, "ready\r\n"), "{said:?}");
    let bash = server.wait_to_be_told(r#""path":"bash""#);
    let sh = server.wait_to_be_told(r#""path":"sh""#);
    assert_eq!(bash.replace("bash", "sh"), sh);
    assert!(!sh.contains("tty"), "{sh}");
}

#[test]
fn a_container_without_a_shell_is_said_so() {
    let server = Garden::with_container("bare");
    let said = finished(gardend(&server, &["shell", "bare"]));
    assert_eq!(said.status, 127);
    assert!(said.stderr.contains("'bare' has neither bash nor sh"), "{said:?}");
    assert_eq!(cli_support::said(&server, &["shell", "nobody"]).status, 125);
}

#[test]
fn an_output_that_nobody_reads_does_not_keep_an_interrupt_from_its_work() {
    let server = Garden::with_container("h");
    let child = started(&server, &["run", "--id", "p", "h", "bytes", "10000000"]);
    eventually("the process has ended for the server", || {
        // All is written but what waits in this client and its pipe; then it is asked to end.
        server.told().iter().any(|line| line.contains("stderr")).then_some(())
    });
    // Three different ones: the kernel merges what is alike.
    for number in [Signal::INT, Signal::TERM, Signal::QUIT] {
        signal(&child, number);
    }
    // Its stdout is full and stays so until it is dropped with the child.
    let status = {
        let mut child = child;
        eventually("it leaves", || child.try_wait().unwrap())
    };
    assert!(status.code().is_some_and(|code| [130, 131, 143].contains(&code)), "{status}");
}
