//! The client commands that ask and change, by what the real binary says and exits with.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::pty::OnTerminal;
use cli_support::{Said, bare, eventually, finished, gardend, said};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::Stdio;

fn ok(stdout: &str) -> Said {
    Said { status: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

fn failed(status: i32, stderr: &str) -> Said {
    Said { status, stdout: String::new(), stderr: stderr.to_owned() }
}

fn json_of(said: &Said) -> Value {
    assert_eq!(said.status, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {said:?}"))
}

#[test]
fn ping_tells_that_the_server_is_well() {
    let server = Garden::start();
    let said = said(&server, &["ping"]);
    assert_eq!(said.status, 0);
    assert!(said.stdout.starts_with(&format!("{} is well and answered in ", server.target())), "{said:?}");
    let pong = json_of(&cli_support::said(&server, &["ping", "--json"]));
    assert_eq!(pong["healthy"], true);
    assert!(pong["milliseconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_unhealthy_server_says_why() {
    let server = Garden::start();
    server.be_unhealthy("containerd does not answer");
    assert_eq!(said(&server, &["ping"]), failed(1, "error: containerd does not answer\n"));
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let server = Garden::start();
    let target = server.target();
    server.crash();
    eventually("the server is gone", || std::net::TcpStream::connect(&target).err());
    let words = format!(
        "error: cannot reach gardend at {target}: connection refused; is `gardend serve` running? \
         name another with --target or GARDEND_TARGET\n"
    );
    assert_eq!(said(&server, &["ping"]), failed(1, &words));
    assert_eq!(said(&server, &["run", "h", "true"]), failed(125, &words));
    let away = finished(bare(&["--target", "unix:///nowhere.sock", "ls"]));
    assert!(
        away.stderr.contains("cannot reach gardend at unix:///nowhere.sock: no such file or directory"),
        "{away:?}"
    );
}

#[test]
fn what_answers_and_is_no_garden_is_said_so() {
    for answer in ["HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nhello", "SSH-2.0-OpenSSH\r\n", ""] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                if answer.is_empty() {
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                }
                // Read to the client's end, or the answer is lost to a reset.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }
        });
        for args in [&["ls"][..], &["run", "h", "true"]] {
            let mut command = bare(args);
            command.env("GARDEND_TARGET", &target);
            let said = finished(command);
            assert!(said.status == 1 || said.status == 125, "{said:?}");
            let expected = if answer.is_empty() { "was lost during" } else { "is not Garden's" };
            assert!(said.stderr.contains(expected) && said.stderr.contains(&target), "{answer:?}: {said:?}");
        }
        server.join().unwrap();
    }
}

#[test]
fn a_target_that_makes_no_sense_is_refused() {
    let said = finished(bare(&["--target", "ftp://worker", "ls"]));
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("a scheme that is not known") && said.stderr.contains("unix:///path"), "{said:?}");
}

#[test]
fn a_server_on_a_unix_socket_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garden.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let said = finished(bare(&["ping", "--target", path.to_str().unwrap()]));
    server.join().unwrap();
    assert_eq!(said.status, 0, "{said:?}");
}

#[test]
fn create_sends_what_it_was_given_and_prints_the_handle() {
    let server = Garden::start();
    let args = [
        "create",
        "--handle",
        "h",
        "--rootfs",
        "raw:///srv/busybox",
        "-e",
        "A=1",
        "--env",
        "B=x=y",
        "-v",
        "/src:/dst",
        "--mount",
        "/ro:/inside:ro",
        "--privileged",
        "-p",
        "k=v",
        "--property",
        "empty=",
        "--grace-time",
        "1h30m",
        "--network",
        "10.80.0.0/24",
    ];
    assert_eq!(said(&server, &args), ok("h\n"));
    let request = server.wait_to_be_told("POST /containers");
    let spec: Value = serde_json::from_str(request.strip_prefix("POST /containers ").unwrap()).unwrap();
    assert_eq!(
        spec,
        json!({
            "handle": "h",
            "image": {"uri": "raw:///srv/busybox"},
            "env": ["A=1", "B=x=y"],
            "bind_mounts": [
                {"src_path": "/src", "dst_path": "/dst", "mode": 1},
                {"src_path": "/ro", "dst_path": "/inside", "mode": 0},
            ],
            "privileged": true,
            "properties": {"k": "v", "empty": ""},
            "grace_time": 5_400_000_000_000_u64,
            "network": "10.80.0.0/24",
        })
    );
}

