//! What a client asks for in `network`, and what no container can have.

use super::AddressError;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The prefix of a subnet of the pool, and of one that names none; there is none smaller.
pub const SMALLEST: u8 = 30;

/// Ranges that are nobody's to give.
const RESERVED: [(Ipv4Net, &str); 5] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8), "\"this network\""),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "the loopback"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "the link-local addresses"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "the multicast addresses"),
    (Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), "the reserved addresses"),
];

/// A network as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whatever is free.
    OfThePool,
    /// A free address of this subnet.
    In(Ipv4Net),
    /// This very address.
    At(Ipv4Addr, Ipv4Net),
}

impl Asked {
    /// Reads `a.b.c.d/n`, or `a.b.c.d`, which is a /30.
    pub fn parse(text: Option<&str>) -> Result<Self, AddressError> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Self::OfThePool) };
        let with_prefix = if text.contains('/') { text.to_owned() } else { format!("{text}/{SMALLEST}") };
        let asked: Ipv4Net = with_prefix.parse().map_err(|_| AddressError::Syntax { asked: text.to_owned() })?;
        let (address, subnet) = (asked.addr(), asked.trunc());
        if let Some((range, what)) = RESERVED.into_iter().find(|(range, _)| overlap(*range, subnet)) {
            return Err(AddressError::Reserved { subnet, range, what });
        }
        if subnet.prefix_len() > SMALLEST {
            return Err(AddressError::TooSmall { subnet });
        }
        let role = match address {
            _ if address == subnet.network() => return Ok(Self::In(subnet)),
            _ if address == gateway(subnet) => "the gateway",
            _ if address == subnet.broadcast() => "the broadcast address",
            _ => return Ok(Self::At(address, subnet)),
        };
        Err(AddressError::NotForContainers { address, role, subnet })
    }
}

/// The host's end of every link of a subnet: its first address.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

pub fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Asked, String> {
        Asked::parse(Some(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_subnets_own_address_asks_for_any_of_it_and_every_other_for_itself() {
        let subnet = |text: &str| text.parse::<Ipv4Net>().unwrap();
        assert_eq!(Asked::parse(None), Ok(Asked::OfThePool));
        assert_eq!(parse(""), Ok(Asked::OfThePool));
        assert_eq!(parse("10.1.2.0/24"), Ok(Asked::In(subnet("10.1.2.0/24"))));
        assert_eq!(parse("10.1.2.7/24"), Ok(Asked::At(Ipv4Addr::new(10, 1, 2, 7), subnet("10.1.2.0/24"))));
        assert_eq!(parse("10.1.2.4"), Ok(Asked::In(subnet("10.1.2.4/30"))));
        assert_eq!(parse("10.1.2.6"), Ok(Asked::At(Ipv4Addr::new(10, 1, 2, 6), subnet("10.1.2.4/30"))));
        assert_eq!(parse("10.1.2.254/24"), Ok(Asked::At(Ipv4Addr::new(10, 1, 2, 254), subnet("10.1.2.0/24"))));
    }

    #[test]
    fn what_no_container_can_have_is_refused_with_both_sides() {
        for (text, words) in [
            ("everything", "\"everything\" is no IPv4 address"),
            ("10.1.2.0/33", "is no IPv4 address"),
            ("10.1.2.0/24/24", "is no IPv4 address"),
            ("10.1.2", "is no IPv4 address"),
            (" 10.1.2.0/24", "is no IPv4 address"),
            ("fd00::/64", "is no IPv4 address"),
            ("10.1.2.0/31", "10.1.2.0/31 has no room"),
            ("10.1.2.3/32", "10.1.2.3/32 has no room"),
            ("10.1.2.1/24", "10.1.2.1 is the gateway of 10.1.2.0/24"),
            ("10.1.2.255/24", "10.1.2.255 is the broadcast address of 10.1.2.0/24"),
            ("10.1.2.7", "10.1.2.7 is the broadcast address of 10.1.2.4/30"),
            ("127.0.0.1/24", "127.0.0.0/24 overlaps 127.0.0.0/8, the loopback"),
            ("0.0.0.0/0", "0.0.0.0/0 overlaps 0.0.0.0/8"),
            ("0.1.2.3", "overlaps 0.0.0.0/8, \"this network\""),
            ("169.254.169.254/30", "169.254.0.0/16, the link-local"),
            ("128.0.0.0/1", "128.0.0.0/1 overlaps 169.254.0.0/16"),
            ("224.0.0.1/24", "224.0.0.0/4, the multicast"),
            ("255.255.255.255", "240.0.0.0/4, the reserved"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("network: ") && error.contains(words), "{text}: {error}");
        }
    }
}
