//! What the program inherits: descriptors above stderr, a blocked signal, a directory. Neither the daemon nor a program
//! that a verb starts keeps any of it. Reads `/proc`.

use super::{pid_of_the_daemon, plain, run};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// Descriptors of each sort, which every child of this process inherits.
struct Inherited(Vec<OwnedFd>);

impl Inherited {
    /// One of each sort, at low numbers and at one that is far up.
    fn open(dir: &Path) -> Inherited {
        let locked = File::create(dir.join("lock-of-a-script")).unwrap();
        locked.lock().unwrap();
        let (pipe, other_end) = std::io::pipe().unwrap();
        let (socket, peer) = UnixStream::pair().unwrap();
        let far_up = fcntl_dupfd_cloexec(File::open(dir).unwrap(), 700).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let strays: Vec<OwnedFd> =
            vec![locked.into(), pipe.into(), other_end.into(), socket.into(), peer.into(), far_up, listener.into()];
        for stray in &strays {
            fcntl_setfd(stray.as_fd(), FdFlags::empty()).unwrap();
        }
        Inherited(strays)
    }

    /// What they are, as `/proc` names it.
    fn targets(&self) -> BTreeSet<PathBuf> {
        self.0.iter().map(|stray| fs::read_link(format!("/proc/self/fd/{}", stray.as_raw_fd())).unwrap()).collect()
    }

    /// Those that a process also has.
    fn held_by(&self, pid: u32) -> BTreeSet<PathBuf> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let held: BTreeSet<_> = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        held.intersection(&self.targets()).cloned().collect()
    }
}

/// Ends a daemon in the foreground, however the test ends.
struct Foreground(Child);

impl Foreground {
    fn start(dir: &Path, mut command: std::process::Command) -> Foreground {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Foreground(child);
        super::wait("the daemon to answer", || run(dir, &["status"]).starts_with("exit 0\n"));
        daemon
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn settings(dir: &Path, listen: &str) {
    fs::write(dir.join("config.toml"), format!("listen = \"{listen}\"\n")).unwrap();
}

#[test]
fn a_daemon_that_start_launches_has_no_descriptor_directory_or_session_of_its_starter() {
    let dir = crate::common::private_dir();
    settings(dir.path(), "127.0.0.1:0");
    let strays = Inherited::open(dir.path());
    let _daemon = super::Launched(dir.path());
    assert!(run(dir.path(), &["start"]).contains("no guest bundle is configured"));
    let pid = pid_of_the_daemon(dir.path());
    assert_eq!(strays.held_by(pid), BTreeSet::new());
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string());

    // So what the script holds ends with the script. Programs of other tests may hold it for a moment.
    drop(strays);
    let lock = File::open(dir.path().join("lock-of-a-script")).unwrap();
    super::wait("the script's lock to be free", || lock.try_lock().is_ok());
}

#[test]
fn a_daemon_in_the_foreground_has_no_descriptor_of_its_starter_but_what_a_service_manager_hands_over() {
    for handed_over in [false, true] {
        let dir = crate::common::private_dir();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        settings(dir.path(), &address.to_string());
        let strays = Inherited::open(dir.path());
        let mut command = plain(dir.path(), &["daemon"]);
        if handed_over {
            // As systemd does: descriptor 3, and the receiver's process id in the environment.
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", r#"exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#, "sh"]);
            shell.arg(command.get_program()).args(command.get_args()).env_clear();
            shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(dir.path());
            command = shell;
            command.stdin(OwnedFd::from(listener));
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // Our copy is closed with the command.
            drop(command);
            let daemon = Foreground(child);
            super::wait("the daemon to answer", || run(dir.path(), &["status"]).starts_with("exit 0\n"));
            assert_eq!(strays.held_by(daemon.0.id()), BTreeSet::new());
            std::net::TcpStream::connect(address).expect("it listens on what was handed over");
        } else {
            drop(listener);
            let daemon = Foreground::start(dir.path(), command);
            assert_eq!(strays.held_by(daemon.0.id()), BTreeSet::new());
        }
    }
}

/// `doctor` runs programs, and `ssh` replaces the process. Each of these programs records what it has.
#[test]
fn a_program_that_a_verb_starts_has_no_descriptor_of_the_verbs_starter() {
    let server = super::common::Server::new();
    let dir = server.path();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_darwin-vz-nix"), dir.join("darwin-vz-nix")).unwrap();
    let record = dir.join("record");
    let script = format!("#!/bin/sh\nls -l /proc/$$/fd >>{}\nexit 1\n", record.display());
    for name in ["nix", "ssh", "systemctl", "launchctl", "codesign"] {
        let program = dir.join(name);
        fs::write(&program, &script).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let strays = Inherited::open(dir);
    let path = format!("{}:/usr/bin:/bin", dir.display());
    for args in [&["doctor", "nix-config", "ssh-config", "service"][..], &["ssh", "--", "true"]] {
        let _ = fs::remove_file(&record);
        let output = plain(dir, args).env("PATH", &path).output().unwrap();
        let listed = fs::read_to_string(&record).unwrap_or_else(|_| panic!("{args:?} ran no program: {output:?}"));
        for stray in strays.targets() {
            assert!(!listed.contains(&format!("-> {}\n", stray.display())), "{args:?}: {}\n{listed}", stray.display());
        }
    }
}

#[test]
fn a_daemon_whose_starter_blocked_signals_is_ended_by_them_all_the_same() {
    let dir = crate::common::private_dir();
    settings(dir.path(), "127.0.0.1:0");
    let program = plain(dir.path(), &["daemon"]);
    let mut blocked = std::process::Command::new("env");
    blocked.arg("--block-signal=TERM").arg(program.get_program()).args(program.get_args()).env_clear();
    blocked.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).process_group(0);
    let mut daemon = Foreground::start(dir.path(), blocked);
    super::send(daemon.0.id(), "TERM");
    let give_up = Instant::now() + Duration::from_secs(60);
    while daemon.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < give_up, "it still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}
