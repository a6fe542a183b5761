//! `kubectl garden`, by kubectl, on the cluster's node.

use crate::cli_support::pty::OnTerminal;
use crate::cli_support::{Said, outcome};
use crate::cluster::{Cluster, NODE, eventually};
use crate::garden::{self, garden};
use crate::node::{Left, Running};
use crate::release::{NAMESPACE, Release};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// kubectl, with gardend as a plugin in its PATH.
struct Kubectl<'a> {
    cluster: &'a Cluster,
    folder: tempfile::TempDir,
}

impl<'a> Kubectl<'a> {
    fn with_plugin(cluster: &'a Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        symlink(env!("CARGO_BIN_EXE_gardend"), folder.path().join("kubectl-garden")).expect("a link");
        Self { cluster, folder }
    }

    fn garden(&self, args: &[&str]) -> Command {
        let mut command = self.cluster.tool("kubectl");
        let others = std::env::var("PATH").expect("there is a PATH");
        command.env("PATH", format!("{}:{others}", self.folder.path().display()));
        command.env("TERM", "xterm").arg("garden").args(args);
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.garden(args).output().expect("kubectl runs")
    }

    fn said(&self, args: &[&str]) -> Said {
        self.output(args).into()
    }

    /// What it prints; it has to succeed.
    fn prints(&self, args: &[&str]) -> String {
        let said = self.said(args);
        assert_eq!(said.status, 0, "kubectl garden {args:?}: {said:?}");
        said.stdout
    }

