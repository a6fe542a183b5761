//! A container's link: a pair of virtual Ethernet devices without a bridge, the host's end with the
//! gateway's address and a route to the container, the container's end with its address alone.
//!
//! The kernel answers for the gateway on each link and routes everything, between containers of one
//! subnet too. The link goes with the place: its network namespace takes both ends along.

use super::netlink::Connection;
use super::{bandwidth, names, sysctl};
use crate::node::place::InitProcess;
use gardend_controller::ports::{NetworkWanted, NodeError, NodeErrorKind};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The gateway of every container for IPv6, on its own link.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Says in a route that it is ours: not one of the numbers that daemons have (linux/rtnetlink.h).
const PROTOCOL: u8 = 0x67;
/// The second byte of the hardware addresses of a link's two ends.
const CONTAINER: u8 = 0x67;
const HOST: u8 = 0x68;
/// What the kernel takes of a link's alias, a zero at its end not counted.
const MAX_ALIAS: usize = 254;

/// How long a link may take to carry something.
const CARRIER: Duration = Duration::from_secs(2);

type Request = (RouteNetlinkMessage, u16);

/// The network namespace of a place.
pub(super) struct Inside {
    namespace: OwnedFd,
}

impl Inside {
    /// That of the init in a place's folder; `None` where it is gone.
    pub fn of(place: &Path) -> io::Result<Option<Self>> {
        let Some(init) = InitProcess::read(place)? else { return Ok(None) };
        let namespace = match std::fs::File::open(format!("/proc/{}/ns/net", init.pid)) {
            Ok(file) => OwnedFd::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Checked after opening: the pid may have been another's.
        let same = InitProcess::of_pid(init.pid).is_ok_and(|seen| seen == init);
        let identity = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
        let own = rustix::fs::stat("/proc/thread-self/ns/net").map(|stat| (stat.st_dev, stat.st_ino))?;
        if identity(&namespace)? == own {
            return Err(io::Error::other(format!("pid {} is in gardend's own network namespace", init.pid)));
        }
        Ok(same.then_some(Self { namespace }))
    }

    /// The namespace itself.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// A connection to the kernel there. A thread of its own goes in, opens it, and ends.
    pub fn connect(&self) -> io::Result<Connection> {
        let open = || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(self.namespace.as_fd(), kind)?;
            Connection::route()
        };
        std::thread::scope(|scope| {
            scope.spawn(open).join().unwrap_or_else(|_| Err(io::Error::other("the thread in the place ended badly")))
        })
    }
}

/// Makes the link, or what is missing of it. One that is or was `limited` gets the bandwidth that is
/// asked for.
pub(super) fn ensure(
    route: &mut Connection,
    wanted: &NetworkWanted,
    link: &str,
    inside: &Inside,
    mtu: u32,
    limited: bool,
) -> Result<(), NodeError> {
    let at = |what: &'static str| {
        move |error: io::Error| {
            NodeError::new(NodeErrorKind::Failed, format!("{what} {}: {error}", wanted.addresses.address))
        }
    };
    if index_of(link).is_none() {
        create(route, wanted, link, inside, mtu).map_err(at("making the link of"))?;
    }
    let index = index_of(link).ok_or_else(|| at("finding the link of")(io::ErrorKind::NotFound.into()))?;
    outside(route, wanted, link, index).map_err(at("setting up the host's end of the link of"))?;
    let mut there = inside.connect().map_err(at("entering the network of"))?;
    let eth0 = find(&mut there, names::INSIDE).map_err(at("looking for the link within"))?;
    let eth0 = eth0.ok_or_else(|| at("looking for the link within")(io::ErrorKind::NotFound.into()))?;
    within(&mut there, wanted, eth0).map_err(at("setting up the container's end of the link of"))?;
    for (connection, index) in [(&mut *route, index), (&mut there, eth0)] {
        wait_for_carrier(connection, index).map_err(at("waiting for the link of"))?;
        if limited {
            bandwidth::set(connection, index, wanted.bandwidth_rate, wanted.bandwidth_burst, mtu)
                .map_err(at("limiting the bandwidth of"))?;
        }
    }
    Ok(())
}

/// What makes the host's end lead to the container again, where something else was done to it.
pub(super) fn restore(route: &mut Connection, wanted: &NetworkWanted, link: &str) -> io::Result<()> {
    match index_of(link) {
        Some(index) => outside(route, wanted, link, index),
        None => Ok(()),
    }
}

