//! Ports in and rules out, as clients ask for them.

use super::Unacceptable;
use gardend_controller::record::{IcmpMatch, PortIn, PortInAsked, RuleOut, RuleProtocol};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::num::NonZeroU16;

/// A port; 0 leaves the choice to us. The body of a net_in, with a handle that its path says too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NetIn {
    host_port: u32,
    container_port: u32,
}

/// The answer to a net_in.
#[derive(Debug, Serialize)]
pub(crate) struct Mapped {
    host_port: u32,
    container_port: u32,
}

impl From<PortIn> for Mapped {
    fn from(port: PortIn) -> Self {
        Self { host_port: port.host_port.into(), container_port: port.container_port.into() }
    }
}

impl NetIn {
    /// In the controller's words. `within` is what stands before a field's name in an error.
    pub(crate) fn into_asked(self, within: &str) -> Result<PortInAsked, Unacceptable> {
        Ok(PortInAsked {
            host_port: port_or_any(|| format!("{within}host_port"), self.host_port)?,
            container_port: port_or_any(|| format!("{within}container_port"), self.container_port)?,
        })
    }
}

fn port_or_any(field: impl FnOnce() -> String, port: u32) -> Result<Option<NonZeroU16>, Unacceptable> {
    let port = u16::try_from(port)
        .map_err(|_| Unacceptable::field(field(), format!("there is no port {port}; the highest is 65535")))?;
    Ok(NonZeroU16::new(port))
}

/// What may leave.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NetOutRule {
    protocol: u8,
    networks: Vec<IpRange>,
    ports: Vec<PortRange>,
    icmps: Option<IcmpControl>,
    log: bool,
}

/// Both ends belong to it; one alone is a range of one. Addresses are text, as Go writes them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IpRange {
    start: String,
    end: String,
}

/// As an [`IpRange`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PortRange {
    start: u16,
    end: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IcmpControl {
    #[serde(rename = "type")]
    kind: u8,
    code: Option<u8>,
}

impl NetOutRule {
    /// In the controller's words. `within` is what stands before a field's name in an error.
    pub(crate) fn into_rule(self, within: &str) -> Result<RuleOut, Unacceptable> {
        let (protocol, name) = match self.protocol {
            0 => (RuleProtocol::All, "ALL"),
            1 => (RuleProtocol::Tcp, "TCP"),
            2 => (RuleProtocol::Udp, "UDP"),
            3 => (RuleProtocol::Icmp, "ICMP"),
            4 => (RuleProtocol::Icmpv6, "ICMPv6"),
            other => {
                let reason = format!("invalid protocol: {other}; 0 is all, 1 TCP, 2 UDP, 3 ICMP, 4 ICMPv6");
                return Err(Unacceptable::field(format!("{within}protocol"), reason));
            }
        };
        let has_ports = matches!(protocol, RuleProtocol::Tcp | RuleProtocol::Udp);
        if !self.ports.is_empty() && !has_ports {
            let reason = format!("Ports cannot be specified for Protocol {name}");
            return Err(Unacceptable::field(format!("{within}ports"), reason));
        }
        let numbered = |name: &'static str| move |index: usize| format!("{within}{name}[{index}]");
        let networks = self.networks.iter().enumerate().map(|(at, range)| range.ends(|| numbered("networks")(at)));
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        let other = |(start, _): &(IpAddr, IpAddr)| match protocol {
            RuleProtocol::Icmp => start.is_ipv6(),
            RuleProtocol::Icmpv6 => start.is_ipv4(),
            RuleProtocol::All | RuleProtocol::Tcp | RuleProtocol::Udp => false,
        };
        if let Some(index) = networks.iter().position(other) {
            return Err(Unacceptable::field(numbered("networks")(index), format!("{name} does not go there")));
        }
        let ports = self.ports.iter().enumerate().map(|(at, range)| range.ends(|| numbered("ports")(at)));
        let is_icmp = matches!(protocol, RuleProtocol::Icmp | RuleProtocol::Icmpv6);
        let icmp = self.icmps.filter(|_| is_icmp).map(|icmp| IcmpMatch { kind: icmp.kind, code: icmp.code });
        Ok(RuleOut { protocol, networks, ports: ports.collect::<Result<_, _>>()?, icmp, log: self.log })
    }
}

impl IpRange {
    fn ends(&self, field: impl Fn() -> String) -> Result<(IpAddr, IpAddr), Unacceptable> {
        let wrong = |reason: String| Unacceptable::field(field(), reason);
        let address = |name: &str, text: &str| -> Result<Option<IpAddr>, Unacceptable> {
            if text.is_empty() {
                return Ok(None);
            }
            let address: IpAddr =
                text.parse().map_err(|_| wrong(format!("{name} {text:?} is not an address of IPv4 or IPv6")))?;
            // Go keeps an address of IPv4 in sixteen bytes, and some write it so.
            Ok(Some(address.to_canonical()))
        };
        let (start, end) = match (address("start", &self.start)?, address("end", &self.end)?) {
            (Some(start), Some(end)) => (start, end),
            (Some(one), None) | (None, Some(one)) => (one, one),
            (None, None) => return Err(wrong("has neither start nor end; leave it out for all networks".to_owned())),
        };
        if start.is_ipv4() != end.is_ipv4() {
            return Err(wrong(format!("{start} is of IPv4 and {end} is not, or the other way round")));
        }
        if start > end {
            return Err(wrong(format!("ends at {end}, before it starts at {start}")));
        }
        Ok((start, end))
    }
}

