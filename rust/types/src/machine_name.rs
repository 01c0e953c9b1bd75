//! The name of a machine.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, SchemaType, Type},
    },
};

/// A machine's name: its state directory, its path in the API and its ssh alias. 1 to 32 characters of `a-z 0-9 -`,
/// starting with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> String {
        name.0
    }
}

impl TryFrom<String> for MachineName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        let fits = (1..=32).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(MachineName(s))
        } else {
            Err(format!("{s:?} is not a machine name: use 1 to 32 of a-z, 0-9 and '-', starting with a letter"))
        }
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
            .pattern(Some("^[a-z][a-z0-9-]{0,31}$"));
        RefOr::T(Schema::Object(name.build()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_safe_path_component() {
        for bad in ["", "-x", "Builder", "a/b", "..", "a b", "ä", "1a", &"a".repeat(33)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
        }
        for good in ["builder", "b", "ci-2", &"a".repeat(32)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
    }
}
