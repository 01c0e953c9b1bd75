//! Collects garbage in the guest when the data disk is short of space, so that a build starts with free space.
//!
//! ```text
//!  a connection comes ──┐                               ┌─ roots, the newest paths, and what they need ─▶ stay
//!  every two seconds ───┴▶ short of space, no build? ───┴─ the rest of the guest's own layer ──▶ Nix deletes it
//! ```
//!
//! When the disk is nearly full, garbage is collected during builds as well. Nix's own automatic collection
//! (`min-free`) starts late, and with the host's store it goes through every path of the host, so it is off there.
//!
//! The newest paths stay, since a client may be about to fetch what it has just built over another connection.
//!
//! The rule: Nix deletes, and only paths that are dead at that moment. A path that a build or a connection needs is a
//! root of its process, so it is not on the list; one that becomes a root later ends the round. Directories that Nix
//! fills before their name is known (`tmp-…`) are never on the list, because their lock is not visible from this layer.

use super::{
    accounts::BuildUsers,
    disk, ending, figures,
    host_store::{database, layers},
};
use crate::console::say;
use crate::pid1::tasks::Outcome;
use crate::threads::background;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The disk is short of space when less than this fraction of it is free.
const SHORT: u64 = 2;

/// The disk is never short with more free space than this.
const PLENTY: u64 = 20 << 30;

/// Paths made within this many seconds before the newest one belong to it, as results of one build.
const TOGETHER: i64 = 10;

/// With less free space than this, and than this fraction of the disk, garbage is collected even while builds run.
const URGENT: u64 = 1 << 30;
const URGENT_PART: u64 = 8;

/// Interval of the checks while no connection arrives.
const LOOK: Duration = Duration::from_secs(2);

/// How long a connection waits for a collection; the host expects sshd's banner within 15 s. The connection then
/// proceeds even if the collection has not finished.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum time until another round if nothing was written since the last one: paths that were needed then may be dead
/// now. The interval is shorter for a connection, which is about to need space.
const REPEAT: Duration = Duration::from_secs(600);
const REPEAT_FOR_CONNECTION: Duration = Duration::from_secs(5);

/// The collector of this guest.
pub struct Collector {
    builders: BuildUsers,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Number of completed rounds.
    rounds: u64,
    /// A connection waits for the next round.
    wanted: bool,
    last: Option<Round>,
}

/// A completed round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Free bytes at its end.
    free: u64,
    ended: Instant,
}

impl Collector {
    /// Starts to watch the free space. Call it once nix-daemon has created its database.
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

    /// Makes a connection wait while garbage is collected, if that is due.
    pub fn make_room(&self) {
        let mut state = self.lock();
        if !self.is_due(&state, REPEAT_FOR_CONNECTION) {
            return;
        }
        let rounds = state.rounds;
        state.wanted = true;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(state, TIMEOUT, |state| state.rounds == rounds));
    }

    fn round(&self) {
        let state = self.lock();
        let (mut state, _) =
            self.changed.wait_timeout_while(state, LOOK, |state| !state.wanted).unwrap_or_else(PoisonError::into_inner);
        let repeat = if std::mem::take(&mut state.wanted) { REPEAT_FOR_CONNECTION } else { REPEAT };
        let due = self.is_due(&state, repeat);
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

    fn is_due(&self, state: &State, repeat: Duration) -> bool {
        let Some((total, free)) = free_space() else { return false };
        is_short(total, free, state.last, repeat) && (is_urgent(total, free) || figures::builds(&self.builders) == 0)
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

/// Whether a collection is due. Space that was missing after a round was in use, so another round helps only if
/// something was written since, or after a while.
fn is_short(total: u64, free: u64, last: Option<Round>, repeat: Duration) -> bool {
    free < (total / SHORT).min(PLENTY)
        && last.is_none_or(|last| last.ended.elapsed() >= repeat || free < last.free.saturating_sub(last.free / 32))
}

/// Whether a running build may run out of space.
fn is_urgent(total: u64, free: u64) -> bool {
    free < (total / URGENT_PART).min(URGENT)
}

/// Deletes all dead paths; returns their number.
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
    // The overlay does not notice changes in its layers. Dropped names are looked up again.
    let refresh = || if layers::is_overlay() { layers::refresh() } else { Ok(()) };
    refresh()?;
    let deleted = database::delete(&doomed);
    refresh()?;
    deleted.map(|()| doomed.len())
}

/// The most recent valid paths.
fn newest(own: &BTreeMap<String, i64>, known: &BTreeSet<String>) -> Vec<String> {
    let valid = || own.iter().filter(|(path, _)| known.contains(*path));
    let last = valid().map(|(_, made)| *made).max().unwrap_or_default();
    valid().filter(|(_, made)| **made >= last.saturating_sub(TOGETHER)).map(|(path, _)| path.clone()).collect()
}

/// Unneeded paths of the guest's own layer. A lock, or the directory of a running build, has the hash of its path.
fn dead(own: &BTreeMap<String, i64>, roots: &BTreeSet<String>, live: &BTreeSet<String>) -> Vec<String> {
    let needed: BTreeSet<&str> = roots.iter().chain(live).filter_map(|path| hash(path)).collect();
    own.keys().filter(|path| hash(path).is_some_and(|hash| !needed.contains(hash))).cloned().collect()
}

/// The hash part of a store path; `None` for anything else.
fn hash(path: &str) -> Option<&str> {
    if !database::is_store_path(path) {
        return None;
    }
    path.strip_prefix(database::PREFIX)?.get(..32)
}

/// Wraps a service so that each connection starts with free space on the data disk, as far as there is garbage.
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
        let short = |total: u64, free: u64| is_short(total * gib, free * gib, None, REPEAT);
        assert!(short(4, 1) && !short(4, 2));
        assert!(short(200, 19) && !short(200, 20));
        let urgent = |total: u64, free: u64| is_urgent(total << 20, free << 20);
        assert!(urgent(1024, 100) && !urgent(1024, 128) && urgent(100 << 10, 1000) && !urgent(100 << 10, 1024));
    }

    #[test]
    fn a_disk_that_is_full_of_what_is_needed_is_not_looked_through_again_and_again() {
        let mib = 1 << 20;
        let last = Round { free: 100 * mib, ended: Instant::now() };
        let short = |free: u64, repeat| is_short(4096 * mib, free * mib, Some(last), repeat);
        assert!(!short(100, REPEAT) && !short(98, REPEAT) && short(90, REPEAT));
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