/// Makes a pair of devices, and a limit on one; whether the limit was taken.
pub(super) fn try_out(route: &mut Connection) -> io::Result<bool> {
    let [one, other] = ["gdtry0", "gdtry1"];
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(other.to_owned()));
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(one.to_owned()));
    link.attributes.push(veth(peer));
    route.apply(vec![(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)])?;
    let index = index_of(one).ok_or(io::ErrorKind::NotFound)?;
    match bandwidth::set(route, index, 1_000_000, 0, 1500) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn veth(peer: LinkMessage) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))])
}

fn create(route: &mut Connection, wanted: &NetworkWanted, link: &str, inside: &Inside, mtu: u32) -> io::Result<()> {
    // Each end knows the other's hardware address from the start, so that nobody has to ask for it.
    let of_address = |kind| LinkAttribute::Address(hardware(kind, wanted.addresses.address).to_vec());
    let one_queue = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1), LinkAttribute::Mtu(mtu)];
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(names::INSIDE.to_owned()));
    peer.attributes.push(of_address(CONTAINER));
    peer.attributes.push(LinkAttribute::NetNsFd(inside.namespace.as_raw_fd()));
    peer.attributes.extend(one_queue.clone());
    let mut host = LinkMessage::default();
    host.attributes.push(LinkAttribute::IfName(link.to_owned()));
    host.attributes.push(of_address(HOST));
    host.attributes.extend(one_queue);
    host.attributes.push(veth(peer));
    route.apply(vec![(RouteNetlinkMessage::NewLink(host), NLM_F_CREATE | NLM_F_EXCL)])?;
    sysctl::of_link(link, wanted.addresses.ipv6.is_some())
}

/// The host's end: up, with the gateway's address and a route to the container.
fn outside(route: &mut Connection, wanted: &NetworkWanted, link: &str, index: u32) -> io::Result<()> {
    let addresses = &wanted.addresses;
    let container = hardware(CONTAINER, addresses.address);
    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    let alias: String = wanted
        .handle
        .as_str()
        .chars()
        .scan(0, |length, c| {
            *length += c.len_utf8();
            (*length <= MAX_ALIAS).then_some(c)
        })
        .collect();
    up.attributes.push(LinkAttribute::IfAlias(alias));
    let mut requests = vec![
        (RouteNetlinkMessage::SetLink(up), 0),
        address(addresses.gateway.into(), index),
        to(addresses.address.into(), Some(addresses.gateway.into()), index),
        neighbour(addresses.address.into(), container, index),
    ];
    if let Some(ipv6) = addresses.ipv6 {
        requests.push(address(GATEWAY6.into(), index));
        requests.push(to(ipv6.into(), None, index));
        requests.push(neighbour(ipv6.into(), container, index));
    }
    route.apply(requests).map_err(|refused| io::Error::new(refused.error.kind(), format!("{link}: {}", refused.error)))
}

/// The container's end: up, with its address, and everything by the gateway.
fn within(there: &mut Connection, wanted: &NetworkWanted, index: u32) -> io::Result<()> {
    let addresses = &wanted.addresses;
    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    let gateway = IpAddr::from(addresses.gateway);
    let host = hardware(HOST, addresses.address);
    let mut requests = vec![
        (RouteNetlinkMessage::SetLink(up), 0),
        address(addresses.address.into(), index),
        to(gateway, Some(addresses.address.into()), index),
        everything(gateway, index),
        neighbour(gateway, host, index),
    ];
    if let Some(ipv6) = addresses.ipv6 {
        requests.push(address(ipv6.into(), index));
        requests.push(neighbour(GATEWAY6.into(), host, index));
        requests.push(everything(GATEWAY6.into(), index));
    }
    Ok(there.apply(requests)?)
}

