//! Hooks of an operator's: programs that are run when a container has been made and when it is gone, with
//! its state on stdin, as the OCI runtime specification has them.
//!
//! A runtime would run them when a blank place is made, which is nobody's container yet; so gardend runs
//! them itself, around another [`Rootfs`]. What a container's hooks were told is in the run folder before
//! the first is run, until those of its end have been: each container whose hooks were begun has them.
//!
//! Promises: a hook that fails, or is not done by its deadline, fails the furnishing. One of the end is
//! logged and keeps nothing. None is run twice for one place, but for one of the end that a death of
//! gardend's broke off.

mod file;

use crate::node::place::{Folders, InitProcess};
use crate::node::program::{self, Heard, Outcome};
use async_trait::async_trait;
use file::{All, Hook, Moment};
use gardend_controller::ports::{NetworkWanted, NodeError, NodeErrorKind, Rootfs};
use gardend_controller::record::{ContainerSpec, ContainerUid, Handle, SandboxId};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of the specification whose states these are.
const OCI: &str = "1.0.2";
/// What is told of a hook's output, in bytes.
const SHOWN: u64 = 500;
/// Where hooks were told that a container is; they find its configuration there.
const STATE: &str = "state.json";

/// A [`Rootfs`] with hooks.
pub struct Hooked<R> {
    inner: R,
    hooks: All,
    folders: Folders,
}

impl<R: Rootfs> Hooked<R> {
    /// Reads the hooks of a folder.
    ///
    /// # Errors
    /// Names the file that makes no sense, and what to do.
    pub fn new(inner: R, hooks: &Path, folders: Folders) -> Result<Self, String> {
        let hooks = file::read_all(hooks)?;
        let all = folders.hook_bundles();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&all);
        made.map_err(|error| format!("{}: {error}", all.display()))?;
        Ok(Self { inner, hooks, folders })
    }

    /// A container's bundle, as hooks are told it.
    fn bundle(&self, container: &ContainerUid) -> PathBuf {
        self.folders.hook_bundles().join(container.to_string())
    }

    /// Those of a container's beginning.
    async fn begin(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        handle: &Handle,
        spec: &ContainerSpec,
    ) -> Result<(), NodeError> {
        let bundle = self.bundle(container);
        let init = InitProcess::read(&self.folders.place(sandbox)).ok().flatten();
        let init =
            init.ok_or_else(|| NodeError::new(NodeErrorKind::Failed, format!("the init of place {sandbox} is gone")))?;
        let state = json!({
            "ociVersion": OCI, "id": sandbox.as_str(), "status": "created", "pid": init.pid, "bundle": bundle,
            "annotations": { "gardend.dev/handle": handle.as_str(), "gardend.dev/uid": container.to_string() },
        });
        let root = format!("/proc/{}/root", init.pid);
        let config = json!({
            "ociVersion": OCI, "root": { "path": root }, "process": { "env": spec.base_env(), "cwd": "/" },
            "annotations": state["annotations"],
        });
        write(&bundle, &state, &config).map_err(|error| {
            NodeError::new(
                NodeErrorKind::Failed,
                format!("recording what hooks are told in {}: {error}", bundle.display()),
            )
        })?;
        for (moment, status) in [(Moment::Created, "created"), (Moment::Started, "running")] {
            for hook in self.hooks.at(moment) {
                let mut state = state.clone();
                state["status"] = json!(status);
                run(hook, &state).await.map_err(|error| NodeError::new(NodeErrorKind::Failed, error))?;
            }
        }
        Ok(())
    }

    /// Those of its end, where those of its beginning were begun.
    async fn finish(&self, container: &ContainerUid) -> io::Result<()> {
        let bundle = self.bundle(container);
        let text = match std::fs::read(bundle.join(STATE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut state: Value = serde_json::from_slice(&text)?;
        state["status"] = json!("stopped");
        state["pid"] = json!(0);
        for hook in self.hooks.at(Moment::Stopped) {
            if let Err(error) = run(hook, &state).await {
                tracing::warn!(%container, error, "a hook of a container's end failed");
            }
        }
        std::fs::remove_dir_all(bundle)
    }
}

fn write(bundle: &Path, state: &Value, config: &Value) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(bundle)?;
    // The state last: with it the bundle is one.
    for (name, value) in [("config.json", config), (STATE, state)] {
        let new = bundle.join(format!("{name}.new"));
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, value.to_string().as_bytes())?;
        std::fs::rename(new, bundle.join(name))?;
    }
    Ok(())
}

async fn run(hook: &Hook, state: &Value) -> Result<(), String> {
    let path = hook.path.display();
    let mut command = tokio::process::Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|pair| pair.split_once('='))).current_dir("/");
    let input = state.to_string().into_bytes();
    let ran = program::run(&mut command, input, Heard::Complaint(SHOWN), hook.deadline()).await;
    match ran.map_err(|error| format!("hook {path} cannot be run: {error}"))? {
        Outcome::Ended(status, _) if status.success() => Ok(()),
        Outcome::Ended(status, said) => {
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            Err(format!("hook {path} ended with {}{said}", program::ended_with(status)))
        }
        Outcome::TooLong | Outcome::Late => {
            Err(format!("hook {path} was not done within {} s, and was killed", hook.deadline().as_secs()))
        }
    }
}

#[async_trait]
impl<R: Rootfs> Rootfs for Hooked<R> {
    async fn check(&self, spec: &ContainerSpec) -> Result<(), NodeError> {
        self.inner.check(spec).await
    }

    async fn furnish(
        &self,
        sandbox: &SandboxId,
        container: &ContainerUid,
        handle: &Handle,
        spec: &ContainerSpec,
        network: Option<&NetworkWanted>,
    ) -> Result<(), NodeError> {
        // What it was in before has ended.
        self.finish(container).await.map_err(|error| {
            NodeError::new(NodeErrorKind::Failed, format!("running the hooks of the place before: {error}"))
        })?;
        self.inner.furnish(sandbox, container, handle, spec, network).await?;
        self.begin(sandbox, container, handle, spec).await
    }

    async fn release(&self, container: &ContainerUid) -> Result<(), NodeError> {
        self.finish(container)
            .await
            .map_err(|error| NodeError::new(NodeErrorKind::Failed, format!("running the hooks of its end: {error}")))?;
        self.inner.release(container).await
    }

    async fn list(&self) -> Result<Vec<ContainerUid>, NodeError> {
        let mut all: BTreeSet<ContainerUid> = self.inner.list().await?.into_iter().collect();
        let bundles = std::fs::read_dir(self.folders.hook_bundles());
        let names = bundles.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        all.extend(names.filter_map(|name| serde_json::from_value(json!(name)).ok()));
        Ok(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
