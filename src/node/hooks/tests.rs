//! Hooks that note what they are given, around a root file system that does nothing.

use super::*;
use std::sync::Mutex;

/// Notes what it is asked.
#[derive(Default)]
struct Plain {
    asked: Mutex<Vec<&'static str>>,
}

#[async_trait]
impl Rootfs for Plain {
    async fn check(&self, _spec: &ContainerSpec) -> Result<(), NodeError> {
        Ok(())
    }

    async fn furnish(
        &self,
        _sandbox: &SandboxId,
        _container: &ContainerUid,
        _handle: &Handle,
        _spec: &ContainerSpec,
        _network: Option<&NetworkWanted>,
    ) -> Result<(), NodeError> {
        self.asked.lock().unwrap().push("furnish");
        Ok(())
    }

    async fn release(&self, _container: &ContainerUid) -> Result<(), NodeError> {
        self.asked.lock().unwrap().push("release");
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ContainerUid>, NodeError> {
        Ok(Vec::new())
    }
}

struct World {
    folder: tempfile::TempDir,
    rootfs: Hooked<Plain>,
    container: ContainerUid,
}

impl World {
    /// With a hook at every moment that notes what it is given, and then does this.
    fn new(rest: &str, timeout: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["run/places", "hooks"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let program = folder.path().join("hook");
        let notes = folder.path().join("notes");
        let script = format!("#!/bin/sh\necho \"$1 $KIND $(cat)\" >>{}\n{rest}\n", notes.display());
        std::fs::write(&program, script).unwrap();
        let hook =
            json!({ "path": "/bin/sh", "args": ["hook", program, "word"], "env": ["KIND=k"], "timeout": timeout });
        let stages = ["createRuntime", "poststart", "poststop"];
        let file = json!({ "version": "1.0.0", "hook": hook, "when": { "always": true }, "stages": stages });
        std::fs::write(folder.path().join("hooks/1.json"), file.to_string()).unwrap();
        let folders = Folders::new(folder.path().join("state"), folder.path().join("run"));
        let rootfs = Hooked::new(Plain::default(), &folder.path().join("hooks"), folders).unwrap();
        Self { folder, rootfs, container: ContainerUid::generate() }
    }

    async fn furnish(&self) -> Result<SandboxId, NodeError> {
        let sandbox = SandboxId::generate();
        let place = self.rootfs.folders.place(&sandbox);
        std::fs::create_dir_all(&place).unwrap();
        InitProcess::of_pid(std::process::id()).unwrap().write(&place).unwrap();
        let spec = ContainerSpec { env: vec!["A=b".into()], ..ContainerSpec::default() };
        let handle = Handle::new("h").unwrap();
        self.rootfs.furnish(&sandbox, &self.container, &handle, &spec, None).await?;
        Ok(sandbox)
    }

    /// What hooks were given, each with its status and whose it was.
    fn notes(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.folder.path().join("notes")).unwrap_or_default();
        let note = |line: &str| {
            let state: Value = serde_json::from_str(line.strip_prefix("word k ").unwrap()).unwrap();
            assert_eq!(state["annotations"]["gardend.dev/handle"], "h");
            let pid = if state["status"] == "stopped" { 0 } else { std::process::id() };
            assert_eq!(state["pid"], pid);
            (state["status"].as_str().unwrap().to_owned(), state["id"].as_str().unwrap().to_owned())
        };
        text.lines().map(note).collect()
    }
}

#[tokio::test]
async fn hooks_are_run_when_a_container_has_its_root_and_when_it_is_gone() {
    let world = World::new("exit 0", 60);
    let sandbox = world.furnish().await.unwrap();
    let bundle = world.rootfs.bundle(&world.container);
    let config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["env"], json!(["A=b"]));
    assert_eq!(config["root"]["path"], format!("/proc/{}/root", std::process::id()));
    assert_eq!(world.rootfs.list().await.unwrap(), std::slice::from_ref(&world.container));
    for _ in 0..2 {
        world.rootfs.release(&world.container).await.unwrap();
    }
    assert!(!bundle.exists() && world.rootfs.list().await.unwrap().is_empty());
    let of = |status: &str| (status.to_owned(), sandbox.to_string());
    assert_eq!(world.notes(), [of("created"), of("running"), of("stopped")]);
    assert_eq!(*world.rootfs.inner.asked.lock().unwrap(), ["furnish", "release", "release"]);
}

#[tokio::test]
async fn a_container_that_is_made_again_has_ended_before() {
    let world = World::new("exit 0", 60);
    let (first, second) = (world.furnish().await.unwrap(), world.furnish().await.unwrap());
    let notes = world.notes();
    assert_eq!(notes[2], ("stopped".to_owned(), first.to_string()));
    assert_eq!(notes[3], ("created".to_owned(), second.to_string()));
}

#[tokio::test]
async fn a_hook_that_fails_or_hangs_fails_the_furnishing_and_keeps_no_end() {
    for (rest, timeout, words) in [
        ("echo no room >&2; exit 3", 60, "hook /bin/sh ended with status 3: no room"),
        ("sleep 1000", 1, "was not done within 1 s"),
    ] {
        let world = World::new(rest, timeout);
        let error = world.furnish().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(world.notes().len(), 1, "what comes after it is not run");
        world.rootfs.release(&world.container).await.unwrap();
        let statuses: Vec<String> = world.notes().into_iter().map(|(status, _)| status).collect();
        assert_eq!(statuses, ["created", "stopped"]);
    }
}
