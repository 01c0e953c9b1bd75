//! The name of a machine in a library.

use std::{ffi::OsStr, fmt, path::Path, str::FromStr};

/// Longest name in bytes: a path component of every file system that counts, with room for a suffix.
const LONGEST: usize = 200;

/// A machine's name as Tart allows it: any text without a slash, as far as it is a safe path component.
///
/// 1 to 200 bytes of UTF-8 without `/` and control characters; the first is neither `.` nor `-`, so that a name is never
/// hidden, a parent directory or a flag; no white space at either end. Text with a slash is a reference to an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LibraryName(String);

impl LibraryName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LibraryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for LibraryName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl FromStr for LibraryName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let why = match text {
            "" => "a name is not empty",
            _ if text.contains('/') => "a name has no slash: that is how an image in a registry is written",
            _ if text.len() > LONGEST => "a name has at most 200 bytes",
            _ if text.starts_with('.') => "a name does not begin with a dot",
            _ if text.starts_with('-') => "a name does not begin with a dash: that is how a flag is written",
            _ if text.chars().any(char::is_control) => "a name has no control characters",
            _ if text.trim() != text => "a name neither begins nor ends with white space",
            _ => return Ok(LibraryName(text.to_owned())),
        };
        Err(format!("{text:?} is no name for a machine: {why}"))
    }
}

impl TryFrom<&OsStr> for LibraryName {
    type Error = String;
    fn try_from(name: &OsStr) -> Result<Self, String> {
        name.to_str().ok_or_else(|| format!("{} is no name for a machine: it is not UTF-8", name.display()))?.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_tart_as_far_as_they_are_safe() {
        for good in ["a", "ventura-base", "My VM", "ü", "a:b", "1.2_3", "x,y=z", &"n".repeat(200)] {
            assert_eq!(good.parse::<LibraryName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "ghcr.io/x/y:1", "-f", " a", "a\n", "a\0b", &"n".repeat(201)] {
            let why = bad.parse::<LibraryName>().unwrap_err();
            assert!(why.contains("is no name for a machine: a name "), "{why}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_always_one_path_component(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<LibraryName>() {
                let path = Path::new("/library").join(&name);
                prop_assert_eq!(path.parent(), Some(Path::new("/library")));
                prop_assert_eq!(path.file_name(), Some(OsStr::new(&text)));
            }
        }
    }
}
