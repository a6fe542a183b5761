//! Every call, answered and refused, over real TCP.

mod garden_support;

use garden_support::*;
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::{NetworkOptions, Options};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn ping_and_capacity_are_answered() {
    let server = Server::start().await;
    assert_eq!(server.call("GET", "/ping", "").await.body, "{}\n");
    let capacity = server.call("GET", "/capacity", "").await.ok();
    let expected =
        json!({"memory_in_bytes": 1, "disk_in_bytes": 3, "schedulable_disk_in_bytes": 2, "max_containers": 250});
    assert_eq!(capacity, expected);
}

#[tokio::test]
async fn a_container_is_made_found_and_destroyed() {
    let server = Server::start().await;
    assert_eq!(server.call("GET", "/containers", "").await.body, "{\"Handles\":[]}\n", "never null");
    let created = server.call("POST", "/containers", r#"{"handle":"one","properties":{"k":"v"}}"#).await;
    assert_eq!(created.body, "{\"Handle\":\"one\"}\n");
    let generated = server.call("POST", "/containers", "{}").await.ok()["Handle"].as_str().unwrap().to_owned();
    assert!(!generated.is_empty());
    assert_eq!(server.list("").await.len(), 2);
    let info = server.call("GET", "/containers/one/info", "").await.ok();
    assert_eq!((&info["State"], &info["Properties"]), (&json!("active"), &json!({"k": "v"})));
    assert_eq!((&info["Events"], &info["ProcessIDs"], &info["MappedPorts"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!(server.call("DELETE", "/containers/one", "").await.body, "{}\n");
    assert_eq!(server.list("").await, [generated]);
    assert_eq!(server.node.violations(), [""; 0]);
}

#[tokio::test]
async fn a_list_is_filtered_by_the_first_value_of_each_key() {
    let server = Server::start().await;
    for (handle, a, b) in [("one", "1", "x"), ("two", "1", "y z"), ("three", "2", "x")] {
        let spec = json!({"handle": handle, "properties": {"a": a, "b": b, "c/d": "&="}});
        server.call("POST", "/containers", &spec.to_string()).await.ok();
    }
    let sorted = async |query: &str| {
        let mut handles = server.list(query).await;
        handles.sort();
        handles
    };
    assert_eq!(sorted("?a=1").await, ["one", "two"]);
    assert_eq!(sorted("?a=1&b=x").await, ["one"]);
    assert_eq!(sorted("?a=1&a=2").await, ["one", "two"]);
    assert_eq!(sorted("?b=y+z").await, ["two"]);
    assert_eq!(sorted("?b=y%20z&c%2Fd=%26%3D").await, ["two"]);
    assert_eq!(sorted("?nobody=x").await, [""; 0]);
    assert_eq!(sorted("?garden.state=all&a=2").await, ["three"]);
    assert_eq!(sorted("?garden.state=created&a=2").await, ["three"]);
    assert_eq!(sorted("?garden.state=other").await, [""; 0]);
    assert_eq!(sorted("?").await.len(), 3);
}

#[tokio::test]
async fn a_create_that_runs_is_listed_only_where_all_are_asked_for() {
    let server = Server::start().await;
    server.node.delay(Call::Furnish, Duration::from_millis(500));
    let mut client = server.connect().await;
    client.request("POST", "/containers", r#"{"handle":"slow"}"#).await;
    eventually(async || server.list("?garden.state=all").await == ["slow"]).await;
    assert_eq!(server.list("").await, [""; 0]);
    client.answer().await.ok();
    assert_eq!(server.list("").await, ["slow"]);
}

#[tokio::test]
async fn bulk_info_has_an_entry_for_every_handle_also_for_unknown_ones() {
    let server = Server::start().await;
    server.create("one").await;
    server.create("two").await;
    for path in ["/containers/bulk_info", "/containers/bulk_info?handles=", "/containers/bulk_metrics?handles=,"] {
        assert_eq!(server.call("GET", path, "").await.ok(), json!({}), "{path}");
    }
    let infos = server.call("GET", "/containers/bulk_info?handles=one%2Ctwo,nobody", "").await.ok();
    assert_eq!(infos.as_object().unwrap().len(), 3);
    assert_eq!((&infos["one"]["Info"]["State"], &infos["one"]["Err"]), (&json!("active"), &json!(null)));
    let expected = json!({"Type": "ContainerNotFoundError", "Message": "unknown handle: nobody", "Handle": "nobody",
        "ProcessID": "", "Binary": ""});
    assert_eq!(infos["nobody"]["Err"], expected);
    assert_eq!(infos["nobody"]["Info"]["Events"], json!([]));
    let metrics = server.call("GET", "/containers/bulk_metrics?handles=one,nobody", "").await.ok();
    assert_eq!((&metrics["one"]["Err"], &metrics["one"]["Metrics"]["CPUStat"]["Usage"]), (&json!(null), &json!(3)));
    assert_eq!(metrics["nobody"]["Err"]["Type"], "ContainerNotFoundError");
}

#[tokio::test]
async fn a_container_may_be_called_as_a_route_is() {
    let server = Server::start().await;
    for handle in ["bulk_info", "bulk_metrics", "ping", "info", "processes"] {
        server.create(handle).await;
        server.call("GET", &format!("/containers/{handle}/info"), "").await.ok();
        server.call("PUT", &format!("/containers/{handle}/properties/k"), r#"{"value":"v"}"#).await.ok();
        server.call("DELETE", &format!("/containers/{handle}"), "").await.ok();
    }
    assert_eq!(server.list("").await, [""; 0]);
}

#[tokio::test]
async fn every_call_on_an_unknown_container_says_so() {
    let server = Server::start().await;
    for (method, path, body) in [
        ("GET", "info", ""),
        ("PUT", "stop", r#"{"kill":false}"#),
        ("PUT", "grace_time", "0"),
        ("GET", "properties", ""),
        ("GET", "properties/k", ""),
        ("PUT", "properties/k", r#"{"value":""}"#),
        ("DELETE", "properties/k", ""),
        ("POST", "processes", r#"{"path":"true"}"#),
        ("GET", "processes/p", ""),
        ("GET", "processes/p/attaches/s/stdout", ""),
        ("GET", "processes/p/attaches/s/stderr", ""),
        ("GET", "metrics", ""),
        ("PUT", "files?user=root&destination=/", "tar"),
        ("GET", "files?user=root&source=/", ""),
        ("GET", "limits/cpu", ""),
        ("POST", "net/in", "{}"),
        ("DELETE", "", ""),
    ] {
        let path = format!("/containers/no%20body/{path}");
        let answer = server.call(method, path.trim_end_matches('/'), body).await;
        assert_eq!(answer.error_type(), "ContainerNotFoundError", "{path}: {answer:?}");
        assert_eq!(answer.json()["Handle"], "no body");
        assert_eq!(answer.message(), "unknown handle: no body");
    }
}

fn with_networks() -> Options {
    let network = NetworkOptions { external: Some([192, 0, 2, 1].into()), ..NetworkOptions::default() };
    Options { network: Some(network), ..Options::default() }
}

#[tokio::test]
async fn a_containers_network_is_told_and_can_be_opened_further() {
    let server = Server::start_with(with_networks(), |garden| garden).await;
    let spec = r#"{"handle":"c","netin":[{"host_port":8080,"container_port":80}],"netout_rules":[{"protocol":1}]}"#;
    assert_eq!(server.call("POST", "/containers", spec).await.status, 200);
    let port = server.call("POST", "/containers/c/net/in", r#"{"handle":"c","container_port":22}"#).await.json();
    let host_port = port["host_port"].as_u64().unwrap();
    assert!(NetworkOptions::PORTS.contains(&u16::try_from(host_port).unwrap()) && port["container_port"] == 22);
    let rule = r#"{"protocol":3,"icmps":{"type":8}}"#;
    assert_eq!(server.call("POST", "/containers/c/net/out", rule).await.json(), json!({}));
    assert_eq!(server.call("POST", "/containers/c/net/out/bulk", &format!("[{rule},{{}}]")).await.json(), json!({}));
    assert_eq!(server.call("POST", "/containers/c/net/out/bulk", "null").await.json(), json!({}));

    let info = server.call("GET", "/containers/c/info", "").await.json();
    assert_eq!(
        (&info["HostIP"], &info["ContainerIP"], &info["ExternalIP"]),
        (&json!("10.80.0.1"), &json!("10.80.0.2"), &json!("192.0.2.1"))
    );
    let mapped = json!([
        {"HostPort": 8080, "ContainerPort": 80},
        {"HostPort": host_port, "ContainerPort": 22},
    ]);
    assert_eq!(info["MappedPorts"], mapped);
}

#[tokio::test]
async fn what_cannot_be_of_a_network_is_refused_with_the_reason() {
    let server = Server::start_with(with_networks(), |garden| garden).await;
    server.create("c").await;
    server.call("POST", "/containers/c/net/in", r#"{"host_port":8080}"#).await;
    for (path, body, message) in [
        ("/containers", r#"{"network":"10.80.4.0/24"}"#, "overlaps"),
        ("/containers", r#"{"network":"nowhere"}"#, "nowhere"),
        ("/containers", r#"{"netin":[{"host_port":8080}]}"#, "already"),
        ("/containers/c/net/in", r#"{"host_port":70000}"#, "host_port: there is no port 70000"),
        ("/containers/c/net/in", r#"{"host_port":8080,"container_port":1}"#, "8080"),
        ("/containers/c/net/in", "[]", "expected an object"),
        ("/containers/c/net/out", r#"{"protocol":9}"#, "protocol: invalid protocol: 9"),
        ("/containers/c/net/out/bulk", r#"[{},{"ports":[{"start":1}]}]"#, "[1].ports: Ports cannot be specified"),
    ] {
        let answer = server.call("POST", path, body).await;
        assert!(answer.status >= 400 && answer.message().contains(message), "{path} {body}: {answer:?}");
    }
    assert_eq!(server.list("").await, ["c"]);
    let alone = Server::start().await;
    alone.create("c").await;
    let answer = alone.call("POST", "/containers/c/net/in", "{}").await;
    assert!(answer.message().contains("--network"), "{answer:?}");
}

#[tokio::test]
async fn limits_and_figures_are_answered_as_go_reads_them() {
    let server = Server::start().await;
    let spec = r#"{"handle":"c","limits":{"memory_limits":{"limit_in_bytes":8192},"cpu_limits":{"limit_in_shares":7},
        "pid_limits":{"max":9},"bandwidth_limits":{"rate":1,"burst":2}}}"#;
    server.call("POST", "/containers", spec).await.ok();
    for (path, expected) in [
        ("memory", json!({"limit_in_bytes": 8192})),
        ("cpu", json!({"weight": 7, "limit_in_shares": 7})),
        ("bandwidth", json!({"rate": 1, "burst": 2})),
        ("disk", json!({})),
    ] {
        assert_eq!(server.call("GET", &format!("/containers/c/limits/{path}"), "").await.ok(), expected, "{path}");
    }
    let metrics = server.call("GET", "/containers/c/metrics", "").await.ok();
    assert_eq!((&metrics["PidStat"], &metrics["NetworkStat"]), (&json!({"Current": 0, "Max": 9}), &json!(null)));
    // Half a processor a share.
    let (age, entitlement) = (metrics["Age"].as_u64().unwrap(), metrics["CPUEntitlement"].as_u64().unwrap());
    assert_eq!(entitlement, (7.0 * 0.5 * age as f64) as u64);
}

#[tokio::test]
async fn properties_are_set_read_listed_and_removed() {
    let server = Server::start().await;
    server.create("c").await;
    let long = "x".repeat(500_000);
    for value in ["v", "", "two\nlines \u{1f600}", &long] {
        let set = server.call("PUT", "/containers/c/properties/k", &json!({"value": value}).to_string()).await;
        assert_eq!(set.body, "{}\n");
        assert_eq!(server.call("GET", "/containers/c/properties/k", "").await.ok(), json!({"value": value}));
        assert_eq!(server.call("GET", "/containers/c/properties", "").await.ok(), json!({"k": value}));
    }
    assert_eq!(server.call("DELETE", "/containers/c/properties/k", "").await.body, "{}\n");
    assert_eq!(server.call("DELETE", "/containers/c/properties/k", "").await.body, "{}\n", "nothing to remove is fine");
    let missing = server.call("GET", "/containers/c/properties/k", "").await;
    assert_eq!((missing.error_type().as_str(), missing.message().as_str()), ("", "property does not exist: k"));
}

#[tokio::test]
async fn names_in_a_path_are_decoded_once() {
    let server = Server::start().await;
    let handle = "a b:ü+&=\"";
    server.call("POST", "/containers", &json!({"handle": handle}).to_string()).await.ok();
    let base = "/containers/a%20b:%C3%BC+&=%22";
    server.call("GET", &format!("{base}/info"), "").await.ok();
    for (encoded, key) in [
        ("plain", "plain"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("a/b/c", "a/b/c"),
        ("%2F", "/"),
        ("a%3Fb%23c", "a?b#c"),
        ("..", ".."),
        ("%C3%BC", "ü"),
        ("a+b", "a+b"),
        ("%00", "\0"),
    ] {
        let path = format!("{base}/properties/{encoded}");
        server.call("PUT", &path, &json!({"value": encoded}).to_string()).await.ok();
        assert_eq!(server.call("GET", &path, "").await.ok()["value"], encoded);
        let all = server.call("GET", &format!("{base}/properties"), "").await.ok();
        assert_eq!(all, json!({key: encoded}), "{encoded}");
        server.call("DELETE", &path, "").await.ok();
    }
    for path in [format!("{base}/properties/%ff"), "/containers/%ff/info".to_owned()] {
        let answer = server.call("GET", &path, "").await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.message().contains("UTF-8"), "{answer:?}");
    }
    server.call("DELETE", base, "").await.ok();
    assert_eq!(server.list("").await, [""; 0]);
}

#[tokio::test]
async fn fields_in_other_cases_nulls_and_unknown_ones_are_taken_as_go_takes_them() {
    let server = Server::start().await;
    let spec = r#"{"Handle":"c","PROPERTIES":{"K":null,"k":"v"},"env":null,"limits":null,"image":null,"from_the_future":[{}]}"#;
    assert_eq!(server.call("POST", "/containers", spec).await.ok(), json!({"Handle": "c"}));
    assert_eq!(server.call("GET", "/containers/c/properties", "").await.ok(), json!({"K": "", "k": "v"}));
    server.call("PUT", "/containers/c/stop", "null").await.ok();
    server.call("PUT", "/containers/c/stop", r#"{"Kill":true}"#).await.ok();
    assert_eq!(server.call("GET", "/containers/c/info", "").await.ok()["State"], "stopped");
    server.call("PUT", "/containers/c/grace_time", "null").await.ok();
}

#[tokio::test]
async fn the_grace_time_is_a_bare_number_of_nanoseconds() {
    let server = Server::start().await;
    server.create("c").await;
    for nanoseconds in ["3600000000000", "0", " 5000000000\n"] {
        assert_eq!(server.call("PUT", "/containers/c/grace_time", nanoseconds).await.body, "{}\n");
    }
    let negative = server.call("PUT", "/containers/c/grace_time", "-1").await;
    assert!(negative.message().contains("is negative"), "{negative:?}");
    server.call("PUT", "/containers/c/grace_time", "1").await.ok();
    eventually(async || server.list("").await.is_empty()).await;
}

#[tokio::test]
async fn a_create_that_cannot_be_is_refused_and_nothing_is_left() {
    let server = Server::start_with(Options { max_containers: 2, ..Options::default() }, |garden| garden).await;
    server.create("taken").await;
    for (spec, message) in [
        (r#"{"handle":"taken"}"#, "Handle 'taken' already in use"),
        (r#"{"handle":"a/b"}"#, "which Garden clients cannot carry in a URL"),
        (r#"{"handle":"a,b"}"#, "which Garden clients cannot carry in a URL"),
        (r#"{"handle":".."}"#, "remove '.' and '..' from a path"),
        (r#"{"rootfs":"/missing/rootfs"}"#, "/missing/rootfs does not exist"),
        (r#"{"image":{"uri":"docker://busybox"}}"#, "image.uri: has no image name"),
        (r#"{"limits":{"disk_limits":{"byte_hard":5}}}"#, "limits.disk_limits: this node has no quotas"),
        (r#"{"limits":{"disk_limits":{"scope":2}}}"#, "limits.disk_limits.scope: expected 0"),
        (r#"{"properties":{"gardend.x":""}}"#, "gardend's own and can only be read"),
        (r#"{"network":"10.0.0.0/30"}"#, "--network"),
        (r#"{"netin":[{"host_port":0,"container_port":80}]}"#, "--network"),
        (r#"{"bind_mounts":[{"src_path":"/a","dst_path":"/b","mode":3}]}"#, "bind_mounts[0].mode: expected 0"),
        (r#"{"grace_time":-5}"#, "grace_time: is negative"),
        (r#"{"env":["=x"]}"#, "env[0]: has no name"),
    ] {
        let answer = server.call("POST", "/containers", spec).await;
        assert_eq!((answer.status, answer.error_type().as_str()), (500, ""), "{answer:?}");
        assert!(answer.message().contains(message), "{answer:?}");
    }
    server.create("last").await;
    let full = server.call("POST", "/containers", "{}").await;
    assert!(full.message().contains("limit of 2 containers"), "{full:?}");
    assert_eq!(server.list("?garden.state=all").await.len(), 2);
}

#[tokio::test]
async fn a_create_that_fails_names_the_stage_and_one_that_may_be_asked_again_says_so() {
    let server =
        Server::start_with(Options { create_deadline: Duration::from_secs(2), ..Options::default() }, |garden| garden)
            .await;
    server.node.fail(Call::Furnish, Fault::Before(NodeErrorKind::Invalid), 100);
    let failed = server.call("POST", "/containers", r#"{"handle":"c"}"#).await;
    assert!(failed.message().contains("furnishing its root file system failed"), "{failed:?}");
    server.node.heal();
    server.create("c").await;
    server.node.containerd_away(true);
    let away = server.call("POST", "/containers", r#"{"handle":"d","privileged":true}"#).await;
    assert_eq!(away.error_type(), "ServiceUnavailableError", "{away:?}");
}

#[tokio::test]
async fn a_create_whose_client_goes_away_is_undone() {
    let server = Server::start().await;
    server.node.delay(Call::Furnish, Duration::from_millis(300));
    let mut client = server.connect().await;
    client.request("POST", "/containers", r#"{"handle":"c"}"#).await;
    eventually(async || !server.list("?garden.state=all").await.is_empty()).await;
    drop(client);
    eventually(async || server.list("?garden.state=all").await.is_empty()).await;
    server.create("c").await;
    assert_eq!(server.list("").await, ["c"]);
}

#[tokio::test]
async fn a_create_goes_on_while_its_client_sends_more_and_is_undone_when_it_goes() {
    let server = Server::start().await;
    server.node.delay(Call::Furnish, Duration::from_millis(300));
    let mut client = server.connect().await;
    client.request("POST", "/containers", r#"{"handle":"c"}"#).await;
    client.request("GET", "/ping", "").await;
    client.answer().await.ok();
    client.answer().await.ok();
    client.request("POST", "/containers", r#"{"handle":"d"}"#).await;
    client.request("GET", "/ping", "").await;
    eventually(async || server.list("?garden.state=all").await.len() == 2).await;
    drop(client);
    eventually(async || server.list("?garden.state=all").await == ["c"]).await;
}

#[tokio::test]
async fn a_destroy_and_a_stop_whose_client_goes_away_are_finished() {
    let server = Server::start().await;
    server.create("gone").await;
    server.create("stopped").await;
    let _keep = server.run("stopped", r#"{"path":"sleep"}"#).await;
    server.node.delay(Call::Kill, Duration::from_millis(200));
    server.node.delay(Call::SignalAll, Duration::from_millis(200));
    for (method, path, body) in
        [("DELETE", "/containers/gone", ""), ("PUT", "/containers/stopped/stop", r#"{"kill":true}"#)]
    {
        let mut client = server.connect().await;
        client.request(method, path, body).await;
        drop(client);
    }
    eventually(async || server.list("?garden.state=all").await == ["stopped"]).await;
    eventually(async || server.call("GET", "/containers/stopped/info", "").await.ok()["State"] == "stopped").await;
}

#[tokio::test]
async fn a_container_that_is_being_destroyed_says_so_to_a_second_destroy() {
    let server = Server::start().await;
    server.create("c").await;
    server.node.delay(Call::Kill, Duration::from_millis(500));
    let mut first = server.connect().await;
    first.request("DELETE", "/containers/c", "").await;
    eventually(async || server.node.calls(Call::Kill) > 0).await;
    let second = server.call("DELETE", "/containers/c", "").await;
    assert!(second.message().contains("container already being destroyed"), "{second:?}");
    first.answer().await.ok();
    assert_eq!(server.call("DELETE", "/containers/c", "").await.error_type(), "ContainerNotFoundError");
}

#[tokio::test]
async fn a_stop_that_kills_overtakes_one_that_waits() {
    let server = Server::start().await;
    server.create("c").await;
    let (mut process, started) = server.run("c", r#"{"path":"stubborn"}"#).await;
    let mut gentle = server.connect().await;
    gentle.request("PUT", "/containers/c/stop", r#"{"kill":false}"#).await;
    eventually(async || server.node.calls(Call::SignalAll) > 0).await;
    server.call("PUT", "/containers/c/stop", r#"{"kill":true}"#).await.ok();
    gentle.answer().await.ok();
    assert_eq!(process.exit_status(&started.process).await, 137);
    assert_eq!(server.call("GET", "/containers/c/info", "").await.ok()["State"], "stopped");
}

#[tokio::test]
async fn a_request_that_runs_is_answered_though_the_server_is_told_to_stop() {
    let mut server = Server::start().await;
    server.create("c").await;
    server.node.delay(Call::Kill, Duration::from_millis(700));
    let mut client = server.connect().await;
    client.request("DELETE", "/containers/c", "").await;
    eventually(async || server.node.calls(Call::Kill) > 0).await;
    server.tell_to_stop();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    assert_eq!(client.rest().await, b"");
    server.stopped().await;
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_waits_a_bounded_time_for_requests() {
    let mut server = Server::start().await;
    server.create("c").await;
    let _process = server.run("c", r#"{"path":"stubborn"}"#).await;
    let mut client = server.connect().await;
    client.request("PUT", "/containers/c/stop", r#"{"kill":false}"#).await;
    eventually(async || server.node.calls(Call::SignalAll) > 0).await;
    let started = tokio::time::Instant::now();
    server.tell_to_stop();
    server.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
