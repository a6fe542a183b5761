//! Figures as Go's client reads them. Field names are Go's, but for the kernel's own of memory.

use super::GardenError;
use gardend_controller::Figures;
use gardend_controller::ports::{CpuUsage, DiskUsage, MemoryUsage, NetworkUsage, PidUsage};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// What Go's client knows of memory. A kernel that does not give one gives 0, and what it gives
/// beyond these is for nobody.
const MEMORY: [&str; 31] = [
    "active_anon",
    "active_file",
    "cache",
    "hierarchical_memory_limit",
    "inactive_anon",
    "inactive_file",
    "mapped_file",
    "pgfault",
    "pgmajfault",
    "pgpgin",
    "pgpgout",
    "rss",
    "total_active_anon",
    "total_active_file",
    "total_cache",
    "total_inactive_anon",
    "total_inactive_file",
    "total_mapped_file",
    "total_pgfault",
    "total_pgmajfault",
    "total_pgpgin",
    "total_pgpgout",
    "total_rss",
    "total_unevictable",
    "unevictable",
    "swap",
    "hierarchical_memsw_limit",
    "total_swap",
    "anon",
    "file",
    "swapcached",
];

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Metrics {
    memory_stat: MemoryStat,
    #[serde(rename = "CPUStat")]
    cpu_stat: CpuStat,
    disk_stat: DiskStat,
    network_stat: Option<NetworkStat>,
    pid_stat: PidStat,
    /// Nanoseconds.
    age: u64,
    #[serde(rename = "CPUEntitlement")]
    cpu_entitlement: u64,
}

#[derive(Debug, Default)]
struct MemoryStat(MemoryUsage);

impl Serialize for MemoryStat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(MEMORY.len() + 1))?;
        for name in MEMORY {
            map.serialize_entry(name, &self.0.stat.get(name).copied().unwrap_or(0))?;
        }
        map.serialize_entry("TotalUsageTowardLimit", &self.0.toward_limit)?;
        map.end()
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CpuStat {
    usage: u64,
    user: u64,
    system: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DiskStat {
    total_bytes_used: u64,
    total_inodes_used: u64,
    exclusive_bytes_used: u64,
    exclusive_inodes_used: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkStat {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PidStat {
    current: u64,
    max: u64,
}

impl Metrics {
    /// `share`: the processor time that one share is worth, in parts of a processor.
    pub(crate) fn of(figures: Figures, share: f64) -> Self {
        let Figures { age, cpu_shares, usage } = figures;
        let CpuUsage { total, user, system } = usage.cpu;
        let DiskUsage { total_bytes, total_inodes, exclusive_bytes, exclusive_inodes } = usage.disk;
        let PidUsage { current, max } = usage.pids;
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self {
            memory_stat: MemoryStat(usage.memory),
            cpu_stat: CpuStat { usage: total, user, system },
            disk_stat: DiskStat {
                total_bytes_used: total_bytes,
                total_inodes_used: total_inodes,
                exclusive_bytes_used: exclusive_bytes,
                exclusive_inodes_used: exclusive_inodes,
            },
            network_stat: usage
                .network
                .map(|NetworkUsage { received, sent }| NetworkStat { rx_bytes: received, tx_bytes: sent }),
            pid_stat: PidStat { current, max },
            age,
            cpu_entitlement: (cpu_shares as f64 * share * age as f64) as u64,
        }
    }
}

/// One container's part of a bulk_metrics.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MetricsEntry {
    metrics: Metrics,
    err: Option<GardenError>,
}

impl From<Result<Metrics, GardenError>> for MetricsEntry {
    fn from(result: Result<Metrics, GardenError>) -> Self {
        match result {
            Ok(metrics) => Self { metrics, err: None },
            Err(error) => Self { metrics: Metrics::default(), err: Some(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_controller::ports::Usage;
    use serde_json::{json, to_value};
    use std::time::Duration;

    #[test]
    fn figures_have_the_names_that_go_knows() {
        let usage = Usage {
            memory: MemoryUsage {
                stat: [("total_rss".to_owned(), 1), ("shmem".to_owned(), 2)].into(),
                toward_limit: 3,
            },
            cpu: CpuUsage { total: 4, user: 5, system: 6 },
            pids: PidUsage { current: 7, max: 8 },
            disk: DiskUsage { total_bytes: 9, total_inodes: 10, exclusive_bytes: 11, exclusive_inodes: 12 },
            network: Some(NetworkUsage { received: 13, sent: 14 }),
        };
        let figures = Figures { age: Duration::from_nanos(1000), cpu_shares: 10, usage };
        let seen = to_value(Metrics::of(figures, 0.25)).unwrap();
        let memory = seen["MemoryStat"].as_object().unwrap();
        assert_eq!(memory.len(), 32);
        assert_eq!(
            (&memory["total_rss"], &memory["anon"], &memory["TotalUsageTowardLimit"]),
            (&json!(1), &json!(0), &json!(3))
        );
        assert!(!memory.contains_key("shmem"));
        assert_eq!(seen["CPUStat"], json!({"Usage": 4, "User": 5, "System": 6}));
        assert_eq!(seen["PidStat"], json!({"Current": 7, "Max": 8}));
        let disk =
            json!({"TotalBytesUsed": 9, "TotalInodesUsed": 10, "ExclusiveBytesUsed": 11, "ExclusiveInodesUsed": 12});
        assert_eq!(seen["DiskStat"], disk);
        assert_eq!(seen["NetworkStat"], json!({"RxBytes": 13, "TxBytes": 14}));
        assert_eq!((&seen["Age"], &seen["CPUEntitlement"]), (&json!(1000), &json!(2500)));
    }

    #[test]
    fn an_entry_has_figures_or_an_error() {
        let good = to_value(MetricsEntry::from(Ok(Metrics::default()))).unwrap();
        assert!(good["Err"].is_null() && good["Metrics"]["NetworkStat"].is_null());
        let bad = to_value(MetricsEntry::from(Err(GardenError::plain("gone")))).unwrap();
        assert_eq!(bad["Err"]["Message"], "gone");
    }
}
