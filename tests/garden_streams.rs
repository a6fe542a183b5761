//! Connections that a process has taken over: their heads to the byte, messages both ways, raw
//! output, and how each ends. Over real TCP.

mod garden_support;

use garden_support::*;
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

async fn server_with_container() -> Server {
    let server = Server::start().await;
    server.create("c").await;
    server
}

/// A line of stdin, as Go's client sends it.
fn stdin(data: &str) -> String {
    format!("{}\n", json!({"process_id": "p", "source": 0, "data": data}))
}

const END_OF_STDIN: &str = "{\"process_id\":\"p\",\"source\":0}\n";

#[tokio::test]
async fn a_run_answers_with_names_then_a_status_and_ends_with_a_fin() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"id":"p","path":"print","args":["out","err","3"]}"#).await;
    assert_eq!(started.process, "p");
    assert_eq!(server.output("c", &started, "stdout").await.rest().await, b"out");
    assert_eq!(server.output("c", &started, "stderr").await.rest().await, b"err");
    assert_eq!(client.exit_status("p").await, 3);
}

#[tokio::test]
async fn a_status_of_zero_is_said_and_a_killed_process_has_128_and_its_signal() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"true"}"#).await;
    assert!(!started.process.is_empty(), "an id is made where none was asked for");
    assert_eq!(client.exit_status(&started.process).await, 0);
    for (signal, status) in [(0, 143), (1, 137)] {
        let (mut client, started) = server.run("c", r#"{"path":"sleep"}"#).await;
        client.send(format!("{{\"signal\":{signal}}}\n")).await;
        assert_eq!(client.exit_status(&started.process).await, status);
    }
}

