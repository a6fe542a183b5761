//! What a container's /etc/resolv.conf and /etc/hosts say.

use super::cni;
use crate::node::place::Folders;
use gardend_controller::ports::NetworkWanted;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// Where the node's own resolver is told, and where systemd-resolved tells who is behind it.
const OF_NODE: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// How containers find names.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// Asked instead of the node's, where there are any.
    pub servers: Vec<IpAddr>,
    /// A container without rules reaches nobody, and is told of nobody.
    pub deny_by_default: bool,
    /// What every container's /etc/hosts says beside: names and whose they are.
    pub hosts: Vec<(String, IpAddr)>,
    /// Where plugins' networks are recorded, which may name servers too, before the node's.
    pub plugins: Option<Folders>,
}

impl Resolver {
    /// What /etc/hosts of a container says after its loopback's names: its own, and everybody's.
    pub fn hosts(&self, network: Option<&NetworkWanted>, hostname: &str) -> String {
        let mut text = own_name(network, hostname);
        for (name, address) in &self.hosts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{address}\t{name}");
        }
        text
    }

    /// /etc/resolv.conf of a container.
    pub fn resolv_conf(&self, network: Option<&NetworkWanted>) -> String {
        let Some(network) = network else { return String::new() };
        if self.deny_by_default && network.rules_out.is_empty() {
            return String::new();
        }
        if !self.servers.is_empty() {
            return self.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        }
        let told =
            self.plugins.as_ref().and_then(|folders| cni::resolv_conf(&cni::store_of(folders), &network.container));
        told.unwrap_or_else(|| of_node(OF_NODE.map(Path::new)))
    }
}

/// The first that names a server that a container may reach.
fn of_node(paths: [&Path; 2]) -> String {
    let mut texts = paths.into_iter().filter_map(|path| std::fs::read_to_string(path).ok()).map(|text| usable(&text));
    let first = texts.next().unwrap_or_default();
    let has_server = |text: &String| text.lines().any(|line| line.starts_with("nameserver"));
    if has_server(&first) { first } else { texts.find(has_server).unwrap_or(first) }
}

/// Without servers on the node's loopback: a container's own has nobody.
fn usable(text: &str) -> String {
    let loopback = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next()).flatten();
        // A zone may stand behind an address of IPv6.
        let address = server.and_then(|server| server.split('%').next()?.parse::<IpAddr>().ok());
        address.is_some_and(|address| address.is_loopback())
    };
    let meant = |line: &&str| !line.trim().is_empty() && !line.starts_with(['#', ';']) && !loopback(line);
    text.lines().map(str::trim_end).filter(meant).map(|line| format!("{line}\n")).collect()
}

/// The line of a container's own name in its /etc/hosts.
fn own_name(network: Option<&NetworkWanted>, hostname: &str) -> String {
    // Names in this file end at white space.
    if hostname.contains(char::is_whitespace) {
        return String::new();
    }
    let Some(network) = network else { return format!("127.0.0.1\t{hostname}\n") };
    let mut lines = format!("{}\t{hostname}\n", network.addresses.address);
    if let Some(ipv6) = network.addresses.ipv6 {
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{ipv6}\t{hostname}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::elements::tests::wanted;
    use super::*;
    use gardend_controller::record::RuleOut;

    #[test]
    fn the_nodes_servers_but_for_those_on_its_loopback() {
        let text = "# made by hand\nnameserver 127.0.0.53\nnameserver ::1\n\nnameserver 192.0.2.1\nsearch a b\noptions ndots:5\n";
        assert_eq!(usable(text), "nameserver 192.0.2.1\nsearch a b\noptions ndots:5\n");
    }

    #[test]
    fn where_the_node_asks_itself_whoever_it_asks_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [own, behind] = ["own", "behind"].map(|name| folder.path().join(name));
        std::fs::write(&own, "nameserver 127.0.0.53\nsearch a\n").unwrap();
        assert_eq!(of_node([&own, &behind]), "search a\n");
        std::fs::write(&behind, "nameserver 192.0.2.7\n").unwrap();
        assert_eq!(of_node([&own, &behind]), "nameserver 192.0.2.7\n");
    }

    #[test]
    fn configured_servers_replace_the_nodes() {
        let resolver = Resolver { servers: vec!["192.0.2.9".parse().unwrap()], ..Resolver::default() };
        assert_eq!(resolver.resolv_conf(Some(&wanted())), "nameserver 192.0.2.9\n");
        assert_eq!(resolver.resolv_conf(None), "");
    }

    #[test]
    fn who_reaches_nobody_is_told_of_nobody() {
        let resolver =
            Resolver { servers: vec!["192.0.2.9".parse().unwrap()], deny_by_default: true, ..Resolver::default() };
        assert_eq!(resolver.resolv_conf(Some(&wanted())), "");
        let mut open = wanted();
        open.rules_out.push(RuleOut::default());
        assert_ne!(resolver.resolv_conf(Some(&open)), "");
    }

    #[test]
    fn a_name_is_that_of_the_containers_address() {
        let mut network = wanted();
        network.addresses.ipv6 = Some("2001:db8::2".parse().unwrap());
        assert_eq!(own_name(Some(&network), "one"), "10.80.0.2\tone\n2001:db8::2\tone\n");
        assert_eq!(own_name(None, "one"), "127.0.0.1\tone\n");
        assert_eq!(own_name(None, "two words"), "");
        let hosts = vec![("db".to_owned(), "192.0.2.7".parse().unwrap())];
        let text = Resolver { hosts, ..Resolver::default() }.hosts(None, "one");
        assert_eq!(text, "127.0.0.1\tone\n192.0.2.7\tdb\n");
    }
}
