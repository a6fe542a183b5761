//! Capabilities: their names, and which there are to give.

/// By number: linux/capability.h.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What root of an unprivileged place may do, within its user namespace.
pub(super) const UNPRIVILEGED: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// What it takes to mount, and to make namespaces.
pub(super) const MOUNTS: &str = "CAP_SYS_ADMIN";

/// A set of capabilities: bit N is capability N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// The bounding set in the text of a /proc/PID/status; `None` where it has none.
    pub fn bounding_in(status: &str) -> Option<Self> {
        Self::field(status, "CapBnd:")
    }

    /// The effective set in the text of a /proc/PID/status; `None` where it has none.
    pub fn effective_in(status: &str) -> Option<Self> {
        Self::field(status, "CapEff:")
    }

    fn field(status: &str, name: &str) -> Option<Self> {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), 16).ok().map(Self)
    }

    /// What both have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it has the capability of that name, such as `CAP_SYS_ADMIN`.
    pub fn has(self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Their names. One that is newer than this program is left out: runtimes would refuse it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_read_by_name() {
        let set = CapabilitySet::bounding_in("Name:\tx\nCapBnd:\t0000000001200001\n").unwrap();
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]);
        assert!(set.has("CAP_SYS_ADMIN") && !set.has("CAP_BPF"));
        assert_eq!(CapabilitySet::bounding_in("Name:\tx\n"), None);
        assert_eq!(CapabilitySet(u64::MAX).names().count(), NAMES.len());
    }
}
