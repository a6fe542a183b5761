//! The life of processes and of those who are attached to them.

mod common;

use common::{Machine, command, named, received, request, sleep, socket, terminal};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::{NodeErrorKind, OutputStream, Signal, SpawnError};
use gardend_controller::record::{ExitStatus, ProcessSpec, ProcessState, WindowSize};
use gardend_controller::{Attachment, Controller, Error, Options, Outcome};
use std::time::Duration;
use tokio::time::Instant;

const DONE: Outcome = Outcome::Exited(ExitStatus::Code(0));

async fn garden_with_container(garden: &Controller) {
    garden.create(request("c")).await.unwrap();
}

/// One output of an attachment to its end.
async fn output(garden: &Controller, process: &Attachment, stream: OutputStream) -> String {
    let (ours, theirs) = socket();
    let id = process.process_id().as_str();
    garden.output("c", id, process.stream_id(), stream).unwrap().send_to(ours).await;
    String::from_utf8(received(theirs)).unwrap()
}

#[test]
fn stdout_and_stderr_come_apart_and_whole() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let process = garden.run("c", command("print out err 3")).await.unwrap();
        assert_eq!(output(&garden, &process, OutputStream::Stdout).await, "out");
        assert_eq!(output(&garden, &process, OutputStream::Stderr).await, "err");
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(3)));
        // Again, and by somebody else.
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(3)));
        let other = garden.attach("c", process.process_id().as_str()).await.unwrap();
        assert_eq!(other.outcome().await, Outcome::Exited(ExitStatus::Code(3)));
    });
}

#[test]
fn a_process_that_cannot_be_started_says_why_and_leaves_nothing() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let missing = garden.run("c", named("p", "/bin/nope")).await.map(drop).unwrap_err();
        assert_eq!(missing.to_string(), "exec: \"/bin/nope\": executable file not found in $PATH");
        let spec = ProcessSpec { user: Some("ghost".into()), ..named("p", "true") };
        let user = garden.run("c", spec).await.map(drop).unwrap_err();
        assert_eq!(user.to_string(), "unable to find user ghost: no matching entries in passwd file");
        let file = garden.run("c", named("p", "/etc/passwd")).await.map(drop).unwrap_err();
        assert!(matches!(file, Error::Spawn(SpawnError::NotExecutable { .. })));
        assert!(matches!(garden.attach("c", "p").await, Err(Error::ProcessNotFound(_))));
        // Its id is free.
        garden.run("c", named("p", "true")).await.unwrap();
        assert_eq!(machine.ledger.load().await.unwrap().processes.len(), 1);
    });
}

#[test]
fn an_id_is_taken_while_its_record_is_kept() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let process = garden.run("c", named("p", "true")).await.unwrap();
        let error = garden.run("c", named("p", "true")).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), "process id 'p' already in use");
        assert_eq!(process.outcome().await, DONE);
        assert!(garden.run("c", named("p", "true")).await.is_err());
        drop(process);
        sleep(machine.options.process_retention.as_secs_f64() + 1.0).await;
        assert!(matches!(garden.attach("c", "p").await, Err(Error::ProcessNotFound(_))));
        assert!(machine.ledger.load().await.unwrap().processes.is_empty());
        garden.run("c", named("p", "true")).await.unwrap();
    });
}

#[test]
fn an_end_that_nobody_has_seen_is_kept_however_long() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        drop(garden.run("c", named("p", "exit 4")).await.unwrap());
        sleep(86_400.0).await;
        let process = garden.attach("c", "p").await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(4)));
    });
    machine.life(async |garden| {
        // Seen, so that it goes, counted from the restart.
        sleep(60.0).await;
        drop(garden.attach("c", "p").await.unwrap());
        sleep(machine.options.process_retention.as_secs_f64()).await;
        assert!(matches!(garden.attach("c", "p").await, Err(Error::ProcessNotFound(_))));
    });
}

#[test]
fn a_hundred_runs_go_side_by_side() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        machine.fake.delay(Call::Spawn, Duration::from_secs(1));
        let begun = Instant::now();
        let runs = (0..100).map(|n| {
            let garden = garden.clone();
            tokio::spawn(async move { garden.run("c", command(&format!("exit {n}"))).await.unwrap().outcome().await })
        });
        for (n, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
            let code = u8::try_from(n).unwrap();
            assert_eq!(run.await.unwrap(), Outcome::Exited(ExitStatus::Code(code)));
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(machine.fake.most_at_once(Call::Spawn), 100);
    });
}

