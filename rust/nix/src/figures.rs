//! What can be told about the gate.

use std::collections::BTreeMap;

/// Refused paths that are kept for showing.
const MOST_REFUSED: usize = 100;

/// What a status shows of the host's store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Paths that the guest was told of, and uses in place.
    pub shared_paths: u64,
    /// Their size in bytes, as archives.
    pub shared_bytes: u64,
    /// Paths that are valid on the host and not for the guest, in full, and why. At most a hundred.
    pub refused: Vec<(String, String)>,
    /// Connections of the guest that are being served.
    pub connections: u64,
    /// Connections that were not let in: too many, or without the token.
    pub turned_away: u64,
    /// Requests that were refused because they would change the store, or are not known.
    pub denied: u64,
    /// How the last connection to the host's daemon went.
    pub upstream: UpstreamState,
    /// Why the gate was closed, if it was.
    pub closed: Option<String>,
}

/// How the last connection to the host's daemon went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamState {
    /// There was none yet.
    #[default]
    Untried,
    /// It answered.
    Answers {
        /// Its version, in its own words.
        version: String,
    },
    /// It did not.
    Fails {
        /// Why not.
        why: String,
    },
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub struct Record {
    refused: BTreeMap<String, String>,
    connections: u64,
    turned_away: u64,
    denied: u64,
    upstream: UpstreamState,
    closed: Option<String>,
}

impl Record {
    /// Closes the gate; false if it was closed before.
    pub fn close(&mut self, why: &str) -> bool {
        let first = self.closed.is_none();
        self.closed.get_or_insert_with(|| why.to_owned());
        first
    }
    /// Opens it again.
    pub fn reopen(&mut self) {
        self.closed = None;
    }
    /// Why it is closed.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }
    /// A connection has begun.
    pub fn connected(&mut self) {
        self.connections += 1;
    }
    /// A connection has ended.
    pub fn disconnected(&mut self) {
        self.connections -= 1;
    }
    /// A connection was not let in.
    pub fn turned_away(&mut self) {
        self.turned_away += 1;
    }
    /// A request was refused.
    pub fn denied(&mut self) {
        self.denied += 1;
    }
    /// The host's daemon was contacted.
    pub fn upstream(&mut self, state: UpstreamState) {
        self.upstream = state;
    }
    /// A path is valid on the host and not for the guest; true if that is news.
    pub fn refused(&mut self, path: String, why: &str) -> bool {
        if self.refused.len() >= MOST_REFUSED && !self.refused.contains_key(&path) {
            return false;
        }
        self.refused.insert(path, why.to_owned()).is_none()
    }

    /// A path is valid for the guest. It may have been refused before, with other contents.
    pub fn admitted(&mut self, path: impl FnOnce() -> String) {
        if !self.refused.is_empty() {
            self.refused.remove(&path());
        }
    }

    /// All of it; what the ledger knows is to be added.
    pub fn figures(&self) -> StoreFigures {
        StoreFigures {
            shared_paths: 0,
            shared_bytes: 0,
            refused: self.refused.iter().map(|(path, why)| (path.clone(), why.clone())).collect(),
            connections: self.connections,
            turned_away: self.turned_away,
            denied: self.denied,
            upstream: self.upstream.clone(),
            closed: self.closed.clone(),
        }
    }
}
