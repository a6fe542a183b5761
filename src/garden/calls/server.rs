//! Calls about the server as a whole.

use crate::garden::Garden;
use crate::garden::answer::{Answer, DONE, Json};
use crate::garden::wire::{Capacity, GardenError};
use axum::extract::State;
use std::time::Duration;
use tokio::time::timeout;

/// How long the machine may take to say what it has (its disk may be a network's).
const FACTS_DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn ping(State(garden): State<Garden>) -> Answer {
    garden.controller.ping().await?;
    Ok(DONE)
}

pub(crate) async fn capacity(State(garden): State<Garden>) -> Answer<Capacity> {
    let source = garden.facts.clone();
    let asked = timeout(FACTS_DEADLINE, tokio::task::spawn_blocking(move || source.facts())).await;
    let facts = match asked {
        Ok(Ok(Ok(facts))) => facts,
        Ok(Ok(Err(error))) => return Err(GardenError::plain(format!("capacity is not known: {error}")).into()),
        Ok(Err(_)) => return Err(GardenError::plain("capacity is not known: asking the machine failed").into()),
        Err(_) => {
            let message = format!("capacity is not known: the machine did not say within {FACTS_DEADLINE:?}");
            return Err(GardenError::unavailable(message).into());
        }
    };
    Ok(Json(Capacity {
        memory_in_bytes: facts.memory_bytes,
        disk_in_bytes: facts.disk_bytes,
        schedulable_disk_in_bytes: facts.schedulable_disk_bytes,
        max_containers: garden.controller.max_containers() as u64,
    }))
}