#[test]
fn signals_sizes_and_input_reach_the_process() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let noise = garden.run("c", terminal("noise")).await.unwrap();
        noise.signal(Signal::Terminate).await.unwrap();
        noise.resize(WindowSize { columns: 132, rows: 50 }).await;
        noise.signal(Signal::Kill).await.unwrap();
        assert_eq!(noise.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
        noise.signal(Signal::Kill).await.unwrap();
        assert_eq!(output(&garden, &noise, OutputStream::Stdout).await, "TERM\n132x50\n");

        let cat = garden.run("c", command("cat")).await.unwrap();
        cat.write_stdin(b"to and fro").await;
        cat.close_stdin().await;
        cat.write_stdin(b"too late").await;
        assert_eq!(output(&garden, &cat, OutputStream::Stdout).await, "to and fro");
        assert_eq!(cat.outcome().await, DONE);
    });
}

#[test]
fn an_unknown_stream_ends_at_once_and_unknown_names_are_errors() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        garden.run("c", named("p", "sleep")).await.unwrap();
        let (ours, theirs) = socket();
        garden.output("c", "p", "nonsense", OutputStream::Stdout).unwrap().send_to(ours).await;
        assert_eq!(received(theirs), b"");
        let unknown = |handle, process| garden.output(handle, process, "x", OutputStream::Stdout).map(drop);
        assert!(matches!(unknown("c", "q"), Err(Error::ProcessNotFound(_))));
        assert!(matches!(unknown("d", "p"), Err(Error::ContainerNotFound(_))));
        assert!(matches!(garden.attach("d", "p").await, Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn who_attaches_first_after_a_while_gets_what_was_missed_and_others_what_comes() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let first = garden.run("c", named("p", "cat")).await.unwrap();
        first.write_stdin(b"one ").await;
        let second = garden.attach("c", "p").await.unwrap();
        second.write_stdin(b"two ").await;
        drop(first);
        second.write_stdin(b"three").await;
        second.close_stdin().await;
        assert_eq!(output(&garden, &second, OutputStream::Stdout).await, "two three");
    });
}

#[test]
fn a_client_that_was_cut_off_finds_what_it_had_not_read() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let cut_off = garden.run("c", named("p", "cat")).await.unwrap();
        cut_off.write_stdin(b"all of it").await;
        // Within the linger of the first one's stream.
        drop(cut_off);
        let again = garden.attach("c", "p").await.unwrap();
        again.close_stdin().await;
        assert_eq!(output(&garden, &again, OutputStream::Stdout).await, "all of it");
    });
}

#[test]
fn a_slow_client_gets_its_bytes_for_a_minute_after_its_connection_ended() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        for (wait, expected) in [(59.0, "hello\n"), (61.0, "")] {
            let process = garden.run("c", command("echo hello")).await.unwrap();
            assert_eq!(process.outcome().await, DONE);
            let (id, stream_id) = (process.process_id().to_string(), process.stream_id().to_owned());
            drop(process);
            sleep(wait).await;
            let (ours, theirs) = socket();
            garden.output("c", &id, &stream_id, OutputStream::Stdout).unwrap().send_to(ours).await;
            assert_eq!(received(theirs), expected.as_bytes());
        }
    });
}

#[test]
fn a_lingering_stream_gives_way_and_still_gets_what_is_left() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let process = garden.run("c", named("p", "print out err 0")).await.unwrap();
        let stream_id = process.stream_id().to_owned();
        assert_eq!(process.outcome().await, DONE);
        drop(process);
        let later = garden.attach("c", "p").await.unwrap();
        assert_eq!(output(&garden, &later, OutputStream::Stdout).await, "out");
        drop(later);
        let (ours, theirs) = socket();
        garden.output("c", "p", &stream_id, OutputStream::Stderr).unwrap().send_to(ours).await;
        assert_eq!(received(theirs), b"err");
    });
}

#[test]
fn stdin_stays_open_for_a_while_after_the_last_client_and_a_terminal_for_ever() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        drop(garden.run("c", named("pipe", "cat")).await.unwrap());
        drop(garden.run("c", ProcessSpec { id: named("tty", "").id, ..terminal("cat") }).await.unwrap());
        sleep(50.0).await;
        // Somebody comes and goes: the count starts again.
        drop(garden.attach("c", "pipe").await.unwrap());
        sleep(50.0).await;
        assert_eq!(machine.fake.running().len(), 2);
        sleep(11.0).await;
        assert_eq!(machine.fake.running().len(), 1);
        let process = garden.attach("c", "pipe").await.unwrap();
        assert_eq!(process.outcome().await, DONE);
        sleep(86_400.0).await;
        assert_eq!(machine.fake.running().len(), 1);
    });
    machine.life(async |_| {
        sleep(86_400.0).await;
        assert_eq!(machine.fake.running().len(), 1);
    });
}

