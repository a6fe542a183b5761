//! Tokens that were given for pulls, for as long as they are good, and which registries want to
//! see the password itself.
//!
//! They are kept by what they were given for: whoever shows other credentials gets another. The
//! credentials themselves are not kept, but a digest of them with a salt of this process's.

use gardend_controller::record::ImageCredentials;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a token is good that does not say.
const DEFAULT_LIFE: u64 = 60;
/// One that ends this soon is not used any more.
const SPARE: Duration = Duration::from_secs(15);
/// How long a registry is taken to want passwords that did once.
const PASSWORD_WANTED: Duration = Duration::from_secs(600);
/// Tokens kept at most.
const MAX: usize = 1024;

/// What a token was given for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Purpose {
    authority: String,
    name: String,
    who: [u8; 32],
}

/// What a server of tokens answers.
#[derive(Deserialize)]
pub(super) struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Answer {
    /// The token, by either of its names.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref().or(self.access_token.as_deref()).filter(|token| !token.is_empty())
    }
}

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// This token.
    Token(String),
    /// User and password.
    Password,
}

/// See the module.
pub(super) struct Tokens {
    salt: [u8; 16],
    known: Mutex<HashMap<Purpose, (Proof, Instant)>>,
}

impl Tokens {
    /// None yet.
    pub(super) fn new() -> Self {
        let mut salt = [0; 16];
        // Without chance it is only a plain digest, which never leaves this process.
        let _ = getrandom::fill(&mut salt);
        Self { salt, known: Mutex::default() }
    }

    /// Of pulls of a repository at an address.
    pub(super) fn purpose(&self, authority: &str, name: &str, credentials: Option<&ImageCredentials>) -> Purpose {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        if let Some(ImageCredentials { username, password }) = credentials {
            hash.update((username.len() as u64).to_le_bytes());
            hash.update(username);
            hash.update(password);
        }
        Purpose { authority: authority.to_owned(), name: name.to_owned(), who: hash.finalize().into() }
    }

    /// What was good and still is.
    pub(super) fn get(&self, purpose: &Purpose) -> Option<Proof> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| *until > now);
        known.get(purpose).map(|(proof, _)| proof.clone())
    }

    /// Keeps a token.
    pub(super) fn put(&self, purpose: Purpose, answer: &Answer) {
        let Some(token) = answer.token() else { return };
        let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).min(24 * 3600));
        self.keep(purpose, Proof::Token(token.to_owned()), life);
    }

    /// Notes that a password is wanted.
    pub(super) fn put_password(&self, purpose: Purpose) {
        self.keep(purpose, Proof::Password, PASSWORD_WANTED);
    }

    fn keep(&self, purpose: Purpose, proof: Proof, life: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX {
            known.clear();
        }
        known.insert(purpose, (proof, Instant::now() + life.saturating_sub(SPARE)));
    }

    /// Forgets one that was refused.
    pub(super) fn forget(&self, purpose: &Purpose) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(purpose);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_token_is_for_whoever_it_was_given_to_and_for_a_while() {
        let tokens = Tokens::new();
        let alice = ImageCredentials { username: "alice".into(), password: "x".into() };
        let other = ImageCredentials { username: "alicex".into(), password: String::new() };
        let of = |credentials| tokens.purpose("r:1", "a/b", credentials);
        tokens.put(of(Some(&alice)), &answer(r#"{"token":"t","expires_in":300}"#));
        assert_eq!(tokens.get(&of(Some(&alice))), Some(Proof::Token("t".into())));
        assert_eq!((tokens.get(&of(Some(&other))), tokens.get(&of(None))), (None, None));
        assert_eq!(tokens.get(&tokens.purpose("r:1", "a/c", Some(&alice))), None);
        tokens.put(of(None), &answer(r#"{"access_token":"short","expires_in":5}"#));
        assert_eq!(tokens.get(&of(None)), None);
        tokens.put_password(of(Some(&other)));
        assert_eq!(tokens.get(&of(Some(&other))), Some(Proof::Password));
        tokens.forget(&of(Some(&alice)));
        assert_eq!(tokens.get(&of(Some(&alice))), None);
    }
}
