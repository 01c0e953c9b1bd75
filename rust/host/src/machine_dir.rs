//! The state directory: which files exist, where, and under which lock.
//!
//! ```text
//! STATE/                     0700, owned by the daemon's user
//!   lock                     held by the one daemon that owns this directory
//!   api.sock  daemon.log
//!   api-token                what the API asks for on TCP; made when it first answers there, or by `token` (kept)
//!   staging/  run/           machines of the library that are being made, and the sockets of those that run
//!   machines/NAME/           of a machine of the library: `config.json`, `disk.img`, …, see the crate `library`; of a builder:
//!     id_ed25519[.pub]       the key with which this host logs in           (kept)
//!     ssh_host_ed25519_key   the guest's pinned host key                    (kept)
//!     known_hosts            made from the above, for ssh                   (derived)
//!     darwin-vz-nix-connect  the program that Nix runs for the direct door  (derived)
//!     data.img               the guest's data disk: a cache                 (may go any time)
//!     console.log[.1]        the guest's serial console in its present or last boot
//!     boots/                 records and consoles of the boots before, see `guest::boots`
//!     generations/           guest systems built from recipes, see `generations::store` (may go any time)
//!     run/                   this boot's initrd and sockets                 (made empty by each boot)
//! ```
//!
//! Files are written atomically: [`crate::files::write_atomic`]. The next daemon removes files that a crash left
//! unfinished. Only regular files are opened (`regular_file`). Anything else at a file's path is an error, or is
//! replaced if the file can be recreated; [`inventory`] lists all files. No other user can redirect the directory's
//! path (`trust`), and every program that gets the path reads it alike (`naming`).

pub mod inventory;

use crate::{
    files::{private_dir, remove_all, state_error, write_atomic},
    log_file, naming, regular_file, trust,
};
use dvn_protocol::HostPorts;
use dvn_types::{Keep, Kind, MacAddress, MachineName, Report};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Longest path of a Unix socket on macOS, in bytes without the final zero. Linux allows four more.
pub const LONGEST_SOCKET_PATH: usize = 103;

/// A state directory that exists, belongs to this user and is closed to others.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// Proof that this process owns the state directory. Dropping it, or the process's end, releases the lock.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateDir {
    /// Creates the directory if it is missing. Refuses one that other users can read or replace, that belongs to
    /// another user, or whose path Nix or ssh would misread.
    pub fn open(root: &Path) -> Result<StateDir, Report> {
        if !root.exists() {
            naming::check(root)?;
        }
        private_dir(root)?;
        trust::warn(root);
        Ok(StateDir { root: root.to_owned() })
    }

    /// Like [`StateDir::open`], but root may also open another user's directory: files that root writes there belong to
    /// that user.
    pub fn enter(root: &Path) -> Result<StateDir, Report> {
        let closed = |meta: fs::Metadata| meta.is_dir() && meta.permissions().mode() & 0o077 == 0;
        if rustix::process::geteuid().is_root() && fs::metadata(root).is_ok_and(closed) {
            return Ok(StateDir { root: root.to_owned() });
        }
        StateDir::open(root)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Socket of the daemon's API.
    pub fn api_socket(&self) -> PathBuf {
        api_socket(&self.root)
    }

    /// File with the token of the TCP API.
    pub fn api_token(&self) -> PathBuf {
        api_token(&self.root)
    }

    /// The machines' directories, by their names.
    pub fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    /// Where machines of the library are made before they appear, and go to be deleted.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Sockets of machines of the library that run.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The file that the daemon locks.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The daemon's log.
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// Locks the directory for this process, and removes unfinished files of dead processes.
    pub fn lock(&self) -> Result<StateLock, Report> {
        let path = self.lock_file();
        let mut file =
            regular_file::open_as(&path, File::options().read(true).write(true).create(true).truncate(false))
                .map_err(|e| state_error(&path, "cannot open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let who =
                    if holder.trim().is_empty() { String::new() } else { format!(" (process {})", holder.trim()) };
                return Err(Report::new(
                    Kind::Busy,
                    format!("another daemon{who} already owns the state directory {}", self.root.display()),
                )
                .hint("use the running daemon: `darwin-vz-nix status`")
                .hint("or give this one its own directory with --state-dir"));
            }
            Err(TryLockError::Error(e)) => return Err(state_error(&path, "cannot lock", &e)),
        }
        let note_pid =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
        match note_pid {
            // The number is only informative. A full disk must not keep a user from running `destroy`, which needs this
            // lock.
            Err(e) if e.kind() != io::ErrorKind::StorageFull => return Err(state_error(&path, "cannot write", &e)),
            _ => {}
        }
        crate::files::sweep(&self.root);
        Ok(StateLock { _file: file })
    }

    /// A machine's directory, which need not exist.
    pub fn machine(&self, name: &MachineName) -> MachineDir {
        MachineDir::of(&self.root, name)
    }

    /// Refuses a directory of an older version whose path Nix or ssh would misread: no machine of it can be reached.
    pub fn demand_fit_path(&self) -> Result<(), Report> {
        naming::check(&self.root)
    }

    /// A machine's directory, made if need be.
    pub fn make_machine(&self, name: &MachineName) -> Result<MachineDir, Report> {
        let dir = self.machine(name);
        dir.refuse_library()?;
        self.demand_fit_path()?;
        let socket = dir.longest_socket();
        if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(Report::new(
                Kind::State,
                format!(
                    "the state directory's path is too long: a socket in it would be {}, and Unix sockets end at {LONGEST_SOCKET_PATH} bytes",
                    socket.display()
                ),
            )
            .hint("choose a shorter directory with --state-dir"));
        }
        private_dir(&self.machines())?;
        private_dir(&dir.root)?;
        Ok(dir)
    }
}

