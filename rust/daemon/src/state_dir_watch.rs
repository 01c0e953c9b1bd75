//! Notices when the state directory is deleted or replaced. Without it, clients can neither query nor stop the daemon, and a
//! second daemon would not find its lock.
//!
//! ```text
//!   each change of a machine, and once a minute: look ─▶ unchanged
//!                                                  ├──▶ the API's socket is gone: it is created again
//!                                                  └──▶ the directory or its lock is gone or replaced: the daemon ends
//! ```
//!
//! It does not use the system's file notifications, which differ on each system. It only has to ensure that the daemon notices
//! the loss when a client connects, and that an unused daemon does not stay for ever.

use crate::events::Events;
use dvn_host::machine_dir::StateDir;
use dvn_types::{Kind, Report};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

/// How often an idle daemon checks.
const PERIOD: Duration = Duration::from_secs(60);

/// Device and inode: identifies a file or directory independently of its name.
type Identity = (u64, u64);

/// The state directory as it was at the start.
pub struct StateDirWatch {
    state: StateDir,
    events: Arc<Events>,
    root: Identity,
    lock: Identity,
    socket: Identity,
}

/// What is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The API's socket: clients cannot reach the daemon any more.
    Socket,
    /// The directory or its lock, with the error that ends the daemon.
    Directory(Report),
}

impl StateDirWatch {
    /// Watches the directory as it is now: locked, and with the API's socket.
    pub fn of(state: &StateDir, events: &Arc<Events>) -> Result<StateDirWatch, Report> {
        let known = |path: &Path| {
            identity(path).map_err(|e| Report::new(Kind::State, format!("{} cannot be looked at: {e}", path.display())))
        };
        Ok(StateDirWatch {
            root: known(state.root())?,
            lock: known(&state.lock_file())?,
            socket: known(&state.api_socket())?,
            state: state.clone(),
            events: Arc::clone(events),
        })
    }

    /// Waits until a part of it is gone.
    pub async fn lost(&self) -> Loss {
        // Every connection causes a change, even a refused one: it had a lease, or made a machine try to boot.
        let mut changes = self.events.generation();
        loop {
            if let Some(loss) = self.look() {
                return loss;
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                // This object holds the events, so their channel stays open.
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Notes that the API has a new socket.
    pub fn has_new_socket(&mut self) -> io::Result<()> {
        self.socket = identity(&self.state.api_socket())?;
        Ok(())
    }

    /// Removes the API's socket, if it is still this daemon's.
    pub fn remove_socket(&self) {
        let path = self.state.api_socket();
        if is(&path, self.socket) {
            // If that fails, the next start replaces the socket.
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
                format!("{what} while the daemon ran, so clients can no longer reach it: it stops its guests and ends"),
            );
            return Some(Loss::Directory(report.hint("start another: `darwin-vz-nix start`")));
        }
        gone(&self.state.api_socket(), self.socket).map(|_| Loss::Socket)
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether the path still has this identity. An error other than a missing file, such as a lack of descriptors, counts as yes.
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
        events: Arc<Events>,
    }

    impl Rig {
        fn new() -> Rig {
            let tmp = tempfile::tempdir().unwrap();
            let state = StateDir::open(&tmp.path().join("s")).unwrap();
            Rig { tmp, state, events: Arc::default() }
        }

        fn state_dir(&self) -> StateDirWatch {
            drop(self.state.lock().unwrap());
            // The file remains when the listener is dropped.
            drop(server::bind(&self.state.api_socket()).unwrap());
            StateDirWatch::of(&self.state, &self.events).unwrap()
        }
    }

    /// The state directory, the lock and the socket, each deleted, and each replaced by a new one.
    #[tokio::test]
    async fn the_loss_of_each_part_of_the_state_directory_is_noticed() {
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
            let mut state_dir = rig.state_dir();
            assert_eq!(state_dir.look(), None);
            harm(&rig.state);
            match state_dir.look() {
                Some(Loss::Directory(report)) if all => assert!(report.message.contains(expected), "{report}"),
                Some(Loss::Socket) if !all => {
                    let _ = server::bind(&rig.state.api_socket()).unwrap();
                    state_dir.has_new_socket().unwrap();
                    assert_eq!(state_dir.look(), None);
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemon_checks_at_each_change_and_once_a_minute_when_idle() {
        for change in [true, false] {
            let rig = Rig::new();
            let state_dir = rig.state_dir();
            assert!(timeout(PERIOD * 10, state_dir.lost()).await.is_err(), "nothing is gone");
            let mut lost = pin!(state_dir.lost());
            assert!(futures_util::poll!(&mut lost).is_pending());
            fs::remove_dir_all(rig.state.root()).unwrap();
            let begun = Instant::now();
            if change {
                rig.events.changed();
            }
            assert!(matches!(lost.await, Loss::Directory(_)));
            assert!(if change { begun.elapsed() < PERIOD / 2 } else { begun.elapsed() <= PERIOD * 2 });
        }
    }

    #[tokio::test]
    async fn the_socket_of_another_daemon_is_not_removed() {
        let rig = Rig::new();
        let state_dir = rig.state_dir();
        let socket = rig.state.api_socket();
        fs::rename(&socket, rig.tmp.path().join("old")).unwrap();
        drop(server::bind(&socket).unwrap());
        state_dir.remove_socket();
        assert!(socket.exists());
        fs::rename(rig.tmp.path().join("old"), &socket).unwrap();
        state_dir.remove_socket();
        assert!(!socket.exists());
    }
}
