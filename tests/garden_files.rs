//! Tar streams over bare HTTP: what a client that is not Go's sees of beginnings, ends and errors.

mod garden_support;

use garden_support::Server;
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A header that passes for one, and an end.
fn stream(content: usize) -> Vec<u8> {
    let mut stream = vec![b'x'; 512 + content.next_multiple_of(512)];
    stream[257..262].copy_from_slice(b"ustar");
    stream.extend([0; 1024]);
    stream
}

async fn exchange(server: &Server, request: &[u8]) -> String {
    let mut client = server.connect().await;
    // An early answer may come before all of it is taken.
    let _ = client.stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = client.stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn chunked(head: &str, parts: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut request =
        format!("{head}\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for part in parts {
        request.extend(format!("{:x}\r\n", part.len()).bytes());
        request.extend_from_slice(part);
        request.extend(b"\r\n");
    }
    request.extend_from_slice(end);
    request
}

const PUT: &str = "PUT /containers/c/files?user=root&destination=%2Fa%20folder HTTP/1.1";
const GET: &str =
    "GET /containers/c/files?user=root&source=%2Fa%20folder%2F HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn with_container() -> Server {
    let server = Server::start().await;
    server.create("c").await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_in_chunked_and_comes_out_the_same() {
    let server = with_container().await;
    let sent = stream(300_000);
    let (first, second) = sent.split_at(100_001);
    let answer = exchange(&server, &chunked(PUT, &[first, second], b"0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{}\n"), "{answer}");
    let mut client = server.connect().await;
    client.stream.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    assert!(text.starts_with("http/1.1 200 ") && text.contains("transfer-encoding: chunked"), "{text}");
    assert!(text.contains("content-type: application/x-tar"), "{text}");
    assert!(answer.ends_with(b"\r\n0\r\n\r\n"), "a clean end");
    assert!(answer.len() > head + sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_length_goes_in() {
    let server = with_container().await;
    let sent = stream(1000);
    let mut request =
        format!("{PUT}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", sent.len()).into_bytes();
    request.extend(sent);
    assert!(exchange(&server, &request).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_whole_is_no_stream_that_is() {
    let server = with_container().await;
    let sent = stream(1000);
    // Whole as a tar stream, but not as a body; and the other way round.
    let answer = exchange(&server, &chunked(PUT, &[&sent], b"zz\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("error streaming in: "), "{answer}");
    let answer = exchange(&server, &chunked(PUT, &[&sent[..700]], b"0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("error streaming in: "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_before_the_first_byte_is_an_ordinary_answer() {
    let server = with_container().await;
    let missing = "GET /containers/c/files?user=&source=/missing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(&server, missing.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains(r#""Type":"""#), "{answer}");
    assert!(answer.contains("error streaming out: cannot open /missing: No such file or directory"), "{answer}");
    server.node.fail(Call::StreamIn, Fault::Before(NodeErrorKind::Unavailable), 1);
    let answer = exchange(&server, &chunked(PUT, &[&stream(10)], b"0\r\n\r\n")).await;
    assert!(answer.contains(r#""Type":"ServiceUnavailableError""#), "{answer}");
    let ghost = PUT.replace("user=root", "user=ghost");
    let large = vec![b'x'; 20 << 20];
    let answer = exchange(&server, &chunked(&ghost, &[&large], b"0\r\n\r\n")).await;
    assert!(answer.contains("unable to find user ghost: no matching entries in passwd file"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_the_middle_is_answered_while_the_client_still_sends() {
    let server = with_container().await;
    let junk = vec![b'j'; 30 << 20];
    let answer = exchange(&server, &chunked(PUT, &[&junk], b"0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("does not look like a tar stream"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_head_of_a_stream_alone() {
    let server = with_container().await;
    let answer = exchange(&server, GET.replacen("GET", "HEAD", 1).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}
