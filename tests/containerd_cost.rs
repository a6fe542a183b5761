//! 250 unprivileged places at once; and what places cost: time to make one, memory of an idle one,
//! by how many share a shim. The figures only where they are asked for:
//! `cargo test --test containerd_cost -- --ignored --nocapture`.

mod common;

use common::containerd::{Census, Cleanup, Host, assert_nothing_left, folder, folders, pairs, processes};
use futures_util::stream::{self, StreamExt};
use gardend::node::containerd::{Containerd, Options};
use gardend_controller::ports::Sandboxes;
use gardend_controller::record::{SandboxId, SandboxKind};
use std::fs;
use std::time::{Duration, Instant};

/// Proportional set size of a process, in KiB: its share of what it shares with others.
fn pss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// Shims and inits below a folder or an owner's cgroup: how many shims, and the PSS of each kind.
fn memory(below: &str, owner: &str) -> (usize, u64, u64) {
    let mark = format!("/gardend/{owner}/");
    let (mut shims, mut of_shims, mut of_inits) = (0, 0, 0);
    for (pid, command, cgroup) in processes() {
        if command.contains("containerd-shim") && command.contains(below) {
            shims += 1;
            of_shims += pss(pid);
        } else if cgroup.contains(&mark) {
            of_inits += pss(pid);
        }
    }
    (shims, of_shims, of_inits)
}

/// Processor time of containerd, its shims and all that these have run and waited for, and of this
/// process: what a busy machine does not change much.
fn processor_time(containerd: u32, below: &str) -> Duration {
    let shims = processes().into_iter().filter(|(_, line, _)| line.contains("containerd-shim") && line.contains(below));
    let pids = shims.map(|(pid, ..)| pid).chain([containerd, std::process::id()]);
    let ticks = pids.map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        // utime, stime, cutime, cstime: fields 14 to 17, the command's end being field 2.
        fields.skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
    });
    Duration::from_millis(ticks.sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second())
}

fn at(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; prints a table"]
async fn sharing_a_shim_saves_time_and_memory() {
    const PLACES: usize = 32;
    println!("containerd runtime   K  CPU ms  p10 ms  p50 ms  p90 ms  shims  KiB a place (shim + init)");
    for (version, runtime) in pairs() {
        let mut kib = Vec::new();
        for limit in [1, 8, 16, 32] {
            let below = folder();
            let folders = folders(below.path());
            let host = Host::start(&version, below.path());
            let _cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
            let options = Options { runtime: runtime.clone(), group_limit: limit, ..Options::default() };
            let places = Containerd::open(folders.clone(), &host.socket(), options).unwrap();
            let mut ids = Vec::new();
            let mut times = Vec::new();
            let inside = below.path().to_str().unwrap();
            let before_all = processor_time(host.pid(), inside);
            for _ in 0..PLACES {
                let id = SandboxId::generate();
                let before = Instant::now();
                places.ensure(&id, SandboxKind::Unprivileged).await.unwrap();
                times.push(before.elapsed());
                ids.push(id);
            }
            times.sort();
            let spent = (processor_time(host.pid(), inside) - before_all).as_secs_f64() * 1000.0 / PLACES as f64;
            let (shims, of_shims, of_inits) = memory(inside, places.owner().as_str());
            let (shim, init) = (of_shims / PLACES as u64, of_inits / PLACES as u64);
            println!(
                "{:10} {:7} {limit:3} {spent:7.1} {:7.1} {:7.1} {:7.1} {shims:6}  {} ({shim} + {init})",
                version.name,
                runtime.name(),
                at(&times, 10),
                at(&times, 50),
                at(&times, 90),
                shim + init
            );
            kib.push(shim + init);
            assert_eq!(shims, PLACES.div_ceil(limit));
            for id in &ids {
                places.remove(id).await.unwrap();
            }
            assert_nothing_left(&folders, below.path());
        }
        assert!(kib[2] < 1536, "an idle place costs {} KiB at the default of 16 a shim", kib[2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_and_fifty_unprivileged_places_live_at_once() {
    const PLACES: usize = 250;
    for (version, runtime) in pairs() {
        let below = folder();
        let folders = folders(below.path());
        let host = Host::start(&version, below.path());
        let _cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
        let options = Options { runtime: runtime.clone(), ..Options::default() };
        let places = Containerd::open(folders.clone(), &host.socket(), options).unwrap();
        let ids: Vec<_> = (0..PLACES).map(|_| SandboxId::generate()).collect();
        let before = Instant::now();
        let made = stream::iter(&ids).map(|id| places.ensure(id, SandboxKind::Unprivileged));
        let made: Vec<_> = made.buffer_unordered(PLACES).collect().await;
        for made in made {
            made.unwrap();
        }
        let took = before.elapsed();
        let (shims, of_shims, of_inits) = memory(below.path().to_str().unwrap(), places.owner().as_str());
        let before = Instant::now();
        let seen = places.list().await.unwrap();
        let listed = before.elapsed();
        assert_eq!(seen.iter().filter(|seen| seen.running).count(), PLACES);
        assert_eq!(Census::take(&folders, below.path()).count("process in a place"), PLACES);
        let before = Instant::now();
        let removed = stream::iter(&ids).map(|id| places.remove(id));
        let removed: Vec<_> = removed.buffer_unordered(8).collect().await;
        for removed in removed {
            removed.unwrap();
        }
        println!(
            "{} {}: {PLACES} places in {:.1} s ({:.0}/s), {shims} shims, {} KiB a place ({} shim + {} init), containerd \
             {} MiB, list {:.1} ms, removed in {:.1} s",
            version.name,
            runtime.name(),
            took.as_secs_f64(),
            PLACES as f64 / took.as_secs_f64(),
            (of_shims + of_inits) / PLACES as u64,
            of_shims / PLACES as u64,
            of_inits / PLACES as u64,
            pss(host.pid()) / 1024,
            listed.as_secs_f64() * 1000.0,
            before.elapsed().as_secs_f64(),
        );
        assert_nothing_left(&folders, below.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn kinds_and_runtimes_compared_one_by_one() {
    for (version, runtime) in pairs() {
        let below = folder();
        let folders = folders(below.path());
        let host = Host::start(&version, below.path());
        let _cleanup = Cleanup { folders: folders.clone(), below: below.path().to_owned() };
        let options = Options { runtime: runtime.clone(), ..Options::default() };
        let places = Containerd::open(folders.clone(), &host.socket(), options).unwrap();
        let first = SandboxId::generate();
        places.ensure(&first, SandboxKind::Unprivileged).await.unwrap();
        for kind in [SandboxKind::Unprivileged, SandboxKind::Privileged] {
            let (mut made, mut killed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..20 {
                let id = SandboxId::generate();
                let start = Instant::now();
                places.ensure(&id, kind).await.unwrap();
                made.push(start.elapsed());
                let start = Instant::now();
                places.kill(&id).await.unwrap();
                killed.push(start.elapsed());
                let start = Instant::now();
                places.remove(&id).await.unwrap();
                removed.push(start.elapsed());
            }
            for times in [&mut made, &mut killed, &mut removed] {
                times.sort();
            }
            println!(
                "{:10} {:7} {kind:?}: p50 ensure {:.1} ms, kill {:.1} ms, remove {:.1} ms",
                version.name,
                runtime.name(),
                at(&made, 50),
                at(&killed, 50),
                at(&removed, 50)
            );
            assert!(made.len() == 20);
        }
        places.remove(&first).await.unwrap();
        assert_nothing_left(&folders, below.path());
    }
}
