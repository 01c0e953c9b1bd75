//! The known paths: every path whose description the guest has.
//!
//! The guest's Nix writes such a path into its own database and does not ask again while the guest's disk lives. So
//! this file outlives the daemon, and a path is in it *before* the guest gets the description. A path leaves it only
//! when the guest has forgotten it or the guest's disk is gone.
//!
//! A line has the path's name, the hash of its contents and their size. The last line of a path counts.
//!
//! While the guest forgets a path that a session found vanished, it may ask for that path again. So each time the guest
//! gets a description has a sequence number, and only an entry with the number that was found vanished is removed,
//! never a later one.

use super::{journal::Journal, path::StorePath};
use dvn_types::{Kind, Report};
use std::{collections::HashMap, fmt::Write, fs::File, io, path::Path};

/// The description that the guest has of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Hash of its NAR, as the protocol writes it.
    pub nar_hash: Box<str>,
    /// Size of its NAR in bytes.
    pub nar_size: u64,
}

/// Orders the times at which the guest got a description: a later one has a larger number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence(u64);

/// An entry for one path.
#[derive(Debug)]
struct Entry {
    contents: Contents,
    sequence: Sequence,
    vanished: bool,
}

/// The known paths in memory and on disk.
#[derive(Debug)]
pub struct KnownPaths {
    entries: HashMap<StorePath, Entry>,
    last_sequence: u64,
    journal: Journal,
}

impl KnownPaths {
    /// Reads the file. A malformed line is an error: the paths that the guest relies on would be unknown.
    pub fn open(path: &Path) -> Result<KnownPaths, Report> {
        let (journal, lines) = Journal::open(path)?;
        let mut known_paths = KnownPaths { entries: HashMap::new(), last_sequence: 0, journal };
        for line in &lines {
            let Some((name, contents)) = parse(line) else {
                let message = format!(
                    "{} is damaged, so it is not known which paths of the host's store the guest relies on",
                    path.display()
                );
                return Err(Report::new(Kind::State, message)
                    .hint("recreate the guest's disk: `darwin-vz-nix destroy`; the next build starts a new one"));
            };
            known_paths.enter(name, contents);
        }
        if known_paths.entries.len() < lines.len() {
            known_paths.rewrite()?;
        }
        Ok(known_paths)
    }

    /// Adds a path that the guest is about to get the description of. False if it is there already, unchanged.
    pub fn record(&mut self, path: &StorePath, contents: Contents) -> io::Result<bool> {
        let known = self.entries.get(path).is_some_and(|entry| entry.contents == contents && !entry.vanished);
        if !known {
            self.journal.append(&line(path, &contents))?;
        }
        self.enter(path.clone(), contents);
        Ok(!known)
    }

    fn enter(&mut self, path: StorePath, contents: Contents) {
        self.last_sequence += 1;
        self.entries.insert(path, Entry { contents, sequence: Sequence(self.last_sequence), vanished: false });
    }

    /// Marks paths that are gone from the host, unless the guest has got their description again since.
    pub fn mark_vanished(&mut self, gone: &[(StorePath, Sequence)]) {
        for (path, sequence) in gone {
            if let Some(entry) = self.entries.get_mut(path).filter(|entry| entry.sequence == *sequence) {
                entry.vanished = true;
            }
        }
    }

    /// Removes those of `paths` that are marked: the guest has forgotten them.
    pub fn remove_vanished(&mut self, paths: &[StorePath]) -> Result<(), Report> {
        let before = self.entries.len();
        for path in paths {
            if self.entries.get(path).is_some_and(|entry| entry.vanished) {
                self.entries.remove(path);
            }
        }
        if self.entries.len() < before { self.rewrite() } else { Ok(()) }
    }

    /// Removes all paths.
    pub fn clear(&mut self) -> Result<(), Report> {
        self.entries.clear();
        self.rewrite()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&StorePath, &Contents, Sequence)> {
        self.entries.iter().map(|(path, entry)| (path, &entry.contents, entry.sequence))
    }