    /// What it prints of this stdin; it has to succeed.
    fn filter(&self, args: &[&str], stdin: Vec<u8>) -> Vec<u8> {
        let mut command = self.garden(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut pipe = child.stdin.take().expect("it is piped");
        let writer = std::thread::spawn(move || pipe.write_all(&stdin));
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "kubectl garden {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        writer.join().expect("it does not panic").expect("all is read");
        output.stdout
    }
}

/// The container that all is tried on, and its root on the node.
const HANDLE: &str = "web";
const ROOT: &str = "/var/lib/roots/web";

#[test]
fn kubectl_garden_works_in_the_containers_of_a_node_by_the_callers_own_rights() {
    let cluster = Cluster::take();
    let before = Left::on(&cluster);
    let release = Release::install(&cluster, &["cleanup.enabled=true"]);
    let kubectl = Kubectl::with_plugin(&cluster);
    garden::create(HANDLE);
    statuses_and_streams_are_the_process_s_own(&kubectl);
    a_terminal_is_one_with_its_size_and_its_status(&kubectl);
    top_is_shown_and_left(&kubectl);
    logs_are_shown_and_whoever_leaves_leaves_nobody_behind(&kubectl);
    containers_and_processes_are_listed_and_described(&kubectl);
    who_may_not_is_told_which_right_is_missing(&kubectl);
    what_is_not_there_is_told(&kubectl);
    a_connection_that_is_cut_has_a_status_of_its_own(&kubectl);
    a_node_is_drained(&kubectl);
    // What is there when the release goes, its hook destroys.
    garden::create("late");
    release.uninstall();
    eventually("nothing is left", || {
        let left = Left::on(&cluster);
        (left == before).then_some(()).ok_or_else(|| format!("{left:#?}"))
    });
}

fn statuses_and_streams_are_the_process_s_own(kubectl: &Kubectl<'_>) {
    let said = kubectl.said(&["exec", HANDLE, "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(said, Said { status: 42, stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });
    let said = kubectl.said(&["exec", HANDLE, "--", "no-such-program"]);
    assert_eq!(said.status, 127, "{said:?}");
    let said = kubectl.said(&["exec", HANDLE, "-w", "/tmp", "-e", "A=b c", "--", "sh", "-c", "pwd; echo \"$A\""]);
    assert_eq!(said.stdout, "/tmp\nb c\n", "{said:?}");

    // Bytes of every kind come out as they are.
    let mut bytes = vec![0; 3 << 20];
    fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).expect("bytes");
    fs::write(Path::new(ROOT).join("tmp/bytes"), &bytes).expect("the root is the container's");
    let output = kubectl.output(&["exec", HANDLE, "--", "cat", "/tmp/bytes"]);
    assert!(output.status.success() && output.stdout == bytes, "{} bytes", output.stdout.len());

    // Text goes in with its end, also through a process that writes as much as it reads.
    let text = "ünï 日本 \0 \n".repeat(200_000).into_bytes();
    kubectl.filter(&["exec", "-i", HANDLE, "--", "sh", "-c", "cat >/tmp/text"], text.clone());
    assert!(fs::read(Path::new(ROOT).join("tmp/text")).expect("it was written") == text);
    assert!(kubectl.filter(&["exec", "-i", HANDLE, "--", "cat"], text.clone()) == text);
    let shell = kubectl.filter(&["exec", "-i", HANDLE], b"echo from a shell".to_vec());
    assert_eq!(String::from_utf8_lossy(&shell), "from a shell\n");
}

fn a_terminal_is_one_with_its_size_and_its_status(kubectl: &Kubectl<'_>) {
    let mut terminal = OnTerminal::start(kubectl.garden(&["exec", "-it", HANDLE, "--", "sh"]));
    terminal.wait_to_be_raw();
    terminal.type_keys(b"busybox stty size; echo $TERM $((40 + 2))\n");
    terminal.wait_to_show("xterm 42");
    terminal.wait_to_show("30 100");
    terminal.resize(111, 33);
    terminal.type_keys(b"until busybox stty size | busybox grep '33 111'; do usleep 100000; done\n");
    terminal.wait_to_show("\n33 111");
    // Ctrl-C is the process's own.
    terminal.type_keys(b"trap 'echo caught' INT; echo trap-$((1 + 1))\n");
    terminal.wait_to_show("trap-2");
    terminal.type_keys(b"\x03");
    terminal.wait_to_show("^Ccaught");
    terminal.type_keys(b"exit 7\n");
    assert_eq!(terminal.finish().status, 7);
}

fn top_is_shown_and_left(kubectl: &Kubectl<'_>) {
    let mut terminal = OnTerminal::start(kubectl.garden(&["top"]));
    eventually("top shows the container", || {
        let mut screen =
            vt100::Parser::new(NonZeroU16::new(30).expect("rows"), NonZeroU16::new(100).expect("columns"), 0);
        screen.process(terminal.shown().as_bytes());
        let shown = screen.screen().contents();
        shown.contains(HANDLE).then_some(()).ok_or(shown)
    });
    terminal.type_keys(b"q");
    assert_eq!(terminal.finish().status, 0);
    assert!(kubectl.prints(&["top", HANDLE]).contains(HANDLE));
}

fn logs_are_shown_and_whoever_leaves_leaves_nobody_behind(kubectl: &Kubectl<'_>) {
    let script = "echo once; until [ -e /tmp/more ]; do usleep 50000; done; echo more; exec sleep 1000";
    garden(&["run", "--detach", "--id", "talker", HANDLE, "--", "/bin/sh", "-c", script]);
    let mut shown = String::new();
    eventually("what it wrote is shown", || {
        shown.push_str(&kubectl.prints(&["logs", HANDLE, "talker"]));
        shown.contains("once\n").then_some(()).ok_or_else(|| shown.clone())
    });
    let mut command = kubectl.garden(&["logs", "-f", HANDLE]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut output = child.stdout.take().expect("it is piped");
    fs::write(Path::new(ROOT).join("tmp/more"), "").expect("the root is the container's");
    let mut more = [0; 5];
    output.read_exact(&mut more).expect("it follows");
    assert_eq!(&more, b"more\n");
    assert!(!Running::with("--while-stdin").is_empty());
    // A terminal's Ctrl-C may be ignored by whoever runs the tests in the background, and so by their children.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    eventually("nobody reads in its place", || {
        let readers = Running::with("--while-stdin");
        if readers.is_empty() { Ok(()) } else { Err(format!("{readers:?}")) }
    });
}

fn containers_and_processes_are_listed_and_described(kubectl: &Kubectl<'_>) {
    let row = |args: &[&str]| {
        let rows: Value = serde_json::from_str(&kubectl.prints(args)).expect("it is JSON");
        rows.as_array().into_iter().flatten().find(|row| row["handle"] == HANDLE).cloned()
    };
    let live = row(&["ps", "--live", "--json"]).expect("the node has it");
    assert_eq!((&live["node"], &live["processes"], &live["object"]), (&json!(NODE), &json!(1), &Value::Null));
    let shown = eventually("the mirror shows it with its process", || {
        let row = row(&["ps", "--json"]).unwrap_or_default();
        let is_whole = row["object"].is_string() && row["processes"] == 1 && row["ready"] == "True";
        if is_whole { Ok(row) } else { Err(row.to_string()) }
    });
    let table = kubectl.prints(&["ps"]);
    assert!(table.starts_with("NODE   HANDLE") && table.contains("True"), "{table}");
    assert!(kubectl.prints(&["ps", HANDLE]).contains("talker"));

    let object = shown["object"].as_str().expect("it is a name");
    let said = kubectl.prints(&["describe", object]);
    for part in [&format!("Object {object}:\n"), "\n  kind: GardenContainer\n", "Events:", "On node node1:\n", "talker"]
    {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("managedFields"), "{said}");
}

/// Somebody who may read, and nothing else.
fn reader(kubectl: &Kubectl<'_>) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "reader", "namespace": NAMESPACE },
        "rules": [
            { "apiGroups": ["gardend.dev"], "resources": ["gardencontainers"], "verbs": ["get", "list"] },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "reader", "namespace": NAMESPACE },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader" }],
    });
    kubectl.cluster.apply(&role);
    kubectl.cluster.apply(&binding);
}

