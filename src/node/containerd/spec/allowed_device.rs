//! A device that containers may use, as an operator writes it.

use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A device that containers may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AllowedDevice {
    /// One of the machine's, which containers find at the same path.
    Node {
        /// Below /dev.
        path: String,
        /// Of `rwm`.
        access: String,
    },
    /// Any node with these numbers, wherever it comes from.
    Rule {
        /// `a`, `b` or `c`.
        kind: char,
        /// `None`: every one.
        major: Option<u32>,
        /// `None`: every one.
        minor: Option<u32>,
        /// Of `rwm`.
        access: String,
    },
}

impl FromStr for AllowedDevice {
    type Err = String;

    /// Reads `/dev/fuse`, `/dev/fuse:rw`, or `c 10:229 rwm` with `*` for any number.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            let (path, access) = text.split_once(':').unwrap_or((text, "rwm"));
            let is_below_dev = path
                .strip_prefix("/dev/")
                .is_some_and(|name| !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | "..")));
            if !is_below_dev {
                return Err("a device's path begins with /dev/".to_owned());
            }
            return Ok(Self::Node { path: path.to_owned(), access: parse_access(access)? });
        }
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(numbers), Some(access), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(
                "not a device; say /dev/fuse, or a rule of cgroups as in `c 10:229 rwm` or `b 7:* rwm`".to_owned()
            );
        };
        let kind = match kind {
            "a" => 'a',
            "b" => 'b',
            "c" => 'c',
            other => return Err(format!("'{other}' is no kind of device: say b, c, or a for both")),
        };
        let (major, minor) = numbers.split_once(':').ok_or("the numbers are written MAJOR:MINOR, as in 10:229")?;
        Ok(Self::Rule { kind, major: parse_number(major)?, minor: parse_number(minor)?, access: parse_access(access)? })
    }
}

fn parse_number(text: &str) -> Result<Option<u32>, String> {
    match text {
        "*" => Ok(None),
        number => number.parse().map(Some).map_err(|_| format!("'{number}' is neither a number nor *")),
    }
}

/// Each letter once.
fn parse_access(text: &str) -> Result<String, String> {
    let is_known = |letter: char| "rwm".contains(letter);
    let once = |letter: char| text.matches(letter).count() == 1;
    match !text.is_empty() && text.chars().all(|letter| is_known(letter) && once(letter)) {
        true => Ok(text.to_owned()),
        false => Err(format!("'{text}' is no access: r, w and m (mknod), each at most once")),
    }
}

impl fmt::Display for AllowedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: &Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        match self {
            Self::Node { path, access } => write!(f, "{path}:{access}"),
            Self::Rule { kind, major, minor, access } => {
                write!(f, "{kind} {}:{} {access}", number(major), number(minor))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_as_docker_and_as_concourse_have_them() {
        let rule = |kind, major, minor| AllowedDevice::Rule { kind, major, minor, access: "rwm".to_owned() };
        for (text, device) in [
            ("/dev/fuse", AllowedDevice::Node { path: "/dev/fuse".to_owned(), access: "rwm".to_owned() }),
            (
                "/dev/bus/usb/001/002:rw",
                AllowedDevice::Node { path: "/dev/bus/usb/001/002".to_owned(), access: "rw".to_owned() },
            ),
            ("c 10:229 rwm", rule('c', Some(10), Some(229))),
            ("b 7:* rwm", rule('b', Some(7), None)),
            ("a *:* rwm", rule('a', None, None)),
        ] {
            assert_eq!(text.parse(), Ok(device.clone()), "{text}");
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for (text, words) in [
            ("b", "say /dev/fuse"),
            ("b 7* rwm", "MAJOR:MINOR"),
            ("b 7:* rrr", "each at most once"),
            ("b 7:x rwm", "neither a number"),
            ("d 7:1 rwm", "no kind"),
            ("/etc/passwd", "begins with /dev/"),
            ("/dev/../etc/passwd", "begins with /dev/"),
            ("/dev/fuse:x", "no access"),
        ] {
            let error = text.parse::<AllowedDevice>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
