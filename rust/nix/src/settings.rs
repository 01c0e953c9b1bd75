//! Where the host's store is, and the bounds on what a guest may do with it.

use std::{path::PathBuf, time::Duration};

/// Where the host's store is and where this machine's share of it is remembered.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Socket of the host's Nix daemon.
    pub daemon_socket: PathBuf,
    /// The directory that is shared with the guest: where the store's files are.
    pub store_dir: PathBuf,
    /// The store as paths name it: `/nix/store`.
    pub logical_dir: String,
    /// Directory for the files `store-ledger` and `store-verdicts`. It must exist. The ledger goes with the guest's disk.
    pub state_dir: PathBuf,
    /// Bounds on what a guest may do.
    pub limits: Limits,
}

/// Bounds on what a guest may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once; further ones wait for their turn.
    pub connections: usize,
    /// Connections that may wait. Further ones are refused.
    pub queue: usize,
    /// How long each may wait before it is refused.
    pub turn: Duration,
    /// Connections that may be about to prove themselves. The oldest gives way to a new one.
    pub strangers: usize,
    /// How long a connection may take for its token and the greeting.
    pub greeting: Duration,
    /// How long the host's daemon may take for one answer. It may be collecting garbage.
    pub upstream_answer: Duration,
    /// Paths that all connections together may have held; one that two hold counts twice.
    pub held: usize,
    /// Items of a list in a request.
    pub list: usize,
    /// Requests a second of all connections together; more have to wait. Each item of a list counts as one, in what is asked
    /// and in what is looked at for the answer, and so does each path that is held because another refers to it.
    pub rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            queue: 256,
            turn: Duration::from_secs(30),
            strangers: 64,
            greeting: Duration::from_secs(10),
            upstream_answer: Duration::from_secs(120),
            held: 500_000,
            list: 250_000,
            rate: 20_000,
        }
    }
}
