//! Configurations of networks, as operators write them for CNI: a chain of plugins (`.conflist`), or a
//! single one (`.conf`). What is in them for plugins is passed on as it stands.
//!
//! They are read whenever a container is attached, since other programs of the node write them, often
//! after gardend has started. What a container was attached with is kept with it (`store`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A version of the specification, of those that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Version {
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One plugin of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plugin {
    /// Its `type`: the name of its program.
    pub kind: String,
    /// What it can be told of each container.
    pub capabilities: BTreeSet<String>,
    /// As it was written, without what is for the runtime.
    pub config: Map<String, Value>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkList {
    pub name: String,
    pub version: Version,
    /// In the order in which they are added.
    pub plugins: Vec<Plugin>,
    pub disable_check: bool,
    pub disable_gc: bool,
}

impl NetworkList {
    /// Whether some plugin of it can be told this.
    pub fn capable(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(capability))
    }
}

/// Why there is no network to attach to.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The folder cannot be read.
    #[error("cannot read --cni-conf-dir {}: {error}", dir.display())]
    Folder { dir: PathBuf, error: io::Error },
    /// There is no file in it.
    #[error("there is no configuration of CNI (.conflist, .conf, .json) in {}; put one there, or name another folder with --cni-conf-dir", dir.display())]
    Nothing { dir: PathBuf },
    /// None of the files has the name.
    #[error("no configuration of CNI in {} has the name {name:?} (--cni-network); there are: {there}", dir.display())]
    NoSuchNetwork { dir: PathBuf, name: String, there: String },
    /// A file that makes no sense.
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
    /// No version that everybody speaks.
    #[error(
        "network {network:?} says CNI {offered}, and plugin {plugin} speaks {spoken}; install another version of the plugin, or change cniVersion to one that both speak of {ours}"
    )]
    NoCommonVersion { network: String, offered: String, plugin: String, spoken: String, ours: String },
}

/// A network whose version is still to be settled.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    /// Those that its file names; empty: any.
    versions: Vec<Version>,
    name: String,
    plugins: Vec<Plugin>,
    disable_check: bool,
    disable_gc: bool,
}

impl Offered {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The newest version that the file names and every plugin speaks.
    pub fn settle(self, spoken: &BTreeMap<String, Vec<String>>) -> Result<NetworkList, ConfigError> {
        let offered = if self.versions.is_empty() { Version::ALL.to_vec() } else { self.versions.clone() };
        let speaks = |plugin: &Plugin, version: Version| {
            spoken.get(&plugin.kind).is_some_and(|versions| versions.iter().any(|text| text == version.as_str()))
        };
        let common =
            offered.iter().copied().filter(|version| self.plugins.iter().all(|plugin| speaks(plugin, *version)));
        if let Some(version) = common.max() {
            let Self { name, plugins, disable_check, disable_gc, .. } = self;
            return Ok(NetworkList { name, version, plugins, disable_check, disable_gc });
        }
        let in_the_way = |plugin: &&Plugin| !offered.iter().any(|version| speaks(plugin, *version));
        let plugin = self.plugins.iter().find(in_the_way).or(self.plugins.first());
        let plugin = plugin.map_or_else(String::new, |plugin| plugin.kind.clone());
        let words = |versions: &[Version]| versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ConfigError::NoCommonVersion {
            network: self.name,
            offered: words(&offered),
            spoken: spoken.get(&plugin).map(|versions| versions.join(", ")).unwrap_or_default(),
            plugin,
            ours: words(&Version::ALL),
        })
    }
}

/// The network of a folder: the one of this name, or that of the first file.
pub(super) fn load(dir: &Path, name: Option<&str>) -> Result<Offered, ConfigError> {
    let files = list(dir).map_err(|error| ConfigError::Folder { dir: dir.to_owned(), error })?;
    let mut there = Vec::new();
    for file in files {
        let read = read(&file);
        match (read, name) {
            (read, None) => return read.map_err(|reason| ConfigError::File { file, reason }),
            (Ok(offered), Some(name)) if offered.name == name => return Ok(offered),
            (Ok(offered), Some(_)) => there.push(offered.name),
            // Another network's, as far as can be told.
            (Err(reason), Some(_)) => there.push(format!("{} ({reason})", file.display())),
        }
    }
    let dir = dir.to_owned();
    match name {
        Some(name) if !there.is_empty() => {
            Err(ConfigError::NoSuchNetwork { dir, name: name.to_owned(), there: there.join(", ") })
        }
        _ => Err(ConfigError::Nothing { dir }),
    }
}

/// In the order in which other runtimes look at them.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let known = |extension: &std::ffi::OsStr| ["conflist", "conf", "json"].iter().any(|known| extension == *known);
        if path.extension().is_some_and(known) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Offered, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| format!("is no JSON: {error}"))?;
    let Value::Object(top) = value else { return Err("is no JSON object".to_owned()) };
    parse(&top)
}