/// The holder of a state directory's lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No process holds it.
    Free,
    /// The process with this number, as noted in the lock file.
    Process(String),
    /// The holder is unknown, for this reason.
    Unknown(String),
}

/// Finds the holder of the lock. Creates nothing, and holds the lock only for the check.
pub fn lock_holder(state_dir: &Path) -> Holder {
    let mut file = match regular_file::open(&state_dir.join("lock")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Holder::Free,
        Err(e) => return Holder::Unknown(e.to_string()),
    };
    match file.try_lock_shared() {
        Ok(()) => Holder::Free,
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            match file.read_to_string(&mut pid) {
                Ok(_) => Holder::Process(pid.trim().to_owned()),
                Err(e) => Holder::Unknown(e.to_string()),
            }
        }
        Err(TryLockError::Error(e)) => Holder::Unknown(e.to_string()),
    }
}

/// Socket of the API of a state directory, which need not exist.
pub fn api_socket(state_dir: &Path) -> PathBuf {
    state_dir.join("api.sock")
}

/// Token file of the API of a state directory, which need not exist.
pub fn api_token(state_dir: &Path) -> PathBuf {
    state_dir.join("api-token")
}

/// One machine's directory.
#[derive(Clone, Debug)]
pub struct MachineDir {
    root: PathBuf,
}

