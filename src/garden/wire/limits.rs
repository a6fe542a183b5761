//! Limits in force, as Go's client reads them. What is zero is left out, as Go does.

use gardend_controller::record::Limits;
use serde::Serialize;

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Serialize)]
pub(crate) struct BandwidthLimits {
    #[serde(skip_serializing_if = "is_zero")]
    rate: u64,
    #[serde(skip_serializing_if = "is_zero")]
    burst: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct CpuLimits {
    #[serde(skip_serializing_if = "is_zero")]
    weight: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit_in_shares: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct DiskLimits {
    #[serde(skip_serializing_if = "is_zero")]
    inode_soft: u64,
    #[serde(skip_serializing_if = "is_zero")]
    inode_hard: u64,
    #[serde(skip_serializing_if = "is_zero")]
    byte_soft: u64,
    #[serde(skip_serializing_if = "is_zero")]
    byte_hard: u64,
    #[serde(skip_serializing_if = "is_zero")]
    scope: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct MemoryLimits {
    #[serde(skip_serializing_if = "is_zero")]
    limit_in_bytes: u64,
}

impl From<Limits> for BandwidthLimits {
    fn from(limits: Limits) -> Self {
        Self { rate: limits.bandwidth_rate, burst: limits.bandwidth_burst }
    }
}

impl From<Limits> for CpuLimits {
    /// One value under both of its names, so that whichever a client knows is right.
    fn from(limits: Limits) -> Self {
        Self { weight: limits.shares(), limit_in_shares: limits.shares() }
    }
}

impl From<Limits> for DiskLimits {
    fn from(limits: Limits) -> Self {
        Self {
            inode_soft: limits.disk_inode_soft,
            inode_hard: limits.disk_inode_hard,
            byte_soft: limits.disk_byte_soft,
            byte_hard: limits.disk_byte_hard,
            scope: limits.disk_scope_exclusive.into(),
        }
    }
}

impl From<Limits> for MemoryLimits {
    fn from(limits: Limits) -> Self {
        Self { limit_in_bytes: limits.memory_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, to_value};

    #[test]
    fn limits_have_the_names_that_go_knows_and_none_is_nothing() {
        let none = Limits::default();
        assert_eq!(to_value(DiskLimits::from(none)).unwrap(), json!({}));
        let some = Limits { bandwidth_rate: 1, bandwidth_burst: 2, cpu_shares: 3, memory_bytes: 4, ..none };
        assert_eq!(to_value(BandwidthLimits::from(some)).unwrap(), json!({"rate": 1, "burst": 2}));
        assert_eq!(to_value(CpuLimits::from(some)).unwrap(), json!({"weight": 3, "limit_in_shares": 3}));
        assert_eq!(to_value(MemoryLimits::from(some)).unwrap(), json!({"limit_in_bytes": 4}));
        let disk = Limits { disk_byte_hard: 5, disk_inode_soft: 6, disk_scope_exclusive: true, ..none };
        let expected = json!({"byte_hard": 5, "inode_soft": 6, "scope": 1});
        assert_eq!(to_value(DiskLimits::from(disk)).unwrap(), expected);
    }
}
