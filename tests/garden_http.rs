//! HTTP itself: what is no request, what is too large, too slow or nowhere, and how connections
//! live and end. Over real TCP.

mod garden_support;

use garden_support::*;
use gardend_controller::Options;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_are_answered_in_gardens_shape() {
    let server = Server::start().await;
    for (method, path) in [("GET", "/"), ("GET", "/containers/"), ("PUT", "/x%2Fy?q"), ("GET", "//ping")] {
        let answer = server.call(method, path, "").await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        let message = answer.message();
        assert!(message.contains(path.split('?').next().unwrap()), "{message}");
    }
    for (method, path) in [
        ("DELETE", "/ping"),
        ("PUT", "/containers"),
        ("GET", "/containers/h"),
        ("BREW", "/capacity"),
        ("HEAD_", "/containers/h/processes/p"),
        ("DELETE", "/containers/h/processes/p/attaches/s/stdout"),
    ] {
        let answer = server.call(method, path, "").await;
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        assert!(answer.message().contains(method), "{answer:?}");
        assert!(answer.header("allow").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_http_request_is_answered_in_gardens_shape_and_closed() {
    let server = Server::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"GET\r\n\r\n",
        b"GET /ping\r\n\r\n",
        b"GET /ping HTTP/3.0\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /containers HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"{\"handle\":\"x\"}\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
        assert!(answer.message().starts_with("this is no HTTP/1.1 request"), "{answer:?}");
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn what_is_no_request_after_a_good_one_is_answered_too() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    assert_eq!(client.call("GET", "/nowhere", "").await.status, 404);
    client.send("nonsense\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_in_gardens_shape() {
    let server = Server::start().await;
    let path = "x".repeat(70_000);
    let header = "x".repeat(300_000);
    let many = "X-Header: y\r\n".repeat(200);
    for head in [
        format!("GET /{path} HTTP/1.1\r\nHost: api\r\n\r\n"),
        format!("GET /ping HTTP/1.1\r\nHost: api\r\nX-Long: {header}\r\n\r\n"),
        format!("GET /ping HTTP/1.1\r\nHost: api\r\n{many}\r\n"),
    ] {
        let mut client = server.connect().await;
        client.send(head).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 431, "{answer:?}");
        assert!(answer.message().contains("too large"), "{answer:?}");
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn json_that_cannot_be_understood_names_what_is_wrong() {
    let server = Server::start().await;
    for (method, path, body, part) in [
        ("POST", "/containers", "", "body is empty; this call takes a container spec"),
        ("POST", "/containers", "{", "not valid JSON"),
        ("POST", "/containers", "[]", "expected an object, found an array"),
        (
            "POST",
            "/containers",
            r#"{"limits":{"memory_limits":{"limit_in_bytes":"1"}}}"#,
            "limits.memory_limits.limit_in_bytes",
        ),
        ("POST", "/containers", r#"{"env":[1]}"#, "env[0]"),
        ("PUT", "/containers/h/stop", r#"{"kill":1}"#, "field kill is wrong"),
        ("PUT", "/containers/h/grace_time", "1.5", "whole number"),
        ("PUT", "/containers/h/grace_time", "9223372036854775808", "whole number"),
        ("PUT", "/containers/h/grace_time", "\"1s\"", "found a string"),
        ("PUT", "/containers/h/properties/k", r#"{"value":{}}"#, "field value is wrong"),
        ("POST", "/containers/h/processes", r#"{"args":[{}]}"#, "args[0]"),
        ("POST", "/containers/h/processes", r#"{"rlimits":{"nofile":-1}}"#, "rlimits.nofile"),
    ] {
        let answer = server.call(method, path, body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        assert!(answer.message().contains(part), "{path} {body}: {answer:?}");
    }
    let negative = server.call("PUT", "/containers/h/grace_time", "-1").await;
    assert_eq!((negative.status, negative.message().contains("negative")), (500, true));
}

#[tokio::test]
async fn a_huge_json_body_is_refused_by_its_length_alone() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 10485761\r\n\r\n{").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 413);
    assert!(answer.message().contains("10485760 bytes"), "{answer:?}");
}

#[tokio::test]
async fn an_early_refusal_of_a_large_upload_is_read_as_an_error_and_never_as_a_reset() {
    let server = Server::start().await;
    for path in ["/containers", "/nowhere", "/containers/h/properties/k"] {
        for chunked in [false, true] {
            let mut client = server.connect().await;
            let length =
                if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 50 << 20) };
            let method = if path == "/containers" { "POST" } else { "PUT" };
            client.send(format!("{method} {path} HTTP/1.1\r\nHost: api\r\n{length}\r\n\r\n")).await;
            let megabyte = vec![b' '; 1 << 20];
            for _ in 0..50 {
                if chunked {
                    client.send(format!("{:x}\r\n", megabyte.len())).await;
                }
                client.send(&megabyte).await;
                if chunked {
                    client.send("\r\n").await;
                }
            }
            if chunked {
                client.send("0\r\n\r\n").await;
            }
            let answer = client.answer().await;
            assert_eq!(answer.status, if path == "/nowhere" { 404 } else { 413 }, "{answer:?}");
            answer.message();
            assert_eq!(answer.header("connection"), None);
            assert_eq!(client.rest().await, b"", "and then a FIN");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n{").await;
    use tokio::io::AsyncWriteExt;
    client.stream.shutdown().await.unwrap();
    let answer = client.answer().await;
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("ended early"), "{answer:?}");
}

#[tokio::test]
async fn a_chunked_body_that_is_malformed_is_an_error() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /containers HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\nnope\r\n").await;
    assert_eq!(client.answer().await.status, 400);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_its_body_gets_it() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client
        .send("PUT /containers/h/stop HTTP/1.1\r\nHost: api\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 100);
    client.send("{").await;
    assert_eq!(client.answer().await.status, 400);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_too_much_is_refused_without() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client
        .send(
            "PUT /containers/h/stop HTTP/1.1\r\nHost: api\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 413);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    tokio::time::pause();
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("GET /ping HTTP/1.1\r\nX-Slow: ").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 408, "{answer:?}");
    assert!(answer.message().contains("30 seconds"), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_cut_off() {
    tokio::time::pause();
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /containers HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n{").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 408, "{answer:?}");
    answer.message();
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_without_a_word() {
    tokio::time::pause();
    let server = Server::start().await;
    let mut client = server.connect().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn requests_can_follow_each_other_and_come_at_once() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        let answer = client.call("GET", "/nowhere", "").await;
        assert_eq!((answer.status, answer.header("connection")), (404, None));
    }
    client.send(["/a", "/b", "/c"].map(|path| request("GET", path, "")).concat()).await;
    for path in ["/a", "/b", "/c"] {
        assert!(client.answer().await.message().contains(path));
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_its_answer_and_the_end() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("GET /nowhere HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.line.starts_with("HTTP/1.0")), (404, true));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_answer() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.request("GET", "/nowhere", "").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.answer().await.status, 404);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_refused_takeover_says_nothing_of_closing_and_closes_shortly_after() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let answer = client.call("POST", "/containers/h/processes", "{}").await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("connection"), None, "Go's client would lose the error");
    let started = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let server = Server::start_with(Options::default(), |garden| garden.with_max_connections(2)).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.call("GET", "/nowhere", "").await.status, 404);
    }
    let refused = server.call("GET", "/ping", "").await;
    assert_eq!(refused.error_type(), "ServiceUnavailableError");
    assert!(refused.message().contains("limit of 2 connections"));
    drop(first);
    timeout(PATIENCE, async {
        while server.call("GET", "/nowhere", "").await.status != 404 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a place is free again");
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_refuses_new_connections_ends_idle_ones_and_returns() {
    let mut server = Server::start().await;
    let mut fresh = server.connect().await;
    let mut idle = server.connect().await;
    assert_eq!(idle.call("GET", "/nowhere", "").await.status, 404);
    let address = server.address;
    let started = Instant::now();
    server.tell_to_stop();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(fresh.rest().await, b"");
    server.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_loses_its_connection() {
    tokio::time::pause();
    let server = Server::start().await;
    server.create("c").await;
    let value = "x".repeat(900_000);
    server.call("PUT", "/containers/c/properties/k", &format!(r#"{{"value":"{value}"}}"#)).await.ok();
    let mut client = server.connect().await;
    let asked = 100;
    client.send(request("GET", "/containers/c/properties", "").repeat(asked)).await;
    sleep(Duration::from_secs(120)).await;
    let mut taken = vec![0; asked * value.len()];
    let mut total = 0;
    use tokio::io::AsyncReadExt;
    while let Ok(read @ 1..) = client.stream.read(&mut taken[total..]).await {
        total += read;
    }
    assert!(total < asked * value.len(), "{total}");
}
