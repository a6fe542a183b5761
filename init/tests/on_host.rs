//! Init without namespaces (`--on-host`): what descends from it is its container, whoever runs it.

mod support;

use garden_init::wire::{Exit, Request, SOCKET_NAME, SpawnFailure, SpawnSpec};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};
use support::{Client, spec, until};
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// An init as an ordinary process, in its folder.
struct OnHost {
    base: TempDir,
    init: Child,
}

impl OnHost {
    fn start(user: u32) -> Self {
        let base = tempfile::Builder::new().prefix("garden-init-").tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o711)).unwrap();
        // A copy, since the folder that it was built in need not be open to all.
        let program = base.path().join("garden-init");
        fs::copy(env!("CARGO_BIN_EXE_garden-init"), &program).unwrap();
        let place = base.path().join("place");
        fs::create_dir(&place).unwrap();
        chown(&place, Some(user), Some(user)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if user != 0 {
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
        }
        let init = command.arg("--").arg(program).args(["--on-host", "."]).current_dir(&place).stdin(Stdio::null());
        let mut on_host = Self { init: init.spawn().expect("setpriv, of util-linux, and the rights of root"), base };
        let listens = until(|| {
            assert!(on_host.init.try_wait().unwrap().is_none(), "init does not start");
            on_host.base.path().join("place").join(SOCKET_NAME).exists().then_some(())
        });
        listens.expect("init listens");
        on_host
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(&self.base.path().join("place").join(SOCKET_NAME));
        assert!(client.hello().is_empty());
        client
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// Leaves a process behind that has left its group, its session and its parent; its pid is written out.
const DAEMON: &str = "setsid sh -c 'sleep 1000 & echo $!' </dev/null 2>/dev/null";

/// By a user that init may become, in a folder that everybody may enter.
fn spec_as(user: u32, script: &str) -> SpawnSpec {
    SpawnSpec { user: format!("{user}:{user}"), dir: b"/tmp".to_vec(), ..spec(script) }
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S") || rest.starts_with(" R"))
}

fn line(stream: &mut fs::File) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a line");
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap().trim().to_owned()
}

#[test]
fn whatever_descends_from_it_is_seen_and_ended_however_it_was_forked() {
    for user in [0, NOBODY] {
        let host = OnHost::start(user);
        let mut client = host.client();
        let mut daemon = client.spawn(&spec_as(user, &format!("{DAEMON}; exit 4")));
        let orphan: i32 = line(&mut daemon.stdout).parse().unwrap();
        assert_eq!(client.exit_of(daemon.key), Exit::Code(4));
        assert!(client.is_occupied() && is_alive(orphan));

        let stubborn = client.spawn(&spec_as(user, "trap '' TERM; echo ready; while :; do sleep 1000; done"));
        let mut stubborn_out = stubborn.stdout;
        assert_eq!(line(&mut stubborn_out), "ready");
        client.send(&Request::SignalAll { signal: 15 }, &[]);
        assert!(until(|| (!is_alive(orphan)).then_some(())).is_some(), "it was told to end");
        assert!(client.is_occupied());
        client.send(&Request::SignalAll { signal: 9 }, &[]);
        assert_eq!(client.exit_of(stubborn.key), Exit::Signal(9));
        client.wait_until_empty();
        assert!(!client.is_occupied());
    }
}

#[test]
fn others_than_its_descendants_are_left_alone() {
    let host = OnHost::start(0);
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut client = host.client();
    client.send(&Request::SignalAll { signal: 9 }, &[]);
    client.ping();
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn who_may_become_nobody_else_is_who_it_is() {
    let host = OnHost::start(NOBODY);
    let mut client = host.client();
    assert_eq!(client.output(&spec_as(NOBODY, "id -u; id -g; pwd")), format!("{NOBODY}\n{NOBODY}\n/tmp\n"));
    let refused = client.try_spawn(&spec_as(0, "id -u")).err().expect("it is not root");
    assert!(matches!(&refused, SpawnFailure::System { call, .. } if call == "setgroups"), "{refused:?}");
}

#[test]
fn a_terminal_is_had_without_any_rights() {
    let host = OnHost::start(NOBODY);
    let mut client = host.client();
    let wanted = SpawnSpec { tty: Some((101, 57)), ..spec_as(NOBODY, "stty size; exec sleep 1000") };
    let (key, mut master) = client.spawn_with_terminal(&wanted);
    assert_eq!(line(&mut master), "57 101");
    client.send(&Request::Signal { key, signal: 9 }, &[]);
    assert_eq!(client.exit_of(key), Exit::Signal(9));
}
