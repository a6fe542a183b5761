//! The words survive their encoding whole, and what is no encoding is an error and nothing worse.
//!
//! `fuzz/` looks for the same with a fuzzer; these are bounded and run everywhere.

use garden_init::accounts;
use garden_init::wire::{
    Event, Exit, MAX_REQUEST, ProcessKey, Request, SpawnFailure, SpawnSpec, Streams, VERSION, WireError, decode, encode,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn key() -> impl Strategy<Value = ProcessKey> {
    any::<[u8; 16]>().prop_map(ProcessKey)
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![any::<u8>().prop_map(Exit::Code), any::<u8>().prop_map(Exit::Signal)]
}

fn streams() -> impl Strategy<Value = Streams> {
    prop_oneof![Just(Streams::None), any::<bool>().prop_map(|stdin| Streams::Pipes { stdin }), Just(Streams::Terminal)]
}

fn strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..20), 0..5)
}

fn spec() -> impl Strategy<Value = SpawnSpec> {
    let parts = (
        vec(any::<u8>(), 0..40),
        strings(),
        strings(),
        vec(any::<u8>(), 0..40),
        any::<String>(),
        vec(any::<(u32, u64)>(), 0..16),
        any::<Option<(u16, u16)>>(),
        any::<u64>(),
    );
    parts.prop_map(|(path, args, env, dir, user, rlimits, tty, capabilities)| SpawnSpec {
        path,
        args,
        env,
        dir,
        user,
        rlimits,
        tty,
        capabilities,
    })
}

fn failure() -> impl Strategy<Value = SpawnFailure> {
    prop_oneof![
        Just(SpawnFailure::NotFound),
        any::<(i32, bool)>().prop_map(|(errno, exists)| SpawnFailure::Exec { errno, exists }),
        Just(SpawnFailure::UnknownUser),
        any::<String>().prop_map(|group| SpawnFailure::UnknownGroup { group }),
        any::<(Vec<u8>, i32)>().prop_map(|(dir, errno)| SpawnFailure::Dir { dir, errno }),
        any::<(u32, u64, u64)>().prop_map(|(resource, asked, ceiling)| SpawnFailure::Rlimit {
            resource,
            asked,
            ceiling
        }),
        Just(SpawnFailure::Duplicate),
        any::<(String, i32)>().prop_map(|(call, errno)| SpawnFailure::System { call, errno }),
        any::<String>().prop_map(|reason| SpawnFailure::Malformed { reason }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any::<u8>().prop_map(|version| Request::Hello { version }),
        Just(Request::InFile),
        (key(), spec()).prop_map(|(key, spec)| Request::Spawn { key, spec }),
        (key(), any::<i32>()).prop_map(|(key, signal)| Request::Signal { key, signal }),
        any::<i32>().prop_map(|signal| Request::SignalAll { signal }),
        (key(), any::<(u16, u16)>()).prop_map(|(key, (columns, rows))| Request::Resize { key, columns, rows }),
        key().prop_map(|key| Request::CloseStdin { key }),
        key().prop_map(|key| Request::Forget { key }),
        any::<u64>().prop_map(|token| Request::IsOccupied { token }),
        any::<u64>().prop_map(|token| Request::Ping { token }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<u8>(), vec(any::<(u32, u64)>(), 0..17))
            .prop_map(|(version, ceilings)| Event::Hello { version, ceilings }),
        (key(), any::<i32>(), proptest::option::of(exit()), streams())
            .prop_map(|(key, pid, exit, streams)| Event::Known { key, pid, exit, streams }),
        Just(Event::KnownEnd),
        (key(), any::<i32>()).prop_map(|(key, pid)| Event::Spawned { key, pid }),
        (key(), failure()).prop_map(|(key, error)| Event::SpawnFailed { key, error }),
        (key(), exit()).prop_map(|(key, exit)| Event::Exited { key, exit }),
        Just(Event::Emptied),
        any::<(u64, bool)>().prop_map(|(token, occupied)| Event::Occupied { token, occupied }),
        any::<u64>().prop_map(|token| Event::Pong { token }),
    ]
}

/// It comes back as it was; cut short anywhere, or with a byte too many, it is an error.
fn is_whole_or_nothing<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) -> Result<(), TestCaseError> {
    let bytes = encode(message).unwrap();
    prop_assert_eq!(&decode::<T>(&bytes).unwrap(), message);
    for end in 0..bytes.len() {
        prop_assert!(decode::<T>(&bytes[..end]).is_err(), "cut at {} of {}", end, bytes.len());
    }
    prop_assert!(decode::<T>(&[bytes.clone(), vec![0]].concat()).is_err());
    for version in [0, VERSION + 1, u8::MAX] {
        prop_assert_eq!(decode::<T>(&[&[version], &bytes[1..]].concat()), Err(WireError::Version(version)));
    }
    Ok(())
}

