//! Files of hooks, as container engines read them (oci-hooks(5)): a program of the OCI runtime
//! specification, and when it is run.

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a hook may take that does not say.
const USUAL_DEADLINE: Duration = Duration::from_secs(30);
/// The only version of the format.
const VERSION: &str = "1.0.0";

/// When hooks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A container has its root and is not told to anybody yet (`prestart`, `createRuntime`).
    Created,
    /// The same, after those (`poststart`).
    Started,
    /// It is dead (`poststop`).
    Stopped,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Hook {
    pub path: PathBuf,
    /// With its own name before them.
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    timeout: Option<u64>,
}

impl Hook {
    pub fn deadline(&self) -> Duration {
        self.timeout.map_or(USUAL_DEADLINE, Duration::from_secs)
    }
}

/// The hooks of a folder, each moment's in the order of the files' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct All {
    pub created: Vec<Hook>,
    pub started: Vec<Hook>,
    pub stopped: Vec<Hook>,
}

impl All {
    pub fn at(&self, moment: Moment) -> &[Hook] {
        match moment {
            Moment::Created => &self.created,
            Moment::Started => &self.started,
            Moment::Stopped => &self.stopped,
        }
    }
}

#[derive(Deserialize)]
struct File {
    version: String,
    hook: Hook,
    #[serde(default)]
    when: serde_json::Map<String, serde_json::Value>,
    stages: Vec<String>,
}

/// Reads all files of a folder.
pub(super) fn read_all(folder: &Path) -> Result<All, String> {
    let at = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let entries = std::fs::read_dir(folder).map_err(|error| at(folder, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| at(folder, &error))?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    let mut all = All::default();
    for path in files {
        let text = std::fs::read(&path).map_err(|error| at(&path, &error))?;
        let file = serde_json::from_slice(&text).map_err(|error| at(&path, &error))?;
        add(&mut all, file).map_err(|error| at(&path, &error))?;
    }
    Ok(all)
}

fn add(all: &mut All, file: File) -> Result<(), String> {
    let File { version, hook, when, stages } = file;
    if version != VERSION {
        return Err(format!("its version is {version:?}; it is to be {VERSION:?}"));
    }
    if !hook.path.is_absolute() {
        return Err(format!("the hook's path {} does not begin with /", hook.path.display()));
    }
    if hook.timeout == Some(0) {
        return Err("the hook's timeout is 0; say seconds, or leave it out".to_owned());
    }
    // The worker that has this setting runs every hook for every container.
    if let Some(condition) = when.keys().find(|key| *key != "always") {
        return Err(format!(
            "it is run for some containers only (when: {condition}), which gardend does not tell apart; say {{\"always\": true}}"
        ));
    }
    if when.get("always") == Some(&serde_json::Value::Bool(false)) {
        return Ok(());
    }
    for stage in stages {
        match stage.as_str() {
            "prestart" | "createRuntime" => all.created.push(hook.clone()),
            "poststart" => all.started.push(hook.clone()),
            "poststop" => all.stopped.push(hook.clone()),
            "createContainer" | "startContainer" => {
                return Err(format!(
                    "the stage {stage} is run within a container before its first program, and gardend's have their init before they have their root; use createRuntime"
                ));
            }
            other => {
                return Err(format!(
                    "there is no stage {other:?}; there are prestart, createRuntime, poststart and poststop"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<All, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        read_all(folder.path())
    }

    #[test]
    fn hooks_are_taken_in_the_order_of_their_files() {
        let first = r#"{"version": "1.0.0", "hook": {"path": "/a", "args": ["a", "b"], "timeout": 5}, "when": {"always": true}, "stages": ["createRuntime", "poststop"]}"#;
        let second = r#"{"version": "1.0.0", "hook": {"path": "/b"}, "stages": ["prestart", "poststart"]}"#;
        let off = r#"{"version": "1.0.0", "hook": {"path": "/c"}, "when": {"always": false}, "stages": ["prestart"]}"#;
        let all = read(&[("2.json", second), ("1.json", first), ("3.json", off), ("0.txt", "x")]).unwrap();
        let paths = |hooks: &[Hook]| hooks.iter().map(|hook| hook.path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(all.at(Moment::Created)), ["/a", "/b"]);
        assert_eq!(paths(all.at(Moment::Started)), ["/b"]);
        assert_eq!(paths(all.at(Moment::Stopped)), ["/a"]);
        assert_eq!((all.created[0].deadline().as_secs(), all.created[1].deadline()), (5, USUAL_DEADLINE));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_file() {
        for (text, words) in [
            ("{", "EOF"),
            (r#"{"version": "2", "hook": {"path": "/a"}, "stages": []}"#, "version is \"2\""),
            (r#"{"version": "1.0.0", "hook": {"path": "a"}, "stages": []}"#, "does not begin with /"),
            (r#"{"version": "1.0.0", "hook": {"path": "/a", "timeout": 0}, "stages": []}"#, "timeout is 0"),
            (
                r#"{"version": "1.0.0", "hook": {"path": "/a"}, "when": {"commands": ["x"]}, "stages": []}"#,
                "when: commands",
            ),
            (r#"{"version": "1.0.0", "hook": {"path": "/a"}, "stages": ["startContainer"]}"#, "use createRuntime"),
            (r#"{"version": "1.0.0", "hook": {"path": "/a"}, "stages": ["x"]}"#, "no stage \"x\""),
        ] {
            let error = read(&[("1.json", text)]).unwrap_err();
            assert!(error.contains("1.json") && error.contains(words), "{text}: {error}");
        }
        assert!(read_all(Path::new("/nowhere")).unwrap_err().contains("/nowhere"));
    }
}
