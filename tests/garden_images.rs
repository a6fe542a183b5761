//! gardend's own calls about images, over real TCP.

mod garden_support;

use garden_support::*;
use serde_json::Value;

const IMAGES: &str = "/gardend/v1/images";

/// The lines of a pull's answer, which comes in chunks.
async fn pull(server: &Server, uri: &str) -> Vec<Value> {
    let mut client = server.connect().await;
    client.request("POST", &format!("{IMAGES}/pull"), &format!(r#"{{"uri":"{uri}"}}"#)).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/x-ndjson"), "{head}");
    let body = client.until(b"0\r\n\r\n").await;
    let lines = String::from_utf8_lossy(&body).into_owned();
    lines.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn names(server: &Server) -> Vec<String> {
    let images = server.call("GET", IMAGES, "").await.ok();
    let name = |image: &Value| image["names"][0].as_str().unwrap().to_owned();
    images["images"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn an_image_is_pulled_listed_with_its_users_and_pruned() {
    let server = Server::start().await;
    let told = pull(&server, "docker:///unused").await;
    let last = &told.last().unwrap()["pulled"];
    assert_eq!((&last["name"], &last["fetched"]), (&"docker.io/library/unused:latest".into(), &0.into()));
    server.call("POST", "/containers", r#"{"handle":"c","image":{"uri":"docker:///used"}}"#).await.ok();

    let images = server.call("GET", IMAGES, "").await.ok();
    let used = images["images"].as_array().unwrap().iter().find(|image| image["in_use"] == true).unwrap();
    assert_eq!((&used["names"][0], &used["used_by"][0]), (&"docker.io/library/used:latest".into(), &"c".into()));

    let prune = async |body: &str| {
        let answer = server.call("POST", &format!("{IMAGES}/prune"), body).await.ok();
        answer["images"].as_array().unwrap().len()
    };
    assert_eq!(prune("{}").await, 0, "none is too old or too much");
    assert_eq!(prune(r#"{"all":true,"dry_run":true}"#).await, 1);
    assert_eq!(names(&server).await.len(), 2);
    assert_eq!(prune(r#"{"all":true}"#).await, 1);
    assert_eq!(names(&server).await, ["docker.io/library/used:latest"]);
}

#[tokio::test]
async fn a_pull_that_fails_at_once_is_an_error_in_gardens_shape() {
    let server = Server::start().await;
    for (body, words) in [
        (r#"{"uri":"docker://missing.example/x"}"#, "manifest unknown"),
        (r#"{"uri":"docker:///Upper"}"#, "uri: "),
        (r#"{"uri":"/srv/x"}"#, "uri: "),
    ] {
        let answer = server.call("POST", &format!("{IMAGES}/pull"), body).await;
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.message().contains(words), "{answer:?}");
    }
    assert_eq!(server.call("POST", &format!("{IMAGES}/pull"), "[").await.status, 400);
    assert_eq!(server.call("DELETE", IMAGES, "").await.status, 405);
}
