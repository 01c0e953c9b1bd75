//! nix-daemon, and connections to it as its trusted user root.
//!
//! One connection is kept open in advance: by the time a client arrives, the daemon's process for it has opened the
//! store's database.

use super::{accounts::BuildUsers, children, ending, figures};
use crate::console::say;
use crate::pid1::tasks::Outcome;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

const SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// Nix settings for use with the host's store: Nix's own collection would query the gate about every path of the host.
/// The agent collects instead (`garbage`).
pub const SETTINGS_BESIDE_HOST_STORE: &str = "min-free = 0";

/// Further environment variables of the daemon, one `NAME=VALUE` per line, such as proxies. The file is optional.
const ENVIRONMENT: &str = "/etc/nix/environment";

/// The last file that Nix writes when it creates a store's database.
const SCHEMA: &str = "/nix/var/nix/db/schema";

/// Timeout for the creation of a database. A Nix without such a file delays each boot by this much, once.
const CREATION_TIMEOUT: Duration = Duration::from_secs(5);

/// The magic numbers that begin each side of Nix's worker protocol.
const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// How long a client waits for a daemon that is starting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of connection attempts while the socket is missing.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A daemon that ran this long was healthy, and is restarted at once.
const HEALTHY: Duration = Duration::from_secs(60);

/// The connection that is kept open in advance.
static WARM: Mutex<Option<UnixStream>> = Mutex::new(None);

/// The daemon's store, if it is not the default one.
static STORE: Mutex<Option<String>> = Mutex::new(None);

/// Where Nix keeps each process's list of paths that no collection may delete.
const TEMPORARY_ROOTS: &str = "/nix/var/nix/temproots";

/// The kernel's list of locks.
const LOCKS: &str = "/proc/locks";

/// How long killed processes may take to release their locks.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the daemon on this store or the default one, and restarts it whenever it ends.
pub fn start(store: Option<String>) {
    *STORE.lock().unwrap_or_else(PoisonError::into_inner) = store;
    crate::threads::background("nix-daemon", keep_running);
}

/// Makes later daemons work on the default store.
pub fn on_own_store() {
    *STORE.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Kills the daemon, its processes for its clients, and their builds. The daemon's supervisor restarts it.
///
/// A process that waits for a hanging share does not die. That is harmless, unless it has locked the store's database
/// or a path: others that need the same lock would wait for ever. An error means that.
pub fn end_all(builders: &BuildUsers) -> Outcome<()> {
    let_go();
    let mut killed = Vec::new();
    for (pid, status) in figures::processes() {
        let is_daemon = status.lines().next() == Some("Name:\tnix-daemon");
        if (is_daemon || figures::real_user(&status).is_some_and(|user| builders.uids.contains(&user)))
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::KILL); // it may have ended
            killed.push(pid.as_raw_nonzero().get());
        }
    }
    // Roots of a process that does not die would remain.
    for file in fs::read_dir(TEMPORARY_ROOTS).into_iter().flatten().flatten() {
        let _ = fs::remove_file(file.path());
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    while let Some(pid) = lock_holders(&fs::read_to_string(LOCKS).unwrap_or_default()).find(|pid| killed.contains(pid))
    {
        if Instant::now() >= deadline {
            return Err(format!(
                "nix-daemon's process {pid} holds a lock and does not die: it waits for something that hangs"
            ));
        }
        thread::sleep(RETRY_INTERVAL);
    }
    Ok(())
}

/// The processes that hold a lock, from the kernel's list. Lines with an arrow are waiting processes.
fn lock_holders(locks: &str) -> impl Iterator<Item = i32> {
    locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? != "->").then(|| words.nth(2)?.parse().ok())?
    })
}

/// Waits until it accepts connections.
pub fn wait_until_it_answers(timeout: Duration) -> Outcome<()> {
    let connection = dial(timeout).map_err(|e| format!("nix-daemon does not answer: {e}"))?;
    // Its process for this connection creates the database of a fresh store. Two processes creating it at once can make
    // each other fail, so no second connection is made until then.
    let deadline = Instant::now() + CREATION_TIMEOUT;
    while !Path::new(SCHEMA).exists() && Instant::now() < deadline {
        thread::sleep(RETRY_INTERVAL);
    }
    replace_warm(Some(connection));
    Ok(())
}

/// Waits until a process of the daemon answers: a socket held by another PID 1 accepts before there is a daemon.
pub fn wait_until_it_greets(timeout: Duration) -> Outcome<()> {
    let greeted = dial(timeout).and_then(|daemon| greeted(daemon, timeout));
    greeted.map_err(|e| format!("nix-daemon accepts connections but does not answer: {e}"))
}

