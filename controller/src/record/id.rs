//! Identifiers. Each is a type of its own, so that one cannot stand where another is meant.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest handle or process id that is accepted, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Why a handle or a process id cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("{what} is {bytes} bytes long; the limit is {MAX_NAME_BYTES}")]
    TooLong {
        /// "handle" or "process id".
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// `.` or `..`, which HTTP clients remove from a path.
    #[error("{what} '{name}' cannot be used: HTTP clients remove '.' and '..' from a path; choose another")]
    Dots {
        /// "handle" or "process id".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A character that Garden clients put into a URL as it is and so could never name again.
    #[error(
        "{what} {name:?} holds {character:?}, which Garden clients cannot carry in a URL; choose one without / ? # % , and control characters"
    )]
    Character {
        /// "handle" or "process id".
        what: &'static str,
        /// The name.
        name: String,
        /// The first offending character.
        character: char,
    },
    /// Empty.
    #[error("{what} is empty")]
    Empty {
        /// "handle" or "process id".
        what: &'static str,
    },
}

fn check_name(what: &'static str, name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty { what });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(InvalidName::TooLong { what, bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(InvalidName::Dots { what, name: name.to_owned() });
    }
    let offending = |c: &char| matches!(c, '/' | '?' | '#' | '%' | ',') || c.is_control();
    match name.chars().find(offending) {
        Some(character) => Err(InvalidName::Character { what, name: name.to_owned(), character }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and wraps a name that came from outside.
            ///
            /// # Errors
            /// [`InvalidName`] says what a Garden client could not carry.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                check_name($what, &name)?;
                Ok(Self(name))
            }

            /// A new name that nobody else has: 32 hexadecimal digits.
            pub fn generate() -> Self {
                Self(random_hex())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name_type!(
    /// What a client calls its container. Unique among the containers that are wanted.
    Handle,
    "handle"
);
name_type!(
    /// What a client calls a process. Unique within its container while its record is kept.
    ProcessId,
    "process id"
);

macro_rules! own_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// A new one: 32 hexadecimal digits, unique for ever.
            pub fn generate() -> Self {
                Self(random_hex())
            }

            /// One that we wrote down before (a row, a label, a folder's name).
            /// `None` where it is not 32 hexadecimal digits, and so not of our making.
            pub fn parse(text: &str) -> Option<Self> {
                let ours = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                ours.then(|| Self(text.to_owned()))
            }

            /// As text: safe as a file name, a label and a cgroup name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

own_id!(
    /// Ours for a container, unique for ever, so that a handle can be used again at once.
    ContainerUid
);
own_id!(
    /// Ours for a process.
    ProcessUid
);
own_id!(
    /// Ours for a place: a containerd container that runs garden-init, blank or furnished.
    SandboxId
);

fn random_hex() -> String {
    let mut bytes = [0u8; 16];
    // The kernel's generator does not fail after boot; there is no way to go on without it.
    getrandom::fill(&mut bytes).expect("the kernel's random generator answers");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_client_could_not_carry_is_refused_with_the_reason() {
        for name in ["a/b", "a?b", "a#b", "a%b", "a,b", "a\nb", "", ".", ".."] {
            assert!(Handle::new(name).is_err(), "{name:?}");
            assert!(ProcessId::new(name).is_err(), "{name:?}");
        }
        assert!(Handle::new("x".repeat(MAX_NAME_BYTES)).is_ok());
        let error = Handle::new("x".repeat(MAX_NAME_BYTES + 1)).unwrap_err();
        assert_eq!(error.to_string(), "handle is 1025 bytes long; the limit is 1024");
    }

    #[test]
    fn unusual_but_carryable_names_are_kept() {
        for name in ["a b", "ünï", "...", "a:b@c+d", "\"q\"", "a&b=c"] {
            assert_eq!(Handle::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn an_id_of_ours_is_recognised_and_nothing_else_is() {
        let uid = ContainerUid::generate();
        assert_eq!(ContainerUid::parse(uid.as_str()), Some(uid));
        assert_eq!(ContainerUid::parse("../../etc"), None);
        assert_eq!(ContainerUid::parse(&"A".repeat(32)), None);
    }
}
