//! Builds garden-init statically and leaves it in `$OUT_DIR/garden-init`, so that gardend embeds it:
//! `include_bytes!(concat!(env!("OUT_DIR"), "/garden-init"))`.
//!
//! It is a cargo run of its own, in a target folder of its own: init wants other code generation
//! flags (static, small, abort) than the rest of the workspace, whatever the outer profile is.
//! With `GARDEND_INIT_BINARY=PATH` that file is embedded instead and nothing is built.
//!
//! A release build is told what it is built from, `GARDEND_COMMIT`, which `gardend --version` prints: by
//! that variable, or else by git. Other builds are not, since each commit would cost them a build.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the init is built from; anything else leaves it as it is.
const SOURCES: [&str; 4] = ["init/src", "init/Cargo.toml", "Cargo.toml", "Cargo.lock"];

/// What the program was built from, told to it and, by packagers without git, to this script.
const COMMIT: &str = "GARDEND_COMMIT";

/// Names a file that is embedded instead of a fresh build.
const PREBUILT: &str = "GARDEND_INIT_BINARY";

/// The init's profile, whatever the workspace's release profile is.
const PROFILE: [&str; 6] = [
    "profile.release.opt-level=\"s\"",
    "profile.release.lto=\"fat\"",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
    "profile.release.strip=\"symbols\"",
    "profile.release.debug=false",
];

fn main() {
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    stamp();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    if env::var_os("CARGO_CFG_TARGET_OS").is_none_or(|system| system != "linux") {
        // A command line alone: there are no places for an init.
        return;
    }
    let result = match env::var_os(PREBUILT) {
        Some(path) => prebuilt(Path::new(&path)),
        None => build(),
    };
    if let Err(reason) = result.and_then(|binary| embed(&binary)) {
        println!("cargo::error={reason}");
        std::process::exit(1);
    }
}

/// Tells the program its commit, the day of that, and what it is built for.
fn stamp() {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let told = env::var(COMMIT).ok().filter(|commit| !commit.is_empty());
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = told.or_else(|| if release { commit() } else { None }).unwrap_or_default();
    println!("cargo::rustc-env={COMMIT}={commit}");
    let of = |name| env::var(name).unwrap_or_default();
    println!("cargo::rustc-env=GARDEND_BUILD={} {}", of("TARGET"), of("PROFILE"));
}

/// The commit that is checked out and its day; `-dirty` where the sources differ from it. `None` where
/// these are no sources under git.
fn commit() -> Option<String> {
    for source in SOURCES.into_iter().chain(["src", "controller", "crds", "build.rs"]) {
        println!("cargo::rerun-if-changed={source}");
    }
    // Grows with each commit and each change of branch.
    println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    let commit = git(&["log", "-1", "--abbrev=12", "--date=short", "--format=%h %cd"])?;
    let (hash, day) = commit.split_once(' ')?;
    let dirty = if git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { "-dirty" };
    Some(format!("{hash}{dirty} {day}"))
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn prebuilt(path: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().is_empty() {
        return Err(format!("{PREBUILT} is empty; give it a static garden-init, or unset it to have one built"));
    }
    println!("cargo::rerun-if-changed={}", path.display());
    Ok(path.to_path_buf())
}

fn build() -> Result<PathBuf, String> {
    let target = variable("TARGET")?;
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("init-build");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(&root).args(["build", "--quiet", "--release", "--package=garden-init", "--bin=garden-init"]);
    // The outer cargo has just written the lock file and fetched every dependency of the library
    // of the same name: there is nothing left to resolve or to download.
    cargo.arg("--frozen").arg("--target").arg(&target).arg("--target-dir").arg(&target_dir);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_outer_build(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    // Takes precedence over every other source of flags. With --target it leaves proc macros alone.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", ["-C", "target-feature=+crt-static"].join("\u{1f}"));
    let output = cargo.output().map_err(|error| format!("cannot run cargo to build garden-init: {error}"))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(format!(
            "garden-init could not be built statically for {} ({}); its messages are above. It needs the C library's \
             static archive (libc6-dev, glibc-static), or set {PREBUILT} to a binary built elsewhere",
            target.to_string_lossy(),
            output.status
        ));
    }
    Ok(target_dir.join(&target).join("release/garden-init"))
}

/// Variables that describe the outer build (or the lint run that it is) and must not shape this one.
fn is_of_the_outer_build(name: &str) -> bool {
    let whole = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_ARGS",
        "OUT_DIR",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_MANIFEST_LINKS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_BUILD_BUILD_DIR",
    ];
    let beginnings = ["CARGO_PKG_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PROFILE_", "DEP_"];
    whole.contains(&name) || beginnings.iter().any(|beginning| name.starts_with(beginning))
}

fn embed(binary: &Path) -> Result<(), String> {
    let bytes =
        fs::read(binary).map_err(|error| format!("cannot read garden-init at {}: {error}", binary.display()))?;
    match needs_a_loader(&bytes) {
        Some(false) => {}
        Some(true) => {
            return Err(format!(
                "{} is dynamically linked; pid 1 of a container must be static, since the blank rootfs holds nothing else",
                binary.display()
            ));
        }
        None => return Err(format!("{} is not a 64-bit little-endian ELF executable", binary.display())),
    }
    let place = PathBuf::from(variable("OUT_DIR")?).join("garden-init");
    fs::write(&place, bytes).map_err(|error| format!("cannot write {}: {error}", place.display()))
}

/// Whether an ELF file has a program header of type PT_INTERP; `None` where it is no such file.
fn needs_a_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(elf.get(at..at.checked_add(8)?)?.try_into().ok()?));
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let (table, entry, count) = (usize::try_from(long(32)?).ok()?, usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..count {
        if word(table.checked_add(index * entry)?)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; this is a build script that cargo runs"))
}
