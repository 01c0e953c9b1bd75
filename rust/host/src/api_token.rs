//! The token of the TCP API, in a file that only its owner can read.

use crate::{
    files::{write_atomic, write_new},
    regular_file,
};
use dvn_types::{Kind, Report};
use std::{
    fmt::Write,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use subtle::ConstantTimeEq;

/// Random bytes in a token.
const BYTES: usize = 32;

/// The secret that a client must send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads the token from a file. Creates the file if it is missing, readable by its owner only.
    pub fn at(path: &Path) -> Result<Token, Report> {
        let new = Token::new();
        if write_new(path, new.line().as_bytes(), 0o600)? {
            return Ok(new);
        }
        Token::read(path)
    }

    /// Reads the token from a file.
    pub fn read(path: &Path) -> Result<Token, Report> {
        let unusable = |why: String| {
            Report::new(Kind::State, format!("the API's token {} cannot be used: {why}", path.display()))
                .hint("make a new one: `darwin-vz-nix token --rotate`")
        };
        let text = regular_file::read_to_string(path).map_err(|error: io::Error| unusable(error.to_string()))?;
        let token = text.trim();
        if token.len() < BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable(format!("it is not a word of {BYTES} characters or more")));
        }
        Ok(Token(token.to_owned()))
    }

    /// Replaces the token in the file, or creates the file.
    pub fn rotate(path: &Path) -> Result<Token, Report> {
        let new = Token::new();
        write_atomic(path, new.line().as_bytes(), 0o600)?;
        Ok(new)
    }

    /// The token as it stands in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new() -> Token {
        let bytes: [u8; BYTES] = rand::random();
        let mut new = String::with_capacity(2 * BYTES);
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(new, "{byte:02x}");
        }
        Token(new)
    }

    fn line(&self) -> String {
        format!("{}\n", self.0)
    }

    /// Takes equally long for wrong and right tokens of the same length, so that its time reveals only the length.
    fn is(&self, given: &[u8]) -> bool {
        bool::from(self.0.as_bytes().ct_eq(given))
    }
}

/// Identifies one version of a file: device, inode, length, and change time.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = regular_file::look(path)?;
    Ok((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

/// A token's file, read again after each change.
pub struct TokenFile {
    path: PathBuf,
    /// None: the file has no valid token, and every client is refused.
    known: Mutex<(Option<Stamp>, Option<Token>)>,
}

impl TokenFile {
    /// Reads the file, or creates it with a new token.
    pub fn at(path: PathBuf) -> Result<TokenFile, Report> {
        // Stamped before reading: a change in between causes another read.
        let before = stamp(&path).ok();
        let token = Token::at(&path)?;
        Ok(TokenFile { path, known: Mutex::new((before, Some(token))) })
    }

    /// Whether `given` is the token that is in the file now.
    pub fn admits(&self, given: &[u8]) -> bool {
        let now = stamp(&self.path).ok();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != now || now.is_none() {
            let token = match Token::read(&self.path) {
                Ok(token) => Some(token),
                Err(report) => {
                    if known.1.is_some() {
                        tracing::warn!("the API refuses every client on TCP: {report}");
                    }
                    None
                }
            };
            if token.is_some() && token != known.1 {
                tracing::info!("the API's token on TCP has changed");
            }
            *known = (now, token);
        }
        known.1.as_ref().is_some_and(|token| token.is(given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn a_token_is_created_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        let token = Token::at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((Token::at(&path).unwrap().0, token.0.len()), (token.0.clone(), 64));
        assert_ne!(Token::at(&dir.path().join("other")).unwrap().0, token.0);
        for (text, good) in [("short", false), ("", false), (&"x ".repeat(40), false), (&"x".repeat(32), true)] {
            fs::write(&path, text).unwrap();
            assert_eq!(Token::at(&path).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn a_change_of_the_file_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-token");
        let file = TokenFile::at(path.clone()).unwrap();
        let first = Token::read(&path).unwrap();
        assert!(file.admits(first.0.as_bytes()) && !file.admits(b"other"));
        let second = Token::rotate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!file.admits(first.0.as_bytes()), "the old one is void");
        assert!(file.admits(second.0.as_bytes()));
        // Neither a file without a token nor a missing file admits a client.
        fs::write(&path, "").unwrap();
        assert!(!file.admits(b"") && !file.admits(second.0.as_bytes()));
        fs::remove_file(&path).unwrap();
        assert!(!file.admits(second.0.as_bytes()) && !path.exists());
        let third = Token::at(&path).unwrap();
        assert!(file.admits(third.0.as_bytes()));
    }

    #[test]
    fn only_the_token_itself_is_the_token() {
        let token = Token("secret".to_owned());
        assert!(token.is(b"secret"));
        for wrong in ["", "s", "secre", "secret!", "Secret", "sekret"] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
    }
}
