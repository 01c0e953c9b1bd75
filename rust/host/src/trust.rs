//! Checks which other users could redirect a path, by putting another directory in the state directory's place.
//!
//! ```text
//!  /home/u/link/s   ─▶   /   home   u   link ─▶ /   data   x   s
//!                        each directory, each link, and the directories on the link's path: owned by this user or root, and
//!                        not writable by others
//!
//! The rule is that of ssh's StrictModes. A directory that all users may write is trusted if it is sticky, as `/tmp`
//! is: no other user can replace our entries in it. The last directory has stricter rules, see `private_dir`.

use dvn_types::{Kind, Report};
use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

/// Most links on one path, as in Linux.
const MOST_LINKS: usize = 40;

const STICKY: u32 = 0o1000;
const ALL_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// How another user could replace what is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Danger {
    /// A directory on the path belongs to another user.
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A link on the path belongs to another user.
    ForeignLink {
        /// The link.
        link: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// All users may write in a directory on the path.
    OpenToAll {
        /// The directory.
        dir: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A group may write in it. The group may consist of this user alone, which cannot be seen.
    OpenToGroup {
        /// The directory.
        dir: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The links on the path form a loop.
    Loop {
        /// One of them.
        link: PathBuf,
    },
}

impl Danger {
    /// Whether the path must not be used; otherwise a warning is enough.
    pub fn forbids(&self) -> bool {
        !matches!(self, Danger::OpenToGroup { .. })
    }

    /// The problem with `path`, and what to do about it.
    pub fn report(&self, path: &Path) -> Report {
        let shown = path.display();
        let (why, hint) = match self {
            Danger::Foreign { dir, owner } => {
                (format!("{} belongs to user {owner}, who could replace it", dir.display()), None)
            }
            Danger::ForeignLink { link, owner } => {
                (format!("the link {} belongs to user {owner}, who could lead it elsewhere", link.display()), None)
            }
            Danger::OpenToAll { dir, mode } => (
                format!("every user may write in {} (mode {mode:04o}), and so replace it", dir.display()),
                Some(format!("close that one: chmod go-w {}", dir.display())),
            ),
            Danger::OpenToGroup { dir, mode } => (
                format!("a group may write in {} (mode {mode:04o}), and so replace it", dir.display()),
                Some(format!("close that one: chmod g-w {}", dir.display())),
            ),
            Danger::Loop { link } => (format!("{} is a link that leads back to itself", link.display()), None),
        };
        let report = Report::new(Kind::State, format!("{shown} is not safe to keep keys in: {why}"));
        hint.into_iter().fold(report, Report::hint).hint("or choose a directory of your own: --state-dir")
    }
}

/// The dangers on `path` for this user, from the first directory to the last. Missing entries are no danger.
pub fn dangers(path: &Path, user: u32) -> Vec<Danger> {
    let mut way = Way { user, found: Vec::new() };
    way.go(path);
    way.found
}

/// Refuses a path that another user can redirect.
pub fn check(path: &Path) -> Result<(), Report> {
    let dangers = dangers(path, rustix::process::geteuid().as_raw());
    dangers.iter().find(|danger| danger.forbids()).map_or(Ok(()), |danger| Err(danger.report(path)))
}

/// Logs a warning for dangers that [`check`] accepts.
pub fn warn(path: &Path) {
    for danger in dangers(path, rustix::process::geteuid().as_raw()) {
        let Report { message, hints, .. } = danger.report(path);
        tracing::warn!("{message}; {}", hints.join("; "));
    }
}

struct Way {
    user: u32,
    found: Vec<Danger>,
}

/// A component of a path.
enum Step {
    Root,
    Up,
    Into(OsString),
}

fn steps(path: &Path) -> impl DoubleEndedIterator<Item = Step> {
    path.components().filter_map(|part| match part {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

impl Way {
    fn go(&mut self, path: &Path) {
        let mut ahead: VecDeque<Step> = steps(path).collect();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            let here = match step {
                Step::Root => PathBuf::from("/"),
                Step::Up => at.parent().unwrap_or(Path::new("/")).to_owned(),
                Step::Into(name) => at.join(name),
            };
            // Either the entry is missing, or the operation that follows fails and reports why.
            let Ok(meta) = fs::symlink_metadata(&here) else { return };
            if meta.is_symlink() {
                self.link(&here, &meta);
                links += 1;
                if links > MOST_LINKS {
                    return self.found.push(Danger::Loop { link: here });
                }
                let Ok(target) = fs::read_link(&here) else { return };
                steps(&target).rev().for_each(|step| ahead.push_front(step));
                continue;
            }
            if !ahead.is_empty() {
                self.directory(&here, &meta);
            }
            at = here;
        }
    }

    fn trusts(&self, owner: u32) -> bool {
        owner == 0 || owner == self.user
    }

    fn link(&mut self, link: &Path, meta: &Metadata) {
        if !self.trusts(meta.uid()) {
            self.note(Danger::ForeignLink { link: link.to_owned(), owner: meta.uid() });
        }
    }

    fn directory(&mut self, dir: &Path, meta: &Metadata) {
        let mode = meta.permissions().mode() & 0o7777;
        let dir = dir.to_owned();
        if !self.trusts(meta.uid()) {
            self.note(Danger::Foreign { dir, owner: meta.uid() });
        } else if mode & STICKY != 0 {
            // In a sticky directory each entry belongs to its owner, and the next entry's owner is checked.
        } else if mode & ALL_WRITE != 0 {
            self.note(Danger::OpenToAll { dir, mode });
        } else if mode & GROUP_WRITES != 0 {
            self.note(Danger::OpenToGroup { dir, mode });
        }
    }

    /// Links may lead through one directory twice.
    fn note(&mut self, danger: Danger) {
        if !self.found.contains(&danger) {
            self.found.push(danger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::Permissions,
        os::unix::fs::{chown, lchown, symlink},
    };

    /// The owner of everything in a test, and another user.
    fn users(tmp: &Path) -> (u32, u32) {
        let me = fs::metadata(tmp).unwrap().uid();
        (me, me + 4000)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Creates `outer/inner/s`, and returns the dangers on its path.
    fn of(plant: impl FnOnce(&Path)) -> (tempfile::TempDir, Vec<Danger>) {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("outer/inner/s")).unwrap();
        for dir in ["outer", "outer/inner", "outer/inner/s"] {
            set_mode(&tmp.path().join(dir), 0o755);
        }
        plant(tmp.path());
        let (me, _) = users(tmp.path());
        let found = dangers(&tmp.path().join("outer/inner/s"), me);
        (tmp, found)
    }

    #[test]
    fn a_directory_on_the_way_that_others_may_write_is_found_wherever_it_is() {
        assert_eq!(of(|_| {}).1, []);
        for dir in ["outer", "outer/inner"] {
            let (tmp, found) = of(|tmp| set_mode(&tmp.join(dir), 0o777));
            assert_eq!(found, [Danger::OpenToAll { dir: tmp.path().join(dir), mode: 0o777 }]);
            assert!(found[0].forbids());
            let report = found[0].report(Path::new("/s"));
            assert!(report.hints[0].starts_with("close that one: chmod go-w "), "{report:?}");
            let (tmp, found) = of(|tmp| set_mode(&tmp.join(dir), 0o775));
            assert_eq!(found, [Danger::OpenToGroup { dir: tmp.path().join(dir), mode: 0o775 }]);
            assert!(!found[0].forbids());
            assert_eq!(of(|tmp| set_mode(&tmp.join(dir), 0o1777)).1, [], "as /tmp");
        }
        assert_eq!(of(|tmp| set_mode(&tmp.join("outer/inner/s"), 0o777)).1, [], "the last has its own rules");
    }

    #[test]
    fn what_is_another_users_is_found_sticky_or_not() {
        let tmp = tempfile::tempdir().unwrap();
        let (me, other) = users(tmp.path());
        fs::create_dir_all(tmp.path().join("outer/s")).unwrap();
        // Another user sees all this as foreign, except what root owns.
        let seen = dangers(&tmp.path().join("outer/s"), other);
        let foreign = |dir: &str| Danger::Foreign { dir: tmp.path().join(dir), owner: me };
        if me != 0 {
            assert_eq!(seen, [foreign(""), foreign("outer")]);
            return;
        }
        assert_eq!(seen, []);
        for mode in [0o755, 0o1777] {
            set_mode(&tmp.path().join("outer"), mode);
            chown(tmp.path().join("outer"), Some(other), None).unwrap();
            let found = dangers(&tmp.path().join("outer/s"), me);
            assert_eq!(found, [Danger::Foreign { dir: tmp.path().join("outer"), owner: other }]);
            assert_eq!(dangers(&tmp.path().join("outer/s"), other), []);
        }
    }

    #[test]
    fn a_link_is_followed_and_its_own_way_is_looked_at() {
        let tmp = tempfile::tempdir().unwrap();
        let (me, other) = users(tmp.path());
        let at = |path: &str| tmp.path().join(path);
        for dir in ["safe/s", "open/s", "sticky"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        set_mode(&at("open"), 0o777);
        set_mode(&at("sticky"), 0o1777);
        symlink(at("safe/s"), at("good")).unwrap();
        symlink("safe/../safe/s", at("relative")).unwrap();
        symlink(at("open/s"), at("into-open")).unwrap();
        symlink(at("safe/s"), at("open/out")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(at("safe"), at("sticky/theirs")).unwrap();
        let found = |path: &str| dangers(&at(path), me);
        assert_eq!((found("good"), found("relative"), found("safe/new/s")), (vec![], vec![], vec![]));
        let open = Danger::OpenToAll { dir: at("open"), mode: 0o777 };
        assert_eq!((found("into-open"), found("open/out")), (vec![open.clone()], vec![open.clone()]));
        assert_eq!(found("open/new/s"), [open], "not there yet");
        assert_eq!(found("loop"), [Danger::Loop { link: at("loop") }]);
        assert_eq!(found("sticky/theirs/s"), []);
        if me == 0 {
            lchown(at("sticky/theirs"), Some(other), None).unwrap();
            assert_eq!(found("sticky/theirs/s"), [Danger::ForeignLink { link: at("sticky/theirs"), owner: other }]);
        }
    }

    #[test]
    fn a_directory_for_temporary_files_of_all_users_is_fine() {
        let me = rustix::process::geteuid().as_raw();
        for dir in ["/tmp/x/s", "/var/tmp/x/s"] {
            assert_eq!(dangers(Path::new(dir), me), [], "{dir}");
        }
    }
}
