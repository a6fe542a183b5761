//! What the messages and the look-ups cost that every process needs.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use garden_init::accounts::resolve;
use garden_init::wire::{ProcessKey, Request, SpawnSpec, decode, encode};
use std::fmt::Write as _;
use std::hint::black_box;

/// A request as Concourse makes them: some forty variables, a few arguments.
fn spawn() -> Request {
    let env = (0..40).map(|n| format!("VARIABLE_{n}=some/value/of/usual/length/{n}").into_bytes()).collect();
    let spec = SpawnSpec {
        path: b"/opt/resource/in".to_vec(),
        args: vec![b"/tmp/build/get".to_vec()],
        env,
        user: "root".into(),
        ..SpawnSpec::default()
    };
    Request::Spawn { key: ProcessKey([7; 16]), spec }
}

fn wire(criterion: &mut Criterion) {
    let request = spawn();
    let bytes = encode(&request).expect("it is within the limits");
    assert_eq!(decode::<Request>(&bytes).as_ref(), Ok(&request));
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode a spawn", |bencher| bencher.iter(|| encode(black_box(&request))));
    group.bench_function("decode a spawn", |bencher| bencher.iter(|| decode::<Request>(black_box(&bytes))));
    group.finish();
}

fn accounts(criterion: &mut Criterion) {
    let (mut passwd, mut group) = (String::new(), String::new());
    for n in 0..100 {
        let _ = writeln!(passwd, "user{n}:x:{n}:{n}::/home/user{n}:/bin/sh");
        let _ = writeln!(group, "group{n}:x:{n}:user99,user1");
    }
    assert_eq!(resolve("user99", passwd.as_bytes(), group.as_bytes()).map(|account| account.uid), Ok(99));
    criterion.bench_function("accounts: the last of 100 users, in 100 groups", |bencher| {
        bencher.iter(|| resolve(black_box("user99"), passwd.as_bytes(), group.as_bytes()));
    });
}

criterion_group!(benches, wire, accounts);
criterion_main!(benches);
