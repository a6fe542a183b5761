//! Tables as text, for scripts.

use super::super::outcome::Failure;
use super::super::output::Ui;
use super::super::signals::Endings;
use super::model::{Column, Model};
use super::view::cells;
use super::watch::Watch;
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// Over how long the first table's rates are taken, at most.
const FIRST: Duration = Duration::from_millis(500);

pub(super) async fn run(
    ui: &Ui,
    mut watch: Watch,
    mut model: Model,
    iterations: Option<NonZeroU64>,
    mut endings: Endings,
) -> Result<ExitCode, Failure> {
    let mut left = iterations.map(NonZeroU64::get);
    model.heard(Ok(watch.look().await?));
    let mut pause = watch.interval().min(FIRST);
    while left != Some(0) {
        let next = async {
            sleep(pause).await;
            watch.look().await
        };
        // A look that is called off has asked, and changed nothing.
        let sample = tokio::select! {
            sample = next => sample?,
            _ = endings.next() => return Ok(ExitCode::SUCCESS),
        };
        model.heard(Ok(sample));
        let rows = model.rows();
        let row = |row| cells(row, &model).map(|cell| cell.trim().into()).into_iter().collect();
        ui.table(&Column::ALL.map(Column::title), rows.iter().map(row).collect())?;
        left = left.map(|left| left - 1);
        if left != Some(0) {
            ui.text("\n")?;
        }
        pause = watch.interval();
    }
    Ok(ExitCode::SUCCESS)
}
