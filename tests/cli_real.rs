//! The command line against a gardend with real containers. Needs root.

mod cli_support;

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/census.rs"]
mod census;
#[path = "common/rootfs.rs"]
mod rootfs;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/server.rs"]
mod server;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/wire.rs"]
mod wire;

use cli_support::pty::OnTerminal;
use cli_support::{Said, finished, gardend_at, outcome};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use server::Server;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

/// A gardend with a container of busybox named "box".
struct Node {
    server: Server,
    rootfs: String,
}

impl Node {
    fn start() -> Self {
        // Told where a test fails.
        let server = Server::start(&["--log-level", "debug"]);
        let rootfs = rootfs::unprivileged(&server.scratch().join("rootfs")).to_str().unwrap().to_owned();
        let node = Self { server, rootfs };
        assert_eq!(node.said(&["create", "box", "--rootfs", &node.rootfs, "-e", "WHO=box"]).stdout, "box\n");
        node
    }

    fn command(&self, args: &[&str]) -> Command {
        gardend_at(&self.server.garden.address.to_string(), args)
    }

    fn said(&self, args: &[&str]) -> Said {
        finished(self.command(args))
    }

    fn started(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A shell's script in the container.
    fn script(&self, script: &str) -> Said {
        self.said(&["run", "box", "--", "sh", "-c", script])
    }
}

fn until_it_says(child: &mut Child, word: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(word.as_bytes()) {
        assert_eq!(child.stdout.as_mut().unwrap().read(&mut byte).unwrap(), 1, "{word:?} was not said");
        seen.push(byte[0]);
    }
}

#[test]
fn a_process_runs_as_asked_and_its_status_and_outputs_come_back() {
    let node = Node::start();
    let said = node.script("echo out $WHO; echo err >&2; exit 7");
    assert_eq!(said, Said { status: 7, stdout: "out box\n".to_owned(), stderr: "err\n".to_owned() });
    let asked = ["run", "-u", "7:8", "-w", "/made/here", "-e", "A=1", "--rlimit", "nofile=77", "box", "--", "sh", "-c"];
    let said = node.said(&[&asked[..], &["echo $(id -u):$(id -g) $PWD $A $(ulimit -n)"]].concat());
    assert_eq!((said.status, said.stdout.as_str()), (0, "7:8 /made/here 1 77\n"), "{said:?}");
    assert_eq!(node.script("kill -9 $$").status, 137);
}

#[test]
fn what_cannot_be_run_or_made_says_why() {
    let node = Node::start();
    std::fs::write(node.server.scratch().join("rootfs/text"), "no program").unwrap();
    for (args, status, words) in [
        (&["run", "box", "no-such-program"][..], 127, "executable file not found in $PATH"),
        (&["run", "box", "/text"], 126, "/text"),
        (&["run", "-u", "nobody-knows", "box", "true"], 125, "unable to find user nobody-knows"),
        (&["run", "nowhere", "true"], 125, "unknown handle: nowhere"),
        (&["create", "--rootfs", "/not/there"], 1, "/not/there"),
        (&["create", "box", "--rootfs", &node.rootfs], 1, "Handle 'box' already in use"),
        (&["create", "a/b"], 1, "'/'"),
        (&["create", "-v", "/not/there:/x", "--rootfs", &node.rootfs], 1, "/not/there"),
        (&["rm", "nowhere"], 1, "unknown handle: nowhere"),
        (&["props", "box", "get", "k"], 1, "property does not exist: k"),
    ] {
        let said = node.said(args);
        assert_eq!((said.status, said.stdout.as_str()), (status, ""), "{args:?}: {said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }
}

#[test]
fn text_goes_in_and_bytes_come_out_exactly() {
    let node = Node::start();
    let text: String = (0..400_000).map(|n| format!("{n} é\n")).collect();
    let mut child = node.started(&["run", "-i", "box", "cat"]);
    let mut stdin = child.stdin.take().unwrap();
    let sent = text.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let got = outcome(child);
    writer.join().unwrap();
    assert_eq!((got.status, got.stderr.as_str()), (0, ""));
    assert!(got.stdout == text, "{} of {} bytes", got.stdout.len(), text.len());

    let mut child = node.started(&["run", "box", "head", "-c", "200000000", "/dev/zero"]);
    let mut stdout = child.stdout.take().unwrap();
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(length @ 1..) = stdout.read(&mut buffer) {
        assert!(buffer[..length].iter().all(|byte| *byte == 0));
        total += length;
    }
    assert_eq!((total, outcome(child).status), (200_000_000, 0));
}

#[test]
fn a_shell_on_a_terminal_sees_its_size_and_its_keys() {
    let node = Node::start();
    let mut session = OnTerminal::start(node.command(&["shell", "box"]));
    session.wait_to_be_raw();
    session.type_keys(b"tty; stty size; echo $TERM.\n");
    session.wait_to_show("/dev/pts/0");
    session.wait_to_show("30 100");
    session.wait_to_show("xterm-test.");
    session.type_keys(b"sh -c 'trap \"stty size; exit\" WINCH; echo tr\"\"apped; while :; do usleep 5000; done'\n");
    session.wait_to_show("trapped");
    session.resize(72, 19);
    session.wait_to_show("19 72");
    // A key that interrupts what runs in the container, and nothing here.
    session.type_keys(b"sh -c 'echo sle\"\"eping; sleep 1000'\n");
    session.wait_to_show("sleeping");
    session.type_keys(b"\x03");
    session.type_keys(b"echo still h'ere'\n");
    session.wait_to_show("still here");
    session.type_keys(b"exit 5\n");
    assert_eq!(session.finish().status, 5);
}

#[test]
fn a_shell_that_was_left_is_as_it_was_when_attached_to_again() {
    let node = Node::start();
    let mut session = OnTerminal::start(node.command(&["shell", "box"]));
    session.wait_to_be_raw();
    session.type_keys(b"memory=elephant; echo re'ady'\n");
    session.wait_to_show("ready");
    session.type_keys(b"\x10\x11");
    assert_eq!(session.finish().status, 0);
    let processes = node.said(&["ps", "-q", "box"]).stdout;
    let mut again = OnTerminal::start(node.command(&["attach", "-t", "box", processes.trim()]));
    again.wait_to_be_raw();
    again.type_keys(b"echo an $memory; exit 6\n");
    again.wait_to_show("an elephant");
    assert_eq!(again.finish().status, 6);
}

#[test]
fn an_interrupt_ends_a_process_gently_and_a_second_one_at_once() {
    let node = Node::start();
    let script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do usleep 10000; done";
    let mut gentle = node.started(&["run", "box", "--", "sh", "-c", script]);
    until_it_says(&mut gentle, "ready\n");
    kill_process(Pid::from_child(&gentle), Signal::INT).unwrap();
    let said = outcome(gentle);
    assert_eq!((said.status, said.stdout.as_str()), (4, "bye\n"));

    let script = "trap 'echo no' TERM; echo ready; while :; do usleep 10000; done";
    let mut stubborn = node.started(&["run", "box", "--", "sh", "-c", script]);
    until_it_says(&mut stubborn, "ready\n");
    kill_process(Pid::from_child(&stubborn), Signal::INT).unwrap();
    until_it_says(&mut stubborn, "no\n");
    kill_process(Pid::from_child(&stubborn), Signal::INT).unwrap();
    assert_eq!(outcome(stubborn).status, 137);
    assert_eq!(node.said(&["ps", "-q"]).stdout, "");
}

#[test]
fn a_session_goes_on_when_gardend_is_killed_and_started_again() {
    let mut node = Node::start();
    let count = "i=0; while [ $i -lt 250 ]; do echo $i; i=$((i+1)); usleep 20000; done; exit 9";
    let counting = node.started(&["run", "box", "--", "sh", "-c", count]);
    let mut shell = OnTerminal::start(node.command(&["shell", "box"]));
    shell.wait_to_be_raw();
    shell.type_keys(b"memory=elephant; echo re'ady'\n");
    shell.wait_to_show("ready");
    cli_support::eventually("both processes run", || {
        let info = cli_support::finished(node.command(&["info", "box", "--json"]));
        let info: serde_json::Value = serde_json::from_str(&info.stdout).ok()?;
        (info["processes"].as_array()?.len() == 2).then_some(())
    });
    // Its client has still to be told.
    std::thread::sleep(std::time::Duration::from_millis(500));
    for _ in 0..2 {
        node.server.kill();
        node.server.restart();
    }
    let said = outcome(counting);
    let expected: String = (0..250).map(|n| format!("{n}\n")).collect();
    assert_eq!((said.status, said.stdout), (9, expected), "{}", said.stderr);
    // What is typed while it is away is dropped: typed again until it is there.
    cli_support::eventually("the shell answers", || {
        shell.type_keys(b"echo an $memory\n");
        std::thread::sleep(std::time::Duration::from_millis(50));
        shell.shown().contains("an elephant").then_some(())
    });
    shell.type_keys(b"exit 3\n");
    assert_eq!(shell.finish().status, 3);
}

#[test]
fn containers_come_stay_and_go() {
    let node = Node::start();
    assert_eq!(node.said(&["create", "other", "--rootfs", &node.rootfs, "-p", "team=a b"]).stdout, "other\n");
    assert_eq!(node.said(&["ls", "-q", "-p", "team=a b"]).stdout, "other\n");
    let detached = node.said(&["run", "-d", "--id", "sleeper", "other", "sleep", "1000"]);
    assert_eq!(detached.stdout, "sleeper\n");
    let list: Value = serde_json::from_str(&node.said(&["ls", "--json"]).stdout).unwrap();
    assert_eq!(list[1]["handle"], "other");
    assert_eq!(list[1]["processes"], serde_json::json!(["sleeper"]));
    assert_eq!(node.said(&["stop", "--time", "1", "other"]).stdout, "other\n");
    let info: Value = serde_json::from_str(&node.said(&["info", "other", "--json"]).stdout).unwrap();
    assert_eq!((&info["state"], &info["processes"]), (&"stopped".into(), &serde_json::json!([])));
    let temporary = node.said(&["run", "--rm", "--rootfs", &node.rootfs, "--", "sh", "-c", "echo once; exit 2"]);
    assert_eq!((temporary.status, temporary.stdout.as_str()), (2, "once\n"));
    assert_eq!(node.said(&["rm", "--all"]).stdout, "box\nother\n");
    assert_eq!(node.said(&["ls", "-q"]).stdout, "");
}

#[test]
fn a_unix_socket_serves_as_a_port_does_and_comes_and_goes_with_gardend() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("garden.sock");
    let address = format!("unix://{}", socket.display());
    let mut server = Server::start(&["--listen", &address, "--listen-mode", "0640", "--listen-group", "7"]);
    let found = std::fs::metadata(&socket).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((found.mode() & 0o777, found.gid()), (0o640, 7));
    let rootfs = rootfs::unprivileged(&server.scratch().join("rootfs")).to_str().unwrap().to_owned();
    let over_socket = |args: &[&str]| finished(gardend_at(&address, args));
    assert_eq!(over_socket(&["create", "box", "--rootfs", &rootfs]).stdout, "box\n");

    // As much as a pipe never holds, by splice, to the byte.
    let mut big = gardend_at(&address, &["run", "box", "--", "sh", "-c", "yes 0123456789 | head -n 20000000"]);
    let mut big = big.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = big.stdout.take().unwrap();
    let (mut total, mut buffer) = (0_usize, vec![0; 1 << 20]);
    while let Ok(length @ 1..) = stdout.read(&mut buffer) {
        let line = |at: usize| b"0123456789\n"[(total + at) % 11];
        assert!(buffer[..length].iter().enumerate().all(|(at, byte)| *byte == line(at)), "after {total} bytes");
        total += length;
    }
    assert_eq!((total, outcome(big).status), (220_000_000, 0));

    let mut shell = OnTerminal::start(gardend_at(&address, &["shell", "box"]));
    shell.wait_to_be_raw();
    shell.type_keys(b"memory=elephant; echo re'ady'\n");
    shell.wait_to_show("ready");
    // One that was killed leaves its socket, which the next one replaces.
    server.kill();
    assert!(socket.exists());
    server.restart();
    cli_support::eventually("the shell answers", || {
        shell.type_keys(b"echo an $memory\n");
        std::thread::sleep(std::time::Duration::from_millis(50));
        shell.shown().contains("an elephant").then_some(())
    });
    shell.type_keys(b"exit 3\n");
    assert_eq!(shell.finish().status, 3);

    // A second one on the same socket is told so before it starts anything.
    let second = Server::new(&["--listen", &address]);
    let (status, said) = second.refused();
    assert!(!status.success() && said.contains("garden.sock is in use by another program"), "{said}");
    assert!(server.terminate().0.success());
    assert!(!socket.exists());
}

#[test]
fn files_go_in_and_come_out_as_docker_puts_them() {
    let node = Node::start();
    let here = node.server.scratch().join("here");
    std::fs::create_dir_all(here.join("dir/sub")).unwrap();
    std::fs::write(here.join("dir/sub/b"), vec![7; 3 << 20]).unwrap();
    std::fs::write(here.join("dir/a"), "one").unwrap();
    let at = |args: &[&str]| {
        let mut command = node.command(args);
        command.current_dir(&here);
        finished(command)
    };
    let ok = Said { status: 0, stdout: String::new(), stderr: String::new() };
    assert_eq!(node.script("mkdir -p /srv /real && ln -s /real /link").status, 0);
    assert_eq!(at(&["cp", "./dir", "box:/srv/"]), ok);
    assert_eq!(at(&["cp", "dir/.", "box:/new"]), ok);
    assert_eq!(at(&["cp", "dir/a", "box:/link"]), ok);
    assert_eq!(at(&["cp", "--user", "7:8", "dir/a", "box:/tmp/mine"]), ok);
    let listed = node.script("cat /srv/dir/a /new/a /real/a; wc -c < /new/sub/b; stat -c %u:%g /tmp/mine /srv/dir/a");
    assert_eq!(listed.stdout, "oneoneone3145728\n7:8\n0:0\n", "{listed:?}");

    assert_eq!(at(&["cp", "box:/srv/dir", "back"]), ok);
    assert_eq!(std::fs::read(here.join("back/sub/b")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(at(&["cp", "box:/etc/hosts", "."]), ok);
    assert!(std::fs::read_to_string(here.join("hosts")).unwrap().contains("localhost"));
    let packed = node.command(&["cp", "box:/etc/hosts", "-"]).stdout(Stdio::piped()).output().unwrap();
    let mut archive = tar::Archive::new(packed.stdout.as_slice());
    let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [std::path::Path::new("hosts")]);

    for (args, words) in [
        (&["cp", "box:/not/there", "."][..], "No such file or directory"),
        (&["cp", "dir/a", "box:/not/there"], "there is no folder '/not' in 'box'; make it first"),
        (&["cp", "dir", "box:/etc/hosts"], "is a file, and a folder cannot take its place"),
        (&["cp", "-u", "nobody-knows", "dir", "box:/srv"], "nobody-knows"),
    ] {
        let said = at(args);
        assert_eq!(said.status, 1, "{args:?}: {said:?}");
        assert!(said.stderr.to_lowercase().contains(&words.to_lowercase()), "{args:?}: {said:?}");
    }
}

#[test]
fn output_that_nobody_read_is_shown_and_what_follows_too() {
    let node = Node::start();
    let script = "echo first; read go; echo second >&2; echo third; exit 4";
    let detached = node.said(&["run", "-d", "-i", "--id", "talker", "box", "--", "sh", "-c", script]);
    assert_eq!(detached.stdout, "talker\n");
    cli_support::eventually("the first line", || (node.said(&["logs", "box"]).stdout == "first\n").then_some(()));
    let mut following = node.started(&["logs", "-f", "box", "talker"]);
    let mut typing = node.started(&["attach", "-i", "box", "talker"]);
    typing.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(outcome(typing).status, 4);
    drop(following.stdin.take());
    let said = outcome(following);
    assert_eq!((said.status, said.stdout.as_str(), said.stderr.as_str()), (0, "third\n", "second\n"));
}

#[test]
fn figures_and_limits_are_shown() {
    let node = Node::start();
    node.said(&["run", "-d", "--id", "busy", "box", "--", "sh", "-c", "while :; do :; done"]);
    let said = node.said(&["stats", "--no-stream", "--json", "box"]);
    let usage: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!((&usage[0]["handle"], &usage[0]["processes"]), (&"box".into(), &1.into()), "{usage}");
    assert!(usage[0]["cpu_percent"].as_f64().unwrap() > 5.0, "{usage}");
    assert!(usage[0]["memory_bytes"].as_u64().unwrap() > 0, "{usage}");
    let limits = node.said(&["limits", "box"]);
    assert_eq!(limits.status, 0);
    assert!(limits.stdout.lines().any(|line| line.starts_with("Memory") && line.ends_with("none")), "{limits:?}");
}
