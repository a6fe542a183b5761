//! What a peer may send as a event: understood or refused, and if understood the same again.
#![no_main]

use garden_init::wire::{Event, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode::<Event>(bytes) {
        let again = encode(&message).expect("what was decoded can be encoded");
        assert_eq!(decode::<Event>(&again).as_ref(), Ok(&message));
    }
});
