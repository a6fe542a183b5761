//! Connections that the kernel keeps track of. Those of a container that is gone are forgotten, so that
//! whoever has its address next does not go on with them.

use super::netlink::Connection;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use std::io;
use std::net::IpAddr;

/// Of linux/netfilter/nfnetlink_conntrack.h: `CTA_TUPLE_*` of the two directions, `CTA_FILTER`, the
/// flags in it for the two, and the flag for "where it comes from".
const TUPLES: [u16; 2] = [1, 2];
const FILTER: u16 = 25;
const FILTER_FLAGS: [u16; 2] = [1, 2];
const SOURCE: u32 = 1;

/// Forgets all that come from an address, or are answered from it; how many there were.
pub(super) fn forget(netfilter: &mut Connection, address: IpAddr) -> io::Result<usize> {
    let mut forgotten = 0;
    for direction in [0, 1] {
        let mut gone = Vec::new();
        for found in netfilter.dump(message(address, question(address, direction)))? {
            let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = found.inner else { continue };
            let original = attributes.into_iter().filter(|part| matches!(part, ConntrackAttribute::CtaTupleOrig(_)));
            gone.push((message(address, ConntrackMessage::Delete(original.collect())), 0));
        }
        forgotten += gone.len();
        match netfilter.apply(gone) {
            // Some end by themselves meanwhile.
            Err(refused) if refused.error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(forgotten)
}

fn message(address: IpAddr, message: ConntrackMessage) -> NetfilterMessage {
    let family = if address.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// Those whose first (0) or second (1) direction begins at an address; the kernel picks them out.
fn question(address: IpAddr, direction: usize) -> ConntrackMessage {
    let flags = FILTER_FLAGS.into_iter().enumerate().map(|(index, kind)| {
        let asked = if index == direction { SOURCE } else { 0 };
        DefaultNla::new(kind, asked.to_ne_bytes().to_vec())
    });
    let tuple = [Tuple::Ip(vec![IPTuple::SourceAddress(address)])];
    // The library knows no filter, and would leave out that there is something in it.
    ConntrackMessage::Other {
        message_type: ConntrackMessageType::Get.into(),
        attributes: vec![nested(TUPLES[direction], &tuple), nested(FILTER, &flags.collect::<Vec<_>>())],
    }
}

fn nested<T: Nla>(kind: u16, parts: &[T]) -> DefaultNla {
    let mut bytes = vec![0; parts.buffer_len()];
    parts.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}
