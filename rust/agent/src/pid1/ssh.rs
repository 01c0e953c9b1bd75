//! sshd, without a daemon or a TCP port. Each connection gets its own `sshd -i`, and some are started in advance.
//!
//! sshd needs a good part of a second to start on a slow host, and writes its banner at once. So a few processes wait,
//! started, each with its banner in its socket; a connection takes one, and another is started in its place. Ready
//! waits for the first banner, which shows that sshd works with its keys and configuration.

mod login;

use super::{children, ending, payload, relay};
use crate::console::say;
use crate::pid1::tasks::Outcome;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fd::OwnedFd,
    net::{RecvFlags, recv},
    process::Pid,
};
use std::{
    collections::VecDeque,
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Number of sshd processes that wait for a connection. Until the first connection it is one, so that the boot starts
/// no other.
const WARM: usize = 2;

/// Delays after an sshd that died before it was used.
const BACK_OFF: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

const CONFIG: &str = "/run/sshd_config";
const AUTHORIZED_KEYS: &str = "/run/authorized_keys";

/// sshd's own login timeout is off, as it would start with the process and end one that waits in advance; [`login`] has
/// its own. Only `builder` can log in, and only with the keys of the payload.
const SSHD_CONFIG: &str = "\
HostKey /darwin-vz/ssh_host_ed25519_key
AuthorizedKeysFile /run/authorized_keys
AllowUsers builder
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
LoginGraceTime 0
X11Forwarding no
AllowAgentForwarding no
AllowTcpForwarding no
PermitTunnel no
PermitUserEnvironment no
PrintMotd no
PrintLastLog no
LogLevel ERROR
Subsystem sftp internal-sftp
";

/// An sshd for one connection. It ends when its socket is closed.
struct Sshd {
    socket: UnixStream,
    pid: Pid,
}

impl From<Sshd> for relay::Server {
    fn from(Sshd { socket, pid }: Sshd) -> Self {
        relay::Server { socket: socket.into(), trial: Some(login::trial(pid)) }
    }
}

/// The waiting sshd processes.
pub struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    /// Signalled when one was taken.
    taken: OwnedFd,
}

struct State {
    warm: VecDeque<Sshd>,
    /// A connection has arrived.
    used: bool,
    /// The result of the first one.
    banner: Option<Outcome<()>>,
}