impl MachineDir {
    /// The machine directory `root`, which need not exist.
    pub fn at(root: &Path) -> MachineDir {
        MachineDir { root: root.to_owned() }
    }
    /// The machine's directory in a state directory; neither need exist.
    pub fn of(state_dir: &Path, name: &MachineName) -> MachineDir {
        MachineDir { root: state_dir.join("machines").join(name.as_str()) }
    }
    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The private key with which this host logs in to the guest.
    pub fn user_key(&self) -> PathBuf {
        self.root.join("id_ed25519")
    }
    /// The public half of it.
    pub fn user_public_key(&self) -> PathBuf {
        self.user_key().with_extension("pub")
    }
    /// The private key that identifies the guest.
    pub fn host_key(&self) -> PathBuf {
        self.root.join("ssh_host_ed25519_key")
    }
    /// The pinned host key in ssh's format.
    pub fn known_hosts(&self) -> PathBuf {
        self.root.join("known_hosts")
    }
    /// The program that Nix runs for the direct door.
    pub fn connect_program(&self) -> PathBuf {
        self.root.join("darwin-vz-nix-connect")
    }
    /// The store address with which Nix reaches the guest through that program.
    pub fn direct_address(&self) -> String {
        format!("ssh-ng://localhost?remote-program={}", escaped(&self.connect_program().to_string_lossy()))
    }
    /// The data disk's image.
    pub fn data_disk(&self) -> PathBuf {
        self.root.join("data.img")
    }
    /// Output of the guest's serial console since its last boot.
    pub fn console_log(&self) -> PathBuf {
        self.root.join("console.log")
    }
    /// Records of the last boots.
    pub fn boots(&self) -> PathBuf {
        self.root.join("boots")
    }
    /// The MAC address of the guest's network interface. Created on first use and kept, so that the host's network
    /// recognises the guest from boot to boot.
    pub fn mac_address(&self) -> Result<MacAddress, Report> {
        let path = self.root.join("mac");
        if let Some(mac) = regular_file::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(mac);
        }
        let mac = MacAddress::random();
        write_atomic(&path, format!("{mac}\n").as_bytes(), 0o600)?;
        Ok(mac)
    }
    /// Guest systems built from recipes.
    pub fn generations(&self) -> PathBuf {
        self.root.join("generations")
    }
    /// Log of the last recipe build.
    pub fn build_log(&self) -> PathBuf {
        self.generations().join("build.log")
    }
    /// What guests of this machine know of the host's store.
    pub fn store_state(&self) -> PathBuf {
        self.root.join("store")
    }
    /// Creates [`MachineDir::store_state`] if it is missing or not a directory.
    pub fn make_store_state(&self) -> Result<PathBuf, Report> {
        let dir = self.store_state();
        if !fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            remove_all(&dir)?;
        }
        private_dir(&dir)?;
        Ok(dir)
    }
    /// Removes [`MachineDir::store_state`].
    pub fn remove_store_state(&self) -> Result<(), Report> {
        remove_all(&self.store_state())
    }
    /// Files of one boot.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The longest socket path.
    pub fn longest_socket(&self) -> PathBuf {
        self.run_dir().join(format!("vsock_{}", HostPorts::HIGH.agent))
    }

    /// Creates an empty [`MachineDir::run_dir`].
    pub fn fresh_run_dir(&self) -> Result<PathBuf, Report> {
        let run = self.run_dir();
        remove_all(&run)?;
        private_dir(&run)?;
        Ok(run)
    }

    /// Refuses a directory with the files of a machine of the library: a builder's files are recreated and deleted, a user's disk
    /// never is.
    fn refuse_library(&self) -> Result<(), Report> {
        let is_there = |file: &str| fs::symlink_metadata(self.root.join(file)).is_ok();
        match ["config.json", "disk.img"].iter().any(|file| is_there(file)) {
            true => Err(Report::new(
                Kind::State,
                format!("{} is a machine of the library, and no builder", self.root.display()),
            )
            .hint("give the builder another name in the configuration; the machine is in `darwin-vz-nix list` then")),
            false => Ok(()),
        }
    }

    /// Removes the machine: its disk, its logs and, unless `keep` excepts them, its keys and generations. The guest
    /// must be off.
    pub fn destroy(&self, keep: Keep) -> Result<(), Report> {
        self.refuse_library()?;
        let mut doomed = match (keep.keys, keep.generations) {
            (false, false) => return remove_all(&self.root),
            (false, true) => self.entries()?,
            (true, _) => {
                let console = self.console_log();
                vec![self.data_disk(), log_file::older(&console), console, self.boots(), self.run_dir()]
            }
        };
        match keep.generations {
            true => doomed.retain(|path| *path != self.generations()),
            false => doomed.push(self.generations()),
        }
        doomed.iter().try_for_each(|path| remove_all(path))
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Report> {
        let read = || fs::read_dir(&self.root)?.map(|entry| entry.map(|entry| entry.path())).collect();
        match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            entries => entries.map_err(|e: io::Error| state_error(&self.root, "cannot read", &e)),
        }
    }
}

