//! `gardend allow`: what a container may reach.

use super::Context;
use super::client::wire::{IcmpControl, NetOutRule, Range};
use super::outcome::Failure;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use std::net::IpAddr;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(
    after_help = "Networks are addresses, a.b.c.d/n, or FIRST-LAST, with commas between; `any` is every one. Ports are \
                        numbers or FIRST-LAST, with commas between; for icmp and icmpv6 a type, or TYPE/CODE. Rules add \
                        up, and stay until the container goes: Garden has no way to take one back.\n\n\
                        Examples:\n  gardend allow web tcp 10.0.0.0/8 443\n  gardend allow web udp 10.1.2.3,10.1.2.4 53\n  \
                        gardend allow web icmp any 8\n  gardend allow web all 10.0.0.1-10.0.0.9 --log\n  gardend allow web"
)]
pub struct AllowArgs {
    /// The container
    handle: String,

    /// Which protocol
    #[arg(value_enum, default_value_t = Protocol::All)]
    protocol: Protocol,

    /// Which addresses
    #[arg(default_value = "any")]
    networks: String,

    /// Which ports; of icmp, which type [default: all]
    #[arg(value_name = "PORTS|TYPE[/CODE]")]
    ports: Option<String>,

    /// Tell the node's log of each new connection
    #[arg(long)]
    log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    All,
    Tcp,
    Udp,
    Icmp,
    #[value(name = "icmpv6", alias = "icmp6")]
    IcmpV6,
}

pub(super) async fn allow(context: &Context, args: AllowArgs) -> Result<ExitCode, Failure> {
    let rule = rule(&args).map_err(Failure::Usage)?;
    context.client.net_out(&args.handle, &rule).await?;
    Ok(ExitCode::SUCCESS)
}

fn rule(args: &AllowArgs) -> Result<NetOutRule, String> {
    let networks = match args.networks.as_str() {
        "any" | "all" => Vec::new(),
        networks => networks.split(',').map(network).collect::<Result<_, _>>()?,
    };
    let mut rule = NetOutRule { protocol: args.protocol as u8, networks, log: args.log, ..NetOutRule::default() };
    match (args.protocol, args.ports.as_deref()) {
        (_, None) => {}
        (Protocol::Tcp | Protocol::Udp, Some(ports)) => {
            rule.ports = ports.split(',').map(port_range).collect::<Result<_, _>>()?;
        }
        (Protocol::Icmp | Protocol::IcmpV6, Some(control)) => rule.icmps = Some(icmp(control)?),
        (Protocol::All, Some(_)) => return Err("ports are tcp's or udp's: name one of them instead of all".to_owned()),
    }
    Ok(rule)
}

fn network(text: &str) -> Result<Range<IpAddr>, String> {
    let wrong = || format!("'{text}' is no address, network or range; say 10.0.0.1, 10.0.0.0/8 or 10.0.0.1-10.0.0.9");
    if let Ok(network) = text.parse::<IpNet>() {
        return Ok(Range { start: network.network(), end: network.broadcast() });
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range: Range<IpAddr> =
        Range { start: first.trim().parse().map_err(|_| wrong())?, end: last.trim().parse().map_err(|_| wrong())? };
    match range.start.is_ipv4() == range.end.is_ipv4() && range.start <= range.end {
        true => Ok(range),
        false => Err(format!("'{text}' goes from a later address to an earlier one, or from one family to another")),
    }
}

fn port_range(text: &str) -> Result<Range<u16>, String> {
    let port = |text: &str| {
        let port = text.trim().parse().ok().filter(|port: &u16| *port != 0);
        port.ok_or_else(|| format!("'{text}' is no port; say 443 or 8000-8999"))
    };
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    let range = Range { start: port(first)?, end: port(last)? };
    if range.start <= range.end { Ok(range) } else { Err(format!("'{text}' goes from a higher port to a lower one")) }
}

fn icmp(text: &str) -> Result<IcmpControl, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("'{text}' is no type or code of icmp; say 8 or 3/4"));
    let (r#type, code) = text.split_once('/').map_or((text, None), |(r#type, code)| (r#type, Some(code)));
    Ok(IcmpControl { r#type: number(r#type)?, code: code.map(number).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};
    use serde_json::json;

    fn parsed(words: &[&str]) -> Result<serde_json::Value, String> {
        let matches = AllowArgs::augment_args(Command::new("allow")).no_binary_name(true).try_get_matches_from(words);
        let args = AllowArgs::from_arg_matches(&matches.map_err(|error| error.to_string())?).unwrap();
        rule(&args).map(|rule| serde_json::to_value(rule).unwrap())
    }

    #[test]
    fn rules_are_as_garden_has_them() {
        for (words, rule) in [
            (&["web"][..], json!({"protocol": 0})),
            (
                &["web", "tcp", "10.0.0.0/8", "443"],
                json!({"protocol": 1, "networks": [{"start": "10.0.0.0", "end": "10.255.255.255"}], "ports": [{"start": 443, "end": 443}]}),
            ),
            (
                &["web", "udp", "10.0.0.1,fd00::1-fd00::9", "53,8000-8999", "--log"],
                json!({"protocol": 2, "log": true,
                    "networks": [{"start": "10.0.0.1", "end": "10.0.0.1"}, {"start": "fd00::1", "end": "fd00::9"}],
                    "ports": [{"start": 53, "end": 53}, {"start": 8000, "end": 8999}]}),
            ),
            (&["web", "icmp", "any", "8"], json!({"protocol": 3, "icmps": {"type": 8}})),
            (&["web", "icmpv6", "any", "1/4"], json!({"protocol": 4, "icmps": {"type": 1, "code": 4}})),
        ] {
            assert_eq!(parsed(words), Ok(rule), "{words:?}");
        }
    }

    #[test]
    fn what_is_no_rule_is_explained() {
        for (words, part) in [
            (&["web", "http"][..], "possible values: all, tcp, udp, icmp, icmpv6"),
            (&["web", "tcp", "example.com"], "'example.com' is no address"),
            (&["web", "tcp", "10.0.0.9-10.0.0.1"], "later address"),
            (&["web", "tcp", "10.0.0.1-fd00::1"], "one family"),
            (&["web", "tcp", "any", "https"], "'https' is no port"),
            (&["web", "tcp", "any", "90-80"], "higher port"),
            (&["web", "all", "any", "80"], "tcp's or udp's"),
            (&["web", "icmp", "any", "echo"], "no type or code"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
