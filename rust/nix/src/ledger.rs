//! The ledger: every path whose description the guest has been given.
//!
//! The guest's Nix writes such a path into a database of its own and does not ask again, for as long as the guest's disk
//! lives. So this file outlives the daemon, and a path is in it *before* the guest can know of it. It leaves the ledger only
//! when the guest has forgotten it or the guest's disk is gone.
//!
//! A line is the path's name, the hash of its contents and their size. The last line of a path counts.
//!
//! While a session finds a path vanished and the guest forgets it, the guest may ask for it again. So each telling has a
//! number, and what is struck out is a telling that was found vanished, never a later one.

use super::{journal::Journal, path::StorePath};
use dvn_types::{Kind, Report};
use std::{collections::HashMap, fmt::Write, fs::File, io, path::Path};

/// What the guest was told of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Hash of its archive, as the protocol writes it.
    pub nar_hash: Box<str>,
    /// Size of its archive in bytes.
    pub nar_size: u64,
}

/// When a path was last told, among all that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling(u64);

/// A path in the ledger.
#[derive(Debug)]
struct Entry {
    told: Told,
    telling: Telling,
    vanished: bool,
}

/// The ledger in memory and on disk.
#[derive(Debug)]
pub struct Ledger {
    entries: HashMap<StorePath, Entry>,
    tellings: u64,
    journal: Journal,
}

impl Ledger {
    /// Reads it. A line that makes no sense is an error: nobody could say then what the guest relies on.
    pub fn open(path: &Path) -> Result<Ledger, Report> {
        let (journal, lines) = Journal::open(path)?;
        let mut ledger = Ledger { entries: HashMap::new(), tellings: 0, journal };
        for line in &lines {
            let Some((name, told)) = parse(line) else {
                let message = format!(
                    "{} is damaged, so it is not known which paths of the host's store the guest relies on",
                    path.display()
                );
                return Err(Report::new(Kind::State, message)
                    .hint("make the guest's disk anew: `darwin-vz-nix destroy`; the next build starts a new one"));
            };
            ledger.enter(name, told);
        }
        if ledger.entries.len() < lines.len() {
            ledger.rewrite()?;
        }
        Ok(ledger)
    }

    /// Notes that the guest is about to be told of a path; false if it is in the ledger already.
    pub fn record(&mut self, path: &StorePath, told: Told) -> io::Result<bool> {
        let known = self.entries.get(path).is_some_and(|entry| entry.told == told && !entry.vanished);
        if !known {
            self.journal.append(&line(path, &told))?;
        }
        self.enter(path.clone(), told);
        Ok(!known)
    }

    fn enter(&mut self, path: StorePath, told: Told) {
        self.tellings += 1;
        self.entries.insert(path, Entry { told, telling: Telling(self.tellings), vanished: false });
    }

    /// Marks what is no longer on the host, unless the guest has been told of it since.
    pub fn mark_vanished(&mut self, gone: &[(StorePath, Telling)]) {
        for (path, telling) in gone {
            if let Some(entry) = self.entries.get_mut(path).filter(|entry| entry.telling == *telling) {
                entry.vanished = true;
            }
        }
    }

    /// Strikes out those of these that are marked: the guest has forgotten them.
    pub fn strike(&mut self, paths: &[StorePath]) -> Result<(), Report> {
        let before = self.entries.len();
        for path in paths {
            if self.entries.get(path).is_some_and(|entry| entry.vanished) {
                self.entries.remove(path);
            }
        }
        if self.entries.len() < before { self.rewrite() } else { Ok(()) }
    }

    /// Strikes everything out.
    pub fn clear(&mut self) -> Result<(), Report> {
        self.entries.clear();
        self.rewrite()
    }

    /// What the guest has been told of.
    pub fn told(&self) -> impl Iterator<Item = (&StorePath, &Told, Telling)> {
        self.entries.iter().map(|(path, entry)| (path, &entry.told, entry.telling))
    }

    /// Whether the guest has been told of a path.
    pub fn knows(&self, path: &StorePath) -> bool {
        self.entries.contains_key(path)
    }

    /// A handle by which the file can be made durable.
    pub fn handle(&self) -> Option<File> {
        self.journal.handle()
    }

    fn rewrite(&mut self) -> Result<(), Report> {
        let text: String = self.told().map(|(path, told, _)| line(path, told)).collect();
        self.journal.replace(text.as_bytes())
    }
}

fn line(path: &StorePath, told: &Told) -> String {
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{path} {} {}", told.nar_hash, told.nar_size);
    line
}

fn parse(line: &str) -> Option<(StorePath, Told)> {
    let mut fields = line.split(' ');
    let (path, nar_hash, nar_size) = (fields.next()?, fields.next()?, fields.next()?);
    let told = Told { nar_hash: nar_hash.into(), nar_size: nar_size.parse().ok()? };
    fields.next().is_none().then_some((StorePath::from_name(path)?, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn path(letter: char) -> StorePath {
        StorePath::from_name(&format!("{}-x", letter.to_string().repeat(32))).unwrap()
    }

    fn told(hash: &str) -> Told {
        Told { nar_hash: hash.into(), nar_size: 9 }
    }

    fn all(ledger: &Ledger) -> HashMap<StorePath, Told> {
        ledger.told().map(|(path, told, _)| (path.clone(), told.clone())).collect()
    }

    fn mark_all(ledger: &mut Ledger) {
        let all: Vec<_> = ledger.told().map(|(path, _, telling)| (path.clone(), telling)).collect();
        ledger.mark_vanished(&all);
    }

    #[test]
    fn it_outlives_the_daemon_and_the_last_word_counts() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("ledger");
        let mut ledger = Ledger::open(&file).unwrap();
        assert!(ledger.record(&path('a'), told("1")).unwrap());
        assert!(ledger.record(&path('b'), told("2")).unwrap());
        assert!(ledger.record(&path('a'), told("3")).unwrap(), "another content of the same name is news");
        assert!(!ledger.record(&path('b'), told("2")).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 3);

        let mut ledger = Ledger::open(&file).unwrap();
        assert_eq!(all(&ledger), HashMap::from([(path('a'), told("3")), (path('b'), told("2"))]));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2, "and it is shorter again");
        mark_all(&mut ledger);
        ledger.strike(&[path('a'), path('c')]).unwrap();
        assert_eq!(all(&Ledger::open(&file).unwrap()), HashMap::from([(path('b'), told("2"))]));
        ledger.clear().unwrap();
        assert!(all(&Ledger::open(&file).unwrap()).is_empty());
    }

    #[test]
    fn what_is_told_again_is_not_struck_out() {
        let tmp = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&tmp.path().join("ledger")).unwrap();
        for letter in ['a', 'b', 'c'] {
            ledger.record(&path(letter), told("1")).unwrap();
        }
        let seen: Vec<_> = ledger.told().map(|(path, _, telling)| (path.clone(), telling)).collect();
        ledger.record(&path('a'), told("1")).unwrap();
        ledger.mark_vanished(&seen);
        assert!(ledger.record(&path('b'), told("1")).unwrap(), "it is news again");
        ledger.strike(&['a', 'b', 'c'].map(path)).unwrap();
        assert_eq!(all(&ledger), HashMap::from(['a', 'b'].map(|letter| (path(letter), told("1")))));
    }

    #[test]
    fn damage_is_not_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("ledger");
        for damage in ["\n", "../../etc/passwd 1 2\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x 1\n", "\u{0}\u{0}\n"] {
            fs::write(&file, damage).unwrap();
            let error = Ledger::open(&file).unwrap_err();
            assert!(error.message.contains("damaged"), "{error}");
        }
    }
}
