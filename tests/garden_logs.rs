//! What the front end writes to its log, and what it never does.

mod garden_support;

use garden_support::*;
use serde_json::json;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_log_names_request_and_container_and_never_what_a_client_keeps_secret() {
    let kept = Kept::default();
    let writer = kept.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let server = Server::start().await;
    let secret = "hunter2";
    let spec = json!({"handle": "logged", "env": [format!("K={secret}")], "properties": {"k": secret},
        "rootfs": "/r", "image": {"username": secret, "password": secret}});
    server.call("POST", "/containers", &spec.to_string()).await.ok();
    server.call("PUT", "/containers/logged/properties/k", &json!({"value": secret}).to_string()).await.ok();
    server.call("GET", &format!("/containers?k={secret}"), "").await.ok();
    server.call("GET", &format!("/containers/{secret}/nowhere?{secret}"), "").await;
    for wrong in [
        json!({"env": secret}),
        json!({"image": {"password": {secret: secret}}}),
        json!({"env": [format!("={secret}")]}),
        json!({"limits": secret}),
        json!(secret),
    ] {
        server.call("POST", "/containers", &wrong.to_string()).await.message();
    }
    let run = json!({"path": "cat", "args": [secret], "env": [format!("K={secret}")]});
    let (mut client, started) = server.run("logged", &run.to_string()).await;
    client.send(json!({"source": 0, "data": secret}).to_string()).await;
    client.send(json!({"source": secret}).to_string()).await;
    client.ended().await;
    let (mut client, _) = server.attach("logged", &started.process).await;
    client.send(r#"{"source":0}"#).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    let failed = json!({"path": format!("/{secret}"), "args": [secret]});
    server.call("POST", "/containers/logged/processes", &failed.to_string()).await.message();

    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
    assert_eq!(lines, [""; 0]);
    let detached = log.lines().find(|line| line.contains("detached")).expect("a line on the stream that ended");
    for part in ["request{request_id=", "method=POST", "route=\"/containers/{handle}/processes\"", "handle=\"logged\""]
    {
        assert!(detached.contains(part), "{part} in {detached}");
    }
}
