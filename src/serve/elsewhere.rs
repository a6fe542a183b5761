//! `gardend serve` and `check` where there is no Linux: they say so. The client commands work.

use anyhow::{Result, bail};
use gardend::cli::check::{CensusRows, CheckRow, CheckStatus};
use gardend::config::{ServeConfig, Sources};

const REMEDY: &str = "serve on a Linux machine, and reach it from here by --target";

/// Refuses, once the options were understood.
pub async fn serve(sources: Sources) -> Result<()> {
    sources.validate()?;
    bail!("gardend serve needs Linux, with --backend host too, and this is {}; {REMEDY}", std::env::consts::OS)
}

/// The one thing that there is to say.
pub async fn rows(_config: ServeConfig) -> Result<Vec<CheckRow>> {
    let (name, found) = ("system".to_owned(), std::env::consts::OS.to_owned());
    Ok(vec![CheckRow { name, status: CheckStatus::Fail, found, remedy: Some(REMEDY.to_owned()) }])
}

/// The one thing that there is to say.
pub async fn census(_config: ServeConfig) -> Result<CensusRows> {
    bail!("gardend check --leaks needs Linux, and this is {}; {REMEDY}", std::env::consts::OS)
}
