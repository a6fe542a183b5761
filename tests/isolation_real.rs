//! What an operator sets of containers' isolation, from inside, and over a restart with other settings.
//! Needs root and a containerd.

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/census.rs"]
mod census;
mod cli_support;
#[path = "common/rootfs.rs"]
mod rootfs;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/server.rs"]
mod server;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "common/wire.rs"]
mod wire;

use cli_support::{Said, finished, gardend_at};
use server::Server;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A gardend, and a rootfs for containers.
struct Node {
    server: Server,
    rootfs: String,
}

impl Node {
    fn start(arguments: &[&str]) -> Self {
        let server = Server::start(arguments);
        let rootfs = rootfs::unprivileged(&server.scratch().join("rootfs")).to_str().unwrap().to_owned();
        std::fs::create_dir(Path::new(&rootfs).join("mnt")).unwrap();
        Self { server, rootfs }
    }

    fn said(&self, args: &[&str]) -> Said {
        finished(gardend_at(&self.server.garden.address.to_string(), args))
    }

    fn create(&self, handle: &str, flags: &[&str]) {
        let said = self.said(&[&["create", handle, "--rootfs", &self.rootfs], flags].concat());
        assert_eq!(said.status, 0, "{said:?}\n{}", self.server.log_end());
    }

    /// What a shell's script says in a container.
    fn script(&self, handle: &str, script: &str) -> String {
        let said = self.said(&["run", handle, "--", "sh", "-c", script]);
        format!("{}{}", said.stdout, said.stderr)
    }

    /// The ids of all places' folders.
    fn places(&self) -> Vec<String> {
        let folders = std::fs::read_dir(self.server.run().join("places")).unwrap();
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn place_of(&self, handle: &str) -> String {
        let info: serde_json::Value = serde_json::from_str(&self.said(&["info", handle, "--json"]).stdout).unwrap();
        info["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }
}

/// Busybox and the kernel have several words for it.
fn is_refusal(said: &str) -> bool {
    let said = said.to_lowercase();
    ["denied", "not permitted"].iter().any(|words| said.contains(words))
}

const MOUNT: &str = "mount -t tmpfs none /mnt && echo mounted";

#[test]
fn privileged_containers_get_what_the_mode_says() {
    let node = Node::start(&["--pool-size", "0"]);
    node.create("full", &["--privileged"]);
    assert_eq!(node.script("full", MOUNT), "mounted\n");
    assert_eq!(node.script("full", "grep -c ' 4294967295$' /proc/self/uid_map"), "1\n");
    drop(node);

    let node = Node::start(&["--pool-size", "0", "--privileged-mode", "fuse-only"]);
    node.create("fuse", &["--privileged"]);
    node.create("plain", &[]);
    assert_eq!(node.script("fuse", MOUNT), "mounted\n");
    assert!(is_refusal(&node.script("plain", MOUNT)));
    assert_eq!(node.script("fuse", "head -n 1 /proc/self/uid_map | tr -s ' '"), " 0 4294967294 1\n");
    let within = "unshare -m -p -f sh -c 'mount -t proc proc /proc && echo pid $$'";
    assert_eq!(node.script("fuse", within), "pid 1\n");
    assert_eq!(node.script("fuse", "test -c /dev/kmsg || echo none"), "none\n", "none of the machine's devices");
    // Nothing is hidden in its /proc, and nothing there is its to write. (`h`: sysrq's help.)
    for file in ["/proc/sys/kernel/panic", "/proc/sysrq-trigger"] {
        if Path::new(file).exists() {
            let said = node.script("fuse", &format!("echo h > {file}"));
            assert!(is_refusal(&said), "{file}: {said}");
        }
    }
    if let Ok(fuse) = std::fs::metadata("/dev/fuse") {
        // Where others may open it, so may who is others there; where not, gardend has said so.
        match fuse.permissions().mode() & 0o6 {
            0o6 => assert_eq!(node.script("fuse", "exec 3<>/dev/fuse && echo open"), "open\n"),
            _ => assert!(node.server.log_end().contains("let others open it"), "{}", node.server.log_end()),
        }
        assert_eq!(node.script("fuse", "stat -c '%t:%T' /dev/fuse"), "a:e5\n");
    }
    drop(node);

    let node = Node::start(&["--pool-size", "0", "--privileged-mode", "ignore"]);
    node.create("ignored", &["--privileged"]);
    assert!(is_refusal(&node.script("ignored", MOUNT)));
    assert_eq!(node.script("ignored", "head -n 1 /proc/self/uid_map | tr -s ' '"), " 0 4294967294 1\n");
}

#[test]
fn a_seccomp_profile_and_allowed_devices_are_seen_inside() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sethostname", "chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
    std::fs::write(&profile, rules).unwrap();
    let node = Node::start(&[
        "--pool-size",
        "0",
        "--seccomp-profile",
        profile.to_str().unwrap(),
        "--allowed-device",
        "/dev/kmsg:r",
    ]);
    node.create("c", &[]);
    assert!(node.script("c", "chroot / true").to_lowercase().contains("not supported"), "as the profile has it");
    assert_eq!(node.script("c", "grep Seccomp: /proc/self/status"), "Seccomp:\t2\n");
    assert_eq!(node.script("c", "stat -c '%t:%T' /dev/kmsg"), "1:b\n");
    assert!(is_refusal(&node.script("c", "exec 3>/dev/kmsg")));
    drop(node);

    let node = Node::start(&["--pool-size", "0", "--seccomp-profile", "unconfined"]);
    node.create("c", &[]);
    assert_eq!(node.script("c", "grep Seccomp: /proc/self/status"), "Seccomp:\t0\n");
    drop(node);

    std::fs::write(&profile, "{}").unwrap();
    let (status, said) = Server::new(&["--seccomp-profile", profile.to_str().unwrap()]).refused();
    assert!(!status.success() && said.contains("missing field `defaultAction`"), "{said}");
}

#[test]
fn a_pooled_place_of_other_settings_is_not_reused_after_a_restart() {
    let mut node = Node::start(&["--pool-size", "2"]);
    let pooled = |node: &Node, count: usize| {
        cli_support::eventually("the pool is full", || (node.places().len() == count).then(|| node.places()))
    };
    let first = pooled(&node, 2);
    node.server.kill();
    node.server.restart();
    node.create("kept", &[]);
    assert!(first.contains(&node.place_of("kept")), "with the same settings it is taken over");
    let before = pooled(&node, 3);
    node.server.kill();
    node.server.add_arguments(&["--seccomp-profile", "unconfined"]);
    node.server.restart();
    node.create("new", &[]);
    assert!(!before.contains(&node.place_of("new")));
    assert_eq!(node.script("new", "grep Seccomp: /proc/self/status"), "Seccomp:\t0\n");
    assert_eq!(
        node.script("kept", "grep Seccomp: /proc/self/status"),
        "Seccomp:\t2\n",
        "a container keeps what it has"
    );
    cli_support::eventually("the old ones are gone", || {
        let (now, kept) = (node.places(), node.place_of("kept"));
        before.iter().all(|id| *id == kept || !now.contains(id)).then_some(())
    });
}
