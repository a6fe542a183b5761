//! Small things, within the bounds of the definitions.

use gardend_controller::record::PortIn;
use gardend_crds::Port;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// The longest path.
pub(super) const MAX_PATH: usize = 4096;

/// A text, as many characters of it as there may be.
pub(in crate::kube) fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}

/// A path, where it is one from the root.
pub(super) fn path(path: &Path) -> Option<String> {
    path.is_absolute().then(|| cut(&path.to_string_lossy(), MAX_PATH))
}

/// A number, unless it is 0, which means none.
pub(super) fn positive(number: u64) -> Option<i64> {
    (number > 0).then(|| i64::try_from(number).unwrap_or(i64::MAX))
}

/// As Go writes durations, in one unit.
pub(super) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

pub(super) fn port(port: &PortIn) -> Port {
    Port { host_port: port.host_port.into(), container_port: port.container_port.into() }
}

/// An address, or a subnet that one is in.
pub(super) fn is_network(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok() || text.parse::<ipnet::Ipv4Net>().is_ok()
}
