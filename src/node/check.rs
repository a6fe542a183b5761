//! Whether this node has what gardend needs, before anything is made of it.
//!
//! For: `gardend serve`, which refuses to start on a line that failed, and `gardend check`, which
//! prints them all. Every line says what was looked at, what was found, and where it is not as it
//! has to be, what to do. Nothing is changed on the node: probes are undone by the kernel when
//! their descriptors are closed.
//!
//! `kernel` looks at what the kernel offers, `network` at what containers' networks need, `programs` at containerd, its shim and the runtime,
//! `storage` at the folders.

mod kernel;
mod network;
mod programs;
mod storage;
mod version;

use super::containerd::{Endpoint, Runtime};
use super::network::{Policy, cni};
use super::place::Folders;
use serde::Serialize;
use std::path::PathBuf;

/// What is to be served with.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where things will be kept.
    pub folders: Folders,
    /// Which containerd.
    pub containerd: Endpoint,
    /// Where it listens, if it runs already.
    pub socket: Option<PathBuf>,
    /// Which runtime.
    pub runtime: Runtime,
    /// What makes containers' networks; `None`: they have none.
    pub network: Option<NetworkSubject>,
}

/// Who makes containers' networks.
#[derive(Clone, Debug)]
pub enum NetworkSubject {
    /// gardend itself, by these rules.
    Builtin(Policy),
    /// Plugins of CNI.
    Cni(cni::Options),
}

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it has to be.
    Ok,
    /// gardend serves, with less.
    Warn,
    /// gardend cannot serve.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where there is something to do.
    pub remedy: Option<String>,
}

impl Line {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// All that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One a check, in the order that they were made.
    pub lines: Vec<Line>,
}

impl Report {
    /// What keeps gardend from serving, each in a sentence with its remedy.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.lines.iter().filter(|line| line.verdict == Verdict::Fail);
        failed
            .map(|line| match &line.remedy {
                Some(remedy) => format!("{}: {} ({remedy})", line.name, line.found),
                None => format!("{}: {}", line.name, line.found),
            })
            .collect()
    }
}

/// Looks at what the backend `host` needs, which is little.
pub async fn run_on_host(folders: &Folders) -> Report {
    let folders = folders.clone();
    let lines = tokio::task::spawn_blocking(move || {
        let remedy = "for anything but development, use --backend containerd";
        let mut lines = vec![Line::warn("isolation", format!("none of {}", super::host::NOT_ISOLATED), remedy)];
        lines.extend(storage::writable_lines(&folders));
        lines
    });
    let cut_short =
        |_| vec![Line::fail("this node", "looking at it was cut short", "try again; gardend was shutting down")];
    Report { lines: lines.await.unwrap_or_else(cut_short) }
}

/// Looks at everything. Takes some milliseconds; programs that hang are given up on after seconds.
pub async fn run(subject: &Subject) -> Report {
    let (folders, runtime) = (subject.folders.clone(), subject.runtime.clone());
    let network = subject.network.clone();
    let host = tokio::task::spawn_blocking(move || {
        let mut lines = kernel::lines(&runtime);
        lines.extend(storage::lines(&folders));
        lines.extend(network.iter().flat_map(|subject| network::lines(subject, &folders)));
        lines
    });
    let (host, programs) = tokio::join!(host, programs::lines(subject));
    let mut lines = host.unwrap_or_else(|_| {
        vec![Line::fail("this node", "looking at it was cut short", "try again; gardend was shutting down")]
    });
    lines.extend(programs);
    Report { lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_serialises_and_its_failures_name_the_remedy() {
        let lines = vec![Line::ok("kernel", "6.1"), Line::fail("overlay", "missing", "modprobe overlay")];
        let report = Report { lines };
        assert_eq!(report.failures(), ["overlay: missing (modprobe overlay)"]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["lines"][1]["verdict"], "fail");
        assert_eq!(json["lines"][0]["remedy"], serde_json::Value::Null);
    }
}
