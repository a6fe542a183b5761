//! The configuration file: YAML, one mapping of options to values.
//!
//! Values are kept as they are written, since an option's own parser reads them: `0660` and `1h`
//! are no numbers of YAML's. Each key is known by its line. serde_yaml tells places only in errors,
//! so one is provoked for each key: the file is small, and read once.

use super::list::{self, Kind, Opt};
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// More than any configuration, and little enough to read.
const MAX_BYTES: u64 = 1 << 20;

/// A file's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<Entry>,
}

/// One option that a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) values: Vec<String>,
    pub(super) line: usize,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read the configuration file {}: {source}; name another with --config", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the configuration file {} is larger than {MAX_BYTES} bytes; is it the right one?", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: {source}", path.display())]
    NoYaml { path: PathBuf, source: serde_yaml::Error },
    #[error("{}: it holds no options; write one a line, as in `max-containers: 100`", .0.display())]
    NoMapping(PathBuf),
    #[error("{}:{line}: {why}", path.display())]
    Wrong { path: PathBuf, line: usize, why: String },
}

impl ConfigFile {
    /// Reads a file, and checks every key and value of it.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(FileError::TooLarge(path.to_owned()));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let mut file = Self { path: path.to_owned(), entries: Vec::new() };
        if is_empty(text) {
            return Ok(file);
        }
        let keys = keys(text).map_err(|source| match source.location() {
            // Well-formed, and something other than a mapping.
            Some(_) if serde_yaml::from_str::<IgnoredAny>(text).is_ok() => FileError::NoMapping(path.to_owned()),
            _ => FileError::NoYaml { path: path.to_owned(), source },
        })?;
        let options = list::options();
        for (index, key) in keys.iter().enumerate() {
            let line = line_of(text, index);
            let wrong = |why: String| FileError::Wrong { path: path.to_owned(), line, why };
            let option = options.iter().find(|option| option.name() == key);
            let option = option.ok_or_else(|| wrong(unknown(key, &options)))?;
            if let Some(earlier) = keys[..index].iter().position(|other| other == key) {
                return Err(wrong(format!("`{key}` stands there twice, before in line {}", line_of(text, earlier))));
            }
            let values = values(text, index, option).map_err(wrong)?;
            if !values.is_empty() {
                check(option, &values).map_err(wrong)?;
                file.entries.push(Entry { name: key.clone(), values, line });
            }
        }
        Ok(file)
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// Comments at most.
fn is_empty(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// What a key's value is, as it is written; nothing for null.
fn values(text: &str, index: usize, option: &Opt) -> Result<Vec<String>, String> {
    let name = option.name();
    if let Ok(one) = value::<Option<String>>(text, index) {
        return Ok(one.into_iter().collect());
    }
    let Ok(many) = value::<Vec<String>>(text, index) else {
        return Err(match option.kind() {
            Kind::Many => format!("`{name}` is a list of texts, and this is something else"),
            _ => format!("`{name}` has one value, and this is something else; say `{name}: {}`", option.value_name()),
        });
    };
    if option.kind() != Kind::Many {
        return Err(format!("`{name}` has one value, and this is a list; say `{name}: {}`", option.value_name()));
    }
    if many.is_empty() && !option.default().is_empty() {
        return Err(format!("`{name}` is an empty list; leave it out for {}", option.default().join(", ")));
    }
    Ok(many)
}

/// Whether the option takes these values.
fn check(option: &Opt, values: &[String]) -> Result<(), String> {
    list::parse_exactly(flags(option.name(), values.iter().map(OsString::from))).map(drop).map_err(|error| {
        let given = values.join(", ");
        let why = match error.source() {
            Some(source) => source.to_string(),
            None if !option.choices().is_empty() => format!("it is one of {}", option.choices().join(", ")),
            None if option.kind() == Kind::Switch => "it is true or false".to_owned(),
            None => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        format!("`{}` cannot be '{given}': {why}", option.name())
    })
}

/// An option as flags, one for each value.
pub(super) fn flags(name: &str, values: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let flag = |value: OsString| {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        flag
    };
    values.map(flag).collect()
}

fn unknown(key: &str, options: &[Opt]) -> String {
    match nearest(key, options.iter().map(Opt::name)) {
        Some(name) => format!("unknown key `{key}`; did you mean `{name}`?"),
        None => format!("unknown key `{key}`; `gardend config docs` tells which there are"),
    }
}

/// The name that was most likely meant, where one is likely at all. Camels and underscores are no difference.
fn nearest<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |text: &str| text.replace(['-', '_', '.', ' '], "").to_lowercase();
    let key = bare(key);
    let distance = |name: &str| strsim::damerau_levenshtein(&key, &bare(name));
    let likely = |length: usize| (length / 3).max(1);
    let (distance, name) = names.map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= likely(key.chars().count())).then_some(name)
}

fn keys(text: &str) -> Result<Vec<String>, serde_yaml::Error> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping of options to values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some((key, IgnoredAny)) = map.next_entry()? {
                keys.push(key);
            }
            Ok(keys)
        }
    }
    // All of it is looked at first: what follows the mapping must be well-formed too.
    serde_yaml::from_str::<IgnoredAny>(text)?;
    serde_yaml::Deserializer::from_str(text).deserialize_map(Keys)
}

