//! `gardend top` on a real pseudo-terminal, read as a terminal reads it; and as text for scripts. Each
//! test's end checks that the terminal was restored.

mod cli_support;

use cli_support::garden::Garden;
use cli_support::pty::OnTerminal;
use cli_support::{DEADLINE, Said, eventually, gardend, said};
use rustix::process::{Pid, Signal, kill_process};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

fn two_containers() -> Garden {
    let server = Garden::start();
    server.add_container("db", &[]);
    server.add_container("web", &[("limited", "1")]);
    server
}

fn top(server: &Garden, args: &[&str]) -> OnTerminal {
    let args: Vec<&str> = ["top", "--interval", "200ms"].iter().chain(args).copied().collect();
    OnTerminal::start(gardend(server, &args))
}

/// A terminal of the size that `OnTerminal` has.
fn vt() -> vt100::Parser {
    let (rows, columns) = (NonZeroU16::new(30).unwrap(), NonZeroU16::new(100).unwrap());
    vt100::Parser::new(rows, columns, 0)
}

/// What is on the screen by now, as lines without their ends.
fn screen(session: &OnTerminal) -> Vec<String> {
    let mut parser = vt();
    parser.process(session.shown().as_bytes());
    parser.screen().contents().lines().map(|line| line.trim_end().to_owned()).collect()
}

