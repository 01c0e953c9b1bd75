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

mod books;

use crate::events::Events;
pub use books::Need;
use books::{Books, Purpose, Waiter};
use dvn_types::{Kind, MachineName, Report};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// How long a demand waits for room.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

type Call = oneshot::Sender<Result<Room, Report>>;

/// The computer's memory for guests.
pub struct Budget {
    /// For all guests together, in bytes.
    memory: u64,
    events: Arc<Events>,
    books: Mutex<Books<Call>>,
    wanted: watch::Sender<bool>,
}

impl Budget {
    /// For a computer with this much memory, in bytes.
    pub fn of(memory: u64, events: Arc<Events>) -> Budget {
        Budget { memory, events, books: Mutex::default(), wanted: watch::Sender::new(false) }
    }

    /// An account for a machine. Its demands can be refused.
    pub fn account(&self) -> u64 {
        self.books().number()
    }

    /// Waits for room for a machine's guest, which boots next. Dropping the future cancels the wait.
    ///
    /// # Errors
    /// `Busy`: there was none within [`WAIT_TIMEOUT`]. Otherwise the error that [`Budget::refuse`] got.
    pub async fn admit(self: &Arc<Self>, account: u64, machine: &MachineName, need: Need) -> Result<Room, Report> {
        self.wait(account, machine, need, Purpose::Guest).await
    }

    /// The same for a demand. A demand needs room for the next guest of its machine, and does not use that of a guest which is
    /// ending.
    pub async fn demand(self: &Arc<Self>, account: u64, machine: &MachineName, need: Need) -> Result<Room, Report> {
        self.wait(account, machine, need, Purpose::Demand).await
    }

    async fn wait(
        self: &Arc<Self>,
        account: u64,
        machine: &MachineName,
        need: Need,
        purpose: Purpose,
    ) -> Result<Room, Report> {
        let (call, come) = oneshot::channel();
        let number = {
            let mut books = self.books();
            // Under the lock, so that no demand waits on which came just before a refusal.
            if let (Purpose::Demand, Some(why)) = (purpose, books.refusal(account)) {
                return Err(why);
            }
            let number = books.number();
            books.waiting.insert(number, Waiter { account, machine: machine.clone(), need, purpose, call });
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

    /// Room for a demand without a wait.
    ///
    /// # Errors
    /// `Busy`: there is none, or others come first. Otherwise the error that [`Budget::refuse`] got.
    pub fn demand_now(self: &Arc<Self>, account: u64, machine: &MachineName, need: Need) -> Result<Room, Report> {
        let (call, mut come) = oneshot::channel();
        let (admitted, refused) = {
            let mut books = self.books();
            if let Some(why) = books.refusal(account) {
                return Err(why);
            }
            let number = books.number();
            let purpose = Purpose::Demand;
            books.waiting.insert(number, Waiter { account, machine: machine.clone(), need, purpose, call });
            let admitted = books.take_admitted(self.memory);
            (admitted, books.waiting.remove(&number).map(|waiter| books.reason_of(&waiter, self.memory)))
        };
        self.hand_out(admitted);
        match (come.try_recv(), refused) {
            (Ok(answer), _) => answer,
            (Err(_), reason) => Err(no_room(&reason.unwrap_or_default())),
        }
    }

    /// What a machine's boot waits for, if one does.
    pub fn waits_for(&self, machine: &MachineName) -> Option<String> {
        self.books().reason(machine, self.memory)
    }

    /// Refuses with this error all that waits for room through this account, and its demands until the result is dropped.
    pub fn refuse(self: &Arc<Self>, account: u64, why: &Report) -> Refusal {
        let (number, refused) = {
            let mut books = self.books();
            let number = books.number();
            books.refusals.insert(number, (account, why.clone()));
            (number, books.take_waiting_of(account))
        };
        for waiter in refused {
            let _ = waiter.call.send(Err(why.clone()));
        }
        self.call();
        Refusal { budget: Arc::clone(self), number }
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
        self.hand_out(admitted);
    }

    /// Outside of the lock: if a waiter is gone, its room is dropped here, which takes the lock.
    fn hand_out(self: &Arc<Self>, admitted: Vec<(u64, Waiter<Call>)>) {
        for (number, waiter) in admitted {
            let room = Room { budget: Arc::clone(self), machine: waiter.machine, number };
            let _ = waiter.call.send(Ok(room));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books<Call>> {
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
    number: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let freed = self.budget.books().leave(&self.machine, self.number);
        if freed {
            self.budget.call();
        }
    }
}

/// The demands of an account are refused until this is dropped.
pub struct Refusal {
    budget: Arc<Budget>,
    number: u64,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.budget.books().refusals.remove(&self.number);
    }
}

fn no_room(reason: &str) -> Report {
    Report::new(Kind::Busy, format!("the boot would have to wait for {reason}"))
        .hint("connect again: a connection waits until there is room")
}

fn too_long(reason: &str) -> Report {
    let minutes = WAIT_TIMEOUT.as_secs() / 60;
    Report::new(Kind::Busy, format!("the boot has waited {minutes} minutes for {reason}"))
        .hint("stop one of these machines: `darwin-vz-nix --machine NAME stop`")
        .hint("or give the machines less memory: the setting `memory`")
}

#[cfg(test)]
mod tests;
