//! Sessions on a real pseudo-terminal. Each test's end checks that the terminal was restored.

mod cli_support;

use cli_support::eventually;
use cli_support::garden::Garden;
use cli_support::gardend;
use cli_support::pty::OnTerminal;
use rustix::process::{Pid, Signal, kill_process};

fn on_terminal(server: &Garden, args: &[&str]) -> OnTerminal {
    OnTerminal::start(gardend(server, args))
}

#[test]
fn the_terminal_is_raw_meanwhile_and_as_it_was_afterwards() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_show("ready");
    session.wait_to_be_raw();
    assert!(server.wait_to_be_told("/processes {").contains(r#""tty":{"window_size":{"columns":100,"rows":30}}"#));
    session.type_keys(b"x");
    session.wait_to_show("<x>");
    session.type_keys(b"q");
    let said = session.finish();
    assert_eq!(said.status, 7);
    // Nothing was echoed by this side.
    assert_eq!(said.stdout, "ready\r\n<x>");
}

#[test]
fn a_new_size_reaches_the_process() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_be_raw();
    server.wait_to_be_told(r#"p: {"process_id":"p","tty":{"window_size":{"columns":100,"rows":30}}}"#);
    session.resize(72, 19);
    server.wait_to_be_told(r#"p: {"process_id":"p","tty":{"window_size":{"columns":72,"rows":19}}}"#);
    session.type_keys(b"q");
    assert_eq!(session.finish().status, 7);
}

#[test]
fn an_interrupt_is_a_key_like_any_other_on_a_raw_terminal() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["shell", "h"]);
    session.wait_to_be_raw();
    for key in [b"\x03", b"\x1a", b"\x1c", b"\x04"] {
        session.type_keys(key);
    }
    // In as many pieces as they were read.
    let all = "<\\u{3}\\u{1a}\\u{1c}\\u{4}>";
    eventually("all keys are shown", || session.shown().replace("><", "").contains(all).then_some(()));
    session.type_keys(b"q");
    assert_eq!(session.finish().status, 7);
    assert!(!server.told().iter().any(|line| line.contains("\"signal\"")));
}

#[test]
fn an_interrupt_without_a_terminal_asks_and_then_kills() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["run", "--id", "p", "h", "wait", "stubborn"]);
    session.wait_to_show("ready");
    assert!(!session.is_raw());
    session.type_keys(b"\x03");
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":0}"#);
    session.type_keys(b"\x03");
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":1}"#);
    assert_eq!(session.finish().status, 137);
}

#[test]
fn detach_keys_leave_the_process_running() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_be_raw();
    session.type_keys(b"a\x10");
    session.wait_to_show("<a>");
    session.type_keys(b"\x11");
    let said = session.finish();
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("left process 'p' of 'h'; `gardend attach h p` comes back to it"), "{said:?}");
    assert_eq!(cli_support::said(&server, &["ps", "-q"]).stdout, "p\n");

    let mut again = on_terminal(&server, &["attach", "-t", "--detach-keys", "ctrl-a,d", "h", "p"]);
    again.wait_to_be_raw();
    again.type_keys(b"\x10\x11");
    eventually("both keys", || again.shown().replace("><", "").contains("<\\u{10}\\u{11}>").then_some(()));
    again.type_keys(b"\x01d");
    assert_eq!(again.finish().status, 0);
}

#[test]
fn a_signal_from_outside_is_passed_on_and_the_terminal_restored() {
    let server = Garden::with_container("h");
    let session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_be_raw();
    let pid = Pid::from_child(&session.child);
    kill_process(pid, Signal::TERM).unwrap();
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":0}"#);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(session.finish().status, 137);
}

#[test]
fn a_hang_up_takes_the_process_along() {
    let server = Garden::with_container("h");
    let session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_be_raw();
    kill_process(Pid::from_child(&session.child), Signal::HUP).unwrap();
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":0}"#);
    server.wait_to_be_told(r#"p: {"process_id":"p","signal":1}"#);
    let said = session.finish();
    assert!(said.status == 137 || said.status == 129, "{said:?}");
}

#[test]
fn a_lost_connection_is_taken_up_again_and_can_be_left_meanwhile() {
    let server = Garden::with_container("h");
    let mut session = on_terminal(&server, &["run", "-it", "--id", "p", "h", "top"]);
    session.wait_to_be_raw();
    session.type_keys(b"a");
    session.wait_to_show("<a>");
    server.crash();
    session.wait_to_show("attaching again when gardend is back\r\n");
    server.come_back();
    // The first thing that a session does.
    let sizes = || server.told().iter().filter(|line| line.contains("\"tty\":{")).count();
    eventually("the size is told again", || (sizes() == 3).then_some(()));
    session.type_keys(b"b");
    session.wait_to_show("<b>");
    server.crash();
    eventually("it says so again", || (session.shown().matches("attaching again").count() == 2).then_some(()));
    session.type_keys(b"\x03");
    assert_eq!(session.finish().status, 130);
}

#[test]
fn a_terminal_for_output_alone_does_not_take_the_keyboard() {
    let server = Garden::with_container("h");
    let command = gardend(&server, &["run", "-t", "--id", "p", "h", "wait"]);
    let mut session = OnTerminal::start(command);
    session.wait_to_show("ready");
    assert!(!server.told().iter().any(|line| line.contains("/stderr")), "a terminal has one output");
    assert!(!session.is_raw());
    session.resize(72, 19);
    server.wait_to_be_told(r#"p: {"process_id":"p","tty":{"window_size":{"columns":72,"rows":19}}}"#);
    session.type_keys(b"\x03");
    assert_eq!(session.finish().status, 143);
}
