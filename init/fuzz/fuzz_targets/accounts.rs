//! A container's own passwd and group, and the user that is asked for, all three of any content.
#![no_main]

use garden_init::accounts::{MAX_GROUPS, resolve};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8], &[u8])| {
    let (asked, passwd, group) = input;
    if let Ok(account) = resolve(asked, passwd, group) {
        assert!(account.uid != u32::MAX && account.gid != u32::MAX);
        assert!(account.home.starts_with(b"/") && !account.home.contains(&0));
        assert!(account.groups.len() <= MAX_GROUPS);
    }
});