#[test]
fn stdin_is_not_closed_while_somebody_is_attached_and_closed_after_a_restart_without() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let held = garden.run("c", named("p", "cat")).await.unwrap();
        sleep(600.0).await;
        assert_eq!(machine.fake.running().len(), 1);
        std::mem::forget(held);
    });
    machine.life(async |_| {
        sleep(59.0).await;
        assert_eq!(machine.fake.running().len(), 1);
        sleep(2.0).await;
        assert_eq!(machine.fake.running().len(), 0);
    });
}

#[test]
fn a_run_whose_client_goes_away_still_starts_once_and_can_be_attached_to() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        machine.fake.delay(Call::Spawn, Duration::from_secs(3));
        let left = tokio::time::timeout(Duration::from_secs(1), garden.run("c", named("p", "sleep"))).await;
        assert!(left.is_err());
        sleep(5.0).await;
        assert_eq!(machine.fake.spawned(), 1);
        garden.attach("c", "p").await.unwrap();
    });
}

#[test]
fn those_attached_to_a_container_that_is_destroyed_are_told() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let process = garden.run("c", command("sleep")).await.unwrap();
        garden.destroy("c").await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Failed("the container was destroyed".into()));
        process.signal(Signal::Kill).await.unwrap();
    });
}

#[test]
fn an_end_is_acknowledged_only_once_it_is_written() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        let process = garden.run("c", named("p", "sleep")).await.unwrap();
        machine.ledger.pretend_full(true);
        process.signal(Signal::Kill).await.unwrap();
        // Told from memory meanwhile.
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
        sleep(60.0).await;
        let written = |contents: gardend_controller::ledger::Contents| contents.processes[0].state.clone();
        let state = written(machine.ledger.load().await.unwrap());
        // An update of a row may find room also on a full disk; only then it is acknowledged.
        let acknowledged = machine.fake.calls(Call::Acknowledge) > 0;
        assert_eq!(acknowledged, state == ProcessState::Exited(ExitStatus::Signal(9)));
        machine.ledger.pretend_full(false);
        sleep(60.0).await;
        let state = written(machine.ledger.load().await.unwrap());
        assert_eq!(state, ProcessState::Exited(ExitStatus::Signal(9)));
        assert_eq!(machine.fake.calls(Call::Acknowledge), 1);
    });
}

#[test]
fn a_spawn_that_was_not_answered_is_found_out_and_not_repeated() {
    for (fault, runs) in
        [(Fault::After(NodeErrorKind::Unavailable), true), (Fault::Before(NodeErrorKind::Unavailable), false)]
    {
        let machine = Machine::new();
        machine.life(async |garden| {
            garden_with_container(&garden).await;
            machine.fake.fail(Call::Spawn, fault, 1);
            let started = garden.run("c", named("p", "sleep")).await;
            assert_eq!(started.is_ok(), runs);
            assert_eq!(machine.fake.spawned(), usize::from(runs));
            drop(started);
            let process = garden.attach("c", "p").await.unwrap();
            if runs {
                process.signal(Signal::Kill).await.unwrap();
                assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Signal(9)));
            } else {
                let Outcome::Failed(why) = process.outcome().await else { panic!("it never ran") };
                assert!(why.contains("whether it started is not known"), "{why}");
            }
            garden.run("c", command("true")).await.unwrap();
        });
    }
}

#[test]
fn seen_ends_are_kept_up_to_a_number() {
    let machine = Machine::with(Options { pool_size: 0, process_retention: Duration::MAX / 4, ..Options::default() });
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        for _ in 0..gardend_controller::MAX_SEEN + 20 {
            garden.run("c", command("true")).await.unwrap().outcome().await;
        }
        sleep(5.0).await;
        let kept = machine.ledger.load().await.unwrap().processes.len();
        assert!(kept <= gardend_controller::MAX_SEEN + 1, "{kept}");
    });
}

#[test]
fn an_exit_that_is_never_told_is_found_by_looking() {
    let machine = Machine::new();
    machine.life(async |garden| {
        garden_with_container(&garden).await;
        machine.fake.lose_events(true);
        let begun = Instant::now();
        let process = garden.run("c", command("exit 5")).await.unwrap();
        assert_eq!(process.outcome().await, Outcome::Exited(ExitStatus::Code(5)));
        assert!(begun.elapsed() <= machine.options.sweep_interval + Duration::from_secs(1));
    });
}
