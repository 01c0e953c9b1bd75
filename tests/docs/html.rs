//! The links of a built book.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Broken links between its pages.
pub fn dead_links(book: &Path) -> Vec<String> {
    let mut pages = BTreeMap::new();
    let mut todo = vec![book.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            // The 404 page has links from the site's root, and the print page has all anchors again.
            let own =
                path.file_name().is_some_and(|name| name == "404.html" || name == "print.html" || name == "toc.html");
            match path.extension() {
                _ if path.is_dir() => todo.push(path),
                Some(extension) if extension == "html" && !own => {
                    let text = fs::read_to_string(&path).unwrap();
                    pages.insert(path, text);
                }
                _ => {}
            }
        }
    }
    assert!(pages.len() > 30, "{} pages", pages.len());
    let mut wrong = Vec::new();
    for (path, text) in &pages {
        let links = attributes(text, "href").into_iter().chain(attributes(text, "src"));
        for link in links.filter(|link| !link.contains(':')) {
            let (target, anchor) = link.split_once('#').map_or((link, None), |(target, anchor)| (target, Some(anchor)));
            let to = if target.is_empty() { path.clone() } else { plain(&path.with_file_name(target)) };
            let there = match (pages.get(&to), anchor) {
                (Some(text), Some(anchor)) if !anchor.is_empty() => attributes(text, "id").contains(&anchor),
                (Some(_), _) => true,
                (None, _) => to.is_file() || (target.ends_with("print.html") && book.join("print.html").is_file()),
            };
            if !there {
                wrong.push(format!("{}: {link}", path.strip_prefix(book).unwrap_or(path).display()));
            }
        }
    }
    wrong
}

fn attributes<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    text.split(start.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}
