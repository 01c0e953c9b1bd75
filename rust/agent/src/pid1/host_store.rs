//! The host's store as the lowest layer of the guest's own.
//!
//! ```text
//!  /data/nix/store  what was built here or copied to here   ─┐ upper
//!  /nix/.image      the paths of a guest's system, if any   ─┼─ lower ─ overlay ─▶ /nix/store
//!  /mnt/nix-store   the share, read-only                    ─┘ lowest
//!
//!  nix-daemon ── unix socket of this module ── token ── vsock       ──▶ the host's gate: what is valid there
//! ```
//!
//! nix-daemon records in its database which paths the gate called valid, and never asks again. So the rule: a path of
//! the host's store is in the database only as long as the host keeps it or asks the guest to forget it. Such paths are
//! removed before nix-daemon starts if the disk was used with another record of the host's, or is now used without the
//! share. If the share fails, the guest leaves it for good and continues with its own layers.

pub mod database;
pub mod layers;

use super::{accounts::BuildUsers, figures, nix, shares};
use crate::console::say;
use crate::pid1::tasks::{Outcome, serve};
use crate::threads::background;
use crate::vsock;
use dvn_protocol::{GuestConfig, STORE_TAG, ShareMount, StoreGreeting};
use std::{
    fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A directory that only root may enter: the socket, and nix-daemon's settings.
const HOME: &str = "/run/darwin-vz";

/// The socket where nix-daemon reaches the gate.
const SOCKET: &str = "/run/darwin-vz/host-store.sock";

/// The program that Nix runs after deleting files of the upper layer directly.
const REMOUNT: &str = "/run/darwin-vz/remount-store";

/// For a PID 1 that starts nix-daemon itself: lines `NIX_REMOTE=…` and `NIX_CONFIG=…`, if the host's store is in use.
const ENVIRONMENT: &str = "/run/darwin-vz/nix-daemon.env";

/// On the data disk: the name of the host's record whose paths the database may hold.
const RECORD: &str = "/data/nix/host-store";

/// Approximate limit of cached files of the share: the host holds a descriptor for each, and macOS allows a process
/// few. Files that a build has open cannot be released and do not count.
const MOST_INODES: u64 = 8192;

/// Interval of that count.
const COUNTING: Duration = Duration::from_secs(2);

/// A more recent deletion may be the first half of a replacement.
const SETTLED: Duration = Duration::from_secs(10);

/// The host's store, mounted.
pub struct HostStore {
    share: ShareMount,
    record: String,
    /// The host's vsock port of the gate.
    port: u32,
    left: Arc<AtomicBool>,
    /// Held while the store is being left; true once that is done.
    leaving: Mutex<bool>,
}

impl HostStore {
    /// Mounts the guest's store: on top of the host's if the host offers it and its share mounts.
    pub fn mount(config: &GuestConfig, shares: &[ShareMount]) -> Outcome<Option<HostStore>> {
        let offered = HostStore::offered(config, shares);
        let store = offered.filter(|store| {
            let mounted = layers::seal().and_then(|()| layers::mount(Some(&store.share.mount_point)));
            mounted.inspect_err(|why| say(format_args!("the host's store cannot be used: {why}"))).is_ok()
        });
        if store.is_none() {
            layers::mount(None)?;
        }
        Ok(store)
    }

    /// The host's store as another PID 1 has mounted it.
    pub fn mounted(config: &GuestConfig) -> Option<HostStore> {
        HostStore::offered(config, &config.shares).filter(|store| layers::has_lower(&store.share.mount_point))
    }

    /// The host's store, if it is configured and among these shares.
    pub fn offered(config: &GuestConfig, shares: &[ShareMount]) -> Option<HostStore> {
        let record = config.store_record.clone()?;
        let share = shares.iter().find(|share| share.tag == STORE_TAG)?.clone();
        let port = config.host_ports.store;
        Some(HostStore { share, record, port, left: Arc::default(), leaving: Mutex::default() })
    }

    /// The share.
    pub fn share(&self) -> &ShareMount {
        &self.share
    }

    /// nix-daemon's store URL, which also names the program that remounts the overlay.
    pub fn address(&self) -> String {
        // The lower store's URL is a value within this URL, so its punctuation is escaped.
        let real = self.share.mount_point.replace('/', "%2F");
        let lower = format!("unix%3A%2F%2F{}%3Freal%3D{real}", SOCKET.replace('/', "%2F"));
        // Nix's own check of the mount supports only two layers.
        let upper = layers::UPPER;
        format!("local-overlay://?lower-store={lower}&upper-layer={upper}&remount-hook={REMOUNT}&check-mount=false")
    }

    /// Writes the files that nix-daemon needs at its start.
    pub fn prepare_daemon(&self) -> Outcome<()> {
        let write = || -> io::Result<()> {
            fs::create_dir_all(HOME)?;
            fs::set_permissions(HOME, fs::Permissions::from_mode(0o700))?;
            fs::write(
                ENVIRONMENT,
                format!("NIX_REMOTE={}\nNIX_CONFIG={}\n", self.address(), nix::SETTINGS_BESIDE_HOST_STORE),
            )?;
            let mut hook = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(REMOUNT)?;
            hook.write_all(b"#!/bin/sh\nexec mount -t overlay -o remount overlay /nix/store\n")
        };
        write().map_err(|e| format!("{HOME} cannot be written: {e}"))
    }

    /// Opens the socket to the gate, and limits how much of the share is cached. Call it before nix-daemon has clients.
    pub fn serve(&self, token: &str) -> Outcome<()> {
        let greeting =
            serde_json::to_string(&StoreGreeting { token: token.to_owned() }).map_err(|e| e.to_string())? + "\n";
        let _ = fs::remove_file(SOCKET); // from an earlier agent
        let listener = UnixListener::bind(SOCKET).map_err(|e| format!("{SOCKET}: {e}"))?;
        let port = self.port;
        let accept = move || listener.accept().map(|(client, _)| client.into());
        serve("host-store", accept, move || {
            let gate = vsock::connect(port)?;
            fs::File::from(gate.try_clone()?).write_all(greeting.as_bytes())?;
            Ok::<OwnedFd, io::Error>(gate)
        });
        let (share, left) = (self.share.clone(), Arc::clone(&self.left));
        background("host-store-inodes", move || {
            while !left.load(Ordering::Acquire) {
                thread::sleep(COUNTING);
                if figures::shared_inodes() > MOST_INODES
                    && let Err(why) = let_go(&share)
                {
                    say(format_args!("files of the share are not given back: {why}"));
                }
            }
        });
        Ok(())
    }

    /// Whether the guest still builds on it.
    pub fn in_use(&self) -> bool {
        !self.left.load(Ordering::Acquire)
    }

    /// Drops cached names of the host's store.
    pub fn refresh(&self) -> Outcome<()> {
        layers::drop_whiteouts(SETTLED)?;
        let_go(&self.share)
    }

    /// Checks that the share shows these paths.
    pub fn expect(&self, paths: &[String]) -> Outcome<()> {
        for path in paths {
            let name = path.strip_prefix(database::PREFIX).unwrap_or(path);
            fs::symlink_metadata(Path::new(&self.share.mount_point).join(name))
                .map_err(|e| format!("the host has {path}, and its share does not show it: {e}"))?;
        }
        Ok(())
    }

    /// Invalidates paths that are gone from the host's store, or changed, and everything that refers to them.
    pub fn forget(&self, paths: &[String]) -> Outcome<()> {
        database::forget(paths)?;
        layers::drop_whiteouts(Duration::ZERO)?;
        let_go(&self.share)
    }

    /// Continues without the host's store. Nothing here touches the share, which may hang.
    pub fn leave(&self, builders: &BuildUsers) -> Outcome<()> {
        let mut done = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if *done {
            return Ok(());
        }
        self.left.store(true, Ordering::Release);
        say("the host's store is left: from now on inputs are copied");
        let _ = fs::remove_file(ENVIRONMENT);
        nix::on_own_store();
        layers::drop_whiteouts(Duration::ZERO)?;
        layers::unmount()?;
        layers::mount(None)?;
        nix::end_all(builders)?;
        forget_shared()?;
        nix::wait_until_it_answers(crate::pid1::tasks::SERVICES)?;
        *done = true;
        Ok(())
    }
}

/// Nix settings for a guest to which the host offers its store.
pub fn settings_beside(config: &GuestConfig) -> Option<&'static str> {
    config.store_record.is_some().then_some(nix::SETTINGS_BESIDE_HOST_STORE)
}

/// Brings the database in line with the store that is mounted now. Call it before nix-daemon has clients.
pub fn reconcile(store: Option<&HostStore>) -> Outcome<()> {
    let before = fs::read_to_string(RECORD).ok();
    let now = store.map(|store| store.record.as_str());
    if before.as_deref() == now {
        return Ok(());
    }
    if before.is_some() {
        forget_shared()?;
    }
    match now {
        // On the disk's own file system, which is formatted after an unclean stop: no flush is needed.
        Some(record) => fs::write(RECORD, record).map_err(|e| format!("{RECORD}: {e}")),
        None => Ok(()),
    }
}

fn forget_shared() -> Outcome<()> {
    database::forget_all_but(&layers::own_names()?)?;
    match fs::remove_file(RECORD) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("{RECORD}: {e}")),
        _ => Ok(()),
    }
}

/// Releases all unused cached files of the share.
///
/// The overlay comes first, as its names hold the share's. The kernel would trust a remaining name of the share for a
/// second, even if the host has replaced the file.
fn let_go(share: &ShareMount) -> Outcome<()> {
    layers::refresh()?;
    shares::refresh(std::slice::from_ref(share))
}
