//! What a process is given, how it ends, and what its init tells of that.

mod support;

use garden_init::wire::{Event, Exit, Request, SpawnFailure, SpawnSpec};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use support::{Place, spec, spec_of, until};

fn failure(client: &mut support::Client, spec: &SpawnSpec) -> SpawnFailure {
    match client.try_spawn(spec) {
        Ok(_) => panic!("{spec:?} was started"),
        Err(failure) => failure,
    }
}

#[test]
fn codes_signals_and_both_outputs_come_back() {
    let place = Place::start();
    let mut client = place.client();
    let outcome = client.run(&spec("cat; echo out; echo err >&2; exit 77"));
    assert_eq!((outcome.exit, &outcome.stdout[..], &outcome.stderr[..]), (Exit::Code(77), "out\n", "err\n"));
    assert_eq!(client.run(&spec("kill -9 $$")).exit, Exit::Signal(9));
    assert_eq!(client.run(&spec("kill -15 $$")).exit, Exit::Signal(15));
    assert_eq!(client.run(&spec_of(&["/bin/true"])).exit, Exit::Code(0));
}

#[test]
fn only_init_and_the_process_are_there_and_it_has_three_descriptors() {
    let place = Place::start();
    let mut client = place.client();
    let seen = client.output(&spec("cat /proc/1/comm; echo /proc/[0-9]*; echo $$"));
    let own = seen.lines().last().unwrap();
    assert_eq!(seen, format!("garden-init\n/proc/1 /proc/{own}\n{own}\n"));
    // The fourth is the folder that ls itself reads.
    assert_eq!(client.output(&spec_of(&["ls", "/proc/self/fd"])), "0\n1\n2\n3\n");
    let status = client.output(&spec_of(&["cat", "/proc/self/status"]));
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "NoNewPrivs:\t0", "Umask:\t0022"] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

#[test]
fn the_environment_is_completed_and_the_later_wins() {
    let place = Place::start();
    let mut client = place.client();
    let asked = SpawnSpec { env: ["A=1", "B=2", "A=3"].map(Into::into).to_vec(), ..spec_of(&["env"]) };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(client.output(&asked), format!("A=3\nB=2\nHOME=/root\nUSER=root\n{path}\n"));
    let alice = SpawnSpec { user: "alice".into(), ..spec_of(&["env"]) };
    assert_eq!(client.output(&alice), "HOME=/home/alice\nUSER=alice\nPATH=/usr/local/bin:/usr/bin:/bin\n");
}

#[test]
fn users_and_groups_are_the_containers_own() {
    let place = Place::start();
    let mut client = place.client();
    let mut id =
        |user: &str| client.output(&SpawnSpec { user: user.into(), dir: "/".into(), ..spec("id -u; id -g; id -G") });
    assert_eq!(id(""), "0\n0\n0 10\n");
    assert_eq!(id("alice"), "1000\n100\n100 10 63\n");
    assert_eq!(id("1000"), "1000\n100\n100 10 63\n");
    assert_eq!(id("alice:nogroup"), "1000\n65534\n65534 10 63\n");
    assert_eq!(id("4242:17"), "4242\n17\n17\n");
    assert_eq!(id("4242"), "4242\n0\n0\n");
    let unknown = SpawnSpec { user: "bob".into(), ..spec("true") };
    assert_eq!(failure(&mut client, &unknown), SpawnFailure::UnknownUser);
    let unknown = SpawnSpec { user: "alice:bobs".into(), ..spec("true") };
    assert_eq!(failure(&mut client, &unknown), SpawnFailure::UnknownGroup { group: "bobs".into() });
}

#[test]
fn without_a_passwd_root_and_numbers_work_alone() {
    for kind in ["missing", "fifo", "folder"] {
        let place = Place::start_with(|root| {
            let passwd = root.join("etc/passwd");
            fs::remove_file(&passwd).unwrap();
            match kind {
                "fifo" => assert!(std::process::Command::new("mkfifo").arg(&passwd).status().unwrap().success()),
                "folder" => fs::create_dir(&passwd).unwrap(),
                _ => {}
            }
        });
        let mut client = place.client();
        assert_eq!(client.output(&spec("grep Uid /proc/self/status; pwd")), "Uid:\t0\t0\t0\t0\n/\n", "{kind}");
        let number = SpawnSpec { user: "7:8".into(), ..spec("grep -E '^[UG]id' /proc/self/status") };
        assert_eq!(client.output(&number), "Uid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\n", "{kind}");
        let alice = SpawnSpec { user: "alice".into(), ..spec("true") };
        assert_eq!(failure(&mut client, &alice), SpawnFailure::UnknownUser, "{kind}");
    }
}

