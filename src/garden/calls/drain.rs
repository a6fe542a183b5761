//! Calls about draining the node: gardend's own. Each answers how far it is.

use crate::garden::Garden;
use crate::garden::answer::{Answer, Json};
use crate::garden::body::read_json;
use crate::garden::wire::{DrainAsked, DrainStand};
use axum::body::Body;
use axum::extract::State;

pub(crate) async fn view(State(garden): State<Garden>) -> Json<DrainStand> {
    Json(garden.controller.drain_view().into())
}

pub(crate) async fn begin(State(garden): State<Garden>, body: Body) -> Answer<DrainStand> {
    let asked: DrainAsked = read_json(body, "how far to drain, as in {\"drain\":\"refuse\"}").await?;
    garden.controller.drain(asked.drain()?).await?;
    Ok(view(State(garden)).await)
}

pub(crate) async fn end(State(garden): State<Garden>) -> Answer<DrainStand> {
    garden.controller.undrain().await?;
    Ok(view(State(garden)).await)
}
