//! Calls about a container's properties.

use crate::garden::Garden;
use crate::garden::answer::{Answer, DONE, Json};
use crate::garden::body::read_json;
use crate::garden::names::Names;
use crate::garden::wire::PropertyValue;
use axum::body::Body;
use axum::extract::State;
use gardend_controller::record::Properties;

pub(crate) async fn all(State(garden): State<Garden>, names: Names) -> Answer<Properties> {
    Ok(Json(garden.controller.properties(&names.handle)?))
}

pub(crate) async fn one(State(garden): State<Garden>, names: Names) -> Answer<PropertyValue> {
    let value = garden.controller.property(&names.handle, &names.key)?;
    Ok(Json(PropertyValue { value }))
}

pub(crate) async fn set(State(garden): State<Garden>, names: Names, body: Body) -> Answer {
    let PropertyValue { value } = read_json(body, "{\"value\":\"...\"}").await?;
    garden.controller.set_property(&names.handle, &names.key, &value).await?;
    Ok(DONE)
}

pub(crate) async fn remove(State(garden): State<Garden>, names: Names) -> Answer {
    garden.controller.remove_property(&names.handle, &names.key).await?;
    Ok(DONE)
}
