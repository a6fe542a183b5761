//! The local terminal: raw while a process's terminal is shown on it, its size, detach keys.
//!
//! Promises: the terminal is as it was found once [`Raw`] is dropped, and also after a panic.
//! Signals end the process by way of the session, so that they drop it too.

use gardend_controller::record::WindowSize;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// How the terminal was found, while it is raw.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

fn found() -> MutexGuard<'static, Option<Termios>> {
    // A panic while it was held does not make what it holds wrong.
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stdin is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// The terminal is raw.
pub(crate) fn is_raw() -> bool {
    found().is_some()
}

/// The size of the terminal that is shown on: stdout's, or else stdin's or stderr's.
pub(crate) fn size() -> Option<WindowSize> {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .filter_map(|fd| tcgetwinsize(fd).ok())
        .map(|size| WindowSize { columns: size.ws_col, rows: size.ws_row })
        .find(|size| size.columns > 0 && size.rows > 0)
}

/// The terminal is raw while this lives.
#[must_use = "the terminal is restored when this is dropped"]
pub(crate) struct Raw(());

impl Raw {
    /// Makes stdin's terminal raw.
    pub(crate) fn enter() -> io::Result<Self> {
        restore_in_a_panic();
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // Before it is changed: whatever happens in between, it can be put back.
        *found() = Some(before);
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(guard)
    }

    /// Makes it raw again, where a shell has put it back meanwhile (after a stop).
    pub(crate) fn again(&self) {
        if let Some(before) = found().as_ref() {
            let mut raw = before.clone();
            raw.make_raw();
            // It was a terminal; should it be gone, the session ends by itself.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = found().take() {
        // What was written is shown under the settings that it was written for.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &before);
    }
}

/// The message of a panic is shown on a terminal that is as it was.
fn restore_in_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}

/// The keys that leave a process to itself, looked for in what is typed.
#[derive(Clone, Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    held: Vec<u8>,
}

impl Default for DetachKeys {
    fn default() -> Self {
        // ctrl-p, ctrl-q.
        Self { keys: vec![0x10, 0x11], held: Vec::new() }
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    /// `ctrl-p,ctrl-q`, `ctrl-a,d`; empty: none.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| match (name.strip_prefix("ctrl-"), name.as_bytes()) {
            (Some(letter), _) => match letter.as_bytes() {
                [byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                    Ok(byte.to_ascii_uppercase() ^ 0x40)
                }
                _ => Err(format!("'{name}' is no control key; say ctrl-a to ctrl-z")),
            },
            (None, [byte @ 0x21..=0x7e]) => Ok(*byte),
            _ => Err(format!("'{name}' is no key; say ctrl-p,ctrl-q or ctrl-a,d")),
        };
        let keys = if text.is_empty() { Vec::new() } else { text.split(',').map(key).collect::<Result<_, _>>()? };
        Ok(Self { keys, held: Vec::new() })
    }
}

/// What was typed, after the detach keys have been looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// To be passed on (perhaps nothing: keys that may become the detach keys are held).
    Keys(Vec<u8>),
    /// To be passed on, and then the process left to itself.
    Detach(Vec<u8>),
}

impl DetachKeys {
    /// Looks at what was typed.
    pub(crate) fn feed(&mut self, typed: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed::Keys(typed.to_vec());
        }
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                passed.push(self.held.remove(0));
            }
            if self.held.len() == self.keys.len() {
                self.held.clear();
                return Typed::Detach(passed);
            }
        }
        Typed::Keys(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(text: &str) -> DetachKeys {
        text.parse().unwrap()
    }

    #[test]
    fn detach_keys_are_found_wherever_reads_end() {
        let mut whole = DetachKeys::default();
        assert_eq!(whole.feed(b"ls\x10\x11rest"), Typed::Detach(b"ls".to_vec()));
        let mut split = DetachKeys::default();
        assert_eq!(split.feed(b"a\x10"), Typed::Keys(b"a".to_vec()));
        assert_eq!(split.feed(b"\x11"), Typed::Detach(Vec::new()));
    }

    #[test]
    fn a_beginning_that_is_not_gone_on_with_is_passed_on() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.feed(b"\x10"), Typed::Keys(Vec::new()));
        assert_eq!(keys.feed(b"x"), Typed::Keys(b"\x10x".to_vec()));
        assert_eq!(keys.feed(b"\x10\x10\x11"), Typed::Detach(b"\x10".to_vec()));
    }

    #[test]
    fn keys_are_named_as_docker_names_them() {
        assert_eq!(keys("ctrl-p,ctrl-q").keys, DetachKeys::default().keys);
        assert_eq!(keys("ctrl-a,d").keys, [1, b'd']);
        assert_eq!(keys("ctrl-@,ctrl-[").keys, [0, 0x1b]);
        assert_eq!(keys("").feed(b"\x10\x11"), Typed::Keys(b"\x10\x11".to_vec()));
        for wrong in ["ctrl-", "ctrl-1", "xy", "a,,b"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_is_lost_or_invented(typed in prop::collection::vec(prop::sample::select(vec![b'a', 1, b'd']), 0..40), cut in 0usize..40) {
            let mut keys = keys("ctrl-a,ctrl-a,d");
            let cut = cut.min(typed.len());
            let mut passed = Vec::new();
            let mut detached = false;
            for part in [&typed[..cut], &typed[cut..]] {
                match keys.feed(part) {
                    Typed::Keys(bytes) => passed.extend(bytes),
                    Typed::Detach(bytes) => {
                        passed.extend(bytes);
                        detached = true;
                        break;
                    }
                }
            }
            let found = typed.windows(3).position(|window| window == [1, 1, b'd']);
            prop_assert_eq!(detached, found.is_some());
            match found {
                Some(at) => prop_assert_eq!(&passed, &typed[..at]),
                None => {
                    passed.extend(&keys.held);
                    prop_assert_eq!(&passed, &typed);
                }
            }
        }
    }
}