#[test]
fn create_without_anything_asks_for_nothing() {
    let server = Garden::start();
    let said = said(&server, &["create"]);
    assert_eq!(said, ok("made-0\n"));
    assert_eq!(server.told(), ["POST /containers {}"]);
    let created = json_of(&cli_support::said(&server, &["create", "named", "--json"]));
    assert_eq!(created, json!({"handle": "named"}));
}

#[test]
fn a_create_that_is_refused_says_why_in_the_servers_words() {
    let server = Garden::with_container("h");
    assert_eq!(said(&server, &["create", "h"]), failed(1, "error: Handle 'h' already in use\n"));
    let missing = said(&server, &["create", "--rootfs", "/missing"]);
    assert_eq!(missing, failed(1, "error: rootfs '/missing' does not exist\n"));
}

#[test]
fn flags_that_make_no_sense_are_refused_before_anything_is_asked() {
    let server = Garden::start();
    for (args, words) in [
        (&["create", "--rootfs", "busybox"][..], "docker:///busybox"),
        (&["create", "-v", "data:/x"], "no named volumes"),
        (&["create", "-p", "novalue"], "not KEY=VALUE"),
        (&["create", "--grace-time", "5"], "has no unit; say 90s"),
        (&["create", "a", "--handle", "b"], "cannot be used with"),
        (&["props", "h", "get"], "gardend props h get KEY"),
        (&["props", "h", "set", "k"], "gardend props h set KEY VALUE"),
        (&["props", "h", "get", "k", "v"], "gardend props h get KEY"),
        (&["rm"], "required"),
        (&["rm", "--all", "h"], "cannot be used with"),
        (&["stop", "--kill", "--time", "3", "h"], "cannot be used with"),
    ] {
        let said = said(&server, args);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.stderr.contains(words), "{said:?}");
    }
    assert!(server.told().is_empty());
}

#[test]
fn ls_shows_a_table_without_colours_when_piped() {
    let server = Garden::start();
    server.add_container("web", &[]);
    server.add_container("worker", &[("stopped", "1")]);
    let expected = "HANDLE  STATE    PROCESSES  ADDRESS  PATH\n\
                    web     active   0          -        /run/gardend/places/web\n\
                    worker  stopped  0          -        /run/gardend/places/worker\n";
    assert_eq!(said(&server, &["ls"]), ok(expected));
    assert_eq!(said(&server, &["list", "-q"]), ok("web\nworker\n"));
}

#[test]
fn ls_shows_the_headings_alone_where_there_is_nothing() {
    let server = Garden::start();
    assert_eq!(said(&server, &["ls"]), ok("HANDLE  STATE  PROCESSES  ADDRESS  PATH\n"));
    assert_eq!(said(&server, &["ls", "--json"]), ok("[]\n"));
    assert_eq!(said(&server, &["ls", "-q"]), ok(""));
}

#[test]
fn ls_filters_by_properties_that_may_hold_anything() {
    let server = Garden::start();
    server.add_container("a", &[("team", "x & y"), ("tier", "1")]);
    server.add_container("b", &[("team", "x & y"), ("tier", "2")]);
    assert_eq!(said(&server, &["ls", "-q", "-p", "team=x & y"]), ok("a\nb\n"));
    assert_eq!(said(&server, &["ls", "-q", "--filter", "team=x & y", "-p", "tier=2"]), ok("b\n"));
    said(&server, &["ls", "--all", "-q"]);
    server.wait_to_be_told("GET /containers?garden.state=all");
}

#[test]
fn ls_as_json_tells_all_there_is() {
    let server = Garden::start();
    server.add_container("h", &[("k", "v")]);
    let list = json_of(&said(&server, &["ls", "--json"]));
    assert_eq!(
        list,
        json!([{
            "handle": "h", "state": "active", "processes": [], "path": "/run/gardend/places/h",
            "container_ip": "", "container_ipv6": "", "host_ip": "", "external_ip": "",
            "ports": [], "properties": {"k": "v"}, "events": [],
        }])
    );
}