#[test]
fn nobody_but_root_has_capabilities_and_root_those_that_were_asked() {
    const CHOWN_AND_SETUID: u64 = 1 | 1 << 7;
    let place = Place::start();
    let mut client = place.client();
    let mut sets = |user: &str, capabilities| {
        let asked = SpawnSpec { user: user.into(), capabilities, ..spec("grep Cap /proc/self/status") };
        client.output(&asked).replace("0000000000000", "")
    };
    assert_eq!(sets("", CHOWN_AND_SETUID), "CapInh:\t000\nCapPrm:\t081\nCapEff:\t081\nCapBnd:\t081\nCapAmb:\t000\n");
    assert_eq!(
        sets("alice", CHOWN_AND_SETUID),
        "CapInh:\t000\nCapPrm:\t000\nCapEff:\t000\nCapBnd:\t081\nCapAmb:\t000\n"
    );
}

#[test]
fn the_folder_is_home_by_default_and_made_where_it_is_missing() {
    let place = Place::start();
    let mut client = place.client();
    assert_eq!(client.output(&spec("pwd")), "/root\n");
    let user =
        |dir: &str| SpawnSpec { user: "alice".into(), dir: dir.into(), ..spec("pwd; touch here 2>&1 || echo > here") };
    assert_eq!(client.output(&SpawnSpec { args: vec!["-c".into(), "pwd".into()], ..user("") }), "/home/alice\n");
    assert_eq!(
        client.output(&SpawnSpec { args: vec!["-c".into(), "pwd; echo > here".into()], ..user("/opt/a/b") }),
        "/opt/a/b\n"
    );
    for made in ["/opt/a", "/opt/a/b", "/opt/a/b/here"] {
        let seen = fs::metadata(place.path(made)).unwrap();
        assert_eq!((seen.uid(), seen.gid()), (1000, 100), "{made}");
    }
    assert_eq!(fs::metadata(place.path("/opt/a")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(place.path("/opt")).unwrap().uid(), 0);
    // A home that is not there.
    assert_eq!(client.output(&SpawnSpec { user: "nobody".into(), ..spec("pwd") }), "/nonexistent\n");
    assert_eq!(fs::metadata(place.path("/nonexistent")).unwrap().uid(), 65534);
}

#[test]
fn a_folder_that_cannot_be_entered_is_said() {
    let place = Place::start();
    let mut client = place.client();
    let mut dir =
        |user: &str, dir: &str| failure(&mut client, &SpawnSpec { user: user.into(), dir: dir.into(), ..spec("true") });
    let expected = |dir: &str, errno| SpawnFailure::Dir { dir: dir.into(), errno };
    assert_eq!(dir("", "/etc/passwd"), expected("/etc/passwd", libc::ENOTDIR));
    assert_eq!(dir("", "/etc/passwd/x"), expected("/etc/passwd/x", libc::ENOTDIR));
    assert_eq!(dir("alice", "/root"), expected("/root", libc::EACCES));
    assert_eq!(dir("", "/proc/no/such"), expected("/proc/no/such", libc::ENOENT));
}

#[test]
fn a_program_that_cannot_be_run_is_said_in_its_kind() {
    let place = Place::start_with(|root| {
        for (name, text, mode) in [
            ("bin/no-interpreter", "#!/no/such\n", 0o755),
            ("bin/no-format", "what is this\n", 0o755),
            ("bin/no-rights", "#!/bin/sh\n", 0o644),
            ("opt/no-rights", "#!/bin/sh\necho found\n", 0o755),
        ] {
            fs::write(root.join(name), text).unwrap();
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(root.join("sbin/echo")).unwrap();
    });
    let mut client = place.client();
    let mut of = |command: &str| failure(&mut client, &spec_of(&[command]));
    let exec = |errno| SpawnFailure::Exec { errno, exists: true };
    assert_eq!(of("no-such-program"), SpawnFailure::NotFound);
    assert_eq!(of("/no/such/program"), SpawnFailure::NotFound);
    assert_eq!(of(""), SpawnFailure::NotFound);
    assert_eq!(of("no-interpreter"), exec(libc::ENOENT));
    assert_eq!(of("/bin/no-interpreter"), exec(libc::ENOENT));
    assert_eq!(of("no-format"), exec(libc::ENOEXEC));
    assert_eq!(of("no-rights"), exec(libc::EACCES));
    assert_eq!(of("/bin"), exec(libc::EACCES));
    assert_eq!(of("/etc/passwd/x"), SpawnFailure::Exec { errno: libc::ENOTDIR, exists: false });
    // A later one that may be run is found; a folder of that name is passed over.
    let path = |path: &str, command: &[&str]| SpawnSpec { env: vec![path.into()], ..spec_of(command) };
    assert_eq!(client.output(&path("PATH=/bin:/opt", &["no-rights"])), "found\n");
    assert_eq!(client.output(&path("PATH=/sbin:/bin", &["echo", "x"])), "x\n");
    let relative = SpawnSpec { dir: "/opt".into(), ..spec_of(&["./no-rights"]) };
    assert_eq!(client.output(&relative), "found\n");
    client.wait_until_empty();
    assert!(!client.is_occupied());
}

#[test]
fn limits_are_set_and_the_others_are_what_init_was_started_with() {
    const OPEN_FILES: u32 = 7;
    const STACK: u32 = 3;
    let place = Place::start();
    let mut client = place.client();
    let asked =
        SpawnSpec { rlimits: vec![(OPEN_FILES, 77), (STACK, u64::MAX)], ..spec("ulimit -Sn; ulimit -Hn; ulimit -s") };
    assert_eq!(client.output(&asked), "77\n77\nunlimited\n");
    let (soft, hard) = rustix_limit();
    assert_eq!(client.output(&spec("ulimit -Sn; ulimit -Hn")), format!("{soft}\n{hard}\n"));
    let unknown = SpawnSpec { rlimits: vec![(99, 1)], ..spec("true") };
    assert!(matches!(failure(&mut client, &unknown), SpawnFailure::Malformed { .. }));
    // Nobody may open more files than the whole system allows one process.
    let above = SpawnSpec { rlimits: vec![(OPEN_FILES, u64::MAX)], ..spec("true") };
    let SpawnFailure::Rlimit { resource, asked, ceiling } = failure(&mut client, &above) else { panic!("no ceiling") };
    assert_eq!((resource, asked, ceiling), (OPEN_FILES, u64::MAX, hard));
}

fn rustix_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

#[test]
fn a_large_request_comes_in_a_file() {
    let place = Place::start();
    let mut client = place.client();
    let long = "x".repeat(100_000);
    let mut asked = spec("printf %s \"$A$B\" | wc -c");
    asked.env = vec![format!("A={long}").into_bytes(), format!("B={long}").into_bytes()];
    assert_eq!(client.output(&asked).trim(), "200000");
    // More than the kernel takes is an error of exec.
    asked.env = (0..35).map(|number| format!("V{number}={long}").into_bytes()).collect();
    assert_eq!(failure(&mut client, &asked), SpawnFailure::Exec { errno: libc::E2BIG, exists: true });
}

#[test]
fn a_request_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let place = Place::start();
    let mut client = place.client();
    let before = place.init_fds();
    for (key, fds) in [(1, 5), (2, 7), (3, 0), (4, 2)] {
        let key = garden_init::wire::ProcessKey([key; 16]);
        let (reader, _writer) = std::io::pipe().unwrap();
        use std::os::fd::AsFd;
        client.send(&Request::Spawn { key, spec: spec("true") }, &vec![reader.as_fd(); fds]);
        let error = client.wait_for(|event, _| match event {
            Event::SpawnFailed { key: failed, error } if *failed == key => Some(error.clone()),
            _ => None,
        });
        assert!(matches!(error, SpawnFailure::Malformed { .. }), "{error:?}");
    }
    for nul in [
        SpawnSpec { path: b"/bin/\0".to_vec(), ..spec("") },
        SpawnSpec { args: vec![b"\0".to_vec()], ..spec("") },
        SpawnSpec { env: vec![b"A=\0".to_vec()], ..spec("") },
        SpawnSpec { dir: b"/\0".to_vec(), ..spec("") },
    ] {
        assert!(matches!(failure(&mut client, &nul), SpawnFailure::Malformed { .. }));
    }
    let sleeping = client.spawn(&spec_of(&["cat"]));
    let [..] = client.ask(sleeping.key, &spec("true"));
    let error = client.wait_for(|event, _| match event {
        Event::SpawnFailed { error, .. } => Some(error.clone()),
        _ => None,
    });
    assert_eq!(error, SpawnFailure::Duplicate);
    client.finish(sleeping);
    // What was forgotten goes once init has read its end.
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
}

#[test]
fn dev_stdout_can_be_opened_by_a_user_who_is_not_root() {
    let place = Place::start();
    let mut client = place.client();
    let asked = SpawnSpec { user: "alice".into(), ..spec("echo again > /proc/self/fd/1; cat /proc/self/fd/0") };
    assert_eq!(client.output(&asked), "again\n");
}

#[test]
fn in_a_user_namespace_users_folders_streams_and_terminals_are_the_same() {
    let place = Place::start_unprivileged();
    let mut client = place.client();
    let user = |user: &str, script: &str| SpawnSpec { user: user.into(), ..spec(script) };
    assert_eq!(client.output(&user("", "id -u; id -G; cat /proc/self/uid_map | head -n 1 | wc -w")), "0\n0 10\n3\n");
    assert_eq!(client.output(&user("alice", "id -u; id -g; id -G; pwd")), "1000\n100\n100 10 63\n/home/alice\n");
    let unmapped = SpawnFailure::System { call: "setuid".into(), errno: libc::EINVAL };
    assert_eq!(failure(&mut client, &user("70000", "true")), unmapped);

    for (name, uid) in [("", support::MAPPED_ROOT), ("alice", 1000)] {
        let dir = format!("/opt/of-{name}");
        client.output(&SpawnSpec { dir: dir.clone().into(), ..user(name, "true") });
        assert_eq!(fs::metadata(place.path(&dir)).unwrap().uid(), uid, "{dir}");
    }
    let (_key, mut master) =
        client.spawn_with_terminal(&SpawnSpec { tty: Some((80, 24)), ..user("alice", "tty; stat -c %u $(tty)") });
    let mut seen = [0; 18];
    std::io::Read::read_exact(&mut master, &mut seen).unwrap();
    assert_eq!(&seen, b"/dev/pts/0\r\n1000\r\n");

    // A pipe of the place's root is handed on to the user; one of the host's stays as it is, and works.
    assert_eq!(client.output(&user("alice", "echo words")), "words\n");
    client.pipes_belong_to = Some(support::MAPPED_ROOT);
    assert_eq!(client.output(&user("alice", "echo by name > /proc/self/fd/1")), "by name\n");
    assert_eq!(client.output(&user("", "echo by name > /proc/self/fd/1")), "by name\n");
}

#[test]
fn a_process_that_is_no_child_of_its_own_is_not_adopted() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    use std::os::fd::AsFd;
    let place = Place::start();
    let mut client = place.client();
    let before = place.init_fds();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let (status, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    for (number, has_terminal, streams) in [(1, false, 3), (2, true, 2), (3, false, 2), (4, true, 3), (5, false, 0)] {
        let key = garden_init::wire::ProcessKey([number; 16]);
        let fds = [own.as_fd(), status.as_fd()].into_iter().chain((0..streams).map(|_| pipe.as_fd()));
        client.send(&Request::Adopt { key, pid: 7, has_terminal }, &fds.collect::<Vec<_>>());
        let error = client.wait_for(|event, _| match event {
            Event::SpawnFailed { key: failed, error } if *failed == key => Some(error.clone()),
            _ => None,
        });
        match streams + usize::from(has_terminal) {
            3 => assert!(matches!(&error, SpawnFailure::System { call, .. } if call == "adopt"), "{error:?}"),
            _ => assert!(matches!(&error, SpawnFailure::Malformed { .. }), "{error:?}"),
        }
    }
    drop(status);
    // It was not told to go on, and nothing of what came along is kept.
    let end = garden_init::packet::recv(far.as_fd(), &mut Vec::new());
    assert!(matches!(end, Ok(garden_init::packet::Packet::End)), "{end:?}");
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
    assert_eq!(client.output(&spec("echo fine")), "fine\n");
}
