//! The name of a machine.

use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, fmt, path::Path, str::FromStr};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, SchemaType, Type},
    },
};

/// Longest name in bytes: a path component of every file system that counts, with room for a suffix.
const LONGEST: usize = 200;

/// A machine's name: its directory, and its path in the API. Any text that Tart accepts, as far as it is a safe path component.
///
/// 1 to 200 bytes of UTF-8 without `/` and control characters. The first is neither `.` nor `-`, so that a name is never
/// hidden, a parent directory or a flag; no white space at either end. Text with a slash is a reference to an image in a registry.
///
/// A machine of the configuration has a simpler name ([`MachineName::is_plain`]), because it is an ssh alias as well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has 1 to 32 characters of `a-z 0-9 -` and starts with a letter.
    pub fn is_plain(&self) -> bool {
        let name = &self.0;
        name.len() <= 32
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for MachineName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> String {
        name.0
    }
}

impl TryFrom<String> for MachineName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let why = match text.as_str() {
            "" => "a name is not empty",
            _ if text.contains('/') => "a name has no slash, which is for images in a registry",
            _ if text.len() > LONGEST => "a name has at most 200 bytes",
            _ if text.starts_with('.') => "a name does not begin with a dot",
            _ if text.starts_with('-') => "a name does not begin with a dash, which is for flags",
            _ if text.chars().any(char::is_control) => "a name has no control characters",
            _ if text.trim() != text => "a name neither begins nor ends with white space",
            _ => return Ok(MachineName(text)),
        };
        Err(format!("{text:?} is not a machine name: {why}"))
    }
}

impl TryFrom<&OsStr> for MachineName {
    type Error = String;
    fn try_from(name: &OsStr) -> Result<Self, String> {
        let text = name.to_str().ok_or_else(|| format!("{} is not a machine name: it is not UTF-8", name.display()))?;
        text.parse()
    }
}

impl FromStr for MachineName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        MachineName::try_from(s.to_owned())
    }
}

impl ToSchema for MachineName {}

impl PartialSchema for MachineName {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .description(Some("The name of a machine."))
            .min_length(Some(1))
            .max_length(Some(LONGEST))
            .pattern(Some(r"^[^/.\-\s]([^/]*[^/\s])?$"));
        RefOr::T(Schema::Object(name.build()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_of_tart_as_far_as_they_are_safe() {
        for good in ["a", "ventura-base", "My VM", "ü", "a:b", "1.2_3", "x,y=z", &"n".repeat(200)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "ghcr.io/x/y:1", "-f", " a", "a\n", "a\0b", &"n".repeat(201)] {
            let why = bad.parse::<MachineName>().unwrap_err();
            assert!(why.contains("is not a machine name: a name "), "{why}");
        }
    }

    #[test]
    fn a_plain_name_is_an_ssh_alias_too() {
        let is_plain = |name: &str| name.parse::<MachineName>().unwrap().is_plain();
        for name in ["builder", "b", "ci-2", &"a".repeat(32)] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["Builder", "a b", "ä", "1a", "a.b", &"a".repeat(33)] {
            assert!(!is_plain(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_always_one_path_component(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<MachineName>() {
                let path = Path::new("/library").join(&name);
                prop_assert_eq!(path.parent(), Some(Path::new("/library")));
                prop_assert_eq!(path.file_name(), Some(OsStr::new(&text)));
            }
        }
    }
}
