//! The rules for imports: no cycle of files, no import from a lower to a higher crate, no wire type outside of its
//! crates.
//!
//! Cargo forbids a cycle of crates. These tests check the remaining rules of `docs/ARCHITECTURE.md` for the layout.

#![allow(clippy::unwrap_used, reason = "a test")]

mod imports;

use imports::{Files, circles};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(path: &Path) -> toml::Table {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

/// The crates of the workspace and their directories.
fn crates() -> BTreeMap<String, PathBuf> {
    let directories = fs::read_dir(root().join("rust")).unwrap().map(|entry| entry.unwrap().path());
    directories
        .filter(|directory| directory.join("Cargo.toml").is_file())
        .map(|directory| {
            let package = manifest(&directory.join("Cargo.toml"));
            (package["package"]["name"].as_str().unwrap().to_owned(), directory)
        })
        .collect()
}

/// A dependency of a crate: its table, its name, its options.
fn dependencies(directory: &Path) -> Vec<(String, String, toml::Value)> {
    let manifest = manifest(&directory.join("Cargo.toml"));
    let mut tables = vec![manifest.clone()];
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    tables.extend(targets.filter_map(|target| target.as_table().cloned()));
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(entries) = table.get(kind).and_then(toml::Value::as_table) else { continue };
            found.extend(entries.iter().map(|(name, how)| (kind.to_owned(), name.clone(), how.clone())));
        }
    }
    found
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let found = crates().into_iter().flat_map(|(name, directory)| {
        let circles = circles(&Files::below(&directory.join("src")));
        circles.into_iter().map(move |circle| format!("{name}: {circle}"))
    });
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "files import each other in a circle:\n{}", found.join("\n"));
}

/// The order is that of the list in the workspace's manifest.
#[test]
fn a_crate_imports_only_lower_ones() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let named = text.lines().filter(|line| line.starts_with("dvn-")).filter_map(|line| line.split(' ').next());
    let order: Vec<&str> = named.filter(|name| !name.contains(".workspace")).collect();
    let crates = crates();
    for name in crates.keys().filter(|name| *name != "darwin-vz-agent") {
        assert!(order.contains(&name.as_str()), "{name} has no place in the list of the workspace's crates");
    }
    for (name, directory) in &crates {
        let own = order.iter().position(|other| other == name).unwrap_or(order.len());
        for (_, dependency, _) in dependencies(directory).iter().filter(|(_, other, _)| other.starts_with("dvn-")) {
            let its = order.iter().position(|other| other == dependency).unwrap();
            assert!(its < own, "{name} imports {dependency}, which stands above it");
        }
    }
}

/// Wire types are made at the edge: none of these crates knows them.
#[test]
fn the_lower_crates_know_nothing_of_the_api() {
    for name in ["dvn-host", "dvn-hypervisor", "dvn-nix", "dvn-lifecycle", "dvn-relay", "dvn-protocol"] {
        for (file, imports) in Files::below(&crates()[name].join("src")).imports_of_crates() {
            let wire = imports.iter().find(|path| path.starts_with(&["dvn_types".to_owned(), "wire".to_owned()]));
            assert!(wire.is_none(), "{name}: {file} imports {wire:?}");
        }
    }
}

/// The agent and the client of the API do not depend on the daemon's dependencies.
#[test]
fn the_agent_and_the_client_stay_light() {
    let light: [(&str, &[&str]); 4] = [
        ("darwin-vz-agent", &["dvn-protocol", "libc", "rustix", "serde", "serde_json"]),
        ("dvn-client", &["dvn-types", "http-body-util", "hyper", "hyper-util", "serde", "serde_json", "tokio"]),
        ("dvn-types", &["rand", "serde", "utoipa"]),
        ("dvn-protocol", &["serde", "serde_json"]),
    ];
    for (name, allowed) in light {
        let all = dependencies(&crates()[name]);
        let mut own: Vec<_> = all.iter().filter(|(kind, ..)| kind == "dependencies").map(|(_, name, _)| name).collect();
        own.sort();
        assert!(own.iter().all(|name| allowed.contains(&name.as_str())), "{name} depends on {own:?}");
    }
}

/// Code for the tests of other crates is not in the program.
#[test]
fn helpers_of_tests_are_for_tests() {
    for (name, directory) in crates() {
        for (kind, dependency, how) in dependencies(&directory) {
            let testing =
                how.get("features").and_then(toml::Value::as_array).is_some_and(|all| all.contains(&"testing".into()));
            assert!(
                !testing || kind == "dev-dependencies",
                "{name} has {dependency} with its feature testing in {kind}"
            );
        }
    }
}

#[test]
fn a_planted_circle_is_found_however_it_is_written() {
    let there = [
        "use super::b::B;\npub struct A(B);",
        "pub fn f() -> crate::b::B { todo!() }",
        "use crate::{b::{self, B}, c};",
        "mod inner { fn f() { super::super::b::g() } }",
        "fn f() { println!(\"{}\", [1].map(|_| crate::b::g(::std::mem::take))) }",
    ];
    for text in there {
        let tmp = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(tmp.path().join(file), text).unwrap();
        write("lib.rs", "mod a;\nmod b;\nmod c;\n#[cfg(test)]\nmod only_tests;");
        write("a.rs", text);
        write("b.rs", "use crate::c::C;\n#[cfg(test)]\nmod tests { use crate::a::A; }");
        write("c.rs", "");
        write("only_tests.rs", "use super::a::A;");
        assert_eq!(circles(&Files::below(tmp.path())), [""; 0], "{text}: what only tests import is no circle");
        write("c.rs", "use crate::a::A;");
        assert_eq!(circles(&Files::below(tmp.path())), ["a b c"], "{text}");
    }
}