impl Pool {
    /// Writes the configuration and starts the first sshd. Logins get these Nix settings, which their Nix passes on to
    /// nix-daemon: the daemon adopts all settings from a client's nix.conf.
    pub fn start(nix_settings: Option<&str>) -> Outcome<Arc<Pool>> {
        configure(nix_settings).map_err(|e| format!("sshd cannot be configured: {e}"))?;
        let taken = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| format!("sshd: eventfd: {e}"))?;
        let state = Mutex::new(State { warm: VecDeque::new(), used: false, banner: None });
        let pool = Arc::new(Pool { state, changed: Condvar::new(), taken });
        let filler = Arc::clone(&pool);
        crate::threads::background("sshd", move || filler.keep_filled());
        Ok(pool)
    }

    /// A connection to an sshd, to a waiting one if there is one.
    pub fn connect(&self) -> io::Result<relay::Server> {
        self.lock().used = true;
        while let Some(sshd) = self.lock().warm.pop_front() {
            let _ = rustix::io::write(&self.taken, &1u64.to_ne_bytes());
            if !has_hung_up(&sshd.socket) {
                return Ok(sshd.into());
            }
        }
        Ok(spawn()?.into())
    }

    /// Waits until the first sshd has sent its banner.
    pub fn wait_for_banner(&self, timeout: Duration) -> Outcome<()> {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, timeout, |state| state.banner.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.banner.clone().unwrap_or_else(|| Err(format!("sshd sent no banner within {} s", timeout.as_secs())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that refills the pool: starts an sshd for each one that was taken or has died.
    fn keep_filled(&self) {
        let mut failures = 0;
        while !ending::begun() {
            let missing = {
                let state = self.lock();
                if state.used { WARM } else { 1 }.saturating_sub(state.warm.len())
            };
            for _ in 0..missing {
                match spawn() {
                    Ok(sshd) => self.add(sshd),
                    Err(e) => {
                        say(format_args!("sshd cannot be started: {e}"));
                        failures += 1;
                        break;
                    }
                }
            }
            let died = self.sleep();
            failures = if died > 0 { failures + 1 } else { 0 };
            if died > 0 && !ending::begun() {
                say("an sshd died before it was used");
                thread::sleep(BACK_OFF[failures.min(BACK_OFF.len()) - 1]);
            }
        }
    }

    fn add(&self, sshd: Sshd) {
        // Only the first banner is checked. This delays no client, as the guest is not ready yet.
        let first = self.lock().banner.is_none().then(|| banner(&sshd.socket));
        let mut state = self.lock();
        state.warm.push_back(sshd);
        if first.is_some() {
            state.banner = first;
            self.changed.notify_all();
        }
    }

    /// Sleeps until an sshd was taken or has died; removes the dead ones and returns their number.
    fn sleep(&self) -> usize {
        let watched: Vec<UnixStream> =
            self.lock().warm.iter().filter_map(|sshd| sshd.socket.try_clone().ok()).collect();
        let mut polled = vec![PollFd::new(&self.taken, PollFlags::IN)];
        polled.extend(watched.iter().map(|socket| PollFd::new(socket, PollFlags::empty())));
        let _ = poll(&mut polled, None);
        if !polled[0].revents().is_empty() {
            let _ = rustix::io::read(&self.taken, &mut [0; 8]);
        }
        let mut state = self.lock();
        let before = state.warm.len();
        state.warm.retain(|sshd| !has_hung_up(&sshd.socket));
        before - state.warm.len()
    }
}

/// Writes keys and configuration to the places where sshd expects them.
fn configure(nix_settings: Option<&str>) -> io::Result<()> {
    fs::create_dir_all("/run/sshd")?; // sshd's empty directory
    let variable = nix_settings.map(|settings| format!("SetEnv \"NIX_CONFIG={settings}\"\n")).unwrap_or_default();
    fs::write(CONFIG, format!("{SSHD_CONFIG}{variable}"))?;
    // sshd reads it as the user who logs in, who cannot enter the payload's directory.
    fs::copy(format!("{}/authorized_keys", payload::HOME), AUTHORIZED_KEYS)?;
    fs::set_permissions(AUTHORIZED_KEYS, fs::Permissions::from_mode(0o644))
}

/// Starts an sshd for one connection.
fn spawn() -> io::Result<Sshd> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let mut sshd = Command::new("/usr/sbin/sshd");
    sshd.args(["-i", "-e", "-f", CONFIG]).stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
    let pid = children::spawn_detached(&mut sshd)?;
    Ok(Sshd { socket: ours, pid })
}

/// Waits for the banner and leaves it in the socket.
fn banner(socket: &UnixStream) -> Outcome<()> {
    let mut start = [0; 4];
    match recv(socket, &mut start[..], RecvFlags::PEEK) {
        Ok((n @ 1.., _)) if b"SSH-".starts_with(&start[..n]) => Ok(()),
        Ok((0, _)) => Err("sshd ended before it sent its banner; the console may say why".into()),
        Ok(_) => Err("sshd sent something other than its banner".into()),
        Err(e) => Err(format!("sshd's banner cannot be read: {e}")),
    }
}

fn has_hung_up(socket: &UnixStream) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_banner_is_awaited_and_left_in_the_socket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            theirs.write_all(b"SS").unwrap();
            thread::sleep(Duration::from_millis(20));
            theirs.write_all(b"H-2.0-x\r\n").unwrap();
            theirs
        });
        assert_eq!(banner(&ours), Ok(()));
        assert_eq!(banner(&ours), Ok(()), "it was only peeked at");
        assert!(!has_hung_up(&ours));
        drop(writer.join().unwrap());
        assert!(has_hung_up(&ours));
    }

    #[test]
    fn a_dead_sshd_is_recognised() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(banner(&ours).unwrap_err().contains("ended"));
    }
}
