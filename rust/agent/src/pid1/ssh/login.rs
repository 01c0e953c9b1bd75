//! The login timeout, which starts when a client is connected to its sshd.
//!
//! Any user of the host can connect, and one that stops halfway through a login would keep an sshd for ever. The host's
//! door closes clients that send no valid SSH, but only the guest can see how far a login has come: after a login, sshd
//! has a child process of that user's.

use crate::pid1::{accounts, figures, relay::Trial};
use rustix::process::Pid;
use std::time::Duration;

/// As long as OpenSSH's own default.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(120);

/// The user that may log in.
const USER: &str = "builder";

/// The login condition for a connection to the sshd with this process id.
pub fn trial(sshd: Pid) -> Trial {
    // Without such a user no login is possible, and the condition cannot be checked.
    let passed = move || accounts::user(USER).is_none_or(|(user, _)| has_logged_in(sshd.as_raw_nonzero().get(), user));
    Trial { time: LOGIN_TIMEOUT, passed: Box::new(passed) }
}

fn has_logged_in(sshd: i32, user: u32) -> bool {
    figures::processes().any(|(_, status)| is_child_of(&status, sshd) && figures::real_user(&status) == Some(user))
}

fn is_child_of(status: &str, parent: i32) -> bool {
    let found = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    found.and_then(|pid| pid.trim().parse().ok()) == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{geteuid, getpid};
    use std::process::{Command, Stdio};

    #[test]
    fn a_login_is_a_child_of_the_users() {
        let (me, us) = (getpid().as_raw_nonzero().get(), geteuid().as_raw());
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(has_logged_in(me, us));
        assert!(!has_logged_in(me, us + 1), "another user's");
        assert!(!has_logged_in(pid, us), "another's child");
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_status_without_a_parent_is_no_child() {
        for status in ["", "PPid:", "PPid: x", "Pid:\t7\nPPid:\t8\n"] {
            assert!(!is_child_of(status, 7), "{status:?}");
        }
        assert!(is_child_of("Name:\tsshd\nPPid:\t7\n", 7));
    }
}
