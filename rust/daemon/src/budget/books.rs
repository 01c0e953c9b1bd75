//! Which machines hold memory and which wait for it: the rule of the [`Budget`](super::Budget) as plain data, without locks and
//! tasks.
//!
//! The rule: those that wait are served in the order of arrival, and a machine keeps what it holds only for its present guest. A
//! demand for its next guest waits behind the machines that came before.

use dvn_types::{GuestKind, MachineName, Report};
use std::collections::{BTreeMap, BTreeSet};

/// The resources that a guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Memory in bytes.
    pub memory: u64,
    /// The number of guests of some kinds is limited.
    pub kind: GuestKind,
}

/// What the room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A guest that boots now. It may use all that its machine holds.
    Guest,
    /// A demand for a guest. The room of an older guest is of no use to it, because demands come here only while that guest
    /// is ending.
    Demand,
}

/// Who holds memory, and who waits for it. `C` is how a waiter is called.
pub struct Books<C> {
    holders: BTreeMap<MachineName, Holder>,
    /// In the order of arrival.
    pub waiting: BTreeMap<u64, Waiter<C>>,
    /// Machines whose wait was published.
    pub announced: BTreeSet<MachineName>,
    /// For each refusal in force: the account whose demands are refused, and why.
    pub refusals: BTreeMap<u64, (u64, Report)>,
    last: u64,
}

/// A machine that has room.
struct Holder {
    kind: GuestKind,
    /// The shares of its guest, and of each demand for one, by their numbers. They are for one guest, so the largest counts.
    shares: BTreeMap<u64, (u64, Purpose)>,
}

/// A request that waits for room.
pub struct Waiter<C> {
    /// The account that it came through; 0: none.
    pub account: u64,
    /// The machine.
    pub machine: MachineName,
    /// The room that it takes.
    pub need: Need,
    /// What the room is for.
    pub purpose: Purpose,
    /// Calls it.
    pub call: C,
}

/// What is missing, and which machines hold it.
pub enum Want {
    /// Memory.
    Memory(String),
    /// A place for a guest of this kind.
    Kind(String),
}

impl<C> Default for Books<C> {
    fn default() -> Self {
        let (holders, waiting, announced, refusals) = Default::default();
        Books { holders, waiting, announced, refusals, last: 0 }
    }
}

impl Holder {
    fn memory(&self) -> u64 {
        self.shares.values().map(|(memory, _)| *memory).max().unwrap_or(0)
    }

    /// The memory that this request may use without its turn.
    fn memory_for(&self, number: u64, purpose: Purpose) -> u64 {
        let usable = |share: &u64, of: Purpose| purpose == Purpose::Guest || of == Purpose::Demand || *share > number;
        let shares = self.shares.iter().filter(|(share, (_, of))| usable(share, *of));
        shares.map(|(_, (memory, _))| *memory).max().unwrap_or(0)
    }
}

impl<C> Books<C> {
    /// The next number. Numbers grow.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Why the demands of this account are refused, if they are.
    pub fn refusal(&self, account: u64) -> Option<Report> {
        self.refusals.values().find(|(of, _)| *of == account).map(|(_, why)| why.clone())
    }

    /// Whether a machine already holds that much for this request.
    fn has(&self, number: u64, waiter: &Waiter<C>) -> bool {
        let holder = self.holders.get(&waiter.machine);
        let enough = |it: &Holder| it.memory_for(number, waiter.purpose) >= waiter.need.memory;
        holder.is_some_and(|it| it.kind == waiter.need.kind && enough(it))
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

    fn enter(&mut self, number: u64, waiter: &Waiter<C>) {
        let empty = Holder { kind: waiter.need.kind, shares: BTreeMap::new() };
        let holder = self.holders.entry(waiter.machine.clone()).or_insert(empty);
        holder.shares.insert(number, (waiter.need.memory, waiter.purpose));
    }

    /// Takes one share back. Whether others have more room now.
    pub fn leave(&mut self, machine: &MachineName, number: u64) -> bool {
        let Some(holder) = self.holders.get_mut(machine) else { return false };
        let before = holder.memory();
        holder.shares.remove(&number);
        let (after, is_empty) = (holder.memory(), holder.shares.is_empty());
        if is_empty {
            self.holders.remove(machine);
        }
        is_empty || after < before
    }

    /// Removes the waiters for which there is room now, by their numbers. A machine that waits for memory goes before all that
    /// came after it; one that waits for a place of its kind goes before those of its kind.
    pub fn take_admitted(&mut self, total: u64) -> Vec<(u64, Waiter<C>)> {
        let mut all = Vec::new();
        loop {
            let admitted = self.take_once(total);
            if admitted.is_empty() {
                return all;
            }
            // A guest that was admitted may have come for a demand before it.
            all.extend(admitted);
        }
    }

    fn take_once(&mut self, total: u64) -> Vec<(u64, Waiter<C>)> {
        let (mut admitted, mut blocked, mut kinds) = (Vec::new(), false, Vec::new());
        for (number, waiter) in std::mem::take(&mut self.waiting) {
            let may_enter = self.has(number, &waiter)
                || match self.want(&waiter.machine, waiter.need, total) {
                    None => !blocked && !kinds.contains(&waiter.need.kind),
                    Some(Want::Memory(_)) => {
                        blocked = true;
                        false
                    }
                    Some(Want::Kind(_)) => {
                        kinds.push(waiter.need.kind);
                        false
                    }
                };
            if may_enter {
                self.enter(number, &waiter);
                admitted.push((number, waiter));
            } else {
                self.waiting.insert(number, waiter);
            }
        }
        admitted
    }

    /// Removes the waiters of this account.
    pub fn take_waiting_of(&mut self, account: u64) -> Vec<Waiter<C>> {
        let of = |waiter: &Waiter<C>| waiter.account == account;
        let (taken, others) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, waiter)| of(waiter));
        self.waiting = others;
        BTreeMap::into_values(taken).collect()
    }

    /// What a machine waits for, if it does.
    pub fn reason(&self, machine: &MachineName, total: u64) -> Option<String> {
        let mine = self.waiting.values().find(|waiter| waiter.machine == *machine)?;
        Some(self.reason_of(mine, total))
    }

    /// What one that waits, or that came last, waits for.
    pub fn reason_of(&self, mine: &Waiter<C>, total: u64) -> String {
        match self.want(&mine.machine, mine.need, total) {
            Some(Want::Memory(text) | Want::Kind(text)) => text,
            // There is room, but earlier waiters come first.
            None => {
                let before =
                    self.waiting.values().map(|waiter| &waiter.machine).take_while(|name| **name != mine.machine);
                let before: BTreeSet<_> = before.collect();
                let before = list(&before.into_iter().collect::<Vec<_>>());
                format!("{} GiB of memory, after {before}", gib(mine.need.memory))
            }
        }
    }
}

/// In GiB, with one digit after the point if that is not 0.
pub fn gib(bytes: u64) -> String {
    let tenths = bytes / (1 << 20) * 10 / 1024;
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        tenth => format!("{}.{tenth}", tenths / 10),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(names: &[&MachineName]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    match names.as_slice() {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        names => names.concat(),
    }
}
