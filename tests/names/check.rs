//! The comparisons. Each returns its errors, one line each.

use super::{
    apple::{self, Apple},
    list::{List, base},
    spelling,
    swift::{
        declarations::{Declaration, What as Declared},
        lexer::Token,
        uses::{Use, What},
    },
};
use std::collections::BTreeSet;

/// The list against Apple's headers.
pub fn list(list: &List, apple: &Apple) -> Vec<String> {
    let mut wrong = Vec::new();
    if list.documentation != apple::DOCUMENTATION {
        wrong.push(format!("vz-names.toml: the documentation is at {}", apple::DOCUMENTATION));
    }
    let mut pages = BTreeSet::new();
    for (name, found) in &list.types {
        let objc = found.objc(name);
        let Some(theirs) = apple.0.get(objc) else {
            wrong.push(format!("vz-names.toml: {name}: Apple has no {objc}"));
            continue;
        };
        let page = found.page(name);
        if objc == name && theirs.page != page {
            wrong.push(format!("vz-names.toml: {name}: documented at {}, not {page}", theirs.page));
        }
        pages.insert(page.clone());
        for (member, entry) in &found.members {
            let Some(theirs) = entry.objc() else {
                if entry.renamed().is_none() {
                    wrong.push(format!("vz-names.toml: {name}.{member}: neither an Objective-C name nor a reason"));
                }
                continue;
            };
            let (of, theirs) = theirs.split_once(' ').unwrap_or((objc, theirs));
            let constant = apple.0.get(of).is_some_and(|t| t.constants.contains_key(theirs));
            if !(constant || apple.responds(of, theirs)) {
                wrong.push(format!("vz-names.toml: {name}.{member}: Apple's {of} has no {theirs}"));
            }
            let fits =
                if constant { spelling::case_fits(member, theirs, of) } else { spelling::fits(member, theirs, apple) };
            if !fits && entry.renamed().is_none() {
                wrong.push(format!("vz-names.toml: {name}.{member}: Swift does not make that of {theirs}"));
            }
            let address = entry.page(&page, member);
            if address.contains(char::is_whitespace) || !pages.insert(address.clone()) {
                wrong.push(format!("vz-names.toml: {name}.{member}: the address {address} is another one's, or none"));
            }
        }
    }
    wrong
}

/// The stand-in's public declarations against the list and Apple's headers; and no line of the list is unused.
pub fn stand_in(declarations: &[(String, Declaration)], list: &List, apple: &Apple) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (file, found) in declarations.iter().filter(|(_, d)| d.public && d.path[0].starts_with("VZ")) {
        let place = format!("{file}:{}", found.line);
        if let Declared::Type { keyword, inherits } = &found.what {
            let name = found.path.join(".");
            let Some(listed) = list.types.get(&name) else {
                wrong.push(format!("{place}: {name} is not in docs/vz-names.toml"));
                continue;
            };
            let supers = apple.0.get(listed.objc(&name)).map(|t| t.supers.as_slice()).unwrap_or_default();
            let theirs = supers.first().map(String::as_str).unwrap_or_default();
            let ours = inherits.iter().find(|i| i.starts_with("VZ") || *i == "NSObject");
            if keyword == "class" && ours.is_some_and(|ours| ours != theirs) {
                wrong.push(format!("{place}: {name} inherits from {}, Apple's from {theirs}", inherits[0]));
            }
            seen.insert((name, String::new()));
            continue;
        }
        let owner = found.owner();
        let objc = list.types.get(&owner).map_or(owner.as_str(), |t| t.objc(&owner));
        let supers = apple.0.get(objc).map(|t| t.supers.clone()).unwrap_or_default();
        let mut owners = [owner.clone()].into_iter().chain(supers);
        let listed = owners
            .find_map(|of| list.member_of_stand_in(&of, found.name()).map(|(name, entry)| (of.clone(), name, entry)));
        let Some((of, name, entry)) = listed else {
            if list.elsewhere.iter().any(|name| name == found.name()) {
                continue;
            }
            wrong.push(format!("{place}: {owner}.{} is not in docs/vz-names.toml", found.name()));
            continue;
        };
        if let (Declared::Property { settable: true }, Some(getter)) = (&found.what, entry.objc()) {
            let bare = getter.strip_prefix("is").filter(|rest| rest.starts_with(char::is_uppercase)).unwrap_or(getter);
            let setter = format!("set{}{}:", bare[..1].to_uppercase(), &bare[1..]);
            if !apple.responds(objc, &setter) {
                wrong.push(format!("{place}: {owner}.{} can be set, Apple's has no {setter}", found.name()));
            }
        }
        let theirs = entry.objc().and_then(|name| apple.0.get(objc)?.constants.get(name));
        if let (Declared::Case { value }, Some(theirs)) = (&found.what, theirs)
            && value != theirs
        {
            wrong.push(format!("{place}: {owner}.{} is {value}, Apple's {theirs}", found.name()));
        }
        seen.insert((of, name.to_owned()));
    }
    for (name, _) in list.types.iter().filter(|(name, _)| !seen.contains(&((*name).clone(), String::new()))) {
        wrong.push(format!("vz-names.toml: {name} is not in the stand-in"));
    }
    for (owner, name, _) in list.members().filter(|(o, n, _)| !seen.contains(&((*o).to_owned(), (*n).to_owned()))) {
        wrong.push(format!("vz-names.toml: {owner}.{name} is not in the stand-in"));
    }
    wrong
}

