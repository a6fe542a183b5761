//! Calls about limits in force.

use crate::garden::Garden;
use crate::garden::answer::{Answer, Json};
use crate::garden::names::Names;
use crate::garden::wire::{BandwidthLimits, CpuLimits, DiskLimits, MemoryLimits};
use axum::extract::State;

/// What was asked for: it comes into force with the network.
pub(crate) async fn bandwidth(State(garden): State<Garden>, names: Names) -> Answer<BandwidthLimits> {
    Ok(Json(garden.controller.limits(&names.handle).await?.into()))
}

pub(crate) async fn cpu(State(garden): State<Garden>, names: Names) -> Answer<CpuLimits> {
    Ok(Json(garden.controller.limits(&names.handle).await?.into()))
}

pub(crate) async fn disk(State(garden): State<Garden>, names: Names) -> Answer<DiskLimits> {
    Ok(Json(garden.controller.limits(&names.handle).await?.into()))
}

pub(crate) async fn memory(State(garden): State<Garden>, names: Names) -> Answer<MemoryLimits> {
    Ok(Json(garden.controller.limits(&names.handle).await?.into()))
}
