//! A list of bearer tokens in a file.

use super::files::{FileError, Watched};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A token that could be guessed is none.
const SHORTEST: usize = 20;

type Hash = [u8; 32];

/// Why a list of tokens cannot be used.
pub type TokensError = FileError;

/// Who may come in by which token: lines of `NAME TOKEN`. Read again when the file changes.
pub struct Tokens(Watched<HashMap<Hash, Arc<str>>>);

impl Tokens {
    /// Reads the list.
    ///
    /// # Errors
    /// The line that is wrong, without what stands in it.
    pub fn new(path: PathBuf) -> Result<Self, TokensError> {
        Watched::new(vec![path.clone()], move || read(&path)).map(Self)
    }

    /// Whose token this is. Touches the disk. How long it takes tells nothing of the tokens: their
    /// hashes are compared.
    pub fn name_of(&self, token: &str) -> Option<Arc<str>> {
        self.0.get().get(&hash(token)).cloned()
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn read(path: &Path) -> Result<HashMap<Hash, Arc<str>>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::new(path, error))?;
    let mut all = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| FileError::new(path, format!("line {}: {why}", number + 1));
        let mut words = line.split_whitespace();
        let (Some(name), Some(token), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong("is not a name and a token"));
        };
        if token.len() < SHORTEST {
            return Err(wrong(&format!(
                "a token needs {SHORTEST} characters at least, as `openssl rand -hex 32` makes them"
            )));
        }
        if all.insert(hash(token), Arc::from(name)).is_some() {
            return Err(wrong("has the token of an earlier line"));
        }
    }
    if all.is_empty() {
        return Err(FileError::new(path, "holds no tokens; write a line `NAME TOKEN` for each client"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_names_and_wrong_lines_are_told_without_what_stands_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let tokens = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Tokens::new(path.clone())
        };
        let (web, fly) = ("0123456789abcdefghij", "ABCDEFGHIJ0123456789");
        let known =
            tokens(&format!("# who may\n\nweb {web}\n  fly\t{fly}\n")).map_err(|error| error.to_string()).unwrap();
        assert_eq!(known.name_of(web).as_deref(), Some("web"));
        assert_eq!(known.name_of(fly).as_deref(), Some("fly"));
        assert_eq!(known.name_of(""), None);
        assert_eq!(known.name_of(&web[1..]), None);
        for (text, words) in [
            ("", "holds no tokens"),
            ("# none\n", "holds no tokens"),
            (web, "line 1: is not a name and a token"),
            (&format!("a {web}\nb c {fly}"), "line 2: is not a name and a token"),
            ("a short", "line 1: a token needs 20"),
            (&format!("a {web}\nb {web}"), "line 2: has the token of an earlier"),
        ] {
            let Err(error) = tokens(text) else { panic!("{text:?} is taken") };
            let error = error.to_string();
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains(web) && !error.contains(fly), "{error}");
        }
    }
}
