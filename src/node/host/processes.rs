//! Processes and tar streams in the host's terms: names below the container's folder, users that
//! gardend may become, and the environment that programs of this machine expect. What then happens
//! is [`ProcessNode`]'s.

use super::users::{UserError, Users};
use super::{kill, paths, root_link};
use crate::node::place::Folders;
use crate::node::process::ProcessNode;
use async_trait::async_trait;
use gardend_controller::ports::{
    FileStream, Files, FilesError, NodeError, ProcessEvent, ProcessSeen, Processes, Signal, SpawnError,
};
use gardend_controller::record::{ProcessSpec, ProcessUid, SandboxId};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// What programs of this machine are found by, and speak in. The rest of gardend's environment is its
/// own: it may hold what is nobody else's.
const HANDED_DOWN: [&str; 6] = ["PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SHELL"];

/// See the module.
#[derive(Clone)]
pub struct HostProcesses {
    inner: ProcessNode,
    folders: Folders,
    users: Users,
    environment: Vec<String>,
}

impl HostProcesses {
    /// With gardend's own environment, of which some is handed down.
    pub fn new(inner: ProcessNode, folders: Folders) -> Self {
        Self { inner, folders, users: Users::of_this_process(), environment: handed_down(std::env::vars_os()) }
    }

    /// The folder of the container that has the place.
    fn root(&self, sandbox: &SandboxId) -> io::Result<PathBuf> {
        std::fs::read_link(root_link(&self.folders, sandbox))
    }

    fn wanted(&self, sandbox: &SandboxId, spec: &ProcessSpec) -> Result<ProcessSpec, SpawnError> {
        if spec.image.is_some() {
            let words = "a process cannot have an image of its own: this gardend runs on the machine's own root \
                         (--backend host); ask for none";
            return Err(SpawnError::Other(words.into()));
        }
        if spec.limits.any() {
            tracing::warn!(program = %spec.path, "limits of a process are not enforced (--backend host)");
        }
        let root = self.root(sandbox).map_err(|error| SpawnError::InitGone { reason: error.to_string() })?;
        let asked = spec.user.clone().unwrap_or_default();
        let user = self.users.resolve(&asked).map_err(|error| match error {
            UserError::Unknown => SpawnError::UnknownUser { user: asked },
            UserError::UnknownGroup(group) => SpawnError::UnknownGroup { group },
            UserError::NotAllowed(words) => SpawnError::Other(words),
        })?;
        let dir = paths::below(&root, spec.dir.as_deref().unwrap_or_default());
        Ok(ProcessSpec { dir: Some(text(&dir)), user: Some(user), ..spec.clone() })
    }

    /// User and path of a tar stream.
    fn located(&self, sandbox: &SandboxId, user: &str, path: &str) -> Result<(String, String), FilesError> {
        let root = self.root(sandbox).map_err(|error| FilesError::NoAnswer { reason: error.to_string() })?;
        let user = self.users.resolve(user).map_err(|error| match error {
            UserError::Unknown => FilesError::UnknownUser { user: user.to_owned() },
            UserError::UnknownGroup(group) => FilesError::UnknownGroup { group },
            UserError::NotAllowed(words) => FilesError::Other(words),
        })?;
        Ok((user, text(&paths::below(&root, path))))
    }
}

/// Folders of ours are UTF-8, or gardend has refused to start.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn handed_down(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let text = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let wanted = text.filter(|(name, _)| HANDED_DOWN.contains(&name.as_str()) || name.starts_with("LC_"));
    wanted.map(|(name, value)| format!("{name}={value}")).collect()
}

#[async_trait]
impl Processes for HostProcesses {
    async fn connect(&self, sandbox: &SandboxId) -> Result<Vec<ProcessSeen>, NodeError> {
        self.inner.connect(sandbox).await
    }

    async fn disconnect(&self, sandbox: &SandboxId) {
        self.inner.disconnect(sandbox).await;
    }

    async fn spawn(
        &self,
        sandbox: &SandboxId,
        process: &ProcessUid,
        env: &[String],
        spec: &ProcessSpec,
    ) -> Result<u32, SpawnError> {
        let spec = self.wanted(sandbox, spec)?;
        let env: Vec<String> = self.environment.iter().chain(env).cloned().collect();
        // The mark is the last word, so that nobody is found under another's.
        let spec = ProcessSpec { env: [spec.env, vec![kill::mark(sandbox)]].concat(), ..spec };
        self.inner.spawn(sandbox, process, &env, &spec).await
    }

    async fn signal(&self, sandbox: &SandboxId, process: &ProcessUid, signal: Signal) -> Result<(), NodeError> {
        self.inner.signal(sandbox, process, signal).await
    }

    async fn signal_all(&self, sandbox: &SandboxId, signal: Signal) -> Result<(), NodeError> {
        self.inner.signal_all(sandbox, signal).await
    }

    async fn occupied(&self, sandbox: &SandboxId) -> Result<bool, NodeError> {
        self.inner.occupied(sandbox).await
    }

    async fn acknowledge(&self, sandbox: &SandboxId, process: &ProcessUid) -> Result<(), NodeError> {
        self.inner.acknowledge(sandbox, process).await
    }

    fn events(&self) -> mpsc::Receiver<ProcessEvent> {
        self.inner.events()
    }
}

#[async_trait]
impl Files for HostProcesses {
    async fn stream_in(&self, sandbox: &SandboxId, user: &str, destination: &str) -> Result<FileStream, FilesError> {
        let (user, destination) = self.located(sandbox, user, destination)?;
        self.inner.stream_in(sandbox, &user, &destination).await
    }

    async fn stream_out(&self, sandbox: &SandboxId, user: &str, source: &str) -> Result<FileStream, FilesError> {
        let (user, source) = self.located(sandbox, user, source)?;
        self.inner.stream_out(sandbox, &user, &source).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_of_gardends_environment_is_handed_down() {
        let all = [("PATH", "/bin"), ("AWS_SECRET", "x"), ("LC_ALL", "C"), ("GARDEND_LISTEN", "y"), ("HOME", "/root")];
        let all = all.into_iter().map(|(name, value)| (name.into(), value.into()));
        assert_eq!(handed_down(all), ["PATH=/bin", "LC_ALL=C"]);
    }
}