#[tokio::test]
async fn a_run_that_cannot_start_is_an_error_on_the_request_itself() {
    let server = server_with_container().await;
    let run = async |spec: &str| server.call("POST", "/containers/c/processes", spec).await;
    let missing = run(r#"{"path":"nothing-like-it"}"#).await;
    assert_eq!(missing.error_type(), "ExecutableNotFoundError");
    assert!(missing.message().contains("executable file not found in $PATH"), "{missing:?}");
    assert_eq!(missing.json()["Binary"], "nothing-like-it");
    let refused = run(r#"{"path":"/etc/passwd"}"#).await;
    assert_eq!((refused.error_type().as_str(), refused.message().contains("permission denied")), ("", true));
    let user = run(r#"{"path":"true","user":"nobody-here"}"#).await;
    assert_eq!(user.message(), "unable to find user nobody-here: no matching entries in passwd file");
    for (spec, part) in [
        ("{}", "path: is missing"),
        (r#"{"path":"true","bind_mounts":[{"src_path":"/a","dst_path":"/b"}]}"#, "bind_mounts: "),
        (r#"{"path":"true","id":"a/b"}"#, "process id"),
    ] {
        let answer = run(spec).await;
        assert!(answer.message().contains(part), "{answer:?}");
    }
    let (_holds_the_id, _) = server.run("c", r#"{"id":"taken","path":"sleep"}"#).await;
    assert!(run(r#"{"id":"taken","path":"true"}"#).await.message().contains("already in use"));
    assert_eq!(server.call("GET", "/containers/c/info", "").await.ok()["ProcessIDs"], json!(["taken"]));
}

#[tokio::test]
async fn an_error_instead_of_a_stream_has_a_length_and_says_nothing_of_closing_also_while_the_server_stops() {
    let mut server = server_with_container().await;
    let mut client = server.connect().await;
    let answer = client.call("GET", "/containers/c/processes/none", "").await;
    assert_eq!(
        (answer.error_type().as_str(), answer.message().as_str()),
        ("ProcessNotFoundError", "unknown process: none")
    );
    assert_eq!((answer.json()["ProcessID"].as_str(), answer.header("connection")), (Some("none"), None));
    assert_eq!(client.rest().await, b"", "and is closed for a client that forgets to");

    server.node.delay(gardend_controller::fake::Call::Spawn, Duration::from_millis(300));
    let mut client = server.connect().await;
    client.request("POST", "/containers/c/processes", r#"{"path":"missing"}"#).await;
    eventually(async || server.node.calls(gardend_controller::fake::Call::Spawn) > 0).await;
    server.tell_to_stop();
    let answer = client.answer().await;
    assert_eq!((answer.error_type().as_str(), answer.header("connection")), ("ExecutableNotFoundError", None));
}

#[tokio::test]
async fn stdin_goes_in_as_it_was_sent_and_its_end_ends_it() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"cat"}"#).await;
    let texts = ["plain\n", "", "<&>\u{2028}\"\\/\u{1f600}\0", "second chunk"];
    for text in texts {
        client.send(stdin(text)).await;
    }
    client.send(END_OF_STDIN).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    let out = server.output("c", &started, "stdout").await.rest().await;
    assert_eq!(String::from_utf8(out).unwrap(), texts.concat());
}

#[tokio::test]
async fn messages_may_come_with_the_request_back_to_back_in_pieces_and_with_newlines_within() {
    let server = server_with_container().await;
    let mut client = server.connect().await;
    let ahead = format!("{}{}", stdin("ahead,").trim(), stdin("with it,"));
    client.send(request("POST", "/containers/c/processes", r#"{"path":"cat"}"#) + &ahead).await;
    assert_eq!(client.head().await, CREATED);
    let started = client.started().await;
    client.send(json!({"source": 0, "data": "back,"}).to_string()).await;
    client.send("{\n  \"source\" : 0,\n  \"data\" : \"spread,\"\n}").await;
    for byte in stdin("in pieces").bytes().chain(END_OF_STDIN.trim().bytes()) {
        client.send([byte]).await;
    }
    assert_eq!(client.exit_status(&started.process).await, 0);
    let out = server.output("c", &started, "stdout").await.rest().await;
    assert_eq!(String::from_utf8(out).unwrap(), "ahead,with it,back,spread,in pieces");
}

#[tokio::test]
async fn a_stream_may_follow_other_requests_on_its_connection() {
    let server = server_with_container().await;
    let mut client = server.connect().await;
    client.call("GET", "/ping", "").await.ok();
    assert_eq!(client.call("GET", "/containers/none/info", "").await.status, 404);
    client.request("POST", "/containers/c/processes", r#"{"path":"true"}"#).await;
    assert_eq!(client.head().await, CREATED);
    let started = client.started().await;
    assert_eq!(client.exit_status(&started.process).await, 0);

    let mut client = server.connect().await;
    let all = request("GET", "/ping", "")
        + &request("GET", "/containers", "")
        + &request("POST", "/containers/c/processes", r#"{"path":"cat"}"#)
        + &stdin("all at once")
        + END_OF_STDIN;
    client.send(all).await;
    client.answer().await.ok();
    client.answer().await.ok();
    assert_eq!(client.head().await, CREATED);
    let started = client.started().await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    assert_eq!(server.output("c", &started, "stdout").await.rest().await, b"all at once");
}

#[tokio::test]
async fn a_client_of_http_1_0_and_one_that_waits_for_leave_get_their_streams() {
    let server = server_with_container().await;
    let body = r#"{"path":"cat"}"#;
    let length = body.len();
    let mut old = server.connect().await;
    old.send(format!("POST /containers/c/processes HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")).await;
    let mut polite = server.connect().await;
    let head = format!(
        "POST /containers/c/processes HTTP/1.1\r\nHost: api\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    polite.send(head).await;
    assert_eq!(polite.answer().await.status, 100);
    polite.send(body).await;
    let mut chunked = server.connect().await;
    let head = "POST /containers/c/processes HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked.send(format!("{head}{length:x}\r\n{body}\r\n0\r\n\r\n")).await;
    for client in [&mut old, &mut polite, &mut chunked] {
        assert_eq!(client.head().await, CREATED);
        let started = client.started().await;
        client.send(stdin("x") + END_OF_STDIN).await;
        assert_eq!(client.exit_status(&started.process).await, 0);
    }
}

#[tokio::test]
async fn sizes_and_signals_reach_a_terminal_also_after_the_end_of_stdin() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"noise","tty":{}}"#).await;
    let mut out = server.output("c", &started, "stdout").await;
    client.send(r#"{"tty":{"window_size":{"columns":100,"rows":50}}}"#).await;
    assert_eq!(out.line().await, "100x50\n");
    client.send(END_OF_STDIN).await;
    client.send(stdin("too late") + END_OF_STDIN).await;
    client.send(r#"{"signal":7}{"unknown":true}{"tty":{}}{"source":2,"data":"x"}"#).await;
    client.send(r#"{"signal":0}"#).await;
    assert_eq!(out.line().await, "TERM\n");
    client.send(r#"{"TTY":{"Window_Size":{"Columns":1,"Rows":2}}}"#).await;
    assert_eq!(out.line().await, "1x2\n");
    client.send(r#"{"signal":1}"#).await;
    assert_eq!(client.exit_status(&started.process).await, 137);
    assert_eq!(out.rest().await, b"");
}

#[tokio::test]
async fn what_is_no_message_detaches_and_the_process_goes_on() {
    let server = server_with_container().await;
    let huge = format!("{{\"source\":0,\"more\":\"{}", "x".repeat(17 << 20));
    for nonsense in ["nonsense\n", "[]", "{\"signal\":\"TERM\"}\n", "{]}", "\0", "{\"source\":0,\"data\":5}", &huge] {
        let (mut client, started) = server.run("c", r#"{"path":"sleep"}"#).await;
        // The server may close before it has read all of it.
        let _ = client.stream.write_all(nonsense.as_bytes()).await;
        client.ended().await;
        let (mut again, _) = server.attach("c", &started.process).await;
        again.send(r#"{"signal":1}"#).await;
        assert_eq!(again.exit_status(&started.process).await, 137);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_process_and_its_stdin_to_the_next() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"cat"}"#).await;
    client.send(stdin("first,")).await;
    drop(client);
    let (mut second, _) = server.attach("c", &started.process).await;
    second.stream.shutdown().await.unwrap();
    assert_eq!(second.rest().await, b"", "half a goodbye is one");
    let (mut third, again) = server.attach("c", &started.process).await;
    third.send(stdin("third") + END_OF_STDIN).await;
    assert_eq!(third.exit_status(&started.process).await, 0);
    assert_eq!(server.output("c", &again, "stdout").await.rest().await, b"first,third");
}

#[tokio::test]
async fn any_number_of_clients_learn_how_a_process_ended_also_afterwards() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"id":"p","path":"cat"}"#).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(server.attach("c", "p").await.0);
    }
    client.send(END_OF_STDIN).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    for mut other in others {
        assert_eq!(other.exit_status("p").await, 0);
    }
    assert_eq!(server.attach("c", "p").await.0.exit_status("p").await, 0);
}

#[tokio::test]
async fn an_unknown_stream_is_answered_and_ends_at_once_and_an_unknown_process_is_an_error() {
    let server = server_with_container().await;
    let (_client, started) = server.run("c", r#"{"path":"sleep"}"#).await;
    let unknown = Started { process: started.process, stream: "no-such-stream".into() };
    for which in ["stdout", "stderr"] {
        assert_eq!(server.output("c", &unknown, which).await.rest().await, b"");
        let path = format!("/containers/c/processes/none/attaches/x/{which}");
        assert_eq!(server.call("GET", &path, "").await.error_type(), "ProcessNotFoundError");
    }
}

#[tokio::test]
async fn a_head_alone_is_no_way_to_ask_for_a_stream() {
    let server = server_with_container().await;
    let (_client, started) = server.run("c", r#"{"id":"p","path":"sleep"}"#).await;
    let stdout = format!("/containers/c/processes/p/attaches/{}/stdout", started.stream);
    for path in ["/containers/c/processes/p", &stdout] {
        let mut client = server.connect().await;
        client.request("HEAD", path, "").await;
        assert!(client.head().await.starts_with("HTTP/1.1 405 "), "{path}");
    }
}

#[tokio::test]
async fn destroying_a_container_tells_those_who_are_attached() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"id":"p","path":"sleep"}"#).await;
    let mut out = server.output("c", &started, "stdout").await;
    server.call("DELETE", "/containers/c", "").await.ok();
    let last = client.json_line().await;
    assert_eq!(last["process_id"], "p");
    assert!(last["error"].is_string() || last["exit_status"].is_i64(), "{last}");
    assert_eq!(client.rest().await, b"");
    assert_eq!(out.rest().await, b"");
}

#[tokio::test]
async fn output_in_the_megabytes_arrives_whole_on_a_connection_of_its_own() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"flood","args":["8000000"]}"#).await;
    let out = server.output("c", &started, "stdout").await.rest().await;
    assert_eq!(out.len(), 8_000_000);
    assert!(out.iter().enumerate().all(|(at, byte)| *byte == u8::try_from(at % 251).unwrap()));
    assert_eq!(client.exit_status(&started.process).await, 0);
}

#[tokio::test]
async fn stdin_in_the_megabytes_arrives_whole() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"cat"}"#).await;
    let chunk: String = ('\u{1}'..'\u{3000}').cycle().take(32 * 1024).collect();
    for _ in 0..64 {
        client.send(stdin(&chunk)).await;
    }
    client.send(END_OF_STDIN).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    let out = server.output("c", &started, "stdout").await.rest().await;
    assert!(out == chunk.repeat(64).as_bytes(), "{} bytes", out.len());
}

#[tokio::test]
async fn stdin_in_one_message_may_be_larger_than_any_other_message() {
    let server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"cat"}"#).await;
    let text = "line \u{1f600}\n".repeat(2_000_000);
    client.send(format!("{{\"process_id\":\"p\",\"source\":0,\"data\":{}}}\n", json!(text))).await;
    client.send(END_OF_STDIN).await;
    assert_eq!(client.exit_status(&started.process).await, 0);
    let out = server.output("c", &started, "stdout").await.rest().await;
    assert!(out == text.as_bytes(), "{} bytes", out.len());
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_streams_and_their_processes_go_on() {
    let mut server = server_with_container().await;
    let (mut client, started) = server.run("c", r#"{"path":"sleep"}"#).await;
    let mut out = server.output("c", &started, "stdout").await;
    let node = server.node.clone();
    server.tell_to_stop();
    client.ended().await;
    out.ended().await;
    server.stopped().await;
    assert_eq!(node.running().len(), 1);
}
