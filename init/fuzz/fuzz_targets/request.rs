//! What a peer may send as a request: understood or refused, and if understood the same again.
#![no_main]

use garden_init::wire::{Request, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode::<Request>(bytes) {
        let again = encode(&message).expect("what was decoded can be encoded");
        assert_eq!(decode::<Request>(&again).as_ref(), Ok(&message));
    }
});
