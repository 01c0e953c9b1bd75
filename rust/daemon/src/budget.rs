//! The memory that guests may have on this computer, and how much each machine holds.
//!
//! ```text
//!   a demand ─┬─ there is room, or no other machine holds any ─────────────▶ its machine holds it until its guest is gone
//!             └─ there is none ─▶ waits its turn ─┬─ another machine's guest ends ─▶ checked again
//!                                                 └─ a stop, the client leaves, too long ─▶ an error
//! ```
//!
//! The rule: guests that run at once have no more memory together than the computer, except for a machine that is alone.
//! Processors are not counted, because guests can share them.

use crate::events::Events;
use dvn_types::{GuestKind, Kind, MachineName, Report};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// How long a demand waits for room.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The resources that a guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Memory in bytes.
    pub memory: u64,
    /// The number of guests of some kinds is limited.
    pub kind: GuestKind,
}

/// The computer's memory for guests.
pub struct Budget {
    /// For all guests together, in bytes.
    memory: u64,
    events: Arc<Events>,
    books: Mutex<Books>,
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct Books {
    holders: BTreeMap<MachineName, Holder>,
    /// In the order of arrival.
    waiting: BTreeMap<u64, Waiter>,
    /// Machines whose wait was published.
    announced: BTreeSet<MachineName>,
    last: u64,
}

/// A machine that has room.
struct Holder {
    kind: GuestKind,
    /// The memory of its guest, and of each demand for one. They are for one guest, so the largest counts.
    shares: Vec<u64>,
}

impl Holder {
    fn memory(&self) -> u64 {
        self.shares.iter().copied().max().unwrap_or(0)
    }
}

struct Waiter {
    machine: MachineName,
    need: Need,
    call: oneshot::Sender<Result<Room, Report>>,
}

/// What is missing, and which machines hold it.
enum Want {
    Memory(String),
    Kind(String),
}

impl Books {
    /// Whether a machine already holds that much.
    fn has(&self, machine: &MachineName, need: Need) -> bool {
        self.holders.get(machine).is_some_and(|it| it.memory() >= need.memory && it.kind == need.kind)
    }

    /// Why a machine has to wait for others if there are `total` bytes; `None`: there is room.
    fn want(&self, machine: &MachineName, need: Need, total: u64) -> Option<Want> {
        let others = || self.holders.iter().filter(|(name, _)| *name != machine);
        let same: Vec<_> = others().filter(|(_, it)| it.kind == need.kind).map(|(name, _)| name).collect();
        if need.kind.most_at_once().is_some_and(|most| same.len() >= most) {
            let (kind, most) = (need.kind, same.len());
            let text = format!("the end of a {kind} guest: there can be {most} at once, and {} have them", list(&same));
            return Some(Want::Kind(text));
        }
        let held = others().fold(0, |sum: u64, (_, it)| sum.saturating_add(it.memory()));
        if held == 0 || held.saturating_add(need.memory) <= total {
            return None;
        }
        let names: Vec<_> = others().map(|(name, _)| name).collect();
        let verb = if names.len() == 1 { "holds" } else { "hold" };
        let [wanted, held, total] = [need.memory, held, total].map(gib);
        Some(Want::Memory(format!("{wanted} GiB of memory: {} {verb} {held} of {total} GiB", list(&names))))
    }

    fn enter(&mut self, machine: &MachineName, need: Need) {
        let holder = self.holders.entry(machine.clone()).or_insert(Holder { kind: need.kind, shares: vec![] });
        holder.shares.push(need.memory);
    }

    /// Takes one share back. Whether others have more room now.
    fn leave(&mut self, machine: &MachineName, memory: u64) -> bool {
        let Some(holder) = self.holders.get_mut(machine) else { return false };
        let before = holder.memory();
        if let Some(index) = holder.shares.iter().position(|share| *share == memory) {
            holder.shares.swap_remove(index);
        }
        let (after, is_empty) = (holder.memory(), holder.shares.is_empty());
        if is_empty {
            self.holders.remove(machine);
        }
        is_empty || after < before
    }

    /// Removes the waiters for which there is room now. A machine that waits for memory goes before all that came after it.
    fn take_admitted(&mut self, total: u64) -> Vec<Waiter> {
        let (mut admitted, mut blocked) = (Vec::new(), false);
        for (number, waiter) in std::mem::take(&mut self.waiting) {
            let may_enter = self.has(&waiter.machine, waiter.need)
                || match self.want(&waiter.machine, waiter.need, total) {
                    None => !blocked,
                    Some(Want::Memory(_)) => {
                        blocked = true;
                        false
                    }
                    Some(Want::Kind(_)) => false,
                };
            if may_enter {
                self.enter(&waiter.machine, waiter.need);
                admitted.push(waiter);
            } else {
                self.waiting.insert(number, waiter);
            }
        }
        admitted
    }

