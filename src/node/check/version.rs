//! Versions as programs print them.

use std::fmt;

/// The first two numbers of a version: what is newer is told by them alone here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The first word of `text` that begins like a version: `1.6.20~ds1`, `v2.4.2`, `6.18.5-arch`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let mut numbers = word.strip_prefix('v').unwrap_or(word).split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        Some(Self { major, minor: minor[..digits].parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, expected) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Version::new(1, 6)),
            ("containerd github.com/containerd/containerd/v2 2.4.2+unknown ", Version::new(2, 4)),
            ("v2.0.1", Version::new(2, 0)),
            ("runc version 1.1.5+ds1\ncommit: x\nspec: 1.0.2-dev", Version::new(1, 1)),
            ("crun version 1.8.1\ncommit: f8a096b", Version::new(1, 8)),
            ("6.18.5", Version::new(6, 18)),
            ("5.15-rc1", Version::new(5, 15)),
        ] {
            assert_eq!(Version::find(text), Some(expected), "{text}");
        }
        assert_eq!(Version::find("no version here"), None);
        assert!(Version::new(5, 4) < Version::new(5, 15) && Version::new(1, 6) < Version::new(2, 0));
    }
}
