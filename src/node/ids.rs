//! How the ids of unprivileged places map to the host's: one map, of users and groups alike.
//!
//! It is an option of the server. What was made with one map has its owners on disk, so that a
//! server whose containers have layers is not started with another ([`settle`]).

use super::place::Folders;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// (uid_t) -1 is nobody.
const NO_ID: u64 = 4_294_967_295;
/// The kernel's own limit (UID_GID_MAP_MAX_EXTENTS).
const MOST_LINES: usize = 340;
/// Terminals belong to this group inside.
const TERMINALS: u32 = 5;

/// One line of /proc/PID/uid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first id inside.
    pub inside: u32,
    /// The first id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The map of an unprivileged place's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap(Vec<Line>);

impl Default for IdMap {
    fn default() -> Self {
        Self::garden()
    }
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

    /// Its lines, in order.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// In the format of /proc/PID/uid_map.
    pub fn as_text(&self) -> String {
        self.0.iter().map(|line| format!("{} {} {}\n", line.inside, line.outside, line.count)).collect()
    }

    /// As the kernel writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |field: Option<&str>| field?.parse().ok();
        let line = |text: &str| {
            let mut fields = text.split_ascii_whitespace();
            let mut next = || number(fields.next());
            Some(Line { inside: next()?, outside: next()?, count: next()? })
        };
        text.lines().map(line).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The host's id of an id inside; one that has none stays as it is.
    pub fn outside(&self, inside: u32) -> u32 {
        self.find(inside).unwrap_or(inside)
    }

    /// Who root inside is on the host.
    pub fn root(&self) -> u32 {
        self.outside(0)
    }

    fn find(&self, inside: u32) -> Option<u32> {
        // Within bounds: a map that reaches beyond the last id is not made.
        let line = self.0.iter().find(|line| inside.checked_sub(line.inside).is_some_and(|offset| offset < line.count));
        line.map(|line| line.outside + (inside - line.inside))
    }

    fn check(&self) -> Result<(), String> {
        if self.0.len() > MOST_LINES {
            return Err(format!("{} parts; the kernel takes {MOST_LINES}", self.0.len()));
        }
        for (number, line) in self.0.iter().enumerate() {
            let Line { inside, outside, count } = *line;
            if count == 0 {
                return Err(format!("{line} maps no id"));
            }
            if u64::from(inside.max(outside)) + u64::from(count) > NO_ID {
                return Err(format!("{line} reaches beyond the last id, 4294967294"));
            }
            if outside == 0 {
                return Err(format!("{line} makes somebody inside the host's root; map to another id"));
            }
            let overlaps = |first: u32, other: u32, others: u32| {
                u64::from(first) < u64::from(other) + u64::from(others)
                    && u64::from(other) < u64::from(first) + u64::from(count)
            };
            for earlier in &self.0[..number] {
                if overlaps(inside, earlier.inside, earlier.count) || overlaps(outside, earlier.outside, earlier.count)
                {
                    return Err(format!("{line} and {earlier} overlap"));
                }
            }
        }
        for (id, what) in [(0, "root"), (TERMINALS, "the group of terminals")] {
            if self.find(id).is_none() {
                return Err(format!("id {id} ({what}) is not mapped"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Line::to_string).collect();
        f.write_str(&lines.join(","))
    }
}

impl FromStr for IdMap {
    type Err = String;

    /// Reads `0:100000:65536`, or several of these with commas between: the first id inside, the
    /// first on the host, how many.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| {
            format!(
                "{part:?} is not INSIDE:HOST:COUNT; say 0:100000:65536, or 0:4294967294:1,1:1:4294967293 (the default)"
            )
        };
        let line = |part: &str| {
            let numbers: Vec<u32> = part.trim().split(':').map_while(|number| number.parse().ok()).collect();
            match numbers[..] {
                [inside, outside, count] if part.matches(':').count() == 2 => Ok(Line { inside, outside, count }),
                _ => Err(wrong(part)),
            }
        };
        let map = Self(text.split(',').map(line).collect::<Result<_, _>>()?);
        map.check().map(|()| map)
    }
}

/// Why a server cannot have a map.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// Files on the disk are owned by another.
    #[error(
        "--id-map {asked}: there are containers whose files were made with {kept}; start with --id-map {kept}, destroy \
         them, and change it then"
    )]
    InUse {
        /// The one that is wanted.
        asked: IdMap,
        /// The one that is in use.
        kept: IdMap,
    },
    /// The state folder.
    #[error("cannot note the id map down in {0}: {1}")]
    Folder(String, io::Error),
}