fn wait_for(session: &OnTerminal, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
    let began = Instant::now();
    loop {
        let lines = screen(session);
        if is_so(&lines) {
            return lines;
        }
        assert!(began.elapsed() < DEADLINE, "not in time: {what}, but {lines:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Handles in the order of the screen.
fn handles(lines: &[String]) -> Vec<&str> {
    let first = |line: &'_ str| line.trim_start_matches(['+', '-', ' ']).split(' ').next().map(str::len);
    let shown = lines.iter().skip(2).filter(|line| line.contains("active"));
    let name = |line: &'_ String| -> Option<(usize, usize)> {
        let start = line.len() - line.trim_start_matches(['+', '-', ' ']).len();
        first(line).map(|length| (start, start + length))
    };
    shown.filter_map(|line| name(line).map(|(start, end)| &line[start..end])).collect()
}

/// It leaves the screen as it was found, too.
fn leave(mut session: OnTerminal, status: i32) -> Said {
    session.type_keys(b"q");
    finished(session, status)
}

fn finished(session: OnTerminal, status: i32) -> Said {
    let said = session.finish();
    assert_eq!(said.status, status, "{said:?}");
    let mut parser = vt();
    parser.process(said.stdout.as_bytes());
    assert!(!parser.screen().alternate_screen(), "{said:?}");
    assert!(!parser.screen().hide_cursor(), "{said:?}");
    said
}

#[test]
fn containers_are_shown_with_what_they_use() {
    let server = two_containers();
    let session = top(&server, &[]);
    let lines = wait_for(&session, "both with rates", |lines| {
        handles(lines).len() == 2 && lines.iter().any(|line| line.contains("web") && line.contains("0B"))
    });
    assert!(lines[0].contains(&server.target()) && lines[0].contains("2 containers"), "{lines:#?}");
    let web = lines.iter().find(|line| line.contains("web")).unwrap();
    assert!(web.contains("3.00MiB / 64.0MiB") && web.contains("active"), "{web}");
    let db = lines.iter().find(|line| line.contains("db")).unwrap();
    assert!(db.contains("3.00MiB / -"), "{db}");
    let _ = leave(session, 0);
}

#[test]
fn a_column_sorts_and_a_filter_leaves_out() {
    let server = two_containers();
    let mut session = top(&server, &["--sort", "handle"]);
    wait_for(&session, "by handle", |lines| handles(lines) == ["db", "web"]);
    session.type_keys(b"1");
    wait_for(&session, "the other way round", |lines| handles(lines) == ["web", "db"]);
    session.type_keys(b"1");
    wait_for(&session, "by handle again", |lines| handles(lines) == ["db", "web"]);
    // db has no network.
    session.type_keys(b"5");
    wait_for(&session, "by what came in", |lines| handles(lines) == ["web", "db"]);
    session.type_keys(b"/d");
    wait_for(&session, "those with a d", |lines| handles(lines) == ["db"]);
    session.type_keys(b"\r");
    wait_for(&session, "the filter is kept", |lines| lines[0].contains("1 of 2 containers  filter: d"));
    session.type_keys(b"\x1b");
    wait_for(&session, "all again", |lines| handles(lines).len() == 2);
    session.type_keys(b"?");
    wait_for(&session, "the help", |lines| lines.iter().any(|line| line.contains("open a shell in the container")));
    session.type_keys(b" ");
    wait_for(&session, "no help", |lines| handles(lines).len() == 2);
    let _ = leave(session, 0);
}

#[test]
fn a_shell_has_the_terminal_for_itself_and_then_the_list_is_back() {
    let server = two_containers();
    let mut session = top(&server, &["--sort", "handle"]);
    wait_for(&session, "both", |lines| handles(lines) == ["db", "web"]);
    // The second: web.
    session.type_keys(b"js");
    session.wait_to_show("ready");
    let asked = server.wait_to_be_told("POST /containers/web/processes");
    assert!(asked.contains("\"tty\""), "{asked}");
    eventually("the shell is raw", || session.is_raw().then_some(()));
    session.type_keys(b"x");
    session.wait_to_show("<x>");
    session.type_keys(b"q");
    wait_for(&session, "the list again", |lines| handles(lines) == ["db", "web"]);
    let _ = leave(session, 0);
}

#[test]
fn the_output_of_a_process_is_followed_until_control_c() {
    let server = two_containers();
    assert_eq!(said(&server, &["run", "--detach", "--id", "p1", "web", "top"]).status, 0);
    let mut session = top(&server, &["--sort", "handle"]);
    wait_for(&session, "both", |lines| handles(lines) == ["db", "web"]);
    session.type_keys(b"j\r");
    wait_for(&session, "its process", |lines| lines.iter().any(|line| line.starts_with("    p1")));
    session.type_keys(b"jo");
    session.wait_to_show("ready");
    eventually("logs has the terminal", || (!session.is_raw()).then_some(()));
    session.type_keys(b"\x03");
    wait_for(&session, "the list again", |lines| handles(lines).contains(&"web"));
    eventually("the keys are top's again", || session.is_raw().then_some(()));
    let _ = leave(session, 0);
}

#[test]
fn a_server_that_goes_away_is_told_and_asked_on() {
    let server = two_containers();
    let session = top(&server, &[]);
    wait_for(&session, "both", |lines| handles(lines).len() == 2);
    server.crash();
    let lines = wait_for(&session, "a fault", |lines| lines.iter().any(|line| line.starts_with("trying again: ")));
    // What is known stays.
    assert_eq!(handles(&lines).len(), 2, "{lines:#?}");
    server.come_back();
    server.add_container("new", &[]);
    wait_for(&session, "it is back", |lines| handles(lines).len() == 3);
    let _ = leave(session, 0);
}

#[test]
fn a_new_size_is_drawn_on_and_a_signal_gives_the_terminal_back() {
    let server = two_containers();
    let session = top(&server, &[]);
    wait_for(&session, "both", |lines| handles(lines).len() == 2);
    session.resize(60, 10);
    kill_process(Pid::from_child(&session.child), Signal::WINCH).unwrap();
    // The line of keys is the last of ten.
    session.wait_to_show("\x1b[10;1H");
    kill_process(Pid::from_child(&session.child), Signal::TERM).unwrap();
    let _ = finished(session, 143);
}

#[test]
fn scripts_have_tables_and_no_terminal_is_explained() {
    let server = two_containers();
    let table = said(&server, &["top", "--batch", "-n", "2", "--interval", "100ms", "--sort", "handle"]);
    assert_eq!((table.status, table.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 7, "{lines:#?}");
    assert!(lines[0].starts_with("HANDLE") && lines[0].ends_with("AGE"), "{lines:#?}");
    assert!(lines[1].starts_with("db") && lines[2].starts_with("web") && lines[3].is_empty(), "{lines:#?}");
    assert!(!table.stdout.contains('\x1b'));
    let filtered = said(&server, &["top", "-b", "-n1", "--interval", "100ms", "--filter", "we"]);
    assert_eq!(filtered.stdout.lines().count(), 2, "{filtered:?}");
    let refused = said(&server, &["top"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("say --batch"), "{refused:?}");
}
