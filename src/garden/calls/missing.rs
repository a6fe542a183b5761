//! Calls that later versions have: each says so, by its name.

use super::containers::must_exist;
use crate::garden::Garden;
use crate::garden::answer::{Answer, Refusal};
use crate::garden::names::Names;
use axum::extract::State;

macro_rules! missing {
    ($($call:ident),* $(,)?) => {$(
        pub(crate) async fn $call(State(garden): State<Garden>, names: Names) -> Answer {
            must_exist(&garden, &names.handle)?;
            Err(Refusal::not_available(stringify!($call)))
        }
    )*};
}

missing!(net_in, net_out, bulk_net_out,);
