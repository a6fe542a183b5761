//! Metrics, which later versions have. A bulk call fails for each container by itself, as always.

use super::containers::{handles, must_exist};
use crate::garden::Garden;
use crate::garden::answer::{Answer, Json, Refusal, not_available_yet};
use crate::garden::names::{Names, Query};
use crate::garden::wire::{GardenError, MetricsEntry, Nothing};
use axum::extract::State;
use std::collections::BTreeMap;

pub(crate) async fn metrics(State(garden): State<Garden>, names: Names) -> Answer {
    must_exist(&garden, &names.handle)?;
    Err(Refusal::not_available("metrics"))
}

pub(crate) async fn bulk_metrics(State(garden): State<Garden>, query: Query) -> Json<BTreeMap<String, MetricsEntry>> {
    let entry = |handle: String| {
        let err = match garden.controller.info(&handle) {
            Ok(_) => not_available_yet("bulk_metrics"),
            Err(error) => GardenError::from(&error),
        };
        (handle, MetricsEntry { metrics: Nothing {}, err })
    };
    Json(handles(query).into_iter().map(entry).collect())
}