fn who_may_not_is_told_which_right_is_missing(kubectl: &Kubectl<'_>) {
    reader(kubectl);
    eventually("who may read lists", || {
        let said = kubectl.said(&["ps", "--as", "reader"]);
        (said.status == 0 && said.stdout.contains(HANDLE)).then_some(()).ok_or_else(|| format!("{said:?}"))
    });
    let said = kubectl.said(&["exec", HANDLE, "--as", "reader", "--", "true"]);
    assert_eq!(said.status, 125, "{said:?}");
    assert!(said.stderr.contains("\"reader\" cannot get resource \"pods/exec\""), "{said:?}");
    let said = kubectl.said(&["ps", "--as", "somebody"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("\"somebody\" cannot list resource \"gardencontainers\""), "{said:?}");
}

fn what_is_not_there_is_told(kubectl: &Kubectl<'_>) {
    for (args, status, words) in [
        (["exec", "nobody", "--", "true"].as_slice(), 125, "no container is 'nobody' in namespace 'gardend'"),
        (&["exec", "nobody", "--node", NODE, "--", "true"], 125, "nobody"),
        (&["drain", "node9"], 1, "no pod of gardend's is on node 'node9'"),
        (&["ps", "-n", "default"], 1, "no pods of gardend's are in namespace 'default'"),
        (&["ps", "--context", "none"], 1, "kubeconfig cannot be used"),
        (&["exec"], 125, "HANDLE"),
        (&["logs"], 2, "HANDLE"),
    ] {
        let said = kubectl.said(args);
        assert_eq!(said.status, status, "kubectl garden {args:?}: {said:?}");
        assert!(said.stderr.contains(words), "kubectl garden {args:?}: {said:?}");
    }
}

/// A way to the API server that can be cut.
struct Cuttable {
    port: u16,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cuttable {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let ends = || (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
                kept.lock().unwrap().extend([ends().0, ends().1]);
                for (mut from, mut to) in [ends(), {
                    let (client, server) = ends();
                    (server, client)
                }] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { port, connections }
    }

    fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn a_connection_that_is_cut_has_a_status_of_its_own(kubectl: &Kubectl<'_>) {
    let kubeconfig = fs::read_to_string("/run/cluster/kubeconfig").expect("it is there");
    let server = kubeconfig.split_once("server: \"https://").and_then(|(_, rest)| rest.split_once('"'));
    let server = server.expect("it names the server").0;
    let way = Cuttable::to(server.to_owned());
    let other = kubectl.folder.path().join("kubeconfig");
    fs::write(&other, kubeconfig.replace(server, &format!("127.0.0.1:{}", way.port))).expect("a file");
    let other = other.display().to_string();

    let mut command =
        kubectl.garden(&["exec", "--kubeconfig", &other, HANDLE, "--", "sh", "-c", "echo begun; exec sleep 1000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs");
    let mut begun = [0; 6];
    child.stdout.as_mut().expect("it is piped").read_exact(&mut begun).expect("it begins");
    way.cut();
    let said = outcome(child);
    assert_eq!(said.status, 124, "{said:?}");
    assert!(said.stderr.contains("was cut"), "{said:?}");
}

fn a_node_is_drained(kubectl: &Kubectl<'_>) {
    let said = kubectl.said(&["drain", NODE, "--timeout", "1s"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains(HANDLE), "{said:?}");
    garden(&["rm", HANDLE]);
    kubectl.prints(&["drain", NODE]);
    let refused = garden::gardend(&["create", "late"]).output().expect("gardend runs");
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("drain"), "{refused:?}");
    kubectl.prints(&["drain", NODE, "--undo"]);
}
