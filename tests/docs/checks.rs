//! Checks for every page. Each returns all errors that it finds.

use super::markdown::{self, Page};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// The Markdown files of a source tree, by their paths in it.
pub struct Pages {
    root: PathBuf,
    repository: String,
    pages: BTreeMap<PathBuf, Page>,
}

impl Pages {
    /// Reads those at the top and all below `docs`. Links to the repository begin with `repository`.
    pub fn read(root: &Path, repository: &str) -> Pages {
        let mut pages = BTreeMap::new();
        let mut todo = vec![PathBuf::new(), PathBuf::from("docs")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(root.join(&dir)).unwrap() {
                let path = dir.join(entry.unwrap().file_name());
                if root.join(&path).is_dir() {
                    if !dir.as_os_str().is_empty() {
                        todo.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    pages.insert(path.clone(), markdown::read(&fs::read_to_string(root.join(&path)).unwrap()));
                }
            }
        }
        Pages { root: root.to_owned(), repository: format!("{repository}/blob/main/"), pages }
    }

    /// Each page with its path.
    pub fn iter(&self) -> impl Iterator<Item = (&PathBuf, &Page)> {
        self.pages.iter()
    }

    /// Broken links and anchors, in the repository or in the book.
    pub fn dead_links(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (path, page) in &self.pages {
            for (line, link) in &page.links {
                if let Err(why) = self.follow(path, link) {
                    wrong.push(format!("{}:{line}: {link}: {why}", path.display()));
                }
            }
        }
        wrong
    }

    fn follow(&self, page: &Path, link: &str) -> Result<(), String> {
        let (target, anchor) = link.split_once('#').map_or((link, None), |(target, anchor)| (target, Some(anchor)));
        let path = if let Some(path) = target.strip_prefix(&self.repository) {
            PathBuf::from(path)
        } else if target.contains("://") {
            return Ok(());
        } else if target.is_empty() {
            page.to_owned()
        } else {
            let path = joined(page, target).ok_or("leads out of the repository")?;
            if page.starts_with("docs") && !path.starts_with("docs") {
                return Err(format!("is not in the book; give {}{}", self.repository, path.display()));
            }
            if page.starts_with("docs") && self.root.join(&path).is_dir() {
                return Err("is a directory, which the book has no page for".to_owned());
            }
            path
        };
        if !self.root.join(&path).exists() {
            return Err("is not there".to_owned());
        }
        match (anchor, self.pages.get(&path)) {
            (Some(anchor), Some(page)) if !page.anchors.iter().any(|known| known == anchor) => {
                Err(format!("there is no such heading; there are {}", page.anchors.join(", ")))
            }
            (Some(_), None) => Err("an anchor in what is no page".to_owned()),
            _ => Ok(()),
        }
    }

    /// Pages of the book that its summary does not list, decisions that their list doesn't, and duplicates in the
    /// summary.
    pub fn unlisted(&self) -> Vec<String> {
        let (summary, decisions) = (Path::new("docs/SUMMARY.md"), Path::new("docs/decisions/README.md"));
        let links = |list: &Path| -> Vec<PathBuf> {
            let links = self.pages.get(list).into_iter().flat_map(|page| &page.links);
            links.filter_map(|(_, link)| joined(list, link)).collect()
        };
        let missing = |list: &Path, below: &str| -> Vec<String> {
            let listed = links(list);
            let pages = self.pages.keys().filter(|path| path.starts_with(below) && *path != list);
            let missing = pages.filter(|path| !listed.contains(path));
            missing.map(|path| format!("{}: missing in {}", path.display(), list.display())).collect()
        };
        let mut once = BTreeSet::new();
        let twice = links(summary).into_iter().filter(|path| !once.insert(path.clone()));
        let twice = twice.map(|path| format!("{}: twice", path.display()));
        twice.chain(missing(summary, "docs")).chain(missing(decisions, "docs/decisions")).collect()
    }

    /// Shown commands of our program that it does not have, or flags that they don't take.
    pub fn unknown_commands(&self, reference: &Reference) -> Vec<String> {
        let mut wrong = Vec::new();
        for (path, page) in &self.pages {
            let shell = |language: &str| ["sh", "console"].contains(&language);
            let blocks = page.blocks.iter().filter(|(language, ..)| shell(language));
            let lines = blocks.flat_map(|(_, first, code)| (*first..).zip(code.lines()));
            let spans = page.spans.iter().map(|(line, code)| (*line, code.as_str()));
            for (line, code) in lines.chain(spans) {
                let complaints = commands(code).into_iter().filter_map(|command| reference.complaint(&command));
                wrong.extend(complaints.map(|why| format!("{}:{line}: {why}: {code}", path.display())));
            }
        }
        wrong
    }

    /// Shown options of the nix-darwin module that it does not have. `known` is their reference.
    pub fn unknown_options(&self, known: &Path) -> Vec<String> {
        let reference = fs::read_to_string(self.root.join(known)).unwrap();
        let known: BTreeSet<&str> = reference.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let mut wrong = Vec::new();
        for (path, page) in &self.pages {
            let blocks = page.blocks.iter().filter(|(language, ..)| language == "nix");
            let lines = blocks.flat_map(|(_, first, code)| (*first..).zip(code.lines()));
            let spans = page.spans.iter().map(|(line, code)| (*line, code.as_str()));
            for (line, code) in lines.chain(spans) {
                for rest in code.split("services.darwin-vz.").skip(1) {
                    let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
                    if !known.iter().any(|option| option.split('.').next() == Some(&name)) {
                        wrong.push(format!("{}:{line}: there is no option {name}", path.display()));
                    }
                }
            }
        }
        wrong
    }
}

/// Wrong defaults of the module in the tables for other builders, `` `cores` (4) `` in the last column, and sentences
/// that attribute a feature to the wrong option.
impl Pages {
    /// See above. `known` is the reference of the options.
    pub fn wrong_defaults(&self, below: &str, known: &Path) -> Vec<String> {
        let reference = fs::read_to_string(self.root.join(known)).unwrap();
        let default = |option: &str| -> Option<String> {
            let section = reference.split("\n## ").find(|section| section.lines().next() == Some(option))?;
            let line = section.lines().find_map(|line| line.strip_prefix("* default: "))?;
            Some(line.trim_matches('`').trim_matches('"').to_owned())
        };
        let mut wrong = Vec::new();
        let mut seen = 0;
        for path in self.pages.keys().filter(|path| path.starts_with(below)) {
            let text = fs::read_to_string(self.root.join(path)).unwrap();
            for (number, line) in (1..).zip(text.lines()) {
                let Some(cell) =
                    line.trim_end_matches([' ', '|']).rsplit(" | ").next().filter(|_| line.starts_with('|'))
                else {
                    continue;
                };
                for (option, given) in defaults_given(cell) {
                    let Some(default) = default(&option) else { continue };
                    seen += 1;
                    let given = match given.as_str() {
                        "on" => "true",
                        "off" => "false",
                        given => given,
                    };
                    if default != given {
                        wrong.push(format!(
                            "{}:{number}: {option} is {default} by default, not {given}",
                            path.display()
                        ));
                    }
                }
            }
            // What comes with nested virtualization needs no line.
            for feature in ["kvm", "nixos-test"] {
                let by_hand = text.split(['.', '|']).map(|sentence| sentence.replace('\n', " ")).find(|sentence| {
                    sentence.contains(&format!("`{feature}`"))
                        && (sentence.contains("you add") || sentence.contains("you want"))
                });
                let comes = default("supportedFeatures").is_some_and(|features| features.contains(feature));
                if let Some(sentence) = by_hand.filter(|_| comes) {
                    wrong.push(format!("{}: {feature} comes by itself:{sentence}", path.display()));
                }
            }
        }
        if seen == 0 {
            wrong.push(format!("no default is given below {below}: the check has shrunk"));
        }
        wrong
    }
}

/// `` `name` (value …) `` in a cell.
fn defaults_given(cell: &str) -> Vec<(String, String)> {
    let mut given = Vec::new();
    for piece in cell.split("` (").collect::<Vec<_>>().windows(2) {
        let option = piece[0].rsplit('`').next().unwrap_or_default();
        let value = piece[1].split([')', ' ', ';', ',']).next().unwrap_or_default();
        if option.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            given.push((option.to_owned(), value.to_owned()));
        }
    }
    given
}

