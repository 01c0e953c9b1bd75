//! SSH keys: created once for each machine by this program, and checked at each use.

use dvn_host::{
    files::{state_error, write_atomic, write_new},
    machine_dir::MachineDir,
    regular_file,
};
use dvn_types::{Kind, MachineName, Report};
use russh::keys::{Algorithm, PrivateKey, ssh_key::LineEnding};
use std::{io, os::unix::fs::PermissionsExt, path::Path};

/// A machine's identities, in OpenSSH's text forms.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The guest's private host key.
    pub host_private: String,
    /// `ssh-ed25519 AAAA…`: the key that a client must see.
    pub host_public: String,
    /// `ssh-ed25519 AAAA…`: the key that the guest accepts.
    pub user_public: String,
}

/// The name under which ssh knows a machine's guest, at any address.
pub fn host_alias(machine: &MachineName) -> String {
    format!("darwin-vz-{machine}")
}

impl Keys {
    /// Reads a machine's keys, creates missing ones, and writes `known_hosts` and the public key beside them.
    pub fn ensure(dir: &MachineDir, machine: &MachineName) -> Result<Keys, Report> {
        let user = ensure_key(&dir.user_key())?;
        let host = ensure_key(&dir.host_key())?;
        let keys = Keys {
            host_private: private_text(&host)?,
            host_public: public_text(&host)?,
            user_public: public_text(&user)?,
        };
        keep(&dir.user_public_key(), &format!("{}\n", keys.user_public))?;
        keep(&dir.known_hosts(), &keys.known_hosts_line(machine))?;
        Ok(keys)
    }

    /// The line for `known_hosts` that pins the guest's host key.
    pub fn known_hosts_line(&self, machine: &MachineName) -> String {
        known_hosts_line(machine, &self.host_public)
    }
}

/// Like [`Keys::known_hosts_line`], for the public half of a host key.
pub fn known_hosts_line(machine: &MachineName, host_public: &str) -> String {
    format!("{} {host_public}\n", host_alias(machine))
}

/// The public half of a private key in OpenSSH's text form, or the problem with it.
pub fn public_half(private: &str) -> Result<String, String> {
    let key = PrivateKey::from_openssh(private).map_err(|error| error.to_string())?;
    public_text(&key).map_err(|report| report.message)
}

/// Writes a derived file if its contents differ.
fn keep(path: &Path, contents: &str) -> Result<(), Report> {
    match regular_file::read(path) {
        Ok(old) if old == contents.as_bytes() => Ok(()),
        _ => write_atomic(path, contents.as_bytes(), 0o600),
    }
}

fn ensure_key(path: &Path) -> Result<PrivateKey, Report> {
    let text = match regular_file::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
                .map_err(|e| Report::new(Kind::Internal, format!("cannot make an Ed25519 key: {e}")))?;
            // The daemon and `nix-config` may both be first: the second one uses the other's key.
            if write_new(path, private_text(&key)?.as_bytes(), 0o600)? {
                return Ok(key);
            }
            regular_file::read_to_string(path).map_err(|e| state_error(path, "cannot read the key", &e))?
        }
        Err(e) => return Err(state_error(path, "cannot read the key", &e)),
    };
    let mode =
        regular_file::look(path).map_err(|e| state_error(path, "cannot read", &e))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Report::new(
            Kind::State,
            format!("the private key {} can be read by other users (mode {mode:04o})", path.display()),
        )
        .hint(format!("close it: chmod 600 {}", path.display()))
        .hint("or remove it if others may have read it: a new one is made at the next start"));
    }
    PrivateKey::from_openssh(&text).map_err(|e| {
        Report::new(Kind::State, format!("the private key {} is damaged: {e}", path.display()))
            .hint(format!("remove it and a new one is made at the next start: rm {}", path.display()))
    })
}

fn private_text(key: &PrivateKey) -> Result<String, Report> {
    let text = key.to_openssh(LineEnding::LF);
    text.map(|t| t.to_string()).map_err(|e| Report::new(Kind::Internal, format!("cannot encode a key: {e}")))
}

fn public_text(key: &PrivateKey) -> Result<String, Report> {
    key.public_key().to_openssh().map_err(|e| Report::new(Kind::Internal, format!("cannot encode a key: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_host::machine_dir::StateDir;
    use std::fs;

    fn machine() -> (tempfile::TempDir, MachineDir, MachineName) {
        let tmp = tempfile::tempdir().unwrap();
        let name: MachineName = "builder".parse().unwrap();
        let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&name).unwrap();
        (tmp, dir, name)
    }

    #[test]
    fn keys_are_made_once_and_then_stay() {
        let (_tmp, dir, name) = machine();
        let first = Keys::ensure(&dir, &name).unwrap();
        let second = Keys::ensure(&dir, &name).unwrap();
        assert_eq!(first.host_private, second.host_private);
        assert_eq!(first.user_public, second.user_public);
        assert_ne!(first.host_public, first.user_public);
        assert_eq!(fs::metadata(dir.user_key()).unwrap().permissions().mode() & 0o777, 0o600);
        let pinned = fs::read_to_string(dir.known_hosts()).unwrap();
        assert_eq!(pinned, format!("darwin-vz-builder {}\n", first.host_public));
    }

    #[test]
    fn concurrent_first_uses_agree_on_one_key() {
        let (_tmp, dir, name) = machine();
        let made: Vec<String> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| Keys::ensure(&dir, &name).unwrap().host_public)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(made.iter().all(|key| *key == made[0]), "{made:?}");
    }

    #[test]
    fn an_open_key_is_refused() {
        let (_tmp, dir, name) = machine();
        Keys::ensure(&dir, &name).unwrap();
        fs::set_permissions(dir.user_key(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = Keys::ensure(&dir, &name).unwrap_err();
        assert!(error.message.contains("0644") && error.hints[0].contains("chmod 600"), "{error:?}");
    }

    #[test]
    fn a_truncated_key_is_refused_and_kept() {
        let (_tmp, dir, name) = machine();
        Keys::ensure(&dir, &name).unwrap();
        let whole = fs::read(dir.host_key()).unwrap();
        fs::write(dir.host_key(), &whole[..whole.len() / 2]).unwrap();
        let error = Keys::ensure(&dir, &name).unwrap_err();
        assert!(error.message.contains("damaged") && error.hints[0].contains("rm "), "{error:?}");
        assert_eq!(fs::read(dir.host_key()).unwrap(), &whole[..whole.len() / 2]);
    }
}
