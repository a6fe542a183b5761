//! Settings of the kernel's that networks need, in /proc/sys/net.

use std::io;

/// What is set for all of the machine, where it is not set yet: it forwards.
pub(super) fn forward(ipv6: bool) -> io::Result<()> {
    switch_on("net/ipv4/ip_forward")?;
    if ipv6 { switch_on("net/ipv6/conf/all/forwarding") } else { Ok(()) }
}

/// What is set for the host's end of a link. A source address that does not lead back by the same link
/// is refused, the guard's mark considered: without the guard, and so without our table, routing knows
/// no way back. Without addresses of IPv6 there is none.
pub(super) fn of_link(link: &str, ipv6: bool) -> io::Result<()> {
    set(&format!("net/ipv4/conf/{link}/rp_filter"), "1")?;
    set(&format!("net/ipv4/conf/{link}/src_valid_mark"), "1")?;
    match set(&format!("net/ipv6/conf/{link}/disable_ipv6"), if ipv6 { "0" } else { "1" }) {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !ipv6 => Ok(()),
        result => result,
    }
}

fn switch_on(name: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    tracing::info!(setting = name, "the machine forwards packets from now on");
    set(name, "1")
}

fn set(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("writing {value} to {path}: {error}")))
}
