//! Declarations of Apple's headers, as far as `objc2-virtualization` repeats them: its source is generated from Xcode's
//! SDK.
//!
//! It is read as text and never compiled, so it needs no Mac.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

/// The package whose source is read. `Cargo.toml` pins its version.
const PACKAGE: &str = "objc2-virtualization";

/// The common start of all pages' addresses.
pub const DOCUMENTATION: &str = "https://developer.apple.com/documentation/virtualization/";

/// A class, protocol, enum or option set.
#[derive(Debug, Default)]
pub struct Type {
    /// Super classes, nearest first.
    pub supers: Vec<String>,
    /// Objective-C selectors of its methods, getters and setters, those of instances and of the class alike.
    pub selectors: BTreeSet<String>,
    /// Full names of an enum's constants, and their values.
    pub constants: BTreeMap<String, i64>,
    /// The last part of its documentation's address.
    pub page: String,
}

/// All types by their Objective-C names.
#[derive(Debug)]
pub struct Apple(pub BTreeMap<String, Type>);

impl Apple {
    /// From the package's source, which cargo has or fetches.
    pub fn load() -> Apple {
        let mut types = BTreeMap::new();
        let generated = source().join("src/generated");
        for entry in std::fs::read_dir(&generated).unwrap_or_else(|e| panic!("{}: {e}", generated.display())) {
            let path = entry.unwrap().path();
            read(&std::fs::read_to_string(&path).unwrap(), &mut types);
        }
        Apple(types)
    }

    /// The type or one of its super classes has this selector.
    pub fn responds(&self, name: &str, selector: &str) -> bool {
        let Some(found) = self.0.get(name) else { return false };
        found.selectors.contains(selector)
            || found.supers.iter().filter_map(|s| self.0.get(s)).any(|s| s.selectors.contains(selector))
    }

    /// Swift leaves out words of a selector that only repeat a type: these are the ends of such words.
    pub fn is_type_word(&self, word: &str) -> bool {
        let foundation = ["url", "string"];
        foundation.contains(&word) || self.0.keys().any(|name| name.to_lowercase().ends_with(word))
    }
}

/// The directory of the package, as cargo reports it.
fn source() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == PACKAGE);
    let manifest = package.and_then(|p| p["manifest_path"].as_str()).expect("Cargo.toml pins objc2-virtualization");
    Path::new(manifest).parent().unwrap().to_owned()
}

/// One generated file. The generator's form is line-based, so this parser is, too.
fn read(text: &str, types: &mut BTreeMap<String, Type>) {
    let (mut page, mut supers, mut alias, mut selector) = (String::new(), Vec::new(), String::new(), None);
    let mut current = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = between(line, DOCUMENTATION, "?") {
            page = rest.to_owned();
        } else if let Some(list) = between(line, "#[unsafe(super(", "))]") {
            supers = list.split(',').map(|name| name.trim().to_owned()).collect();
        } else if let Some(name) = between(line, "doc(alias = \"", "\"") {
            alias = name.to_owned();
        } else if let Some(found) = between(line, "unsafe(method(", "))]") {
            // A trailing `_` marks the error that Rust returns as a Result.
            selector = Some(found.trim_end_matches('_').to_owned());
        } else if let Some(name) = defined(line) {
            let entry = types.entry(name.to_owned()).or_default();
            entry.page = std::mem::take(&mut page);
            entry.supers = std::mem::take(&mut supers);
            name.clone_into(&mut current);
        } else if let Some(name) = line.strip_prefix("impl ").and_then(name_of) {
            name.clone_into(&mut current);
        }
        if line.contains("fn ")
            && let Some(selector) = selector.take()
        {
            types.entry(current.clone()).or_default().selectors.insert(selector);
        }
        let number = between(line, ": Self = Self(", ")").and_then(|value| value.parse().ok());
        let flag = between(line, " = 1<<", ";").and_then(|bit| bit.parse().ok()).map(|bit: u32| 1 << bit);
        if let Some(value) = number.or(flag).filter(|_| !alias.is_empty()) {
            types.entry(current.clone()).or_default().constants.insert(std::mem::take(&mut alias), value);
        }
    }
}

/// The type that this line defines.
fn defined(line: &str) -> Option<&str> {
    ["pub struct ", "pub unsafe trait "].iter().find_map(|start| line.strip_prefix(start)).and_then(name_of)
}

fn name_of(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    Some(&text[..end]).filter(|name| name.starts_with("VZ"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    Some(&rest[..rest.find(end)?])
}