impl PortRange {
    fn ends(&self, field: impl Fn() -> String) -> Result<(u16, u16), Unacceptable> {
        match (self.start, self.end) {
            (0, 0) => Err(Unacceptable::field(field(), "has neither start nor end; leave it out for all ports")),
            (one, 0) | (0, one) => Ok((one, one)),
            (start, end) if start > end => {
                Err(Unacceptable::field(field(), format!("ends at {end}, before it starts at {start}")))
            }
            (start, end) => Ok((start, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garden::wire::json;

    fn rule(text: &str) -> Result<RuleOut, String> {
        let rule: NetOutRule = json::parse(text.as_bytes(), "").map_err(|error| error.to_string())?;
        rule.into_rule("").map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_is_everything() {
        assert_eq!(rule("{}").unwrap(), RuleOut::default());
        assert_eq!(rule(r#"{"networks":null,"ports":null,"icmps":null}"#).unwrap(), RuleOut::default());
        assert!(rule(r#"{"log":true}"#).unwrap().log);
    }

    #[test]
    fn ranges_are_taken_with_one_end_or_both_and_in_either_writing_of_ipv4() {
        let text = r#"{"protocol":1,"networks":[{"start":"::ffff:10.0.0.1"},{"end":"fd00::2"},
            {"start":"10.0.0.1","end":"10.0.0.9"}],"ports":[{"start":80},{"end":90},{"start":1,"end":9}]}"#;
        let rule = rule(text).unwrap();
        let networks: Vec<_> = rule.networks.iter().map(|(start, end)| format!("{start}-{end}")).collect();
        assert_eq!(networks, ["10.0.0.1-10.0.0.1", "fd00::2-fd00::2", "10.0.0.1-10.0.0.9"]);
        assert_eq!(rule.ports, [(80, 80), (90, 90), (1, 9)]);
    }

    #[test]
    fn messages_are_for_icmp_alone() {
        let icmp =
            |protocol| rule(&format!(r#"{{"protocol":{protocol},"icmps":{{"type":8,"code":0}}}}"#)).unwrap().icmp;
        assert_eq!(icmp(3), Some(IcmpMatch { kind: 8, code: Some(0) }));
        assert_eq!(icmp(4), Some(IcmpMatch { kind: 8, code: Some(0) }));
        assert_eq!(icmp(1), None);
        assert_eq!(rule(r#"{"protocol":3,"icmps":{}}"#).unwrap().icmp, Some(IcmpMatch { kind: 0, code: None }));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, part) in [
            (r#"{"protocol":5}"#, "protocol: invalid protocol: 5"),
            (r#"{"protocol":3,"ports":[{"start":1}]}"#, "ports: Ports cannot be specified for Protocol ICMP"),
            (r#"{"ports":[{"start":1}]}"#, "ports: Ports cannot be specified for Protocol ALL"),
            (r#"{"networks":[{"start":"x"}]}"#, "networks[0]: start \"x\" is not an address"),
            (r#"{"networks":[{"start":"1.1.1.1"},{}]}"#, "networks[1]: has neither start nor end"),
            (r#"{"networks":[{"start":"1.1.1.1","end":"::1"}]}"#, "networks[0]: 1.1.1.1 is of IPv4"),
            (r#"{"networks":[{"start":"1.1.1.2","end":"1.1.1.1"}]}"#, "before it starts at 1.1.1.2"),
            (r#"{"protocol":3,"networks":[{"start":"::1"}]}"#, "networks[0]: ICMP does not go there"),
            (r#"{"protocol":4,"networks":[{"start":"::1"},{"start":"1.1.1.1"}]}"#, "networks[1]: ICMPv6 does not"),
            (r#"{"protocol":2,"ports":[{"start":9,"end":3}]}"#, "ports[0]: ends at 3"),
            (r#"{"protocol":2,"ports":[{"start":70000}]}"#, "ports[0].start is wrong"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_port_is_one_or_the_nodes_choice() {
        let asked = |text: &str| {
            let port: NetIn = json::parse(text.as_bytes(), "").unwrap();
            port.into_asked("netin[0].").map_err(|error| error.to_string())
        };
        assert_eq!(asked("{}").unwrap(), PortInAsked::default());
        let both = asked(r#"{"handle":"h","host_port":8080,"container_port":80}"#).unwrap();
        assert_eq!((both.host_port, both.container_port), (NonZeroU16::new(8080), NonZeroU16::new(80)));
        let error = asked(r#"{"host_port":65536}"#).unwrap_err();
        assert!(error.starts_with("netin[0].host_port: there is no port 65536"), "{error}");
    }
}