/// The value of the key that is the so-manieth.
fn value<T: DeserializeOwned>(text: &str, index: usize) -> Result<T, serde_yaml::Error> {
    struct ValueAt<T>(usize, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ValueAt<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping of options to values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut found = None;
            let mut index = 0;
            while map.next_key::<IgnoredAny>()?.is_some() {
                if index == self.0 {
                    found = Some(map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
                index += 1;
            }
            found.ok_or_else(|| serde::de::Error::custom("the file has changed"))
        }
    }
    serde_yaml::Deserializer::from_str(text).deserialize_map(ValueAt(index, PhantomData))
}

/// The line of the key that is the so-manieth.
fn line_of(text: &str, index: usize) -> usize {
    /// Refuses the key, with which the error gets its place.
    struct Refused;
    impl<'de> DeserializeSeed<'de> for Refused {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_str(self)
        }
    }
    impl Visitor<'_> for Refused {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nothing")
        }
    }
    struct KeyAt(usize);
    impl<'de> Visitor<'de> for KeyAt {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping of options to values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            for _ in 0..self.0 {
                map.next_entry::<IgnoredAny, IgnoredAny>()?;
            }
            map.next_key_seed(Refused).map(drop)
        }
    }
    let refused = serde_yaml::Deserializer::from_str(text).deserialize_map(KeyAt(index));
    refused.err().and_then(|error| error.location()).map_or(1, |place| place.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Vec<String>, usize)>, String> {
        let file = ConfigFile::parse(Path::new("g.yaml"), text).map_err(|error| error.to_string())?;
        Ok(file.entries.into_iter().map(|entry| (entry.name, entry.values, entry.line)).collect())
    }

    fn entry(name: &str, values: &[&str], line: usize) -> (String, Vec<String>, usize) {
        (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect(), line)
    }

    #[test]
    fn options_are_read_as_they_are_written_with_their_lines() {
        let text = "# a comment\nmax-containers: 12\n\nlisten:\n  - '127.0.0.1:1'\n  - unix:///run/g.sock\n\
                    listen-mode: 0600\ndetach-grace: 90s\npool-size: 0 # none\n";
        assert_eq!(
            read(text).unwrap(),
            [
                entry("max-containers", &["12"], 2),
                entry("listen", &["127.0.0.1:1", "unix:///run/g.sock"], 4),
                entry("listen-mode", &["0600"], 7),
                entry("detach-grace", &["90s"], 8),
                entry("pool-size", &["0"], 9),
            ]
        );
        let flow = "{listen: [\"[::1]:1\"],\n listen-mode: 0o640}";
        assert_eq!(read(flow).unwrap(), [entry("listen", &["[::1]:1"], 1), entry("listen-mode", &["0o640"], 2)]);
    }

    #[test]
    fn a_list_may_be_one_value_and_nothing_is_as_if_left_out() {
        assert_eq!(read("listen: unix:///run/g.sock").unwrap(), [entry("listen", &["unix:///run/g.sock"], 1)]);
        for nothing in ["", "# no more\n", "---\n", "default-rootfs:\n", "default-rootfs: ~\n", "listen: null"] {
            assert_eq!(read(nothing).unwrap(), [], "{nothing:?}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_with_its_line_and_the_nearest() {
        assert_eq!(
            read("pool-size: 1\nlisen: x\n").unwrap_err(),
            "g.yaml:2: unknown key `lisen`; did you mean `listen`?"
        );
        for (key, meant) in
            [("max_containers", "max-containers"), ("defaultRootfs", "default-rootfs"), ("spool-sise", "spool-size")]
        {
            let error = read(&format!("{key}: 1")).unwrap_err();
            assert_eq!(error, format!("g.yaml:1: unknown key `{key}`; did you mean `{meant}`?"));
        }
        assert!(
            read("quux: 1").unwrap_err().ends_with("unknown key `quux`; `gardend config docs` tells which there are")
        );
    }

    #[test]
    fn what_an_option_does_not_take_is_refused_with_its_line_and_the_reason() {
        for (text, words) in [
            ("\nmax-containers: 0", "g.yaml:2: `max-containers` cannot be '0': 0 would refuse every container"),
            ("default-grace-time: 60", "g.yaml:1: `default-grace-time` cannot be '60': not a duration: it has no unit"),
            ("listen: [0.0.0.0:7777]", "g.yaml:1: `listen` cannot be '0.0.0.0:7777': 0.0.0.0 can be reached"),
            ("log-format: xml", "g.yaml:1: `log-format` cannot be 'xml': it is one of text, json"),
            ("pool-size: 1001", "g.yaml:1: `pool-size` cannot be '1001': 1001 is not in 0..=1000"),
            ("pool-size: [1, 2]", "g.yaml:1: `pool-size` has one value, and this is a list; say `pool-size: N`"),
            ("pool-size: {a: 1}", "g.yaml:1: `pool-size` has one value, and this is something else"),
            ("listen: {a: 1}", "g.yaml:1: `listen` is a list of texts"),
            ("listen: []", "g.yaml:1: `listen` is an empty list; leave it out for 127.0.0.1:7777"),
            ("pool-size: 1\npool-size: 2", "g.yaml:2: `pool-size` stands there twice, before in line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_yaml_or_no_mapping_is_refused() {
        assert!(read("listen: [a\npool-size: 1").unwrap_err().contains("line 2"));
        for text in ["- listen", "listen", "3"] {
            assert!(read(text).unwrap_err().contains("holds no options"), "{text}");
        }
        assert!(read("pool-size: 1\n---\npool-size: 2\n").unwrap_err().contains("more than one document"));
    }
}
