//! Figures of gardend's own process, under the names that Prometheus's clients share.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::fs;

#[derive(Debug)]
pub(super) struct ThisProcess;

impl Collector for ThisProcess {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // What the kernel does not tell is left out.
        if let Some(stat) = Stat::read() {
            let help = "Time on processors, in seconds";
            let family = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(stat.cpu_seconds).encode(family)?;
            gauge(&mut encoder, "process_start_time_seconds", "When it started, in seconds since 1970", stat.started)?;
            gauge(&mut encoder, "process_resident_memory_bytes", "Memory that is resident", stat.resident)?;
            gauge(&mut encoder, "process_virtual_memory_bytes", "Memory that is mapped", stat.mapped)?;
            gauge(&mut encoder, "process_threads", "Threads", stat.threads)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge(&mut encoder, "process_open_fds", "Open descriptors", open.count() as f64)?;
        }
        let most = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64);
        gauge(&mut encoder, "process_max_fds", "Descriptors that may be open at once", most)
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

struct Stat {
    cpu_seconds: f64,
    started: f64,
    resident: f64,
    mapped: f64,
    threads: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let booted = fs::read_to_string("/proc/stat").ok()?;
        let booted = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, booted)
    }

    /// See proc_pid_stat(5). Whatever the program's name holds, its end is the last parenthesis.
    fn parse(text: &str, booted: f64) -> Option<Self> {
        let ticks = clock_ticks_per_second() as f64;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // The first behind the name is the third of the manual's.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started: booted + field(22)? / ticks,
            mapped: field(23)?,
            resident: field(24)? * page_size() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_no_field() {
        let fields = (3..=52).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(&format!("7 (a) b (c) {fields}"), 1000.0).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.threads, stat.mapped), (20.0, 23.0));
        assert_eq!((stat.cpu_seconds, stat.started), (29.0 / ticks, 1000.0 + 22.0 / ticks));
        assert!(Stat::parse("7 (a", 0.0).is_none());
    }

    #[test]
    fn this_process_tells_of_itself() {
        let stat = Stat::read().unwrap();
        assert!(stat.resident > 0.0 && stat.threads >= 1.0 && stat.started > 1_000_000_000.0);
    }
}
