//! Collects the guest's garbage when the data disk is short of space, so that a build begins with room.
//!
//! ```text
//!  a connection comes ──┐                               ┌─ roots, the newest paths, and what they need ─▶ stay
//!  every two seconds ───┴▶ short of space, no build? ───┴─ the rest of the guest's own layer ──▶ Nix deletes it
//! ```
//!
//! A disk that is nearly full is collected during builds as well. Nix has a collection of its own for that (`min-free`). But it
//! begins late, and on the host's store it goes through every path of the host, so that there it is off.
//!
//! The newest paths stay, since a client may be about to fetch what it has just built, with another connection.
//!
//! The rule: Nix deletes, and only what is dead to it in that moment. A path that a build or a connection needs is a root of its
//! process, so it is not on the list; one that becomes a root later ends the round. Directories that Nix fills before their name is
//! known (`tmp-…`) are never on the list, because their lock is not seen from this layer.

use super::{
    accounts::BuildUsers,
    console::say,
    disk, ending, figures,
    host_store::{database, layers},
};
use crate::pid1::tasks::{Outcome, background};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A disk with less free space than this part of it is short of space.
const SHORT: u64 = 2;

/// No disk with more free space than this is.
const PLENTY: u64 = 20 << 30;

/// What was made so short before the newest path belongs to it: the results of one build, in seconds.
const TOGETHER: i64 = 10;

/// With less free space than this, and than this part of the disk, builds that run are no reason to wait.
const URGENT: u64 = 1 << 30;
const URGENT_PART: u64 = 8;

/// How often the free space is looked at while no connection comes.
const LOOK: Duration = Duration::from_secs(2);

/// How long a connection waits for a collection; the host expects the banner of sshd within 15 s. It goes on afterwards, whatever
/// the collection does.
const PATIENCE: Duration = Duration::from_secs(10);

/// When there is another round though nothing was written since the last: what was needed then may not be needed any more. A
/// connection is about to need space, so it is worth a look sooner.
const AGAIN: Duration = Duration::from_secs(600);
const AGAIN_FOR_A_CONNECTION: Duration = Duration::from_secs(5);

/// The collector of this guest.
pub struct Collector {
    builders: BuildUsers,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Rounds that have ended.
    rounds: u64,
    /// A connection waits for the next.
    wanted: bool,
    last: Option<Round>,
}

/// A round that has ended.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Bytes that were free then.
    free: u64,
    ended: Instant,
}

impl Collector {
    /// Begins to look at the free space. Call it when nix-daemon has made its database.
    pub fn start(builders: BuildUsers) -> Arc<Collector> {
        let state = State { rounds: 0, wanted: false, last: None };
        let collector = Arc::new(Collector { builders, state: Mutex::new(state), changed: Condvar::new() });
        let thread = Arc::clone(&collector);
        background("garbage", move || {
            while !ending::begun() {
                thread.round();
            }
        });
        collector
    }

