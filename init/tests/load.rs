//! Many processes: nothing leaks, nothing is lost, and init stays small. The figures are printed.

mod support;

use garden_init::wire::{Event, Exit, Request};
use std::collections::BTreeMap;
use std::time::Instant;
use support::{Place, new_key, spec, spec_of, text, until};

/// Init's own pages: more is a leak. (A dynamic binary of a debug build has more than the static one.
/// What a private page of the file counts as depends on whether the file has reached the disk.)
const MAX_PRIVATE_KB: u64 = 400;

#[test]
fn a_thousand_processes_one_after_the_other_leave_nothing_behind() {
    let place = Place::start();
    let mut client = place.client();
    let asked = spec_of(&["/bin/true"]);
    client.run(&asked);
    client.ping();
    let before = place.init_fds();
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        let mut running = client.spawn(&asked);
        assert_eq!(client.exit_of(running.key), Exit::Code(0));
        assert_eq!((text(&mut running.stdout), text(&mut running.stderr)), (String::new(), String::new()));
        times.push(start.elapsed());
        client.send(&Request::Forget { key: running.key }, &[]);
    }
    // What was forgotten goes once init has read its end.
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
    times.sort_unstable();
    let private = place.init_memory("Anonymous:");
    println!(
        "Spawn to Exited and the end of its output: p50 {:?}, p99 {:?}; init: {} kB PSS, {private} kB private",
        times[500],
        times[990],
        place.init_memory("Pss:"),
    );
    assert!(private < MAX_PRIVATE_KB, "{private} kB");
}

#[test]
fn hundreds_at_once_are_all_told_of_and_their_statuses_outlive_the_connection() {
    const COUNT: usize = 300;
    let place = Place::start();
    let before = place.init_fds();
    let mut client = place.client();
    let mut expected = BTreeMap::new();
    for number in 0..COUNT {
        let code = u8::try_from(number % 200).unwrap();
        let key = new_key();
        // gardend's ends are dropped: init's own copies hold what comes out.
        let _ = client.ask(key, &spec(&format!("echo {number}; exit {code}")));
        expected.insert(key, (number, code));
    }
    for key in expected.keys() {
        client
            .wait_for(|event, _| matches!(event, Event::Spawned { key: spawned, .. } if spawned == key).then_some(()));
    }
    drop(client);
    let mut known = BTreeMap::new();
    let all_ended = until(|| {
        let mut client = place.connect();
        known = client
            .hello()
            .into_iter()
            .map(|(event, fds)| match event {
                Event::Known { key, exit, .. } => (key, (exit, fds)),
                other => panic!("{other:?}"),
            })
            .collect();
        (known.len() == COUNT && known.values().all(|(exit, _)| exit.is_some())).then_some(client)
    });
    let mut client = all_ended.unwrap_or_else(|| panic!("{} of {COUNT} are known", known.len()));
    for (key, (number, code)) in expected {
        let (exit, mut fds) = known.remove(&key).unwrap();
        assert_eq!(exit, Some(Exit::Code(code)));
        assert_eq!(text(&mut fds.remove(1).into()), format!("{number}\n"));
        client.send(&Request::Forget { key }, &[]);
    }
    client.ping();
    drop(client);
    assert!(until(|| (place.init_fds() == before).then_some(())).is_some(), "{} descriptors", place.init_fds());
    println!("{COUNT} at once; init: {} kB private", place.init_memory("Anonymous:"));
}

#[test]
fn what_a_large_request_took_is_given_back() {
    let place = Place::start();
    let mut client = place.client();
    client.run(&spec("true"));
    let before = place.init_memory("Anonymous:");
    let mut large = spec("true");
    large.env = (0..30).map(|number| format!("V{number}={}", "x".repeat(50_000)).into_bytes()).collect();
    client.run(&large);
    let after = place.init_memory("Anonymous:");
    assert!(after < before + 200, "{before} kB before, {after} kB after");
}
