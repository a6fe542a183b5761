//! `gardend stats`: what containers use, once or again and again.

use super::Context;
use super::client::{GardenErrorKind, wire::Metrics};
use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{Cell, report_error, size};
use super::signals::Endings;
use crate::config::parse_duration;
use clap::Args;
use gardend_controller::record::Properties;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Over how long the use of processors is taken where one look is asked for.
const ONE_LOOK: Duration = Duration::from_millis(500);
/// A limit beyond this is none: cgroups v1 say it so.
pub(super) const NO_LIMIT: u64 = 1 << 60;

#[derive(Debug, Args)]
#[command(
    after_help = "Processors are in percent of one: 200 % are two. Memory is what counts towards the limit. Disk is what \
                        a container has written, without its image.\n\n\
                        Examples:\n  gardend stats\n  gardend stats web db\n  gardend stats --no-stream --json"
)]
pub struct StatsArgs {
    /// The containers [default: all of them, as they come and go]
    handles: Vec<String>,

    /// Look once
    #[arg(long)]
    no_stream: bool,

    /// How long from one look to the next
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    interval: Duration,

    #[command(flatten)]
    json: Json,
}

/// What one container uses.
#[derive(Debug, PartialEq, Serialize)]
struct Usage {
    handle: String,
    cpu_percent: f64,
    memory_bytes: u64,
    /// Null: none.
    memory_limit_bytes: Option<u64>,
    processes: u64,
    processes_limit: Option<u64>,
    /// Null: it has no network.
    network_rx_bytes: Option<u64>,
    network_tx_bytes: Option<u64>,
    disk_bytes: u64,
}

/// Figures, and when they were had.
struct Look {
    at: Instant,
    figures: BTreeMap<String, Metrics>,
}

pub(super) async fn stats(context: &Context, args: StatsArgs) -> Result<ExitCode, Failure> {
    let mut endings = Endings::listen().map_err(|error| Failure::Words(format!("cannot take signals: {error}")))?;
    let mut watch = Watch { context, handles: &args.handles, limits: BTreeMap::new() };
    let (mut earlier, failed) = watch.look().await?;
    if args.no_stream {
        sleep(ONE_LOOK).await;
        let (later, _) = watch.look().await?;
        let usage = watch.usage(&earlier, &later);
        match args.json.json {
            true => context.ui.json(&usage)?,
            false => context.ui.table(&HEADINGS, usage.iter().map(row).collect())?,
        }
        return if failed { Err(Failure::Told(Status::Failed)) } else { Ok(ExitCode::SUCCESS) };
    }
    if failed {
        return Err(Failure::Told(Status::Failed));
    }
    loop {
        let next = async {
            sleep(args.interval).await;
            watch.look().await
        };
        // A look that is called off has asked, and changed nothing.
        let (later, _) = tokio::select! {
            later = next => later?,
            _ = endings.next() => return Ok(ExitCode::SUCCESS),
        };
        let usage = watch.usage(&earlier, &later);
        match args.json.json {
            true => context.ui.json_line(&usage)?,
            false => context.ui.frame(&HEADINGS, usage.iter().map(row).collect())?,
        }
        earlier = later;
    }
}

struct Watch<'a> {
    context: &'a Context,
    /// Empty: all.
    handles: &'a [String],
    /// Of memory, by handle. They do not change.
    limits: BTreeMap<String, Option<u64>>,
}

impl Watch<'_> {
    /// Figures, and whether some that were asked for could not be had (that has been told).
    async fn look(&mut self) -> Result<(Look, bool), Failure> {
        let client = &self.context.client;
        let handles = match self.handles {
            [] => client.list(&Properties::new()).await?,
            named => named.to_vec(),
        };
        let at = Instant::now();
        let (mut figures, mut failed) = (BTreeMap::new(), false);
        let answers = if handles.is_empty() { BTreeMap::new() } else { client.bulk_metrics(&handles).await? };
        for (handle, answer) in answers {
            match answer {
                Ok(metrics) => {
                    if !self.limits.contains_key(&handle) {
                        // A server that cannot tell, or a container that has just gone: none is known.
                        let limit = client.memory_limit(&handle).await.map(|limit| limit.limit_in_bytes).unwrap_or(0);
                        self.limits.insert(handle.clone(), Some(limit).filter(|limit| (1..NO_LIMIT).contains(limit)));
                    }
                    figures.insert(handle, metrics);
                }
                Err(error) if self.handles.is_empty() && error.kind == GardenErrorKind::ContainerNotFound => {}
                Err(error) => {
                    report_error(&format!("'{handle}': {error}"));
                    failed = true;
                }
            }
        }
        Ok((Look { at, figures }, failed))
    }

    fn usage(&self, earlier: &Look, later: &Look) -> Vec<Usage> {
        let time = (later.at - earlier.at).as_nanos() as f64;
        let of = |(handle, metrics): (&String, &Metrics)| {
            let before = earlier.figures.get(handle).map_or(metrics.cpu_stat.usage, |before| before.cpu_stat.usage);
            // One of the same name that was made anew has used less.
            let used = metrics.cpu_stat.usage.saturating_sub(before) as f64;
            Usage {
                handle: handle.clone(),
                cpu_percent: (used / time * 10_000.0).round() / 100.0,
                memory_bytes: metrics.memory_stat.toward_limit,
                memory_limit_bytes: self.limits.get(handle).copied().flatten(),
                processes: metrics.pid_stat.current,
                processes_limit: Some(metrics.pid_stat.max).filter(|max| (1..NO_LIMIT).contains(max)),
                network_rx_bytes: metrics.network_stat.map(|network| network.rx_bytes),
                network_tx_bytes: metrics.network_stat.map(|network| network.tx_bytes),
                disk_bytes: metrics.disk_stat.exclusive_bytes_used,
            }
        };
        later.figures.iter().map(of).collect()
    }
}

const HEADINGS: [&str; 6] = ["HANDLE", "CPU %", "MEMORY / LIMIT", "PIDS", "NET IN / OUT", "DISK"];

fn row(usage: &Usage) -> Vec<Cell> {
    let or_none = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), size);
    let network = match (usage.network_rx_bytes, usage.network_tx_bytes) {
        (None, None) => "-".to_owned(),
        (rx, tx) => format!("{} / {}", or_none(rx), or_none(tx)),
    };
    vec![
        usage.handle.clone().into(),
        format!("{:.2}", usage.cpu_percent).into(),
        format!("{} / {}", size(usage.memory_bytes), or_none(usage.memory_limit_bytes)).into(),
        usage.processes.to_string().into(),
        network.into(),
        size(usage.disk_bytes).into(),
    ]
}

pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) { Err("less than 100ms; say 1s".to_owned()) } else { Ok(interval) }
}
