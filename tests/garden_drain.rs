//! Draining, as clients of the API see it.

mod garden_support;

use garden_support::*;
use gardend_controller::Options;
use serde_json::{Value, json};
use std::time::Duration;

async fn stand(server: &Server) -> Value {
    server.call("GET", "/gardend/v1/drain", "").await.ok()
}

#[tokio::test]
async fn a_drained_server_refuses_creates_as_unavailable_and_serves_all_else() {
    let server = Server::start_with(Options { pool_size: 0, ..Options::default() }, |garden| garden).await;
    server.create("one").await;
    let none = json!({"drain": null, "drained": false, "places": 1,
        "containers": [{"handle": "one", "going": false, "stuck": null}]});
    assert_eq!(stand(&server).await, none);
    let begun = server.call("POST", "/gardend/v1/drain", r#"{"drain":"refuse"}"#).await.ok();
    assert_eq!(begun["drain"], "refuse");
    let refused = server.call("POST", "/containers", r#"{"handle":"two"}"#).await;
    assert_eq!(refused.status, 500);
    let error: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(error["Type"], "ServiceUnavailableError");
    assert!(error["Message"].as_str().unwrap().contains("being drained"), "{error}");
    assert_eq!(server.call("GET", "/ping", "").await.body, "{}\n");
    assert_eq!(server.call("GET", "/capacity", "").await.ok()["max_containers"], 250);
    server.run("one", r#"{"path":"true"}"#).await;
    server.call("DELETE", "/containers/one", "").await.ok();
    let drained = async {
        while stand(&server).await["drained"] != json!(true) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drained).await.unwrap();
    assert_eq!(server.call("DELETE", "/gardend/v1/drain", "").await.ok()["drain"], Value::Null);
    server.create("two").await;
}

#[tokio::test]
async fn what_is_no_drain_is_refused_with_what_one_looks_like() {
    let server = Server::start().await;
    for body in ["", "{}", r#"{"drain":"everything"}"#] {
        let refused = server.call("POST", "/gardend/v1/drain", body).await;
        assert!(refused.body.contains("refuse"), "{}", refused.body);
    }
    assert_eq!(stand(&server).await["drain"], Value::Null);
}
