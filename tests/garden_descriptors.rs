//! A process without a free descriptor. A test binary of its own: the limit is the process's.

mod garden_support;

use garden_support::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tokio::net::TcpStream;

/// Of this process so far; by a file that is open already.
fn processor_time(stat: &File) -> Duration {
    let mut text = vec![0; 4096];
    let length = stat.read_at(&mut text, 0).unwrap();
    let stat = String::from_utf8(text[..length].to_vec()).unwrap();
    let fields: Vec<u64> =
        stat[stat.rfind(')').unwrap()..].split(' ').skip(12).take(2).map(|field| field.parse().unwrap()).collect();
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

#[tokio::test]
async fn a_server_without_a_free_descriptor_waits_and_goes_on_when_there_is_one() {
    let server = Server::start().await;
    server.call("GET", "/ping", "").await.ok();
    let stat = File::open("/proc/self/stat").unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 10), ..before }).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(server.address).await {
        clients.push(client);
        tokio::task::yield_now().await;
    }
    assert!(clients.len() >= 4, "{}", clients.len());
    let used = processor_time(&stat);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(processor_time(&stat) - used < Duration::from_millis(300), "it spins");
    setrlimit(Resource::Nofile, before).unwrap();
    server.call("GET", "/ping", "").await.ok();
    drop(clients);
    server.call("GET", "/ping", "").await.ok();
}
