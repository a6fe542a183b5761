//! Calls about containers.

use super::Connection;
use crate::garden::Garden;
use crate::garden::answer::{Answer, DONE, Json};
use crate::garden::body::read_json;
use crate::garden::names::{Names, Query};
use crate::garden::wire::{ContainerInfo, ContainerSpec, Created, GardenError, InfoEntry, Listed, Stop, grace_time};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use gardend_controller::record::StopMode;
use std::collections::BTreeMap;

/// The filter under which a list also shows containers whose create is not finished.
const STATE_FILTER: &str = "garden.state";

/// A create whose client goes away is undone: the client will ask again with the same handle and
/// must not find it taken.
pub(crate) async fn create(
    State(garden): State<Garden>,
    Extension(exchange): Connection,
    body: Body,
) -> Answer<Created> {
    let spec: ContainerSpec =
        read_json(body, "a container spec, as in {\"handle\":\"name\"}; {} for all defaults").await?;
    let request = spec.into_request()?;
    // Dropping the create undoes it; the watch holds nothing.
    tokio::select! {
        biased;
        created = garden.controller.create(request) => Ok(Json(Created { handle: created? })),
        () = exchange.peer().gone() => {
            tracing::info!("the client went away before its container was made; the create is undone");
            let message = "the client closed its side of the connection before the container was made; nothing is left of it";
            Err(GardenError::plain(message).into())
        }
    }
}

pub(crate) async fn destroy(State(garden): State<Garden>, names: Names) -> Answer {
    garden.controller.destroy(&names.handle).await?;
    Ok(DONE)
}

pub(crate) async fn destroy_bulk_info(State(garden): State<Garden>) -> Answer {
    garden.controller.destroy("bulk_info").await?;
    Ok(DONE)
}

pub(crate) async fn destroy_bulk_metrics(State(garden): State<Garden>) -> Answer {
    garden.controller.destroy("bulk_metrics").await?;
    Ok(DONE)
}

pub(crate) async fn stop(State(garden): State<Garden>, names: Names, body: Body) -> Answer {
    let stop: Stop = read_json(body, "{\"kill\":false} or {\"kill\":true}").await?;
    let mode = if stop.kill { StopMode::Kill } else { StopMode::Terminate };
    garden.controller.stop(&names.handle, mode).await?;
    Ok(DONE)
}

pub(crate) async fn set_grace_time(State(garden): State<Garden>, names: Names, body: Body) -> Answer {
    let nanoseconds: i64 = read_json(body, "a number of nanoseconds").await?;
    let time = grace_time("grace time", nanoseconds)?;
    garden.controller.set_grace_time(&names.handle, time).await?;
    Ok(DONE)
}

pub(crate) async fn list(State(garden): State<Garden>, query: Query) -> Json<Listed> {
    let mut filter = query.into_first_values();
    let state = filter.remove(STATE_FILTER);
    let unfinished = match state.as_deref() {
        Some("all") => true,
        None | Some("" | "created") => false,
        Some(other) => {
            filter.insert(STATE_FILTER.to_owned(), other.to_owned());
            false
        }
    };
    Json(Listed { handles: garden.controller.list(&filter, unfinished) })
}

pub(crate) async fn info(State(garden): State<Garden>, names: Names) -> Answer<ContainerInfo> {
    Ok(Json(garden.controller.info(&names.handle)?.into()))
}

pub(crate) async fn bulk_info(State(garden): State<Garden>, query: Query) -> Json<BTreeMap<String, InfoEntry>> {
    let entry = |handle: String| {
        let info = garden.controller.info(&handle).map(ContainerInfo::from);
        (handle, info.map_err(|error| GardenError::from(&error)).into())
    };
    Json(handles(query).into_iter().map(entry).collect())
}

/// The handles of a bulk call: one parameter, commas between.
pub(super) fn handles(query: Query) -> Vec<String> {
    let list = query.into_first_values().remove("handles").unwrap_or_default();
    list.split(',').filter(|handle| !handle.is_empty()).map(str::to_owned).collect()
}
