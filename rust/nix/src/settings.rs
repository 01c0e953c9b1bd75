//! Where the host's store is, and limits on a guest's use of it.

use std::{path::PathBuf, time::Duration};

/// Where the host's store is, and where this machine's state about it is kept.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Socket of the host's Nix daemon.
    pub daemon_socket: PathBuf,
    /// The directory shared with the guest, which has the store's files.
    pub store_dir: PathBuf,
    /// The store directory in path names: `/nix/store`.
    pub logical_dir: String,
    /// Directory for the files `store-ledger` (the known paths) and `store-verdicts`. It must exist. `store-ledger`
    /// belongs to the guest's disk: delete both together.
    pub state_dir: PathBuf,
    /// Limits on a guest.
    pub limits: Limits,
}

/// Limits on a guest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once. Others wait.
    pub connections: usize,
    /// Connections that may wait. Others are refused.
    pub queue: usize,
    /// How long a connection may wait before it is refused.
    pub turn: Duration,
    /// Connections that have not sent the token yet. A new one replaces the oldest.
    pub unauthenticated: usize,
    /// How long a connection may take for its token and the greeting.
    pub greeting: Duration,
    /// How long the host's daemon may take for one answer. It may be collecting garbage.
    pub upstream_answer: Duration,
    /// Paths that all connections together may hold. A path that two connections hold counts twice.
    pub held: usize,
    /// Items of a list in a request.
    pub list: usize,
    /// Requests a second of all connections together; further ones wait. Each item of a list counts as one, in the
    /// request and in what the answer looks at, and so does each path that is held because another refers to it.
    pub rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 256,
            queue: 256,
            turn: Duration::from_secs(30),
            unauthenticated: 64,
            greeting: Duration::from_secs(10),
            upstream_answer: Duration::from_secs(120),
            held: 500_000,
            list: 250_000,
            rate: 20_000,
        }
    }
}
