//! check
use super::containerd::Runtime;
use super::place::Folders;
use std::path::PathBuf;
/// What is checked.
pub struct Subject {
    /// f
    pub folders: Folders,
    /// c
    pub containerd: super::containerd::Endpoint,
    /// s
    pub socket: Option<PathBuf>,
    /// r
    pub runtime: Runtime,
}
/// Report.
pub struct Report {
    /// l
    pub lines: Vec<Line>,
}
/// Line.
pub struct Line {
    /// n
    pub name: String,
    /// v
    pub verdict: Verdict,
    /// f
    pub found: String,
    /// r
    pub remedy: Option<String>,
}
/// Verdict.
pub enum Verdict {
    /// o
    Ok,
    /// w
    Warn,
    /// f
    Fail,
}
impl Report {
    /// f
    pub fn failures(&self) -> Vec<String> {
        vec![]
    }
}
/// run
pub async fn run(_: &Subject) -> Report {
    Report { lines: vec![] }
}