    fn reason(&self, machine: &MachineName, total: u64) -> Option<String> {
        let mine = self.waiting.values().find(|waiter| waiter.machine == *machine)?;
        Some(match self.want(machine, mine.need, total) {
            Some(Want::Memory(text) | Want::Kind(text)) => text,
            // There is room, but earlier waiters come first.
            None => {
                let before = self.waiting.values().map(|waiter| &waiter.machine).take_while(|name| *name != machine);
                let before: BTreeSet<_> = before.collect();
                let before = list(&before.into_iter().collect::<Vec<_>>());
                format!("{} GiB of memory, after {before}", gib(mine.need.memory))
            }
        })
    }
}

impl Budget {
    /// For a computer with this much memory, in bytes.
    pub fn of(memory: u64, events: Arc<Events>) -> Budget {
        Budget { memory, events, books: Mutex::default(), wanted: watch::Sender::new(false) }
    }

    /// Waits for room for a machine's guest. Dropping the future cancels the wait.
    ///
    /// # Errors
    /// `Busy`: there was none within [`WAIT_TIMEOUT`]. Otherwise the error that [`Budget::turn_away`] got.
    pub async fn admit(self: &Arc<Self>, machine: &MachineName, need: Need) -> Result<Room, Report> {
        let (call, come) = oneshot::channel();
        let number = {
            let mut books = self.books();
            books.last += 1;
            let number = books.last;
            books.waiting.insert(number, Waiter { machine: machine.clone(), need, call });
            number
        };
        let place = Place { budget: self, number };
        self.call();
        match timeout(WAIT_TIMEOUT, come).await {
            Ok(Ok(answer)) => answer,
            // Does not happen: the sender is kept until it is used, or until the place is dropped.
            Ok(Err(_)) => Err(Report::new(Kind::Internal, "the wait for memory was lost")),
            Err(_) => {
                let reason = self.waits_for(machine).unwrap_or_default();
                drop(place);
                Err(too_long(&reason))
            }
        }
    }

    /// What a machine's boot waits for, if one does.
    pub fn waits_for(&self, machine: &MachineName) -> Option<String> {
        self.books().reason(machine, self.memory)
    }

    /// Refuses all demands that wait for room for this machine, with this error.
    pub fn turn_away(self: &Arc<Self>, machine: &MachineName, why: &Report) {
        let turned_away: Vec<_> = {
            let mut books = self.books();
            let (turned_away, others) =
                std::mem::take(&mut books.waiting).into_iter().partition(|(_, waiter)| waiter.machine == *machine);
            books.waiting = others;
            BTreeMap::into_values(turned_away).collect()
        };
        for waiter in turned_away {
            let _ = waiter.call.send(Err(why.clone()));
        }
        self.call();
    }

    /// Whether a machine waits for room.
    pub fn wanted(&self) -> watch::Receiver<bool> {
        self.wanted.subscribe()
    }

    /// Admits the waiters for which there is room, and publishes which machines wait.
    fn call(self: &Arc<Self>) {
        let admitted = {
            let mut books = self.books();
            let admitted = books.take_admitted(self.memory);
            let waiting: BTreeSet<_> = books.waiting.values().map(|waiter| waiter.machine.clone()).collect();
            let changed: Vec<_> = waiting.symmetric_difference(&books.announced).cloned().collect();
            let news: Vec<_> = changed.into_iter().map(|name| (books.reason(&name, self.memory), name)).collect();
            books.announced = waiting;
            // Under the lock, so that the last word is the newest.
            let waits = !books.waiting.is_empty();
            self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, waits) != waits);
            for (reason, machine) in news {
                match &reason {
                    Some(reason) => tracing::info!(machine = %machine, "a boot waits for {reason}"),
                    None => tracing::info!(machine = %machine, "no boot waits any longer"),
                }
                self.events.waits(&machine, reason);
            }
            admitted
        };
        for waiter in admitted {
            // Outside of the lock: if the waiter is gone, the room is dropped here, which takes the lock.
            let room = Room { budget: Arc::clone(self), machine: waiter.machine, memory: waiter.need.memory };
            let _ = waiter.call.send(Ok(room));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter's entry, removed when this is dropped.
struct Place<'a> {
    budget: &'a Arc<Budget>,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.budget.books().waiting.remove(&self.number);
        if left.is_some() {
            self.budget.call();
        }
    }
}

/// A share of what a machine holds. When its last share is dropped, the machine holds nothing.
pub struct Room {
    budget: Arc<Budget>,
    machine: MachineName,
    memory: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let freed = self.budget.books().leave(&self.machine, self.memory);
        if freed {
            self.budget.call();
        }
    }
}

fn too_long(reason: &str) -> Report {
    let minutes = WAIT_TIMEOUT.as_secs() / 60;
    Report::new(Kind::Busy, format!("the boot has waited {minutes} minutes for {reason}"))
        .hint("stop one of these machines: `darwin-vz-nix --machine NAME stop`")
        .hint("or give the machines less memory: the setting `memory`")
}

/// In GiB, with one digit after the point if that is not 0.
fn gib(bytes: u64) -> String {
    let tenths = bytes / (1 << 20) * 10 / 1024;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        tenth => format!("{}.{tenth}", tenths / 10),
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(names: &[&MachineName]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
mod tests;