/// The target of a relative link; `None` is above the root.
fn joined(page: &Path, link: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => path.pop().then_some(())?,
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// The words after our program's name, up to the end of the command, for each call.
fn commands(code: &str) -> Vec<Vec<String>> {
    let code = code.split(" #").next().unwrap_or_default();
    let mut found = Vec::new();
    for rest in code.split("darwin-vz-nix ").skip(1) {
        let end = rest.find(['|', ';', '&', ')', '`', '<', '>']).unwrap_or(rest.len());
        let words = rest[..end].split_whitespace().take_while(|word| *word != "--").map(str::to_owned);
        found.push(words.collect());
    }
    found
}

/// The commands and flags in `docs/cli.md`.
pub struct Reference {
    /// Flags by command; those of every command under no name.
    flags: BTreeMap<String, BTreeSet<String>>,
}

impl Reference {
    /// Reads the page.
    pub fn read(text: &str) -> Reference {
        let mut flags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut verb = String::new();
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
                verb = if heading.starts_with("Options") { String::new() } else { heading.to_owned() };
                flags.entry(verb.clone()).or_default();
            } else if let Some(names) = line.strip_prefix("* `").and_then(|rest| rest.split('`').next()) {
                let names = names.split([',', ' ']).filter(|name| name.starts_with('-')).map(str::to_owned);
                flags.entry(verb.clone()).or_default().extend(names);
            }
        }
        // What every program has.
        flags.entry(String::new()).or_default().extend(["--help", "--version"].map(str::to_owned));
        Reference { flags }
    }

    /// The errors of a command line.
    fn complaint(&self, words: &[String]) -> Option<String> {
        let everywhere = &self.flags[""];
        let mut words = words.iter().map(|word| word.trim_matches(['"', '\'', ','])).peekable();
        let mut known = everywhere.clone();
        let mut verb: Option<String> = None;
        while let Some(word) = words.next() {
            let name = word.split('=').next().unwrap_or_default();
            if name.starts_with('-') && name.len() > 1 {
                if !known.contains(name) {
                    return Some(format!("{} takes no {name}", verb.unwrap_or_default()));
                }
                // Before the verb every flag but this one has a value.
                if verb.is_none() && name.starts_with("--") && !name.contains("verbose") && !word.contains('=') {
                    words.next();
                }
                continue;
            }
            let name = verb.as_ref().map_or_else(|| word.to_owned(), |verb| format!("{verb} {word}"));
            match (self.flags.get(&name), &verb) {
                (Some(flags), _) if !name.is_empty() => {
                    known.extend(flags.iter().cloned());
                    verb = Some(name);
                }
                (_, None) if word.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    return Some(format!("there is no command {word}"));
                }
                (_, None) => return None,
                _ => {}
            }
        }
        None
    }
}