/// The shim's uses against the list. `own` are the names that it declares itself, see [`own_names`].
pub fn shim(file: &str, uses: &[Use], own: &BTreeSet<String>, list: &List, apple: &Apple) -> Vec<String> {
    let mut wrong = Vec::new();
    for found in uses {
        let since = match &found.what {
            What::Call(path, labels) if own.contains(&format!("{path}.init({labels})")) => continue,
            What::Path(path) => path_since(path, None, list, apple),
            What::Call(path, labels) => {
                let path: Vec<String> = path.split('.').map(str::to_owned).collect();
                path_since(&path, Some(labels), list, apple)
            }
            What::Member(name) if ["self", "init"].contains(&name.as_str()) => continue,
            What::Member(name) if own.contains(name) || list.elsewhere.contains(name) => continue,
            What::Member(name) => list
                .members()
                .filter(|(_, member, _)| base(member) == name)
                .map(|(_, _, since)| since)
                .min()
                .ok_or_else(|| format!(".{name}")),
        };
        match since {
            Err(name) => wrong.push(format!("{file}:{}: {name} is not in docs/vz-names.toml", found.line)),
            Ok(since) if since > found.since => {
                let what = format!("{:?}", found.what);
                wrong.push(format!("{file}:{}: {what} needs macOS {since}, and nothing asks for it", found.line));
            }
            Ok(_) => {}
        }
    }
    wrong
}

/// The macOS that `Type`, `Type.member`, `Type(labels)` or `Type.member(labels)` needs; or which part of it is unknown.
fn path_since(path: &[String], labels: Option<&str>, list: &List, apple: &Apple) -> Result<u32, String> {
    let length = (1..=path.len()).rev().find(|n| list.types.contains_key(&path[..*n].join(".")));
    let name = path[..length.unwrap_or(1)].join(".");
    let listed = list.types.get(&name).ok_or_else(|| name.clone())?;
    let rest = &path[length.unwrap_or(1)..];
    let wanted = match (rest.first().map(String::as_str), labels) {
        (None, None) | (Some("self"), _) => return Ok(listed.since),
        (None, Some("rawValue:")) => return Ok(listed.since),
        (None, Some(_)) => "init".to_owned(),
        (Some(member), _) => member.to_owned(),
    };
    let called = labels.filter(|_| rest.len() < 2).map(|labels| format!("{wanted}({labels})"));
    let supers = apple.0.get(listed.objc(&name)).map(|t| t.supers.clone()).unwrap_or_default();
    let known = [name.clone()].into_iter().chain(supers).find_map(|owner| {
        let members = list.types.get(&owner)?.members.keys();
        let member = members.into_iter().find(|member| match &called {
            Some(called) => is_call_of(called, member),
            None => base(member) == wanted,
        })?;
        list.member(&owner, member)
    });
    known.map(|(_, since)| since.max(listed.since)).ok_or_else(|| format!("{name}.{}", called.unwrap_or(wanted)))
}

/// A call may omit the last argument if it is a trailing closure, or has the default that Swift's importer gives to
/// options.
fn is_call_of(called: &str, spelling: &str) -> bool {
    let left_out = spelling.strip_prefix(called.trim_end_matches(')'));
    left_out.is_some_and(|left_out| [")", "completionHandler:)", "options:)"].contains(&left_out))
}

/// Methods of the stand-in's protocols that the shim's types lack. On a Mac they are optional: a misspelt one would
/// never be called, without an error.
pub fn delegates(shim: &[(String, Declaration)], stand_in: &[(String, Declaration)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, found) in shim {
        let Declared::Type { inherits, .. } = &found.what else { continue };
        let protocol = |d: &Declaration| matches!(&d.what, Declared::Type { keyword, .. } if keyword == "protocol");
        for (_, protocol) in stand_in.iter().filter(|(_, d)| protocol(d) && inherits.contains(&d.path[0])) {
            let required =
                stand_in.iter().filter(|(_, d)| d.what == Declared::Function && d.owner() == protocol.path[0]);
            for (_, method) in required {
                let owner = found.path.join(".");
                if !shim.iter().any(|(_, d)| d.owner() == owner && d.name() == method.name()) {
                    wrong.push(format!("{file}:{}: {owner} lacks {}.{}", found.line, protocol.path[0], method.name()));
                }
            }
        }
    }
    wrong
}

/// Names that a source itself declares: alone, and for functions in types `Type.name(labels)`.
pub fn own_names(tokens: &[Token], declarations: &[Declaration]) -> BTreeSet<String> {
    let declares = |token: &Token| {
        token.word().is_some_and(|w| ["var", "let", "func", "case", "enum", "struct", "class"].contains(&w))
    };
    let names = tokens.windows(2).filter(|pair| declares(&pair[0])).filter_map(|pair| pair[1].word());
    // Parameters, and labels with them: a wrong label is found at its function.
    let parameters = tokens.windows(2).filter(|pair| pair[1].is(':')).filter_map(|pair| pair[0].word());
    let declared = declarations.iter().flat_map(|d| [d.path.join("."), base(d.name()).to_owned()]);
    names.chain(parameters).map(str::to_owned).chain(declared).collect()
}
