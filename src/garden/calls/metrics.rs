//! Calls about what containers use. A bulk call fails for each container by itself.

use super::containers::handles;
use crate::garden::Garden;
use crate::garden::answer::{Answer, Json};
use crate::garden::names::{Names, Query};
use crate::garden::wire::{self, GardenError, MetricsEntry};
use axum::extract::State;
use std::collections::BTreeMap;

pub(crate) async fn metrics(State(garden): State<Garden>, names: Names) -> Answer<wire::Metrics> {
    let figures = garden.controller.metrics(&names.handle).await?;
    Ok(Json(wire::Metrics::of(figures, garden.facts.cpu_share())))
}

pub(crate) async fn bulk_metrics(State(garden): State<Garden>, query: Query) -> Json<BTreeMap<String, MetricsEntry>> {
    let share = garden.facts.cpu_share();
    let answers = garden.controller.bulk_metrics(handles(query)).await;
    let entry = |(handle, figures): (String, Result<_, gardend_controller::Error>)| {
        let metrics = figures.map(|figures| wire::Metrics::of(figures, share));
        (handle, metrics.map_err(|error| GardenError::from(&error)).into())
    };
    Json(answers.into_iter().map(entry).collect())
}
