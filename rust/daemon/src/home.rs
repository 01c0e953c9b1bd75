//! Whether the state directory is still the one in which the daemon began. Without it the daemon can neither be asked nor ended, and
//! a second one would not meet its lock.
//!
//! ```text
//!   each change of a machine, and once a minute: look ─▶ as it was
//!                                                  ├──▶ the API's socket is gone: it is made anew
//!                                                  └──▶ the directory or its lock is gone, or another: the daemon ends
//! ```
//!
//! Nothing is watched by means of the system, which each has its own: what matters is that whoever connects meets a daemon that
//! has noticed, and that one which nobody needs does not stay for ever.

use crate::chronicle::Chronicle;
use dvn_host::machine_dir::StateDir;
use dvn_types::{Kind, Report};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

/// How often an idle daemon looks.
const PERIOD: Duration = Duration::from_secs(60);

/// A file or directory, whatever its name is.
type Identity = (u64, u64);

/// The state directory as it was.
pub struct Home {
    state: StateDir,
    chronicle: Arc<Chronicle>,
    root: Identity,
    lock: Identity,
    socket: Identity,
}

/// What has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The socket of the API: nobody can ask the daemon any more.
    Socket,
    /// All of it: why the daemon cannot go on.
    Directory(Report),
}

impl Home {
    /// As it is now: locked, and with the API's socket.
    pub fn of(state: &StateDir, chronicle: &Arc<Chronicle>) -> Result<Home, Report> {
        let known = |path: &Path| {
            identity(path).map_err(|e| Report::new(Kind::State, format!("{} cannot be looked at: {e}", path.display())))
        };
        Ok(Home {
            root: known(state.root())?,
            lock: known(&state.lock_file())?,
            socket: known(&state.api_socket())?,
            state: state.clone(),
            chronicle: Arc::clone(chronicle),
        })
    }

    /// Waits until something of it has gone.
    pub async fn lost(&self) -> Loss {
        // Also a connection that is refused changes something: it had a lease, or made a machine try to boot.
        let mut changes = self.chronicle.generation();
        loop {
            if let Some(loss) = self.look() {
                return loss;
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                // The chronicle, which is held here, does not end.
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// The API has another socket from now on.
    pub fn has_new_socket(&mut self) -> io::Result<()> {
        self.socket = identity(&self.state.api_socket())?;
        Ok(())
    }

    /// Removes the API's socket, if it is this daemon's still.
    pub fn remove_socket(&self) {
        let path = self.state.api_socket();
        if is(&path, self.socket) {
            // One that stays is replaced at the next start.
            let _ = fs::remove_file(path);
        }
    }

    fn look(&self) -> Option<Loss> {
        let root = self.state.root();
        let gone = |what: &Path, identity| {
            (!is(what, identity)).then(|| match what.symlink_metadata() {
                Ok(_) => format!("{} was replaced by another", what.display()),
                Err(_) => format!("{} was deleted", what.display()),
            })
        };
        if let Some(what) = gone(root, self.root).or_else(|| gone(&self.state.lock_file(), self.lock)) {
            let report = Report::new(
                Kind::State,
                format!(
                    "{what} while the daemon ran, so that nobody can reach it any more: it stops its guests and ends"
                ),
            );
            return Some(Loss::Directory(report.hint("start another: `darwin-vz-nix start`")));
        }
        gone(&self.state.api_socket(), self.socket).map(|_| Loss::Socket)
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// What cannot be looked at for another reason than that it is gone, such as a want of descriptors, counts as it was.
fn is(path: &Path, expected: Identity) -> bool {
    match identity(path) {
        Ok(found) => found == expected,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_http::server;
    use std::pin::pin;
    use tokio::time::{Instant, timeout};

    struct Rig {
        tmp: tempfile::TempDir,
        state: StateDir,
        chronicle: Arc<Chronicle>,
    }

    impl Rig {
        fn new() -> Rig {
            let tmp = tempfile::tempdir().unwrap();
            let state = StateDir::open(&tmp.path().join("s")).unwrap();
            Rig { tmp, state, chronicle: Arc::default() }
        }

        fn home(&self) -> Home {
            drop(self.state.lock().unwrap());
            // Its file stays when the listener goes.
            drop(server::bind(&self.state.api_socket()).unwrap());
            Home::of(&self.state, &self.chronicle).unwrap()
        }
    }

    /// The state directory, the lock and the socket, each deleted, and each replaced by its like.
    #[tokio::test]
    async fn whatever_goes_of_the_state_directory_is_noticed() {
        type Harm = fn(&StateDir);
        let cases: [(&str, Harm, bool); 6] = [
            ("deleted", |state| fs::remove_dir_all(state.root()).unwrap(), true),
            (
                "replaced",
                |state| {
                    fs::rename(state.root(), state.root().with_extension("away")).unwrap();
                    StateDir::open(state.root()).unwrap();
                },
                true,
            ),
            ("deleted", |state| fs::remove_file(state.lock_file()).unwrap(), true),
            (
                "replaced",
                |state| {
                    fs::rename(state.lock_file(), state.root().join("old")).unwrap();
                    fs::write(state.lock_file(), "").unwrap();
                },
                true,
            ),
            ("", |state| fs::remove_file(state.api_socket()).unwrap(), false),
            (
                "",
                |state| {
                    fs::rename(state.api_socket(), state.root().join("old")).unwrap();
                    drop(server::bind(&state.api_socket()).unwrap());
                },
                false,
            ),
        ];
        for (expected, harm, all) in cases {
            let rig = Rig::new();
            let mut home = rig.home();
            assert_eq!(home.look(), None);
            harm(&rig.state);
            match home.look() {
                Some(Loss::Directory(report)) if all => assert!(report.message.contains(expected), "{report}"),
                Some(Loss::Socket) if !all => {
                    let _ = server::bind(&rig.state.api_socket()).unwrap();
                    home.has_new_socket().unwrap();
                    assert_eq!(home.look(), None);
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_an_occasion_to_look_and_an_idle_daemon_looks_once_a_minute() {
        for change in [true, false] {
            let rig = Rig::new();
            let home = rig.home();
            assert!(timeout(PERIOD * 10, home.lost()).await.is_err(), "nothing has gone");
            let mut lost = pin!(home.lost());
            assert!(futures_util::poll!(&mut lost).is_pending());
            fs::remove_dir_all(rig.state.root()).unwrap();
            let begun = Instant::now();
            if change {
                rig.chronicle.changed();
            }
            assert!(matches!(lost.await, Loss::Directory(_)));
            assert!(if change { begun.elapsed() < PERIOD / 2 } else { begun.elapsed() <= PERIOD * 2 });
        }
    }

    #[tokio::test]
    async fn the_socket_of_another_daemon_is_left_to_it() {
        let rig = Rig::new();
        let home = rig.home();
        let socket = rig.state.api_socket();
        fs::rename(&socket, rig.tmp.path().join("old")).unwrap();
        drop(server::bind(&socket).unwrap());
        home.remove_socket();
        assert!(socket.exists());
        fs::rename(rig.tmp.path().join("old"), &socket).unwrap();
        home.remove_socket();
        assert!(!socket.exists());
    }
}
