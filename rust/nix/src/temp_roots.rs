//! The temporary roots of all connections of a guest together: limits how many there are, and shares their
//! descriptions.
//!
//! Each connection holds the paths that it asks for on its own connection to the host's daemon. A guest may open many
//! connections that each ask for the closure of the same system. Without this, each would keep its own copy of the
//! descriptions, and a limit per connection would not limit the guest.

use super::{path::StorePath, upstream::PathInfo};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Number of descriptions at which unused ones are first removed.
const FIRST_CLEANUP: usize = 4096;

/// The temporary roots of all connections.
#[derive(Debug)]
pub struct TempRoots {
    most: usize,
    all: Mutex<All>,
}

#[derive(Debug)]
struct All {
    held: usize,
    infos: HashMap<StorePath, Weak<PathInfo>>,
    /// Number of descriptions at which unused ones are removed next.
    cleanup_at: usize,
}

impl TempRoots {
    /// At most `most` paths may be held. A path that two connections hold counts twice.
    pub fn new(most: usize) -> Arc<TempRoots> {
        let all = Mutex::new(All { held: 0, infos: HashMap::new(), cleanup_at: FIRST_CLEANUP });
        Arc::new(TempRoots { most, all })
    }

    /// The part of one connection, at first empty.
    pub fn for_connection(self: &Arc<Self>) -> ConnectionRoots {
        ConnectionRoots { roots: Arc::clone(self), held: 0 }
    }

    /// Paths held now.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.all().held
    }

    /// Descriptions in memory.
    #[cfg(test)]
    pub fn described(&self) -> usize {
        self.all().infos.len()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The temporary roots of one connection. Dropping it releases them.
#[derive(Debug)]
pub struct ConnectionRoots {
    roots: Arc<TempRoots>,
    held: usize,
}

impl ConnectionRoots {
    /// Reserves `paths` more, or none if that exceeds the limit for all connections, which is then the error.
    pub fn reserve(&mut self, paths: usize) -> Result<(), usize> {
        let mut all = self.roots.all();
        let held = all.held.saturating_add(paths);
        if held > self.roots.most {
            return Err(self.roots.most);
        }
        all.held = held;
        self.held += paths;
        Ok(())
    }

    /// Returns the description of the path in memory if it is equal, or else stores this one.
    pub fn intern(&self, path: StorePath, info: PathInfo) -> (StorePath, Arc<PathInfo>) {
        let mut all = self.roots.all();
        if let Some((known, there)) = all.infos.get_key_value(&path)
            && let Some(there) = there.upgrade()
            && *there == info
        {
            return (known.clone(), there);
        }
        if all.infos.len() >= all.cleanup_at {
            all.infos.retain(|_, info| info.strong_count() > 0);
            all.cleanup_at = FIRST_CLEANUP.max(2 * all.infos.len());
        }
        let info = Arc::new(info);
        all.infos.insert(path.clone(), Arc::downgrade(&info));
        (path, info)
    }
}

impl Drop for ConnectionRoots {
    fn drop(&mut self) {
        let mut all = self.roots.all();
        all.held = all.held.saturating_sub(self.held);
        if all.held == 0 {
            all.infos = HashMap::new();
            all.cleanup_at = FIRST_CLEANUP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(path: &StorePath, size: u64) -> PathInfo {
        PathInfo {
            deriver: vec![],
            nar_hash: "sha256:x".to_owned(),
            references: vec![path.clone()],
            registered: 1,
            nar_size: size,
            ultimate: 0,
            signatures: vec![],
            content_address: vec![],
        }
    }

    fn path(number: usize) -> StorePath {
        StorePath::from_name(&format!("{}-{number}", "a".repeat(32))).unwrap()
    }

    #[test]
    fn equal_descriptions_are_stored_once_and_no_longer_than_needed() {
        let roots = TempRoots::new(usize::MAX);
        let (mut one, two) = (roots.for_connection(), roots.for_connection());
        one.reserve(1).unwrap();
        let first = one.intern(path(0), info(&path(0), 1)).1;
        assert!(Arc::ptr_eq(&first, &two.intern(path(0), info(&path(0), 1)).1));
        let other = two.intern(path(0), info(&path(0), 2)).1;
        assert!(!Arc::ptr_eq(&first, &other) && other.nar_size == 2, "it was rebuilt on the host meanwhile");
        for number in 1..100_000 {
            two.intern(path(number), info(&path(number), 1));
        }
        assert!(roots.described() <= FIRST_CLEANUP, "{}", roots.described());
        drop((one, two));
        assert_eq!((roots.held(), roots.described()), (0, 0));
    }

    #[test]
    fn all_connections_reserve_from_one_budget_and_release() {
        let roots = TempRoots::new(10);
        let (mut one, mut two) = (roots.for_connection(), roots.for_connection());
        one.reserve(6).unwrap();
        assert_eq!(two.reserve(5), Err(10));
        two.reserve(4).unwrap();
        drop(one);
        two.reserve(6).unwrap();
        assert_eq!(roots.held(), 10);
    }
}
