//! The commands about figures, output, ports, rules and limits, and what is generated of the command
//! line, by what the real binary says and exits with.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::pty::OnTerminal;
use cli_support::{Said, bare, eventually, finished, gardend, outcome, said};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn ok(stdout: &str) -> Said {
    Said { status: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

fn failed(status: i32, stderr: &str) -> Said {
    Said { status, stdout: String::new(), stderr: stderr.to_owned() }
}

fn two_containers() -> Garden {
    let server = Garden::start();
    server.add_container("db", &[]);
    server.add_container("web", &[("limited", "1")]);
    server
}

#[test]
fn stats_show_what_is_used_once() {
    let server = two_containers();
    let said = said(&server, &["stats", "--no-stream"]);
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = said
        .stdout
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(lines[0], ["HANDLE", "CPU %", "MEMORY / LIMIT", "PIDS", "NET IN / OUT", "DISK"]);
    let without_cpu = |line: &[&str]| [&line[..1], &line[2..]].concat().join("|");
    assert_eq!(without_cpu(&lines[1]), "db|3.00MiB / -|2|-|4.88KiB");
    assert_eq!(without_cpu(&lines[2]), "web|3.00MiB / 64.0MiB|2|2.00KiB / 100B|4.88KiB");
}

#[test]
fn stats_as_json_tell_all_there_is() {
    let server = two_containers();
    let said = said(&server, &["stats", "--no-stream", "--json", "web"]);
    let mut usage: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    // A tenth of a second in about half of one.
    let cpu = usage[0]["cpu_percent"].take().as_f64().unwrap();
    assert!((1.0..=20.5).contains(&cpu), "{cpu}");
    assert_eq!(
        usage,
        [json!({
            "handle": "web", "cpu_percent": null, "memory_bytes": 3 << 20, "memory_limit_bytes": 64 << 20, "processes": 2,
            "processes_limit": null, "network_rx_bytes": 2048, "network_tx_bytes": 100, "disk_bytes": 5000,
        })]
    );
}

#[test]
fn stats_go_on_as_containers_come_and_go_until_interrupted() {
    let server = two_containers();
    let mut command = gardend(&server, &["stats", "--json", "--interval", "100ms"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut handles = || {
        let usage: Vec<Value> = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        usage.iter().map(|one| one["handle"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(handles(), ["db", "web"]);
    server.add_container("new", &[]);
    assert_eq!(said(&server, &["rm", "db"]).status, 0);
    eventually("the new one is shown", || (handles() == ["new", "web"]).then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!((outcome(child).status), 0);
}

#[test]
fn stats_on_a_terminal_are_drawn_in_place() {
    let server = two_containers();
    let mut session = OnTerminal::start(gardend(&server, &["stats", "--interval", "100ms"]));
    session.wait_to_show("64.0MiB");
    let frames = |session: &OnTerminal| session.shown().matches("\x1b[H").count();
    eventually("a second frame", || (frames(&session) > 1).then_some(()));
    session.type_keys(b"\x03");
    assert_eq!(session.finish().status, 0);
}

#[test]
fn stats_of_nobody_say_so() {
    let server = two_containers();
    let said = said(&server, &["stats", "--no-stream", "nobody", "web"]);
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains("web") && said.stderr.contains("error: 'nobody': unknown handle: nobody"), "{said:?}");
    let wrong = finished(bare(&["stats", "--interval", "1ms"]));
    assert!(wrong.status == 2 && wrong.stderr.contains("less than 100ms"), "{wrong:?}");
}

#[test]
fn logs_show_what_was_written_so_far() {
    let server = Garden::with_container("h");
    assert_eq!(said(&server, &["run", "-d", "--id", "p", "h", "two-lines"]), ok("p\n"));
    assert_eq!(said(&server, &["logs", "h", "p"]), ok("one\n"));
    server.go_on();
    // What came meanwhile, of a process that has ended; its name is found where it runs alone.
    assert_eq!(said(&server, &["logs", "h", "p"]), ok("two\n"));
    assert_eq!(said(&server, &["run", "-d", "--id", "both", "h", "exit", "4"]), ok("both\n"));
    let both = said(&server, &["logs", "h", "both"]);
    assert_eq!(both, Said { status: 0, stdout: "to stdout\n".to_owned(), stderr: "to stderr\n".to_owned() });
}

#[test]
fn logs_follow_to_the_processs_end_and_do_not_end_it() {
    let server = Garden::with_container("h");
    assert_eq!(said(&server, &["run", "-d", "--id", "p", "h", "two-lines"]), ok("p\n"));
    let following =
        gardend(&server, &["logs", "-f", "h"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_to_be_told("attaches/stream-1/stdout");
    server.go_on();
    assert_eq!(outcome(following), ok("one\ntwo\n"));
    assert_eq!(said(&server, &["run", "-d", "--id", "w", "h", "wait"]), ok("w\n"));
    let said_to_it = || server.told().iter().filter(|line| line.starts_with("w: ")).count();
    let before = said_to_it();
    let child = gardend(&server, &["logs", "-f", "h"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.wait_to_be_told("processes/w/attaches");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(outcome(child).status, 130);
    assert_eq!(said_to_it(), before, "nothing was sent to it");
    assert_eq!(said(&server, &["ps", "-q", "h"]), ok("w\n"));
}

#[test]
fn logs_need_a_process() {
    let server = Garden::with_container("h");
    let none = said(&server, &["logs", "h"]);
    assert_eq!(none.status, 1);
    assert!(none.stderr.contains("no process runs in 'h'"), "{none:?}");
    for id in ["a", "b"] {
        said(&server, &["run", "-d", "--id", id, "h", "wait"]);
    }
    assert_eq!(said(&server, &["logs", "h"]), failed(2, "error: several processes run in 'h', name one: a, b\n"));
    assert_eq!(said(&server, &["logs", "h", "x"]), failed(1, "error: unknown process: x\n"));
    assert_eq!(said(&server, &["logs", "x"]), failed(1, "error: unknown handle: x\n"));
}

#[test]
fn logs_of_a_process_that_is_never_quiet_come_to_an_end() {
    let server = Garden::with_container("h");
    said(&server, &["run", "-d", "--id", "p", "h", "yes"]);
    let said = said(&server, &["logs", "h", "p"]);
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    assert!(said.stdout.len() > 1_000_000 && said.stdout.lines().all(|line| line == "y"));
}

#[test]
fn ports_are_opened_listed_and_found() {
    let server = two_containers();
    assert_eq!(said(&server, &["ports", "web"]), ok("HOST PORT  CONTAINER PORT\n"));
    assert_eq!(said(&server, &["ports", "web", "add", "8080:80", "443"]), ok("8080:80\n60001:443\n"));
    server.wait_to_be_told(r#"POST /containers/web/net/in {"handle":"web","host_port":8080,"container_port":80}"#);
    assert_eq!(said(&server, &["port", "web"]), ok("HOST PORT  CONTAINER PORT\n8080       80\n60001      443\n"));
    assert_eq!(said(&server, &["ports", "web", "443"]), ok("60001\n"));
    assert_eq!(
        said(&server, &["ports", "web", "--json"]).stdout,
        "[\n  {\n    \"host_port\": 8080,\n    \"container_port\": 80\n  },\n  {\n    \"host_port\": 60001,\n    \"container_port\": 443\n  }\n]\n"
    );
    server.add_container("outside", &[("external", "192.0.2.7")]);
    said(&server, &["ports", "outside", "add", "81:80"]);
    assert_eq!(said(&server, &["ports", "outside", "80"]), ok("192.0.2.7:81\n"));
    let none = said(&server, &["ports", "web", "22"]);
    assert_eq!(none.status, 1);
    assert!(
        none.stderr.contains("no port of the node leads to port 22 of 'web'; `gardend ports web add 22` opens one"),
        "{none:?}"
    );
    assert_eq!(said(&server, &["ports", "db", "add", "8080:80"]), failed(1, "error: port 8080 of the node is taken\n"));
    assert_eq!(said(&server, &["ports", "web", "8080:80"]).status, 2);
}

#[test]
fn allow_sends_the_rule() {
    let server = two_containers();
    assert_eq!(said(&server, &["allow", "web", "tcp", "10.0.0.0/8", "443", "--log"]), ok(""));
    let told = server.wait_to_be_told("POST /containers/web/net/out");
    let rule: Value = serde_json::from_str(told.strip_prefix("POST /containers/web/net/out ").unwrap()).unwrap();
    assert_eq!(
        rule,
        json!({"protocol": 1, "networks": [{"start": "10.0.0.0", "end": "10.255.255.255"}], "ports": [{"start": 443, "end": 443}], "log": true})
    );
    assert_eq!(said(&server, &["allow", "nobody"]), failed(1, "error: unknown handle: nobody\n"));
    let wrong = said(&server, &["allow", "web", "tcp", "example.com"]);
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("'example.com' is no address, network or range"), "{wrong:?}");
}

#[test]
fn limits_are_shown() {
    let server = two_containers();
    let expected = "Memory             64.0MiB\nProcessor shares   512\nDisk               1.00GiB, without the image\n\
                    Files              none\nBandwidth          977KiB/s\nBandwidth at once  1.91MiB\n";
    assert_eq!(said(&server, &["limits", "web"]), ok(expected));
    let none = said(&server, &["limits", "db"]);
    assert_eq!(none.stdout.lines().filter(|line| line.ends_with(" none")).count(), 6, "{none:?}");
    let all: Value = serde_json::from_str(&said(&server, &["limits", "web", "--json"]).stdout).unwrap();
    assert_eq!(all["memory"], json!({"limit_in_bytes": 64 << 20}));
    assert_eq!(said(&server, &["limits", "x"]), failed(1, "error: unknown handle: x\n"));
}

#[test]
fn shells_are_told_of_every_command() {
    for (shell, sign) in
        [("bash", "complete -F _gardend"), ("zsh", "#compdef gardend"), ("fish", "complete -c gardend")]
    {
        let script = finished(bare(&["completions", shell]));
        assert_eq!((script.status, script.stderr.as_str()), (0, ""), "{shell}");
        assert!(script.stdout.contains(sign), "{shell}");
        for word in ["serve", "cp", "stats", "max-containers", "no-stream"] {
            assert!(script.stdout.contains(word), "{shell}: {word}");
        }
    }
    let bash = finished(bare(&["completions", "bash"])).stdout;
    let check = std::process::Command::new("bash").arg("-n").arg("-c").arg(bash).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert_eq!(finished(bare(&["completions", "tcsh"])).status, 2);
}

#[test]
fn there_is_a_manual_page_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let written = finished(bare(&["man", pages.to_str().unwrap()]));
    assert_eq!(written, ok(""));
    for (page, word) in [
        ("gardend.1", "serve"),
        ("gardend-serve.1", "max\\-containers"),
        ("gardend-cp.1", "SRC"),
        ("gardend-config-show.1", "GARDEND_CONFIG"),
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH") && text.contains(word), "{page}");
    }
    let refused = finished(bare(&["man", "/dev/null/man"]));
    assert_eq!(refused, failed(1, "error: cannot write to '/dev/null/man': not a directory\n"));
}

#[test]
fn every_commands_help_has_an_example() {
    let help = finished(bare(&["--help"])).stdout;
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let own = finished(bare(&[command, "--help"]));
        let example = format!("  gardend {command}");
        assert!(own.stdout.contains("Examples:\n") && own.stdout.contains(&example), "{command}: {}", own.stdout);
    }
}
