//! Calls about a container's network.

use crate::garden::Garden;
use crate::garden::answer::{Answer, DONE, Json};
use crate::garden::body::read_json;
use crate::garden::names::Names;
use crate::garden::wire::{Mapped, NetIn, NetOutRule};
use axum::body::Body;
use axum::extract::State;

pub(crate) async fn net_in(State(garden): State<Garden>, names: Names, body: Body) -> Answer<Mapped> {
    let asked: NetIn = read_json(body, "{\"host_port\":0,\"container_port\":8080}, 0 for a port of our choice").await?;
    let asked = asked.into_asked("")?;
    Ok(Json(garden.controller.add_port(&names.handle, asked).await?.into()))
}

pub(crate) async fn net_out(State(garden): State<Garden>, names: Names, body: Body) -> Answer {
    let rule: NetOutRule = read_json(body, "a rule, as in {\"protocol\":1,\"ports\":[{\"start\":443}]}").await?;
    garden.controller.add_rules(&names.handle, vec![rule.into_rule("")?]).await?;
    Ok(DONE)
}

pub(crate) async fn bulk_net_out(State(garden): State<Garden>, names: Names, body: Body) -> Answer {
    let rules: Option<Vec<NetOutRule>> = read_json(body, "a list of rules").await?;
    let rules = rules.unwrap_or_default().into_iter().enumerate();
    let rules = rules.map(|(index, rule)| rule.into_rule(&format!("[{index}].")));
    garden.controller.add_rules(&names.handle, rules.collect::<Result<_, _>>()?).await?;
    Ok(DONE)
}
