//! What the controller itself costs: creates, runs and destroys on a node that takes no time, with
//! a ledger on disk. `cargo run --release -p gardend-controller --features fakes --example measure [FOLDER]`

use gardend_controller::fake::FakeNode;
use gardend_controller::record::{CreateRequest, Handle, ProcessSpec};
use gardend_controller::{Controller, Ledger, Options};
use std::time::{Duration, Instant};

const ROUNDS: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("measure-{}.db", std::process::id()));
    let ledger = Ledger::open(&path)?;
    let options = Options { max_containers: usize::MAX, pool_size: 8, ..Options::default() };
    let garden = Controller::start(options, ledger, FakeNode::new().node(), "boot").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let request = |handle: &str| -> Result<CreateRequest, Box<dyn std::error::Error>> {
        Ok(CreateRequest { handle: Some(Handle::new(handle)?), ..CreateRequest::default() })
    };
    let program = || ProcessSpec { path: "true".into(), env: vec!["A=b".into(); 8], ..ProcessSpec::default() };
    garden.create(request("one")?).await?;

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let process = garden.run("one", program()).await?;
        times.push(begun.elapsed());
        process.outcome().await;
    }
    report("run", &mut times);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        garden.run("one", program()).await?.outcome().await;
        times.push(begun.elapsed());
    }
    report("run and wait", &mut times);

    let begun = Instant::now();
    let runs: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let garden = garden.clone();
            tokio::spawn(async move { garden.run("one", program()).await.map(drop) })
        })
        .collect();
    for run in runs {
        run.await??;
    }
    println!("{:<24}{:>10.1} us each", "run, all at once", begun.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64);

    let mut destroys = Vec::new();
    for round in 0..ROUNDS / 4 {
        let handle = format!("c{round}");
        let begun = Instant::now();
        garden.create(request(&handle)?).await?;
        times.push(begun.elapsed());
        let begun = Instant::now();
        garden.destroy(&handle).await?;
        destroys.push(begun.elapsed());
    }
    report("create (two commits)", &mut times);
    report("destroy", &mut destroys);

    for round in 0..250 {
        garden.create(request(&format!("live{round}"))?).await?;
    }
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let handles = garden.list(&Default::default(), false);
        for handle in &handles {
            garden.info(handle.as_str())?;
        }
        times.push(begun.elapsed());
    }
    report("list and info of 250", &mut times);
    garden.shutdown().await;
    drop(garden);
    for suffix in ["", "-wal", ".lock", ".reserve"] {
        // Whatever is there.
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    Ok(())
}

fn report(what: &str, times: &mut Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[(times.len() as f64 * part) as usize].as_secs_f64() * 1e6;
    println!("{what:<24}{:>10.1} us p50{:>10.1} us p99", at(0.5), at(0.99));
    times.clear();
}