    /// Has a connection wait while garbage is collected, where that is due.
    pub fn make_room(&self) {
        let mut state = self.lock();
        if !self.is_due(&state, AGAIN_FOR_A_CONNECTION) {
            return;
        }
        let rounds = state.rounds;
        state.wanted = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, PATIENCE, |state| state.rounds == rounds));
    }

    fn round(&self) {
        let state = self.lock();
        let (mut state, _) =
            self.changed.wait_timeout_while(state, LOOK, |state| !state.wanted).unwrap_or_else(PoisonError::into_inner);
        let again = if std::mem::take(&mut state.wanted) { AGAIN_FOR_A_CONNECTION } else { AGAIN };
        let due = self.is_due(&state, again);
        drop(state);
        let collected = due.then(collect);
        let mut state = self.lock();
        if let Some(collected) = collected {
            let free = free_space().map_or(0, |(_, free)| free);
            state.last = Some(Round { free, ended: Instant::now() });
            match collected {
                Ok(deleted) => say(format_args!("garbage: {deleted} store paths deleted, {free} bytes are free")),
                Err(why) => say(format_args!("garbage: not collected, {free} bytes are free: {why}")),
            }
        }
        state.rounds += 1;
        self.changed.notify_all();
    }

    fn is_due(&self, state: &State, again: Duration) -> bool {
        let Some((total, free)) = free_space() else { return false };
        is_short(total, free, state.last, again) && (is_urgent(total, free) || figures::builds(&self.builders) == 0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Size and free bytes of the data disk.
fn free_space() -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(disk::DATA).ok()?;
    Some((disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
}

/// Whether a collection is due. What is short after a round was needed then, so another one is of use only when something was
/// written since, or after a while.
fn is_short(total: u64, free: u64, last: Option<Round>, again: Duration) -> bool {
    free < (total / SHORT).min(PLENTY)
        && last.is_none_or(|last| last.ended.elapsed() >= again || free < last.free.saturating_sub(last.free / 32))
}

/// Whether a build that runs may find no space.
fn is_urgent(total: u64, free: u64) -> bool {
    free < (total / URGENT_PART).min(URGENT)
}

/// Deletes all that is dead; how many paths.
fn collect() -> Outcome<usize> {
    let known = database::known()?;
    let own = layers::upper_paths()?;
    let mut roots = database::roots()?;
    roots.extend(newest(&own, &known));
    let valid: Vec<String> = roots.iter().filter(|root| known.contains(*root)).cloned().collect();
    let live = database::closure(&valid)?;
    let doomed = database::referrers(&dead(&own, &roots, &live))?;
    if doomed.is_empty() {
        return Ok(0);
    }
    // The overlay is not told that its layer changes. A name that it does not keep now, it looks up there.
    let refresh = || if layers::is_overlay() { layers::refresh() } else { Ok(()) };
    refresh()?;
    let deleted = database::delete(&doomed);
    refresh()?;
    deleted.map(|()| doomed.len())
}

/// The valid paths that were made last.
fn newest(own: &BTreeMap<String, i64>, known: &BTreeSet<String>) -> Vec<String> {
    let valid = || own.iter().filter(|(path, _)| known.contains(*path));
    let last = valid().map(|(_, made)| *made).max().unwrap_or_default();
    valid().filter(|(_, made)| **made >= last.saturating_sub(TOGETHER)).map(|(path, _)| path.clone()).collect()
}

/// Paths of the guest's own layer that nothing needs. A lock, or the directory of a running build, has the hash of its path.
fn dead(own: &BTreeMap<String, i64>, roots: &BTreeSet<String>, live: &BTreeSet<String>) -> Vec<String> {
    let needed: BTreeSet<&str> = roots.iter().chain(live).filter_map(|path| hash(path)).collect();
    own.keys().filter(|path| hash(path).is_some_and(|hash| !needed.contains(hash))).cloned().collect()
}

/// The hash part of a store path; nothing of what is none.
fn hash(path: &str) -> Option<&str> {
    if !database::is_store_path(path) {
        return None;
    }
    path.strip_prefix(database::PREFIX)?.get(..32)
}

/// A service that begins with room on the data disk, as far as there is garbage.
pub fn with_room<S>(
    garbage: Arc<Collector>,
    service: impl Fn() -> std::io::Result<S> + Clone,
) -> impl Fn() -> std::io::Result<S> + Clone {
    move || {
        garbage.make_room();
        service()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char, name: &str) -> String {
        format!("/nix/store/{}-{name}", digit.to_string().repeat(32))
    }

    #[test]
    fn half_of_a_small_disk_and_a_part_of_a_large_one_are_kept_free() {
        let gib = 1 << 30;
        let short = |total: u64, free: u64| is_short(total * gib, free * gib, None, AGAIN);
        assert!(short(4, 1) && !short(4, 2));
        assert!(short(200, 19) && !short(200, 20));
        let urgent = |total: u64, free: u64| is_urgent(total << 20, free << 20);
        assert!(urgent(1024, 100) && !urgent(1024, 128) && urgent(100 << 10, 1000) && !urgent(100 << 10, 1024));
    }

    #[test]
    fn a_disk_that_is_full_of_what_is_needed_is_not_looked_through_again_and_again() {
        let mib = 1 << 20;
        let last = Round { free: 100 * mib, ended: Instant::now() };
        let short = |free: u64, again| is_short(4096 * mib, free * mib, Some(last), again);
        assert!(!short(100, AGAIN) && !short(98, AGAIN) && short(90, AGAIN));
        assert!(short(100, Duration::ZERO));
    }

    #[test]
    fn the_results_of_the_last_build_stay_whatever_else_was_made_since() {
        let own = [("old", 100), ("result", 195), ("its-second", 200), ("being-built", 900)];
        let own: BTreeMap<_, _> = own.map(|(name, made)| (path('a', name), made)).into();
        let known: BTreeSet<_> = ["old", "result", "its-second"].map(|name| path('a', name)).into();
        assert_eq!(newest(&own, &known), [path('a', "its-second"), path('a', "result")]);
        assert_eq!(newest(&BTreeMap::new(), &known), [""; 0]);
    }

    #[test]
    fn nothing_is_dead_that_a_root_needs_or_a_build_works_on() {
        let own = [
            path('a', "garbage"),
            path('b', "root"),
            path('c', "of-the-root"),
            path('d', "being-built.lock"),
            path('d', "being-built.drv.chroot"),
            "/nix/store/tmp-12-0".to_owned(),
            "/nix/store/.links".to_owned(),
        ];
        let own = own.into_iter().map(|path| (path, 0)).collect();
        let roots = [path('b', "root"), path('d', "being-built")].into();
        let live = [path('b', "root"), path('c', "of-the-root")].into();
        assert_eq!(dead(&own, &roots, &live), [path('a', "garbage")]);
        assert_eq!(dead(&own, &BTreeSet::new(), &BTreeSet::new()).len(), 5);
    }
}
