//! What a Garden client waits for while the API server is frozen, beside what it waits for where
//! there is no Kubernetes at all: on real gardends, in turns, so that what else the machine does
//! hits all of them.

use crate::real::Gardend;
use crate::server::{Server, eventually};
use crate::world::World;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much longer it may take.
const RATIO: f64 = 1.2;
/// Rounds at least, and at most: among few the longest of a hundred is chance. A call that waited for
/// the API server would be longer however many there are.
const FEWEST: usize = 200;
const MOST: usize = 3000;

/// How long creates and runs took on one gardend.
#[derive(Default)]
struct Took {
    create: Vec<Duration>,
    run: Vec<Duration>,
}

impl Took {
    fn one_more(&mut self, gardend: &Gardend, handle: &str) {
        let garden = gardend.garden();
        let begin = Instant::now();
        garden.create(handle, gardend.rootfs()).unwrap();
        let created = Instant::now();
        assert_eq!(garden.output(handle, "true").unwrap().0, 0);
        self.create.push(created - begin);
        self.run.push(created.elapsed());
        garden.destroy(handle).unwrap();
    }
}

fn part(times: &[Duration], part: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    times[((times.len() as f64 * part).ceil() as usize).clamp(1, times.len()) - 1].as_secs_f64() * 1e3
}

/// What is wrong, or what it comes to. Twice the same tells what is noise.
fn compare(call: &str, frozen: &[Duration], without: [&[Duration]; 2]) -> Result<String, String> {
    let both = without.concat();
    let mut words = format!("{call}, {} rounds:", frozen.len());
    let mut fine = true;
    for (name, at) in [("p50", 0.5), ("p99", 0.99)] {
        let (with, all) = (part(frozen, at), part(&both, at));
        let [one, other] = without.map(|times| part(times, at));
        fine &= with <= one.max(other) * RATIO;
        words += &format!(
            " {name} {with:.2} ms frozen, {all:.2} ms without ({:.3}; one without beside the other {:.3});",
            with / all,
            other / one
        );
    }
    if fine { Ok(words) } else { Err(words) }
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_and_runs_take_no_longer_with_a_frozen_api_server_than_without_kubernetes() {
    let server = Arc::new(Server::start());
    let world = World::on(Arc::clone(&server)).await;
    let mirroring = Gardend::mirroring(&world, &[]);
    let without = [Gardend::alone(), Gardend::alone()];
    mirroring.garden().create("stays", mirroring.rootfs()).unwrap();
    eventually("it is shown", || {
        let shown = mirroring.figure("gardend_kube_objects");
        (shown == 1.0).then_some(()).ok_or_else(|| shown.to_string())
    });
    server.signal("kube-apiserver", "STOP");

    let (mut frozen, mut others) = (Took::default(), [Took::default(), Took::default()]);
    // The first warm caches up.
    Took::default().one_more(&mirroring, "first");
    without.iter().for_each(|gardend| Took::default().one_more(gardend, "first"));
    let said = loop {
        let round = frozen.create.len();
        let handle = format!("c{round}");
        // Each is the first as often as the others.
        for turn in 0..3 {
            match (round + turn) % 3 {
                2 => frozen.one_more(&mirroring, &handle),
                one => others[one].one_more(&without[one], &handle),
            }
        }
        if round < FEWEST || !round.is_multiple_of(100) {
            continue;
        }
        let create = compare("create", &frozen.create, [&others[0].create, &others[1].create]);
        let run = compare("run", &frozen.run, [&others[0].run, &others[1].run]);
        match (create, run) {
            (Ok(create), Ok(run)) => break [create, run],
            (create, run) => assert!(round < MOST, "{create:?} {run:?}"),
        }
    };
    println!("{}\n{}", said[0], said[1]);

    // It was frozen all the time, and those that came and went meanwhile are not waited with.
    eventually("it is told", || {
        let away = mirroring.figure("gardend_kube_api_away");
        (away == 1.0).then_some(()).ok_or_else(|| away.to_string())
    });
    mirroring.garden().create("meanwhile", mirroring.rootfs()).unwrap();
    let waiting = mirroring.figure("gardend_kube_objects_waiting");
    assert!(waiting <= 2.0, "{waiting} objects wait, of 2 containers");
    server.signal("kube-apiserver", "CONT");
    eventually("all is shown once it goes on", || {
        let shown = mirroring.figure("gardend_kube_objects");
        (shown == 2.0).then_some(()).ok_or_else(|| shown.to_string())
    });
    assert_eq!(mirroring.figure("gardend_kube_api_away"), 0.0);
}