/// Escapes a value in the query of a store address, which stands in a list separated by spaces and semicolons.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    fn name() -> MachineName {
        "builder".parse().unwrap()
    }

    #[test]
    fn a_new_directory_is_closed_to_others() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("a/b")).unwrap();
        let machine = state.make_machine(&name()).unwrap();
        for dir in [state.root(), machine.root()] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn an_open_directory_is_refused_with_the_command_that_closes_it() {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), Permissions::from_mode(0o755)).unwrap();
        let error = StateDir::open(tmp.path()).unwrap_err();
        assert_eq!(error.kind, Kind::State);
        assert!(error.hints[0].contains("chmod 700"), "{error:?}");
    }

    #[test]
    fn a_second_daemon_gets_the_number_of_the_first() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let first = state.lock().unwrap();
        let error = state.lock().unwrap_err();
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(lock_holder(state.root()), Holder::Process(std::process::id().to_string()));
        drop(first);
        assert_eq!(lock_holder(state.root()), Holder::Free);
        state.lock().unwrap();
    }

    #[test]
    fn the_owner_of_the_directory_has_removed_unfinished_files_of_dead_processes() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let machine = state.make_machine(&name()).unwrap();
        let (_, left) = crate::files::unfinished(&machine.user_key(), 0o600).unwrap().keep().unwrap();
        let _lock = state.lock().unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_before_anything_is_made() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("x".repeat(90))).unwrap();
        let error = state.make_machine(&name()).unwrap_err();
        assert!(error.message.contains("too long"), "{error}");
        assert!(!state.root().join("machines").exists());
    }

    #[test]
    fn a_machine_of_the_library_is_no_builder_and_its_disk_is_never_deleted() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let machine = state.make_machine(&name()).unwrap();
        fs::write(machine.root().join("disk.img"), "precious").unwrap();
        for refused in [state.make_machine(&name()).map(drop), machine.destroy(Keep::default())] {
            let refused = refused.unwrap_err();
            assert!(refused.kind == Kind::State && refused.message.contains("of the library"), "{refused}");
        }
        assert_eq!(fs::read(machine.root().join("disk.img")).unwrap(), b"precious");
    }

    #[test]
    fn destroy_keeps_keys_and_generations_only_when_asked() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::open(&tmp.path().join("s")).unwrap();
        let made = || {
            let machine = state.make_machine(&name()).unwrap();
            fs::create_dir_all(machine.generations().join("1")).unwrap();
            for path in [machine.user_key(), machine.host_key(), machine.data_disk(), machine.console_log()] {
                write_atomic(&path, b"x", 0o600).unwrap();
            }
            machine.fresh_run_dir().unwrap();
            fs::create_dir(machine.boots()).unwrap();
            machine
        };
        for (keep_keys, keep_generations) in [(true, false), (false, true), (true, true), (false, false)] {
            let machine = made();
            machine.destroy(Keep { keys: keep_keys, generations: keep_generations }).unwrap();
            assert_eq!((machine.user_key().exists(), machine.host_key().exists()), (keep_keys, keep_keys));
            assert_eq!(machine.generations().exists(), keep_generations);
            assert!(!machine.data_disk().exists() && !machine.run_dir().exists() && !machine.console_log().exists());
            assert!(!machine.boots().exists());
        }
        assert!(!state.machine(&name()).root().exists());
        state.machine(&name()).destroy(Keep::default()).unwrap();
    }

    #[test]
    fn the_direct_address_survives_any_path() {
        let machine = MachineDir { root: "/state dir/50%;".into() };
        let address = "ssh-ng://localhost?remote-program=/state%20dir/50%25%3B/darwin-vz-nix-connect";
        assert_eq!(machine.direct_address(), address);
    }
}