    /// Whether the guest has the description of a path.
    pub fn knows(&self, path: &StorePath) -> bool {
        self.entries.contains_key(path)
    }

    /// A file handle for making the file durable.
    pub fn handle(&self) -> Option<File> {
        self.journal.handle()
    }

    fn rewrite(&mut self) -> Result<(), Report> {
        let text: String = self.iter().map(|(path, contents, _)| line(path, contents)).collect();
        self.journal.replace(text.as_bytes())
    }
}

fn line(path: &StorePath, contents: &Contents) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{path} {} {}", contents.nar_hash, contents.nar_size);
    line
}

fn parse(line: &str) -> Option<(StorePath, Contents)> {
    let mut fields = line.split(' ');
    let (path, nar_hash, nar_size) = (fields.next()?, fields.next()?, fields.next()?);
    let contents = Contents { nar_hash: nar_hash.into(), nar_size: nar_size.parse().ok()? };
    fields.next().is_none().then_some((StorePath::from_name(path)?, contents))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn path(letter: char) -> StorePath {
        StorePath::from_name(&format!("{}-x", letter.to_string().repeat(32))).unwrap()
    }

    fn contents(hash: &str) -> Contents {
        Contents { nar_hash: hash.into(), nar_size: 9 }
    }

    fn all(known_paths: &KnownPaths) -> HashMap<StorePath, Contents> {
        known_paths.iter().map(|(path, contents, _)| (path.clone(), contents.clone())).collect()
    }

    fn mark_all(known_paths: &mut KnownPaths) {
        let all: Vec<_> = known_paths.iter().map(|(path, _, sequence)| (path.clone(), sequence)).collect();
        known_paths.mark_vanished(&all);
    }

    #[test]
    fn it_outlives_the_daemon_and_the_last_line_counts() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("ledger");
        let mut known_paths = KnownPaths::open(&file).unwrap();
        assert!(known_paths.record(&path('a'), contents("1")).unwrap());
        assert!(known_paths.record(&path('b'), contents("2")).unwrap());
        assert!(known_paths.record(&path('a'), contents("3")).unwrap(), "another content of the same name is new");
        assert!(!known_paths.record(&path('b'), contents("2")).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);

        let mut known_paths = KnownPaths::open(&file).unwrap();
        assert_eq!(all(&known_paths), HashMap::from([(path('a'), contents("3")), (path('b'), contents("2"))]));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2, "and it is shorter again");
        mark_all(&mut known_paths);
        known_paths.remove_vanished(&[path('a'), path('c')]).unwrap();
        assert_eq!(all(&KnownPaths::open(&file).unwrap()), HashMap::from([(path('b'), contents("2"))]));
        known_paths.clear().unwrap();
        assert!(all(&KnownPaths::open(&file).unwrap()).is_empty());
    }

    #[test]
    fn a_path_described_again_is_not_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let mut known_paths = KnownPaths::open(&tmp.path().join("ledger")).unwrap();
        for letter in ['a', 'b', 'c'] {
            known_paths.record(&path(letter), contents("1")).unwrap();
        }
        let seen: Vec<_> = known_paths.iter().map(|(path, _, sequence)| (path.clone(), sequence)).collect();
        known_paths.record(&path('a'), contents("1")).unwrap();
        known_paths.mark_vanished(&seen);
        assert!(known_paths.record(&path('b'), contents("1")).unwrap(), "it is new again");
        known_paths.remove_vanished(&['a', 'b', 'c'].map(path)).unwrap();
        assert_eq!(all(&known_paths), HashMap::from(['a', 'b'].map(|letter| (path(letter), contents("1")))));
    }

    #[test]
    fn damage_is_not_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("ledger");
        for damage in ["\n", "../../etc/passwd 1 2\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x 1\n", "\u{0}\u{0}\n"] {
            fs::write(&file, damage).unwrap();
            let error = KnownPaths::open(&file).unwrap_err();
            assert!(error.message.contains("damaged"), "{error}");
        }
    }
}