/// An address alone, without a network around it.
fn address(address: IpAddr, index: u32) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = width(address);
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    if let IpAddr::V6(ipv6) = address {
        // Nobody else is on the link to have it.
        message.header.flags = AddressHeaderFlags::Nodad;
        if ipv6.is_unicast_link_local() {
            message.header.prefix_len = 64;
            message.header.scope = AddressScope::Link;
        }
    }
    if address.is_ipv4() {
        message.attributes.push(AddressAttribute::Local(address));
    }
    message.attributes.push(AddressAttribute::Address(address));
    (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Whom an address on the link belongs to, for as long as the link is up.
fn neighbour(address: IpAddr, hardware: [u8; 6], index: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(hardware.to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// A hardware address of our own making (the second bit of its first byte says so), told by the
/// container's.
fn hardware(end: u8, container: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = container.octets();
    [0x0a, end, a, b, c, d]
}

/// A route to one address.
fn to(destination: IpAddr, source: Option<IpAddr>, index: u32) -> Request {
    let mut message = route_message(destination, index);
    message.header.destination_prefix_length = width(destination);
    message.header.scope = if destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.attributes.push(RouteAttribute::Destination(destination.into()));
    message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The default route.
fn everything(gateway: IpAddr, index: u32) -> Request {
    let mut message = route_message(gateway, index);
    message.header.scope = RouteScope::Universe;
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn route_message(of: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A link's number in the calling thread's network namespace.
pub(super) fn index_of(link: &str) -> Option<u32> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    rustix::net::netdevice::name_to_index(socket.ok()?, link).ok()
}

/// A link that is up carries nothing before the kernel has noticed that the other end is up as well,
/// which it does on a thread of its own, a moment later as a rule.
fn wait_for_carrier(connection: &mut Connection, index: u32) -> io::Result<()> {
    let deadline = Instant::now() + CARRIER;
    loop {
        let mut request = question();
        request.header.index = index;
        let found = connection.ask(RouteNetlinkMessage::GetLink(request))?;
        let RouteNetlinkMessage::NewLink(link) = found else { return Err(io::ErrorKind::InvalidData.into()) };
        if link.attributes.contains(&LinkAttribute::OperState(State::Up)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its carrier does not come up"));
        }
        std::thread::yield_now();
    }
}

/// What links are, without what they have carried.
fn question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn find(connection: &mut Connection, name: &str) -> io::Result<Option<u32>> {
    let mut request = question();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match connection.ask(RouteNetlinkMessage::GetLink(request)) {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link.header.index)),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The number of the other end of a place's link, in whichever namespace that is; `None` where it has no
/// link, or one without another end.
pub(super) fn other_end(inside: &Inside) -> io::Result<Option<u32>> {
    let mut there = inside.connect()?;
    let mut request = question();
    request.attributes.push(LinkAttribute::IfName(names::INSIDE.to_owned()));
    let link = match there.ask(RouteNetlinkMessage::GetLink(request)) {
        Ok(RouteNetlinkMessage::NewLink(link)) => link,
        Ok(_) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(index),
        _ => None,
    }))
}

/// Limits what a link carries, both ways; 0: not at all.
pub(super) fn limit(
    route: &mut Connection,
    link: &str,
    inside: &Inside,
    (rate, burst): bandwidth::Limit,
    mtu: u32,
) -> io::Result<()> {
    let index = index_of(link).ok_or(io::ErrorKind::NotFound)?;
    let mut there = inside.connect()?;
    let eth0 = find(&mut there, names::INSIDE)?.ok_or(io::ErrorKind::NotFound)?;
    bandwidth::set(route, index, rate, burst, mtu)?;
    bandwidth::set(&mut there, eth0, rate, burst, mtu)
}

/// Our links on the host, by name.
pub(super) fn list(route: &mut Connection, prefix: &str) -> io::Result<BTreeMap<String, u32>> {
    let found = route.dump(RouteNetlinkMessage::GetLink(question()))?;
    let ours = |found| {
        let RouteNetlinkMessage::NewLink(link) = found else { return None };
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })?;
        name.starts_with(prefix).then_some((name, link.header.index))
    };
    Ok(found.into_iter().filter_map(ours).collect())
}

/// Addresses of all links of the node, by the link's number.
pub(super) fn addresses(route: &mut Connection) -> io::Result<Vec<(u32, IpAddr)>> {
    let found = route.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let address = |found| {
        let RouteNetlinkMessage::NewAddress(found) = found else { return None };
        // Where the two differ, the other is the peer's.
        let local = found.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let other = found.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        Some((found.header.index, local.or(other)?))
    };
    Ok(found.into_iter().filter_map(address).collect())
}

/// Removes a link. One that has gone is gone.
pub(super) fn remove(route: &mut Connection, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    match route.apply(vec![(RouteNetlinkMessage::DelLink(message), 0)]) {
        Err(refused) if refused.error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => Ok(result?),
    }
}

/// Where containers are routed to, as the kernel has it: the link's number by the address.
pub(super) fn routes(route: &mut Connection) -> io::Result<BTreeMap<IpAddr, u32>> {
    let mut all = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for found in route.dump(RouteNetlinkMessage::GetRoute(request))? {
            let RouteNetlinkMessage::NewRoute(found) = found else { continue };
            if found.header.protocol != RouteProtocol::Other(PROTOCOL) {
                continue;
            }
            let (mut destination, mut link) = (None, None);
            for attribute in found.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(address.into()),
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = Some(address.into()),
                    RouteAttribute::Oif(index) => link = Some(index),
                    _ => {}
                }
            }
            all.extend(destination.zip(link));
        }
    }
    Ok(all)
}
