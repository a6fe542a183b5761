//! What containers' networks need. It is tried out in a network namespace of its own, which goes with
//! the thread that made it.

use super::{Line, NetworkSubject};
use crate::node::network::{self, Policy, cni};
use crate::node::place::Folders;
use crate::node::sys::unshare_network;
use std::fs;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

pub(super) fn lines(subject: &NetworkSubject, folders: &Folders) -> Vec<Line> {
    match subject {
        NetworkSubject::Builtin(policy) => vec![table(policy, folders), links(), forwarding()],
        NetworkSubject::Cni(options) => vec![table(&options.policy, folders), plugins(options)],
    }
}

/// They may be installed later, by whoever brings the node its network.
fn plugins(options: &cni::Options) -> Line {
    match cni::look(options) {
        Ok(found) => Line::ok("cni", found),
        Err(error) => Line::warn("cni", error, "until it is there, creates fail; or say --network builtin"),
    }
}

fn table(policy: &Policy, folders: &Folders) -> Line {
    let (policy, folders) = (policy.clone(), folders.clone());
    let remedy = "install the package nftables, use a kernel with nf_tables, NAT and fib, give gardend CAP_NET_ADMIN; or say --network none";
    match apart(move || network::try_table(&folders, &policy)) {
        Ok(()) => Line::ok("nftables", "takes our table"),
        Err(error) => Line::fail("nftables", error, remedy),
    }
}

fn links() -> Line {
    match apart(network::try_links) {
        Ok(true) => Line::ok("links", "veth, and tbf for limits of bandwidth"),
        Ok(false) => Line::warn(
            "links",
            "veth; no token bucket (tbf), so that limits of bandwidth are refused",
            "run `modprobe sch_tbf`",
        ),
        Err(error) => {
            Line::fail("links", error, "run `modprobe veth`, give gardend CAP_NET_ADMIN; or say --network none")
        }
    }
}

fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let alone = || {
        unshare_network().map_err(|error| format!("a network namespace cannot be made: {error}"))?;
        work()
    };
    std::thread::spawn(alone).join().unwrap_or_else(|_| Err("trying it ended in a panic".to_owned()))
}

fn forwarding() -> Line {
    let name = "forwarding";
    let on = fs::read_to_string(FORWARD).is_ok_and(|value| value.trim() == "1");
    let writable = || fs::OpenOptions::new().write(true).open(FORWARD);
    match (on, writable()) {
        (true, _) => Line::ok(name, "the machine forwards packets"),
        (false, Ok(_)) => Line::ok(name, "is switched on when gardend serves"),
        (false, Err(error)) => Line::fail(
            name,
            format!("the machine does not forward packets, and {FORWARD} cannot be written: {error}"),
            "run `sysctl -w net.ipv4.ip_forward=1` on the node; or say --network none",
        ),
    }
}
