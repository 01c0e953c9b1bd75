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
//! nix-daemon notes in its database what the gate once called valid, and never asks again. So the rule: a path of the host's
//! store is in the database only as long as the host keeps it or tells us to forget it. A disk that was used with another
//! record of the host's, or is used without the share now, is rid of such paths before nix-daemon starts; and where the share
//! fails, the guest leaves it for good and goes on with its own layers.

pub mod database;
pub mod layers;

use super::{accounts::BuildUsers, console::say, figures, nix, shares, vsock};
use crate::pid1::tasks::{Outcome, background, serve};
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

/// What only root may enter: the socket, and what nix-daemon is told.
const HOME: &str = "/run/darwin-vz";

/// Where nix-daemon reaches the gate.
const SOCKET: &str = "/run/darwin-vz/host-store.sock";

/// What Nix runs when it has deleted behind the overlay's back.
const REMOUNT: &str = "/run/darwin-vz/remount-store";

/// For a PID 1 that starts nix-daemon itself: lines `NIX_REMOTE=…` and `NIX_CONFIG=…`, where the host's store is in use.
const ENVIRONMENT: &str = "/run/darwin-vz/nix-daemon.env";

/// On the data disk: the host's record whose paths the database may hold.
const RECORD: &str = "/data/nix/host-store";

/// The guest keeps at most about so many files of the share, since the host holds a descriptor for each and macOS gives a
/// process few. What a build has open does not count among those which can be given back.
const MOST_INODES: u64 = 8192;

/// How often they are counted.
const COUNTING: Duration = Duration::from_secs(2);

/// A deletion that is younger may be the first half of a replacement.
const SETTLED: Duration = Duration::from_secs(10);

/// The host's store, mounted.
pub struct HostStore {
    share: ShareMount,
    record: String,
    /// The gate's port of the host.
    port: u32,
    left: Arc<AtomicBool>,
    /// Held while it is being left; true once that is done.
    leaving: Mutex<bool>,
}

impl HostStore {
    /// Makes the guest's store, on the host's where the host offers it and its share mounts.
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

    /// The host's store, if it is to be used and is among these shares.
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

    /// What nix-daemon is told: its store, and which program to run when that must be mounted anew.
    pub fn address(&self) -> String {
        // The address of the lower store is a value in the address, so its own punctuation is escaped.
        let real = self.share.mount_point.replace('/', "%2F");
        let lower = format!("unix%3A%2F%2F{}%3Freal%3D{real}", SOCKET.replace('/', "%2F"));
        // Nix's own check of the mount knows only two layers.
        let upper = layers::UPPER;
        format!("local-overlay://?lower-store={lower}&upper-layer={upper}&remount-hook={REMOUNT}&check-mount=false")
    }

    /// Writes what nix-daemon needs to find when it starts.
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

    /// Opens the way to the gate, and watches how much of the share is kept. Call it before nix-daemon has clients.
    pub fn serve(&self, token: &str) -> Outcome<()> {
        let greeting =
            serde_json::to_string(&StoreGreeting { token: token.to_owned() }).map_err(|e| e.to_string())? + "\n";
        let _ = fs::remove_file(SOCKET); // of an agent before this one
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

    /// Looks at the host's store anew.
    pub fn refresh(&self) -> Outcome<()> {
        layers::drop_whiteouts(SETTLED)?;
        let_go(&self.share)
    }

    /// Whether the share shows these paths.
    pub fn expect(&self, paths: &[String]) -> Outcome<()> {
        for path in paths {
            let name = path.strip_prefix(database::PREFIX).unwrap_or(path);
            fs::symlink_metadata(Path::new(&self.share.mount_point).join(name))
                .map_err(|e| format!("the host has {path}, and its share does not show it: {e}"))?;
        }
        Ok(())
    }

    /// Paths that are gone from the host's store, or changed: nothing that refers to them stays valid.
    pub fn forget(&self, paths: &[String]) -> Outcome<()> {
        database::forget(paths)?;
        layers::drop_whiteouts(Duration::ZERO)?;
        let_go(&self.share)
    }

    /// Goes on without the host's store. Nothing here touches the share, which may hang.
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

/// The settings of Nix for a guest that the host offers its store to.
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
        // Of the disk's own file system, which is made anew after an unclean stop: it need not be flushed.
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

/// Gives back all of the share that is not in use.
///
/// The overlay comes first: its names hold the share's. A name of the share that stayed would be believed for a second, also
/// if the host has put something else in its place.
fn let_go(share: &ShareMount) -> Outcome<()> {
    layers::refresh()?;
    shares::refresh(std::slice::from_ref(share))
}