fn parse(top: &Map<String, Value>) -> Result<Offered, String> {
    let name = text(top, "name")?.ok_or("has no \"name\"")?;
    if !is_name(&name) {
        return Err(format!("\"name\" is {name:?}; a name has letters, digits, and _.- after the first"));
    }
    let mut versions = Vec::new();
    let mut unknown = Vec::new();
    let listed = top.get("cniVersions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for version in listed.map(str::to_owned).chain(text(top, "cniVersion")?) {
        match Version::parse(&version) {
            Some(version) => versions.push(version),
            None => unknown.push(version),
        }
    }
    if versions.is_empty() && !unknown.is_empty() {
        let ours = Version::ALL.map(Version::as_str).join(", ");
        return Err(format!("\"cniVersion\" is {}; gardend speaks {ours}", unknown.join(", ")));
    }
    let plugins = match top.get("plugins") {
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins.iter().map(plugin).collect::<Result<_, _>>()?,
        Some(_) => return Err("\"plugins\" is no list, or an empty one".to_owned()),
        None => vec![plugin(&Value::Object(top.clone()))?],
    };
    let (disable_check, disable_gc) = (switch(top, "disableCheck")?, switch(top, "disableGC")?);
    Ok(Offered { versions, name, plugins, disable_check, disable_gc })
}

fn plugin(value: &Value) -> Result<Plugin, String> {
    let Value::Object(config) = value else { return Err("a plugin of it is no JSON object".to_owned()) };
    let kind = text(config, "type")?.ok_or("a plugin of it has no \"type\"")?;
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        return Err(format!("\"type\" is {kind:?}; it is the name of a program"));
    }
    let mut config = config.clone();
    let on = |(name, on): (String, Value)| (on == Value::Bool(true)).then_some(name);
    let capabilities = match config.remove("capabilities") {
        None => BTreeSet::new(),
        Some(Value::Object(capabilities)) => capabilities.into_iter().filter_map(on).collect(),
        Some(_) => return Err(format!("\"capabilities\" of {kind} is no JSON object")),
    };
    for ours in ["cniVersions", "disableCheck", "disableGC", "runtimeConfig", "prevResult"] {
        config.remove(ours);
    }
    Ok(Plugin { kind, capabilities, config })
}

fn text(of: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match of.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("\"{key}\" is no string")),
    }
}

/// As the specification has it, and as some write it.
fn switch(of: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match of.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
        Some(_) => Err(format!("\"{key}\" is neither true nor false")),
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn said(versions: &[&str]) -> BTreeMap<String, Vec<String>> {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        ["ptp", "portmap"].map(|kind| (kind.to_owned(), versions.clone())).into()
    }

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "second", "disableCheck": true, "plugins": [
        {"type": "ptp", "mtu": 1400}, {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}}]}"#;
    const SINGLE: &str = r#"{"cniVersion": "0.4.0", "name": "first", "type": "ptp"}"#;

    #[test]
    fn the_first_file_is_the_network_unless_another_is_named() {
        let folder = folder(&[("20-b.conflist", LIST), ("10-a.conf", SINGLE), ("00-not.txt", "x")]);
        assert_eq!(load(folder.path(), None).unwrap().name(), "first");
        let second = load(folder.path(), Some("second")).unwrap().settle(&said(&["0.4.0", "1.0.0"])).unwrap();
        assert_eq!((second.version, second.plugins.len(), second.disable_check), (Version::V1_0_0, 2, true));
        assert!(second.capable("portMappings") && !second.capable("mac"));
        assert_eq!(second.plugins[1].config, *json!({"type": "portmap"}).as_object().unwrap());
        let error = load(folder.path(), Some("third")).unwrap_err().to_string();
        assert!(error.contains("\"third\"") && error.contains("first, second"), "{error}");
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named_and_not_passed_over() {
        for (text, words) in [
            ("{", "is no JSON"),
            (r#"{"type": "ptp"}"#, "no \"name\""),
            (r#"{"name": "a/b", "type": "ptp"}"#, "a/b"),
            (r#"{"name": "n", "type": "../ptp"}"#, "name of a program"),
            (r#"{"name": "n", "plugins": []}"#, "\"plugins\""),
            (r#"{"name": "n", "plugins": [{}]}"#, "no \"type\""),
            (r#"{"name": "n", "cniVersion": "0.3.1", "type": "ptp"}"#, "gardend speaks 0.4.0"),
            (r#"{"name": "n", "disableCheck": 1, "type": "ptp"}"#, "disableCheck"),
        ] {
            let folder = folder(&[("10-a.conflist", text), ("20-b.conflist", LIST)]);
            let error = load(folder.path(), None).unwrap_err().to_string();
            assert!(error.contains("10-a.conflist") && error.contains(words), "{text}: {error}");
        }
        let empty = folder(&[]);
        assert!(load(empty.path(), None).unwrap_err().to_string().contains("there is no configuration"));
        assert!(load(&empty.path().join("x"), None).unwrap_err().to_string().contains("--cni-conf-dir"));
    }

    #[test]
    fn the_newest_version_that_all_speak_is_spoken() {
        let offered = |versions: &str| {
            let text = format!(r#"{{"name": "n", {versions} "plugins": [{{"type": "ptp"}}, {{"type": "portmap"}}]}}"#);
            parse(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap()).unwrap()
        };
        let many = r#""cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0", "2.0.0"],"#;
        let settled = |versions, spoken| offered(versions).settle(&said(spoken)).map(|list| list.version);
        assert_eq!(settled(many, &["0.4.0", "1.0.0"]).unwrap(), Version::V1_0_0);
        assert_eq!(settled(many, &["0.4.0", "1.0.0", "1.1.0"]).unwrap(), Version::V1_1_0);
        assert_eq!(settled("", &["0.3.1", "0.4.0"]).unwrap(), Version::V0_4_0);
        let error = settled(r#""cniVersion": "1.1.0","#, &["0.4.0", "1.0.0"]).unwrap_err().to_string();
        assert!(error.contains("says CNI 1.1.0, and plugin ptp speaks 0.4.0, 1.0.0"), "{error}");
    }
}
