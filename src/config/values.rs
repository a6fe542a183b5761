//! Values of options that have a notation of their own: durations, bytes, a socket's mode and group.

use gardend_controller::Threshold;
use rustix::fs::Mode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Who may open a unix socket: permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

/// A name and its address, for /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdditionalHost {
    /// The name.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
}

/// A group as it is written: its name, or its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupName(pub String);

/// Reads `90s`, `1h30m`, `1.5h`, `500ms`, or `0`: as humantime has them, and as Go has them.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if let Some(duration) = parse_go_duration(text) {
        return Ok(duration);
    }
    humantime::parse_duration(text).map_err(|_| {
        let unit = if text.parse::<f64>().is_ok() { ": it has no unit" } else { "" };
        format!("not a duration{unit}; say 90s, 5m or 1h30m")
    })
}

/// Numbers, perhaps with a fraction, each with a unit of Go's. `None` for anything else.
fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |end| number + end);
        let scale = match &rest[number..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = match rest[..number].parse::<u64>() {
            // Whole numbers exactly; a fraction as near as a float has it.
            Ok(whole) if scale >= 1.0 => Duration::from_secs(whole.checked_mul(scale as u64)?),
            _ => Duration::try_from_secs_f64(rest[..number].parse::<f64>().ok()? * scale).ok()?,
        };
        total = total.checked_add(part)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

pub(super) fn parse_bytes(text: &str) -> Result<Bytes, String> {
    text.parse()
}

/// A part of the machine's: `5%`, or as [`Bytes`].
pub(super) fn parse_threshold(text: &str) -> Result<Threshold, String> {
    match text.trim().strip_suffix('%') {
        None => Ok(Threshold::Bytes(text.parse::<Bytes>()?.0)),
        Some(number) => match number.trim_end().parse() {
            Ok(percent @ 0..=90) => Ok(Threshold::Percent(percent)),
            _ => Err("say a whole number of percent from 0% to 90%, or a size such as 256MiB".into()),
        },
    }
}

/// Nothing of anything is no threshold.
pub(super) fn some_threshold(threshold: Threshold) -> Option<Threshold> {
    (!matches!(threshold, Threshold::Bytes(0) | Threshold::Percent(0))).then_some(threshold)
}

impl FromStr for Bytes {
    type Err = String;

    /// Reads `4096`, `64K`, `16M`, `16MiB`, `1G`. Units are powers of 1024.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let shift = match text[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err("not a number of bytes; say 65536, 64K, 16M or 1G".to_owned()),
        };
        let number: u64 =
            text[..digits].parse().map_err(|_| "not a number of bytes; say 65536, 64K, 16M or 1G".to_owned())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| "more bytes than there are".to_owned())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut unit) = (self.0, 0);
        while number != 0 && number.is_multiple_of(1024) && unit < 3 {
            (number, unit) = (number / 1024, unit + 1);
        }
        write!(f, "{number}{}", ["", "KiB", "MiB", "GiB"][unit])
    }
}

impl SocketMode {
    /// As the kernel takes it.
    #[allow(clippy::unnecessary_cast, reason = "not every system has it as the same type")]
    pub fn bits(self) -> Mode {
        Mode::from_raw_mode(self.0 as rustix::fs::RawMode)
    }
}

impl FromStr for SocketMode {
    type Err = String;

    /// Reads `0660` or `0o660`. Without the 0 it may be what some tool made of an octal number: 432.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).unwrap_or_default();
        let octal = digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| "not permissions in octal; say 0660, or 0600 for root alone".to_owned())
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A time that something may take. Nothing may take for ever.
pub(super) fn parse_request_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout < Duration::from_secs(1) => {
            Err("less than a second, in which no container is made; say 2m, or 10m for one that may take long"
                .to_owned())
        }
        timeout => Ok(timeout),
    }
}

impl FromStr for AdditionalHost {
    type Err = String;

    /// Reads `NAME=IP`, and `NAME:IP` as Docker has it, and `IP NAME` as /etc/hosts has it.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not NAME=IP, as in registry=10.1.2.3".to_owned();
        let (name, address) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some(pair) if text.contains('=') || !text.contains(' ') => pair,
            _ => text.split_once(' ').map(|(address, name)| (name, address)).ok_or_else(wrong)?,
        };
        let (name, address) = (name.trim(), address.trim().trim_matches(['[', ']']));
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), address: address.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for AdditionalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty; name a group, or leave it out".to_owned()),
            _ if text.contains([':', '\n', '/']) => Err("neither a group's name nor its number".to_owned()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// What a value with a notation of its own is in JSON.
macro_rules! text_schema {
    ($(#[$doc:meta])* $name:ident: $schema:tt) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_schema! {
    /// A duration.
    DurationText: { "type": ["string", "integer"], "examples": ["90s", "1h30m", 0] }
}
text_schema! {
    /// A number of bytes.
    BytesText: { "type": ["string", "integer"], "examples": ["16MiB", 65536] }
}
text_schema! {
    /// A size, or a part in percent.
    ThresholdText: { "type": ["string", "integer"], "examples": ["256MiB", "5%"] }
}
text_schema! {
    /// Permissions.
    ModeText: { "type": ["string", "integer"], "examples": ["0660"] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_and_as_go_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("5m", 300_000),
            ("5m0s", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2 days", 172_800_000),
            ("1h 5min", 3_900_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1s", "5", "5 parsecs", "1..5h", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_read_and_shown_with_units() {
        for (text, bytes) in [("4096", 4096), ("64K", 65_536), ("16 MiB", 16 << 20), ("1gb", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "1.5M", "-1", "99999999999G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for bytes in [0, 1, 1024, 1025, 16 << 20, 1 << 40] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn permissions_are_octal_however_they_are_written() {
        for text in ["0660", "0o660"] {
            assert_eq!(text.parse(), Ok(SocketMode(0o660)), "{text}");
        }
        assert_eq!(SocketMode(0o660).to_string(), "0660");
        for text in ["", "0", "0o", "rw", "0668", "01777", "0+660", "432"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_a_name_and_an_address_however_they_are_written() {
        for (text, name, address) in [
            ("registry=10.1.2.3", "registry", "10.1.2.3"),
            ("a.b-c=fd00::1", "a.b-c", "fd00::1"),
            ("registry:10.1.2.3", "registry", "10.1.2.3"),
            ("registry:[fd00::1]", "registry", "fd00::1"),
            ("10.1.2.3 registry", "registry", "10.1.2.3"),
            ("fd00::1 registry", "registry", "fd00::1"),
        ] {
            let host = AdditionalHost { name: name.to_owned(), address: address.parse().unwrap() };
            assert_eq!(text.parse(), Ok(host.clone()), "{text}");
            assert_eq!(host.to_string().parse(), Ok(host));
        }
        for text in ["", "registry", "=10.1.2.3", "registry=", "registry=there", "a b=10.1.2.3", "x\ny=10.1.2.3"] {
            assert!(text.parse::<AdditionalHost>().is_err(), "{text:?}");
        }
    }
}