/// What garbage is taken for is a message like any other. (Not the same bytes again: a number has
/// several encodings.)
fn is_message_or_error<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = decode::<T>(bytes) {
        prop_assert_eq!(&decode::<T>(&encode(&message).unwrap()).unwrap(), &message);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_request_is_whole_or_nothing(message in request()) {
        is_whole_or_nothing(&message)?;
    }

    #[test]
    fn an_event_is_whole_or_nothing(message in event()) {
        is_whole_or_nothing(&message)?;
    }

    #[test]
    fn garbage_is_a_message_or_an_error(mut bytes in vec(any::<u8>(), 0..400), is_versioned in any::<bool>()) {
        if is_versioned && let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        is_message_or_error::<Request>(&bytes)?;
        is_message_or_error::<Event>(&bytes)?;
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        request in request(), event in event(), at in any::<prop::sample::Index>(), damage in 1..=u8::MAX
    ) {
        let damaged = |mut bytes: Vec<u8>| { let at = at.index(bytes.len()); bytes[at] ^= damage; bytes };
        is_message_or_error::<Request>(&damaged(encode(&request).unwrap()))?;
        is_message_or_error::<Event>(&damaged(encode(&event).unwrap()))?;
    }

    #[test]
    fn a_damaged_passwd_never_trips(at in any::<prop::sample::Index>(), byte in any::<u8>(), asked in "(a|1|root)?:?(b|2)?") {
        let mut passwd = b"root:x:0:0::/root:/bin/sh\na:x:1:2::/home/a:\n".to_vec();
        let at = at.index(passwd.len());
        passwd[at] = byte;
        if let Ok(account) = accounts::resolve(&asked, &passwd, &passwd) {
            prop_assert!(account.home.starts_with(b"/") && !account.home.contains(&0));
        }
    }
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    // A Spawn whose path claims to have 2^60 bytes.
    let mut bytes = vec![VERSION, 2];
    bytes.extend([0; 16]);
    bytes.extend([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
    assert!(matches!(decode::<Request>(&bytes), Err(WireError::Malformed(_))));
}

#[test]
fn the_largest_request_passes_and_a_larger_one_is_refused() {
    let request = |bytes: usize| Request::Spawn {
        key: ProcessKey([7; 16]),
        spec: SpawnSpec { path: vec![b'x'; bytes], ..SpawnSpec::default() },
    };
    let around = encode(&request(MAX_REQUEST - 1000)).unwrap().len() - (MAX_REQUEST - 1000);
    let largest = request(MAX_REQUEST - around);
    let bytes = encode(&largest).unwrap();
    assert_eq!(bytes.len(), MAX_REQUEST);
    assert_eq!(decode::<Request>(&bytes).unwrap(), largest);
    let larger = Err(WireError::TooLarge { bytes: MAX_REQUEST + 1, limit: MAX_REQUEST });
    assert_eq!(encode(&request(MAX_REQUEST - around + 1)), larger);
    assert_eq!(decode::<Request>(&vec![VERSION; MAX_REQUEST + 1]).map(|_| Vec::new()), larger);
}
