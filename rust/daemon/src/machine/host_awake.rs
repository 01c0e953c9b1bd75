//! Keeps the host awake while a guest is in use.

use super::activity::Uses;
use dvn_host::search_path;
use dvn_types::MachineName;
use std::{ffi::OsStr, path::PathBuf, process::Stdio};
use tokio::process::{Child, Command};

/// A program that keeps the host from sleeping while its child runs. The child is `cat`, which ends with the daemon, at the end
/// of its input.
#[derive(Clone, Debug)]
pub struct PowerAssertion {
    program: PathBuf,
    args: &'static [&'static str],
}

impl PowerAssertion {
    /// The program that this host has, if any: systemd's `systemd-inhibit`, or `caffeinate` of macOS.
    pub fn find(path: &OsStr) -> Option<PowerAssertion> {
        const SYSTEMD: &[&str] =
            &["--what=sleep:idle", "--who=darwin-vz-nix", "--why=a build runs in the VM", "--mode=block", "cat"];
        [("systemd-inhibit", SYSTEMD), ("caffeinate", &["-i", "/bin/cat"])]
            .into_iter()
            .find_map(|(name, args)| Some(PowerAssertion { program: search_path::find(name, path, &[])?, args }))
    }

    fn hold(&self, machine: &MachineName) -> Option<Child> {
        let mut command = Command::new(&self.program);
        command.args(self.args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let held = command.spawn();
        if let Err(e) = &held {
            tracing::warn!(machine = %machine, "the host may fall asleep during builds: {}: {e}", self.program.display());
        }
        held.ok()
    }
}

/// Holds the assertion during each use of the guest, until the machine is removed.
pub(super) async fn during(name: MachineName, mut uses: Uses, assertion: Option<PowerAssertion>) {
    let Some(assertion) = assertion else { return };
    while uses.begins().await {
        let _held = assertion.hold(&name);
        uses.ends().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
    use tokio::time::{sleep, timeout};

    fn name() -> MachineName {
        "builder".parse().unwrap()
    }

    #[tokio::test]
    async fn the_host_is_held_while_the_guard_lives_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemd-inhibit");
        // Like the real one: runs its last argument, and holds until that ends.
        let script = "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\necho held >\"$0.state\"\n\"$1\"\necho let go >\"$0.state\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let Some(assertion) = PowerAssertion::find(OsStr::new(&path)) else { panic!("it is on the path") };
        let state = || fs::read_to_string(dir.path().join("systemd-inhibit.state")).unwrap_or_default();
        let until = async |wanted: &str| {
            let limit = Duration::from_secs(20);
            let waiting = async {
                while state().trim() != wanted {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(limit, waiting).await.unwrap_or_else(|_| panic!("{wanted:?} is not so: {:?}", state()));
        };
        let mut held = assertion.hold(&name()).unwrap();
        until("held").await;
        assert!(held.try_wait().unwrap().is_none());
        // This also happens when the daemon ends, in any way.
        drop(held.stdin.take());
        until("let go").await;
        assert!(PowerAssertion::find(OsStr::new("/nowhere")).is_none());
    }
}