/// Notes the map down, with which containers' files are made from now on.
///
/// # Errors
/// Where containers have files that were made with another.
pub fn settle(folders: &Folders, map: &IdMap) -> Result<(), IdMapError> {
    let file = folders.state().join("id-map");
    let failed = |error| IdMapError::Folder(file.display().to_string(), error);
    let kept = match fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().map_err(|error| failed(io::Error::other::<String>(error)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => IdMap::garden(),
        Err(error) => return Err(failed(error)),
    };
    if kept != *map {
        if has_entries(&folders.layers()).map_err(failed)? {
            return Err(IdMapError::InUse { asked: map.clone(), kept });
        }
        let new = file.with_extension("new");
        fs::write(&new, format!("{map}\n")).and_then(|()| fs::rename(&new, &file)).map_err(failed)?;
    }
    Ok(())
}

fn has_entries(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_the_last_id_and_others_are_themselves() {
        let map = IdMap::garden();
        assert_eq!(map.root(), 4_294_967_294);
        assert_eq!(map.outside(1), 1);
        assert_eq!(map.outside(65534), 65534);
        map.check().unwrap();
    }

    #[test]
    fn a_map_is_read_as_the_kernel_writes_it_and_as_people_do() {
        let kernel = "         0 4294967294          1\n         1          1 4294967293\n";
        assert_eq!(IdMap::parse(kernel), Some(IdMap::garden()));
        assert_eq!(IdMap::parse(&IdMap::garden().as_text()), Some(IdMap::garden()));
        assert_eq!(IdMap::parse("0 x 1"), None);
        assert_eq!(IdMap::garden().to_string().parse(), Ok(IdMap::garden()));
        let usual: IdMap = "0:100000:65536".parse().unwrap();
        assert_eq!((usual.root(), usual.outside(1000), usual.outside(70_000)), (100_000, 101_000, 70_000));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (text, words) in [
            ("", "INSIDE:HOST:COUNT"),
            ("0:1", "INSIDE:HOST:COUNT"),
            ("0:1:2:3", "INSIDE:HOST:COUNT"),
            ("0:-1:2", "INSIDE:HOST:COUNT"),
            ("0:100000:0", "maps no id"),
            ("0:4294967295:1", "beyond the last id"),
            ("0:100000:4294967295", "beyond the last id"),
            ("0:0:65536", "the host's root"),
            ("0:100000:10,5:200000:10", "overlap"),
            ("0:100000:10,10:100005:10", "overlap"),
            ("1:100000:65536", "id 0 (root)"),
            ("0:100000:5", "id 5"),
        ] {
            let error = text.parse::<IdMap>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_map_is_changed_only_where_no_layer_was_made_with_another() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::new(folder.path(), folder.path().join("run"));
        let other: IdMap = "0:100000:65536".parse().unwrap();
        settle(&folders, &IdMap::garden()).unwrap();
        settle(&folders, &other).unwrap();
        fs::create_dir_all(folders.layers().join("one")).unwrap();
        settle(&folders, &other).unwrap();
        let refused = settle(&folders, &IdMap::garden()).unwrap_err().to_string();
        assert!(refused.contains("--id-map 0:100000:65536") && refused.contains("destroy"), "{refused}");
        fs::remove_dir(folders.layers().join("one")).unwrap();
        settle(&folders, &IdMap::garden()).unwrap();
    }
}