/// The greeting of Nix's worker protocol.
fn greeted(mut daemon: UnixStream, timeout: Duration) -> io::Result<()> {
    daemon.set_read_timeout(Some(timeout))?;
    daemon.write_all(&CLIENT_MAGIC.to_le_bytes())?;
    let mut answer = [0; 8];
    daemon.read_exact(&mut answer)?;
    if u64::from_le_bytes(answer) == DAEMON_MAGIC {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks another protocol"))
}

/// A connection for a client.
pub fn connect() -> io::Result<UnixStream> {
    let connection = match replace_warm(None).filter(is_open) {
        Some(connection) => connection,
        None => dial(TIMEOUT)?,
    };
    crate::threads::background("nix-ahead", || drop(replace_warm(dial(TIMEOUT).ok())));
    Ok(connection)
}

/// Closes the connection that is kept open, as the daemon's process for it blocks SIGTERM.
pub fn let_go() {
    drop(replace_warm(None));
}

fn replace_warm(by: Option<UnixStream>) -> Option<UnixStream> {
    std::mem::replace(&mut *WARM.lock().unwrap_or_else(PoisonError::into_inner), by)
}

fn dial(timeout: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + timeout;
    loop {
        match UnixStream::connect(SOCKET) {
            Ok(connection) => return Ok(connection),
            Err(e) if Instant::now() >= deadline || ending::begun() => return Err(e),
            Err(_) => thread::sleep(RETRY_INTERVAL),
        }
    }
}

/// The daemon sends nothing before the client does, so a readable connection is one that it has closed.
fn is_open(connection: &UnixStream) -> bool {
    let mut polled = [PollFd::new(connection, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
}

/// Names and values; lines without both are skipped.
fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| !name.is_empty() && !name.contains('\0'))
}

/// The supervising thread.
fn keep_running() {
    let mut pause = RETRY_INTERVAL;
    while !ending::begun() {
        let started = Instant::now();
        let mut daemon = Command::new("/usr/bin/nix-daemon");
        daemon
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .env("HOME", "/root")
            .env("TMPDIR", "/tmp")
            .env("NIX_SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
            .envs(variables(&fs::read_to_string(ENVIRONMENT).unwrap_or_default()));
        if let Some(store) = STORE.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            daemon.env("NIX_REMOTE", store).env("NIX_CONFIG", SETTINGS_BESIDE_HOST_STORE);
        }
        let end = match children::spawn(&mut daemon) {
            Ok(child) => children::describe(child.wait()),
            Err(e) => format!("cannot be started: {e}"),
        };
        if ending::begun() {
            return;
        }
        say(format_args!("nix-daemon {end}"));
        pause = if started.elapsed() >= HEALTHY { RETRY_INTERVAL } else { (pause * 4).min(Duration::from_secs(10)) };
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_only_accepts_does_not_answer() {
        let short = Duration::from_millis(50);
        let talk = |answer: &[u8]| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer).unwrap();
            greeted(ours, short)
        };
        assert!(talk(&DAEMON_MAGIC.to_le_bytes()).is_ok());
        assert!(talk(&CLIENT_MAGIC.to_le_bytes()).is_err() && talk(b"").is_err());
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(greeted(ours, short).is_err(), "it says nothing");
        drop(theirs);
    }

    #[test]
    fn variables_are_lines_with_a_name_and_a_value() {
        let text = "http_proxy=http://p:3128/?a=b\n\n=nothing\nalone\nno_proxy=\n";
        let found: Vec<_> = variables(text).collect();
        assert_eq!(found, [("http_proxy", "http://p:3128/?a=b"), ("no_proxy", "")]);
    }

    #[test]
    fn lock_holders_are_listed_without_waiting_processes() {
        let locks = "1: FLOCK  ADVISORY  WRITE 120 fe:10:43 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 121 fe:10:43 0 EOF\n\
                     2: POSIX  ADVISORY  READ 124 fe:10:34 128 128\n3: OFDLCK ADVISORY  WRITE -1 00:1e:1 0 EOF\n4:\n";
        assert_eq!(lock_holders(locks).collect::<Vec<_>>(), [120, 124, -1]);
        let file = fs::File::open("/proc/self/exe").unwrap();
        file.lock_shared().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(lock_holders(&fs::read_to_string(LOCKS).unwrap()).any(|pid| pid == me));
    }
}
