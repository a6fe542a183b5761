//! Limits of the bandwidth: a token bucket (tc-tbf(8)) on each end of a link, since a queue limits what
//! leaves. The host's end limits what the container receives, the container's what it sends.

use super::netlink::Connection;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use std::io;

/// Attributes of linux/pkt_sched.h.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// `struct tc_tbf_qopt`: two `tc_ratespec` of 12 bytes, limit, buffer, mtu.
const PARMS_BYTES: usize = 36;
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;
const BUFFER_AT: usize = 28;
/// `TC_LINKLAYER_ETHERNET`, in the second byte of a rate.
const LINK_LAYER_AT: usize = 1;
const ETHERNET: u8 = 1;
/// The kernel counts the time that a burst takes in units of 64 ns.
const NANOSECONDS_PER_TICK: u128 = 64;
/// What waits longer than this in the queue is dropped instead.
const LONGEST_WAIT_MS: u64 = 100;
/// A frame's head, which the MTU leaves out.
const FRAME_HEAD: u64 = 18;
const KIND: &str = "tbf";

/// What is in force: bytes a second, bytes at once.
pub(super) type Limit = (u64, u64);

/// Puts a limit on what leaves by a link, or takes it away (0).
pub(super) fn set(connection: &mut Connection, link: u32, rate: u64, burst: u64, mtu: u32) -> io::Result<()> {
    let in_force = read(connection, link)?;
    if rate == 0 {
        if in_force.is_none() {
            return Ok(());
        }
        return Ok(connection.apply(vec![(RouteNetlinkMessage::DelQueueDiscipline(root(link)), 0)])?);
    }
    let burst = sensible_burst(rate, burst, mtu);
    if in_force == Some((rate, burst)) {
        return Ok(());
    }
    let mut message = root(link);
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(options(rate, burst)));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Ok(connection.apply(vec![(RouteNetlinkMessage::NewQueueDiscipline(message), flags)])?)
}

/// The limit of what leaves by a link.
pub(super) fn read(connection: &mut Connection, link: u32) -> io::Result<Option<Limit>> {
    let index = signed(link);
    let found = connection.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index)))?;
    Ok(found.into_iter().find_map(|found| {
        let RouteNetlinkMessage::NewQueueDiscipline(queue) = found else { return None };
        let ours = queue.header.index == index && queue.header.parent == TcHandle::ROOT;
        let bucket = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == KIND);
        if !ours || !queue.attributes.iter().any(bucket) {
            return None;
        }
        queue.attributes.iter().find_map(|attribute| match attribute {
            // The library hands over what it does not know as one piece, with all that is in it.
            TcAttribute::Options(options) => limit(&value(options.first()?)),
            _ => None,
        })
    }))
}

/// One that lets each frame pass: a larger one never would.
fn sensible_burst(rate: u64, burst: u64, mtu: u32) -> u64 {
    let asked = if burst == 0 { rate / 10 } else { burst };
    asked.max(u64::from(mtu) + FRAME_HEAD).min(u32::MAX.into())
}

fn root(link: u32) -> TcMessage {
    let mut message = TcMessage::with_index(signed(link));
    message.header.parent = TcHandle::ROOT;
    message
}

/// The kernel counts links with a signed number in one place and an unsigned one in the other.
fn signed(link: u32) -> i32 {
    i32::try_from(link).unwrap_or(i32::MAX)
}

fn options(rate: u64, burst: u64) -> Vec<TcOption> {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let mut parms = vec![0; PARMS_BYTES];
    parms[LINK_LAYER_AT] = ETHERNET;
    let mut put = |at: usize, number: u32| parms[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    put(RATE_AT, small(rate));
    put(LIMIT_AT, small((rate / 1000).saturating_mul(LONGEST_WAIT_MS).saturating_add(burst)));
    put(BUFFER_AT, u32::try_from(ticks(rate, burst)).unwrap_or(u32::MAX));
    let mut options = vec![DefaultNla::new(TBF_PARMS, parms)];
    if rate > u64::from(u32::MAX) {
        options.push(DefaultNla::new(TBF_RATE64, rate.to_ne_bytes().to_vec()));
    }
    options.push(DefaultNla::new(TBF_BURST, small(burst).to_ne_bytes().to_vec()));
    options.into_iter().map(TcOption::Other).collect()
}

fn ticks(rate: u64, burst: u64) -> u128 {
    u128::from(burst) * 1_000_000_000 / (u128::from(rate).max(1) * NANOSECONDS_PER_TICK)
}

fn value(attribute: &impl Nla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

/// What the options of a bucket say.
fn limit(options: &[u8]) -> Option<Limit> {
    let mut rate = None;
    let mut large = None;
    let mut buffer = None;
    for option in NlasIterator::new(options) {
        let option = option.ok()?;
        match option.kind() {
            TBF_PARMS => {
                let number = |at: usize| Some(u32::from_ne_bytes(option.value().get(at..at + 4)?.try_into().ok()?));
                rate = number(RATE_AT);
                buffer = number(BUFFER_AT);
            }
            TBF_RATE64 => large = option.value().try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    let rate = large.or(rate.map(u64::from))?;
    // The kernel keeps a time; to the nearest byte it is what was asked for, but for slow links.
    let burst = (u128::from(buffer?) * NANOSECONDS_PER_TICK * u128::from(rate)).div_ceil(1_000_000_000);
    Some((rate, u64::try_from(burst).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_lets_a_whole_frame_pass() {
        assert_eq!(sensible_burst(1000, 10, 1500), 1518);
        assert_eq!(sensible_burst(1_000_000, 0, 1500), 100_000);
        assert_eq!(sensible_burst(1_000_000, 65_536, 1500), 65_536);
    }

    #[test]
    fn a_limit_is_read_as_it_was_written() {
        for (rate, burst) in [(1_000_000, 100_000), (10_000_000_000, 4_000_000), (125_000, 10_000)] {
            let (read_rate, read_burst) = limit(&value(&TcAttribute::Options(options(rate, burst)))).unwrap();
            assert_eq!(read_rate, rate);
            let off = read_burst.abs_diff(burst);
            assert!(off <= rate / 1_000_000 + 1, "{burst} is read as {read_burst}");
        }
    }
}