#[test]
fn ls_shows_the_others_where_one_does_not_answer() {
    let server = Garden::start();
    server.add_container("broken", &[]);
    server.add_container("whole", &[]);
    let said = said(&server, &["ls"]);
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains("whole") && !said.stdout.contains("broken"), "{said:?}");
    assert_eq!(said.stderr, "error: 'broken': its place does not answer\n");
}

#[test]
fn ls_asks_for_many_containers_in_requests_that_servers_take() {
    let server = Garden::start();
    let handles: Vec<String> = (0..300).map(|n| format!("{n:03}-{}", "x".repeat(60))).collect();
    for handle in &handles {
        server.add_container(handle, &[]);
    }
    let list = json_of(&said(&server, &["ls", "--json"]));
    let listed: Vec<&str> = list.as_array().unwrap().iter().map(|row| row["handle"].as_str().unwrap()).collect();
    assert_eq!(listed, handles);
    assert!(server.told().iter().all(|request| request.len() < 8000));
}

#[test]
fn colours_are_for_terminals_and_not_with_no_color() {
    let server = Garden::with_container("h");
    let coloured = OnTerminal::start(gardend(&server, &["ls"])).finish();
    assert!(coloured.stdout.contains("\x1b[32mactive\x1b[0m"), "{coloured:?}");
    let mut plain = gardend(&server, &["ls"]);
    plain.env("NO_COLOR", "1");
    let plain = OnTerminal::start(plain).finish();
    assert!(plain.stdout.contains("active") && !plain.stdout.contains('\x1b'), "{plain:?}");
    let error = OnTerminal::start(gardend(&server, &["info", "nobody"])).finish();
    assert!(error.stdout.contains("\x1b[1;31merror:\x1b[0m unknown handle: nobody"), "{error:?}");
}

