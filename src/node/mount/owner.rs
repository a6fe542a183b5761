//! Who owns what: how the ids of an unprivileged place map to the host's.

use super::error::{Result, attempting, failed};
use std::path::Path;

/// One line of /proc/PID/uid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    inside: u32,
    outside: u32,
    count: u32,
}

/// The map of an unprivileged place's user namespace, of users and groups alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap(Vec<Line>);

/// Whose files are when they are made on behalf of a place's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Owner {
    /// Root of the host, which is a privileged place's root too.
    pub(super) const HOST_ROOT: Self = Self { uid: 0, gid: 0 };
}

impl IdMap {
    /// Root to the last id that there is, every other id to itself: what volumes of Garden's
    /// clients are chowned to.
    pub fn garden() -> Self {
        Self(vec![
            Line { inside: 0, outside: 4_294_967_294, count: 1 },
            Line { inside: 1, outside: 1, count: 4_294_967_293 },
        ])
    }

    /// In the format of /proc/PID/uid_map.
    pub fn as_text(&self) -> String {
        self.0.iter().map(|line| format!("{} {} {}\n", line.inside, line.outside, line.count)).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let number = |field: Option<&str>| field?.parse().ok();
        let line = |text: &str| {
            let mut fields = text.split_ascii_whitespace();
            let mut next = || number(fields.next());
            Some(Line { inside: next()?, outside: next()?, count: next()? })
        };
        text.lines().map(line).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The host's id of an id inside; one that has none stays as it is.
    pub(super) fn outside(&self, inside: u32) -> u32 {
        let line = self.0.iter().find(|line| (line.inside..line.inside.saturating_add(line.count)).contains(&inside));
        line.map_or(inside, |line| line.outside + (inside - line.inside))
    }

    /// Who owns what root inside makes.
    pub(super) fn root(&self) -> Owner {
        Owner { uid: self.outside(0), gid: self.outside(0) }
    }

    /// Refuses a process whose maps are others.
    pub(super) fn expect_of_process(&self, pid: u32) -> Result<()> {
        for name in ["uid_map", "gid_map"] {
            let path = format!("/proc/{pid}/{name}");
            let text = std::fs::read_to_string(Path::new(&path)).map_err(attempting(format!("reading {path}")))?;
            if Self::parse(&text).as_ref() != Some(self) {
                let (seen, wanted) = (text.trim().replace('\n', ", "), self.as_text().trim().replace('\n', ", "));
                return Err(failed(format!("the place maps ids as \"{seen}\" ({path}), and not as \"{wanted}\"")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_the_last_id_and_others_are_themselves() {
        let map = IdMap::garden();
        assert_eq!(map.root(), Owner { uid: 4_294_967_294, gid: 4_294_967_294 });
        assert_eq!(map.outside(1), 1);
        assert_eq!(map.outside(65534), 65534);
    }

    #[test]
    fn a_map_is_read_as_the_kernel_writes_it() {
        let kernel = "         0 4294967294          1\n         1          1 4294967293\n";
        assert_eq!(IdMap::parse(kernel), Some(IdMap::garden()));
        assert_eq!(IdMap::parse(&IdMap::garden().as_text()), Some(IdMap::garden()));
        assert_eq!(IdMap::parse("0 x 1"), None);
    }
}
