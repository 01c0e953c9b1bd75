//! Figures about the gate, for status displays.

use std::collections::BTreeMap;

/// Refused paths that are kept for display.
const MOST_REFUSED: usize = 100;

/// Figures about the host's store for a status display.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Paths whose description the guest has, and which it uses in place.
    pub shared_paths: u64,
    /// Sum of their NAR sizes in bytes.
    pub shared_bytes: u64,
    /// Full paths that are valid on the host but not for the guest, each with the reason. At most a hundred.
    pub refused: Vec<(String, String)>,
    /// Connections of the guest being served.
    pub connections: u64,
    /// Connections that were refused: too many, or without the token.
    pub turned_away: u64,
    /// Requests that were refused because they would change the store, or because they are unknown.
    pub denied: u64,
    /// Outcome of the last connection to the host's daemon.
    pub upstream: UpstreamState,
    /// Why the gate is closed, if it is.
    pub closed: Option<String>,
}

/// Outcome of the last connection to the host's daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamState {
    /// There was no connection yet.
    #[default]
    Untried,
    /// The daemon answered.
    Answers {
        /// The daemon's own version text.
        version: String,
    },
    /// The daemon did not answer.
    Fails {
        /// The reason.
        why: String,
    },
}

/// Counters, updated as things happen.
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
    /// Closes the gate. False if it was closed before.
    pub fn close(&mut self, why: &str) -> bool {
        let first = self.closed.is_none();
        self.closed.get_or_insert_with(|| why.to_owned());
        first
    }
    /// Opens the gate again.
    pub fn reopen(&mut self) {
        self.closed = None;
    }
    /// Why the gate is closed.
    pub fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }
    /// Counts a connection that begins.
    pub fn connected(&mut self) {
        self.connections += 1;
    }
    /// Counts a connection that ends.
    pub fn disconnected(&mut self) {
        self.connections -= 1;
    }
    /// Counts a connection that was refused.
    pub fn turned_away(&mut self) {
        self.turned_away += 1;
    }
    /// Counts a request that was refused.
    pub fn denied(&mut self) {
        self.denied += 1;
    }
    /// Stores the outcome of a connection to the host's daemon.
    pub fn upstream(&mut self, state: UpstreamState) {
        self.upstream = state;
    }
    /// Stores a path that is valid on the host but not for the guest. True if this is new.
    pub fn refused(&mut self, path: String, why: &str) -> bool {
        if self.refused.len() >= MOST_REFUSED && !self.refused.contains_key(&path) {
            return false;
        }
        self.refused.insert(path, why.to_owned()).is_none()
    }

    /// Removes a path from the refused ones: it may have been refused before, with other contents.
    pub fn admitted(&mut self, path: impl FnOnce() -> String) {
        if !self.refused.is_empty() {
            self.refused.remove(&path());
        }
    }

    /// All figures except those from the known paths, which the caller adds.
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
