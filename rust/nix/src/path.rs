//! Names of store paths. A `StorePath` can safely be joined to a directory: it has no separator and is neither empty,
//! hidden nor `..`.

use std::{fmt, sync::Arc};

/// Characters of the hash part.
const HASH: usize = 32;

/// Longest name in bytes after the hash and its dash.
const LONGEST: usize = 211;

/// A text that does not name a store path, and the store directory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a path in the store {1}")]
pub struct NotAStorePath(String, String);

/// `HASH-NAME`, checked. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// Parses a full path in the store directory `dir`.
    pub fn parse(dir: &str, path: &[u8]) -> Result<StorePath, NotAStorePath> {
        let name = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix(dir)?.strip_prefix('/'));
        name.and_then(StorePath::from_name).ok_or_else(|| {
            let shown = &path[..path.len().min(LONGEST)];
            NotAStorePath(String::from_utf8_lossy(shown).into_owned(), dir.to_owned())
        })
    }

    /// Parses `HASH-NAME`.
    pub fn from_name(name: &str) -> Option<StorePath> {
        let (hash, rest) = name.split_at_checked(HASH)?;
        let rest = rest.strip_prefix('-')?;
        let named = (1..=LONGEST).contains(&rest.len())
            && rest.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._?=".contains(&c));
        (is_hash_part(hash) && named).then(|| StorePath(name.into()))
    }

    /// `HASH-NAME`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The full path in the store directory `dir`.
    pub fn within(&self, dir: &str) -> String {
        format!("{dir}/{}", self.0)
    }

    /// Length of the longest full path in the store directory `dir`.
    pub fn longest_within(dir: &str) -> usize {
        dir.len() + 1 + HASH + 1 + LONGEST
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text can be the hash part of a store path.
pub fn is_hash_part(text: &str) -> bool {
    text.len() == HASH && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'z') && !b"eotu".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello-2.12";

    #[test]
    fn store_paths_are_told_from_others() {
        let path = StorePath::parse("/nix/store", HELLO.as_bytes()).unwrap();
        assert_eq!(path.within("/nix/store"), HELLO);
        let long = format!("/nix/store/{}-{}", "a".repeat(32), "x".repeat(LONGEST));
        assert_eq!(long.len(), StorePath::longest_within("/nix/store"));
        assert!(StorePath::parse("/nix/store", long.as_bytes()).is_ok());
        let others = [
            "",
            "/nix/store/",
            "/nix/store/..",
            "/nix/storehouse/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-a/../../../etc",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-a\n",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-\u{e9}",
            "/nix/store/7h7qgvs4kgzsn8a6rb273saxyqh4jxl\u{e9}-a",
            "/nix/store/Eh7qgvs4kgzsn8a6rb273saxyqh4jxlz-upper",
            "/nix/store/eh7qgvs4kgzsn8a6rb273saxyqh4jxlz-letter",
            &format!("{long}x"),
        ];
        for other in others {
            assert!(StorePath::parse("/nix/store", other.as_bytes()).is_err(), "{other}");
        }
    }
}
