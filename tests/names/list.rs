//! `docs/vz-names.toml`: the Swift names that we use, each with its name in Apple's headers and its page.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The common start of all pages' addresses.
    pub documentation: String,
    /// Names from other modules than Virtualization.
    pub elsewhere: Vec<String>,
    /// By Swift name; nested types as `Outer.Inner`.
    pub types: BTreeMap<String, Type>,
}

/// A type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Type {
    /// Its name in Objective-C; absent if it is the same.
    objc: Option<String>,
    /// Its page; absent if that is the name in lower case.
    doc: Option<String>,
    /// The macOS that introduced it.
    #[serde(default = "oldest")]
    pub since: u32,
    /// By Swift spelling, with the labels: `init(url:readOnly:)`.
    #[serde(default)]
    pub members: BTreeMap<String, Entry>,
}

/// A member: its Objective-C name alone, or with details.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A selector, or the full name of a constant.
    Plain(String),
    /// With details.
    Special(Member),
}

/// A member with details.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Member {
    objc: Option<String>,
    stand_in: Option<String>,
    doc: Option<String>,
    since: Option<u32>,
    renamed: Option<String>,
}

/// The oldest macOS that we run on.
pub const OLDEST: u32 = 14;

fn oldest() -> u32 {
    OLDEST
}

impl Type {
    /// Its name in Objective-C.
    pub fn objc<'a>(&'a self, swift: &'a str) -> &'a str {
        self.objc.as_deref().unwrap_or(swift)
    }

    /// The last part of its page's address.
    pub fn page(&self, swift: &str) -> String {
        self.doc.clone().unwrap_or_else(|| swift.to_lowercase())
    }
}

impl Entry {
    /// A selector, or the full name of a constant. `Class selector` if Swift moved it to another type; empty if it
    /// exists in Swift only.
    pub fn objc(&self) -> Option<&str> {
        match self {
            Entry::Plain(objc) => Some(objc),
            Entry::Special(member) => member.objc.as_deref(),
        }
    }

    /// The macOS that introduced it, if it is newer than its type.
    pub fn since(&self) -> Option<u32> {
        match self {
            Entry::Plain(_) => None,
            Entry::Special(member) => member.since,
        }
    }

    /// The reason for a Swift name that does not follow the usual rules.
    pub fn renamed(&self) -> Option<&str> {
        match self {
            Entry::Plain(_) => None,
            Entry::Special(member) => member.renamed.as_deref(),
        }
    }

    /// Its spelling in the stand-in.
    pub fn in_stand_in<'a>(&'a self, swift: &'a str) -> &'a str {
        match self {
            Entry::Special(Member { stand_in: Some(spelling), .. }) => spelling,
            _ => swift,
        }
    }

    /// The last part of its page's address.
    pub fn page(&self, owner: &str, swift: &str) -> String {
        match self {
            Entry::Special(Member { doc: Some(doc), .. }) => doc.clone(),
            _ => format!("{owner}/{}", swift.to_lowercase()),
        }
    }
}

impl List {
    /// Reads it.
    pub fn parse(text: &str) -> List {
        toml::from_str(text).unwrap_or_else(|e| panic!("docs/vz-names.toml: {e}"))
    }

    /// The member, and the macOS that introduced it.
    pub fn member(&self, owner: &str, name: &str) -> Option<(&Entry, u32)> {
        let found = self.types.get(owner)?;
        let entry = found.members.get(name)?;
        Some((entry, entry.since().unwrap_or(found.since)))
    }

    /// The member with that spelling in the stand-in.
    pub fn member_of_stand_in(&self, owner: &str, spelling: &str) -> Option<(&str, &Entry)> {
        let members = &self.types.get(owner)?.members;
        let found = members.iter().find(|(name, entry)| entry.in_stand_in(name) == spelling);
        found.map(|(name, entry)| (name.as_str(), entry))
    }

    /// All members: owner, spelling, and the macOS that introduced them.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str, u32)> {
        self.types.iter().flat_map(|(owner, found)| {
            let since = |entry: &Entry| entry.since().unwrap_or(found.since);
            found.members.iter().map(move |(name, entry)| (owner.as_str(), name.as_str(), since(entry)))
        })
    }
}

/// A spelling without its labels.
pub fn base(spelling: &str) -> &str {
    spelling.split('(').next().unwrap_or(spelling)
}
