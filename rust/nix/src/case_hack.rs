//! Finds store paths whose files have other names on the host's disk than in Nix, and remembers the result.
//!
//! On a case-insensitive volume Nix restores `a` and `A` as `a` and `A~nix~case~hack~1`, and reverses that when it
//! reads the path. A guest reads the files directly and would see the wrong names. Store paths never change, so each is
//! scanned once: verdicts are kept by path and by hash of the contents.

use super::{journal::Journal, path::StorePath};
use dvn_types::Report;
use std::{
    collections::HashMap,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The text that Nix puts between a clashing name and a number.
const MARK: &[u8] = b"~nix~case~hack~";

/// Most entries scanned in one path. The largest known packages have some hundred thousand.
const MOST_ENTRIES: u64 = 20_000_000;

/// Most verdicts kept. Beyond that the list starts over.
const MOST_VERDICTS: usize = 200_000;

/// The first changed name below `root`. Follows no links. Fails if something cannot be read.
pub fn changed_name(root: &Path) -> io::Result<Option<String>> {
    if !fs::symlink_metadata(root)?.is_dir() {
        return Ok(None);
    }
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_bytes().windows(MARK.len()).any(|part| part == MARK) {
                return Ok(Some(name.to_string_lossy().escape_debug().to_string()));
            }
            seen += 1;
            if seen > MOST_ENTRIES {
                return Err(io::Error::other(format!("it has more than {MOST_ENTRIES} files")));
            }
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(None)
}

/// The result for a path with these contents.
#[derive(Debug)]
struct Verdict {
    nar_hash: Box<str>,
    changed: Option<Box<str>>,
}

/// Verdicts in memory and on disk. A line has the path's name, the hash of its contents, and the changed name if there
/// is one.
#[derive(Debug)]
pub struct Verdicts {
    known: HashMap<StorePath, Verdict>,
    journal: Journal,
}

impl Verdicts {
    /// Reads the verdicts. Skips malformed lines: those paths are scanned again.
    pub fn open(path: &Path) -> Result<Verdicts, Report> {
        let (mut journal, lines) = Journal::open(path)?;
        let known: HashMap<_, _> = lines.iter().filter_map(|line| parse(line)).collect();
        if known.len() < lines.len() {
            let text: String = known.iter().map(|(path, it)| line(path, &it.nar_hash, it.changed.as_deref())).collect();
            journal.replace(text.as_bytes())?;
        }
        Ok(Verdicts { known, journal })
    }

    /// The verdict for a path with these contents: `Some(None)` means that no name is changed.
    pub fn get(&self, path: &StorePath, nar_hash: &str) -> Option<Option<String>> {
        let verdict = self.known.get(path)?;
        (*verdict.nar_hash == *nar_hash).then(|| verdict.changed.as_deref().map(str::to_owned))
    }

    /// Stores a verdict. If the disk is full the path is scanned again later.
    pub fn remember(&mut self, path: &StorePath, nar_hash: &str, changed: Option<&str>) {
        let written = if self.known.len() < MOST_VERDICTS {
            self.journal.append(&line(path, nar_hash, changed)).map_err(|e| e.to_string())
        } else {
            self.known.clear();
            self.journal.replace(line(path, nar_hash, changed).as_bytes()).map_err(|e| e.to_string())
        };
        if let Err(e) = written {
            tracing::warn!("cannot store the result of scanning a store path: {e}");
        }
        self.known.insert(path.clone(), Verdict { nar_hash: nar_hash.into(), changed: changed.map(Into::into) });
    }
}

fn line(path: &StorePath, nar_hash: &str, changed: Option<&str>) -> String {
    match changed {
        None => format!("{path} {nar_hash}\n"),
        Some(name) => format!("{path} {nar_hash} {name}\n"),
    }
}

fn parse(line: &str) -> Option<(StorePath, Verdict)> {
    let mut fields = line.splitn(3, ' ');
    let (path, nar_hash) = (StorePath::from_name(fields.next()?)?, fields.next()?.into());
    Some((path, Verdict { nar_hash, changed: fields.next().map(Into::into) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn changed_names_are_found_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let other = tmp.path().join("other");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("B~nix~case~hack~1"), "").unwrap();
        let root = tmp.path().join("path");
        fs::create_dir_all(root.join("deep/er")).unwrap();
        symlink(&other, root.join("deep/link")).unwrap();
        symlink("/", root.join("deep/er/up")).unwrap();
        fs::write(root.join("deep/case~hack~1"), "").unwrap();
        assert_eq!(changed_name(&root).unwrap(), None);
        symlink(&other, tmp.path().join("top")).unwrap();
        assert_eq!(changed_name(&tmp.path().join("top")).unwrap(), None, "a path that is a link itself");
        fs::create_dir(root.join("deep/er/A~nix~case~hack~2")).unwrap();
        assert_eq!(changed_name(&root).unwrap().as_deref(), Some("A~nix~case~hack~2"));
        assert!(changed_name(&tmp.path().join("absent")).is_err());
    }

    #[test]
    fn a_verdict_holds_for_these_contents_only_and_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("verdicts");
        let path = StorePath::from_name(&format!("{}-x", "a".repeat(32))).unwrap();
        let mut verdicts = Verdicts::open(&file).unwrap();
        assert_eq!(verdicts.get(&path, "1"), None);
        verdicts.remember(&path, "1", Some("a b~nix~case~hack~1"));
        verdicts.remember(&path, "2", None);
        fs::write(&file, fs::read_to_string(&file).unwrap() + "nonsense\n").unwrap();
        let verdicts = Verdicts::open(&file).unwrap();
        assert_eq!(verdicts.get(&path, "2"), Some(None));
        assert_eq!(verdicts.get(&path, "1"), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{path} 2\n"));
        let mut verdicts = verdicts;
        verdicts.remember(&path, "1", Some("a b~nix~case~hack~1"));
        let verdicts = Verdicts::open(&file).unwrap();
        assert_eq!(verdicts.get(&path, "1"), Some(Some("a b~nix~case~hack~1".into())));
    }
}