#[test]
fn what_a_container_says_cannot_drive_the_terminal() {
    let server = Garden::start();
    server.add_container("h", &[("evil", "\x1b]0;gotcha\x07\nfake")]);
    let shown = OnTerminal::start(gardend(&server, &["props", "h", "get", "evil"])).finish();
    assert_eq!(shown.stdout, "\\u{1b}]0;gotcha\\u{7}\\nfake\r\n");
    let piped = said(&server, &["props", "h", "get", "evil"]);
    assert_eq!(piped.stdout, "\x1b]0;gotcha\x07\nfake\n");
    assert!(!said(&server, &["info", "h"]).stdout.contains('\x1b'));
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let server = Garden::start();
    for n in 0..2000 {
        server.add_container(&format!("{n:060}"), &[]);
    }
    let mut child = gardend(&server, &["ls"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let said = cli_support::outcome(child);
    assert_eq!((said.status, said.stderr.as_str()), (141, ""));
}

#[test]
fn info_shows_what_there_is() {
    let server = Garden::start();
    server.add_container("h", &[("a", "1"), ("b", "")]);
    let expected =
        "Handle      h\nState       active\nPath        /run/gardend/places/h\nProperties  a=1\n            b=\n";
    assert_eq!(said(&server, &["info", "h"]), ok(expected));
    assert_eq!(json_of(&said(&server, &["inspect", "h", "--json"]))["properties"], json!({"a": "1", "b": ""}));
    assert_eq!(said(&server, &["info", "x"]), failed(1, "error: unknown handle: x\n"));
}

#[test]
fn names_are_escaped_on_their_way() {
    let server = Garden::with_container("a b?c#d%e");
    assert_eq!(said(&server, &["info", "a b?c#d%e"]).status, 0);
    server.wait_to_be_told("GET /containers/a%20b%3Fc%23d%25e/info");
}

#[test]
fn properties_are_shown_read_set_and_removed() {
    let server = Garden::with_container("h");
    assert_eq!(said(&server, &["props", "h", "set", "a/b", "--value"]), ok(""));
    assert_eq!(said(&server, &["props", "h", "set", "empty", ""]), ok(""));
    assert_eq!(said(&server, &["props", "h", "set", "k=v=w"]), ok(""));
    assert_eq!(said(&server, &["props", "h", "get", "a/b"]), ok("--value\n"));
    assert_eq!(said(&server, &["props", "h"]), ok("PROPERTY  VALUE\na/b       --value\nempty\nk         v=w\n"));
    assert_eq!(said(&server, &["props", "h", "rm", "empty"]), ok(""));
    assert_eq!(json_of(&said(&server, &["props", "h", "--json"])), json!({"a/b": "--value", "k": "v=w"}));
    assert_eq!(json_of(&said(&server, &["props", "h", "get", "k", "--json"])), json!({"key": "k", "value": "v=w"}));
    assert_eq!(said(&server, &["props", "h", "get", "x"]), failed(1, "error: property does not exist: x\n"));
}

#[test]
fn stop_asks_gently_unless_told_otherwise() {
    let server = Garden::with_container("h");
    assert_eq!(said(&server, &["stop", "h"]), ok("h\n"));
    server.wait_to_be_told(r#"PUT /containers/h/stop {"kill":false}"#);
    for at_once in [&["stop", "--kill", "h"][..], &["stop", "--time", "0", "h"]] {
        assert_eq!(said(&server, at_once), ok("h\n"));
    }
    let kills = server.told().iter().filter(|line| *line == r#"PUT /containers/h/stop {"kill":true}"#).count();
    assert_eq!(kills, 2);
}

#[test]
fn stop_kills_when_its_time_is_over_and_goes_on_after_a_failure() {
    let server = Garden::with_container("stubborn");
    let said = said(&server, &["stop", "--time", "1", "nobody", "stubborn"]);
    assert_eq!(said.status, 1);
    assert_eq!(said.stdout, "stubborn\n");
    assert_eq!(said.stderr, "error: 'nobody' was not stopped: unknown handle: nobody\n");
    let told = server.told();
    let at = |line: &str| told.iter().position(|told| told == line).unwrap();
    assert!(
        at(r#"PUT /containers/stubborn/stop {"kill":false}"#) < at(r#"PUT /containers/stubborn/stop {"kill":true}"#)
    );
}

#[test]
fn rm_destroys_several_and_goes_on_after_a_failure() {
    let server = Garden::start();
    for handle in ["a", "stuck", "b"] {
        server.add_container(handle, &[]);
    }
    let said = said(&server, &["rm", "a", "stuck", "nobody", "b"]);
    assert_eq!(said.status, 1);
    assert_eq!(said.stdout, "a\nb\n");
    assert_eq!(
        said.stderr,
        "error: 'stuck' was not destroyed: container 'stuck' is stuck: a process does not die\n\
         error: 'nobody' was not destroyed: unknown handle: nobody\n"
    );
    assert_eq!(server.containers(), ["stuck"]);
}

#[test]
fn rm_can_take_all_and_be_content_with_what_is_gone() {
    let server = Garden::start();
    for n in 0..30 {
        server.add_container(&format!("c{n}"), &[]);
    }
    assert_eq!(said(&server, &["rm", "--force", "gone", "c0"]), ok("c0\n"));
    assert_eq!(said(&server, &["rm", "--all"]).stdout.lines().count(), 29);
    assert!(server.containers().is_empty());
    assert_eq!(said(&server, &["rm", "-a"]), ok(""));
    server.add_container("x", &[]);
    let removed = finished(gardend(&server, &["rm", "--json", "x", "y"]));
    assert_eq!(removed.status, 1);
    let removed: Value = serde_json::from_str(&removed.stdout).unwrap();
    assert_eq!(removed[0], json!({"handle": "x", "removed": true}));
    assert_eq!(removed[1], json!({"handle": "y", "removed": false, "error": "unknown handle: y"}));
}

#[test]
fn the_version_and_the_help_go_to_stdout() {
    let version = finished(bare(&["--version"]));
    assert_eq!(version.status, 0);
    assert!(version.stdout.starts_with(&format!("gardend {}", env!("CARGO_PKG_VERSION"))), "{version:?}");
    let help = finished(bare(&["--help"]));
    assert_eq!(help.status, 0);
    for command in
        ["serve", "check", "ping", "create", "run", "shell", "attach", "ps", "ls", "info", "props", "stop", "rm"]
    {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help:?}");
        let own = finished(bare(&[command, "--help"]));
        assert_eq!((own.status, own.stderr.as_str()), (0, ""), "{command}");
    }
}

#[test]
fn serve_refuses_an_address_that_others_can_reach() {
    let said = finished(bare(&["serve", "--listen", "0.0.0.0:7777"]));
    assert_eq!(said.status, 2);
    assert!(said.stderr.contains("0.0.0.0 can be reached from other machines"), "{said:?}");
}
