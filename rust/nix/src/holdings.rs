//! What all connections of a guest together have had held on the host: how much that may be, and what is known of it, once.
//!
//! Each connection holds what it asks for by itself, for its own connection to the host's daemon. A guest that opens many
//! connections, each of which asks for the closure of the same system, would otherwise have its description in memory as
//! often, and a limit for each connection would be no limit for the guest.

use super::{path::StorePath, upstream::PathInfo};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Descriptions after which those are swept out first that nobody has any more.
const FIRST_SWEEP: usize = 4096;

/// What all connections hold.
#[derive(Debug)]
pub struct Holdings {
    most: usize,
    all: Mutex<All>,
}

#[derive(Debug)]
struct All {
    held: usize,
    infos: HashMap<StorePath, Weak<PathInfo>>,
    /// At so many of them the next sweep.
    sweep_at: usize,
}

impl Holdings {
    /// So many paths may be held; one that two connections hold counts twice.
    pub fn new(most: usize) -> Arc<Holdings> {
        let all = Mutex::new(All { held: 0, infos: HashMap::new(), sweep_at: FIRST_SWEEP });
        Arc::new(Holdings { most, all })
    }

    /// The share of a connection, which begins with nothing.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { holdings: Arc::clone(self), held: 0 }
    }

    /// Paths that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.all().held
    }

    /// Descriptions that are remembered.
    #[cfg(test)]
    pub fn described(&self) -> usize {
        self.all().infos.len()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection holds. Given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    holdings: Arc<Holdings>,
    held: usize,
}

impl Share {
    /// Takes so many more paths, or none where that would be too many: then the error is what all may hold.
    pub fn take(&mut self, paths: usize) -> Result<(), usize> {
        let mut all = self.holdings.all();
        let held = all.held.saturating_add(paths);
        if held > self.holdings.most {
            return Err(self.holdings.most);
        }
        all.held = held;
        self.held += paths;
        Ok(())
    }

    /// The same description as other connections have of that path, or this one from now on.
    pub fn describe(&self, path: StorePath, info: PathInfo) -> (StorePath, Arc<PathInfo>) {
        let mut all = self.holdings.all();
        if let Some((known, there)) = all.infos.get_key_value(&path)
            && let Some(there) = there.upgrade()
            && *there == info
        {
            return (known.clone(), there);
        }
        if all.infos.len() >= all.sweep_at {
            all.infos.retain(|_, info| info.strong_count() > 0);
            all.sweep_at = FIRST_SWEEP.max(2 * all.infos.len());
        }
        let info = Arc::new(info);
        all.infos.insert(path.clone(), Arc::downgrade(&info));
        (path, info)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.holdings.all();
        all.held = all.held.saturating_sub(self.held);
        if all.held == 0 {
            all.infos = HashMap::new();
            all.sweep_at = FIRST_SWEEP;
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
    fn a_description_is_there_once_as_long_as_it_is_the_same_and_no_longer_than_needed() {
        let holdings = Holdings::new(usize::MAX);
        let (mut one, two) = (holdings.share(), holdings.share());
        one.take(1).unwrap();
        let first = one.describe(path(0), info(&path(0), 1)).1;
        assert!(Arc::ptr_eq(&first, &two.describe(path(0), info(&path(0), 1)).1));
        let other = two.describe(path(0), info(&path(0), 2)).1;
        assert!(!Arc::ptr_eq(&first, &other) && other.nar_size == 2, "it was made anew on the host meanwhile");
        for number in 1..100_000 {
            two.describe(path(number), info(&path(number), 1));
        }
        assert!(holdings.described() <= FIRST_SWEEP, "{}", holdings.described());
        drop((one, two));
        assert_eq!((holdings.held(), holdings.described()), (0, 0));
    }

    #[test]
    fn all_take_from_one_store_and_give_back() {
        let holdings = Holdings::new(10);
        let (mut one, mut two) = (holdings.share(), holdings.share());
        one.take(6).unwrap();
        assert_eq!(two.take(5), Err(10));
        two.take(4).unwrap();
        drop(one);
        two.take(6).unwrap();
        assert_eq!(holdings.held(), 10);
    }
}
