//! Turns: limits how many clients connect to the guest at once, from the demand to the guest's first bytes.
//!
//! For each of them the guest starts a server. If the servers of a crowd all started at once, none would be ready in time, least
//! of all that of a client which logs in. So clients that have sent something go before silent ones. Of those that have sent
//! something the newest goes first: one that has waited for long is probably not about to log in. Silent clients go in the order
//! of their arrival.

use dvn_host::connection_slots::ConnectionSlots;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// The numbers of turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For all clients together.
    pub(super) all: usize,
    /// Of these, for clients that have sent nothing.
    pub(super) silent: usize,
    /// The same while another client is about to log in, during its turn or after it.
    pub(super) silent_beside: usize,
}

/// Whether a client has sent something. The greater value goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Client {
    Silent,
    Speaking,
}

/// The turns of one door. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    slots: ConnectionSlots,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug)]
struct Queue {
    limits: Limits,
    last: i64,
    taken: BTreeMap<Client, usize>,
    /// Waiting clients, the next one last.
    waiting: BTreeMap<(Client, i64), oneshot::Sender<Turn>>,
}

impl Queue {
    fn may_go(&self, client: Client, speaking: usize) -> bool {
        let taken = |client| self.taken.get(&client).copied().unwrap_or(0);
        let silent = taken(Client::Silent);
        let most = if speaking == 0 { self.limits.silent } else { self.limits.silent_beside };
        silent + taken(Client::Speaking) < self.limits.all && (client != Client::Silent || silent < most)
    }
}

impl Turns {
    /// Turns for the connections in these slots.
    pub(super) fn new(limits: Limits, slots: ConnectionSlots) -> Turns {
        let queue = Queue { limits, last: 0, taken: BTreeMap::new(), waiting: BTreeMap::new() };
        Turns { slots, queue: Arc::new(Mutex::new(queue)) }
    }

    /// Waits for this client's turn. May be dropped.
    pub(super) async fn wait(&self, client: Client) -> Turn {
        loop {
            let (call, come) = oneshot::channel();
            let waiting = {
                let mut queue = self.lock();
                queue.last += 1;
                let order = if client == Client::Silent { -queue.last } else { queue.last };
                let key = (client, order);
                queue.waiting.insert(key, call);
                Waiting { turns: self, key }
            };
            self.call();
            let come = come.await;
            drop(waiting);
            // The sender is kept until it is used, so this does not loop.
            if let Ok(turn) = come {
                return turn;
            }
        }
    }

    /// Gives turns to the next clients. If a client has just stopped waiting, its turn is dropped, which calls the next.
    fn call(&self) {
        loop {
            let (client, call) = {
                let mut queue = self.lock();
                let next = queue.waiting.last_key_value().map(|(key, _)| *key);
                let Some(key) = next.filter(|(client, _)| queue.may_go(*client, self.slots.speaking())) else { return };
                let Some(call) = queue.waiting.remove(&key) else { return };
                *queue.taken.entry(key.0).or_default() += 1;
                (key.0, call)
            };
            // Outside of the lock: if the client is gone, the turn is dropped here, which takes the lock.
            let _ = call.send(Turn { turns: self.clone(), client });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiting client's entry, removed when this is dropped.
struct Waiting<'a> {
    turns: &'a Turns,
    key: (Client, i64),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.key);
    }
}

/// A client's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    client: Client,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(taken) = self.turns.lock().taken.get_mut(&self.client) {
            *taken -= 1;
        }
        self.turns.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_host::connection_slots::SlotLimits;
    use futures_util::FutureExt;
    use std::{pin::pin, time::Duration};

    fn some_slots() -> ConnectionSlots {
        ConnectionSlots::new("a door", SlotLimits { unauthenticated: 9, all: 9, stay: Duration::ZERO })
    }

    #[tokio::test]
    async fn speaking_clients_go_first_the_newest_of_them_and_the_oldest_of_the_silent() {
        let turns = Turns::new(Limits { all: 1, silent: 1, silent_beside: 1 }, some_slots());
        let first = turns.wait(Client::Silent).await;
        let mut silent = pin!(turns.wait(Client::Silent));
        let mut later = pin!(turns.wait(Client::Silent));
        let mut older = pin!(turns.wait(Client::Speaking));
        let mut newer = pin!(turns.wait(Client::Speaking));
        for waits in [silent.as_mut(), later.as_mut(), older.as_mut(), newer.as_mut()] {
            assert!(waits.now_or_never().is_none());
        }
        drop(first);
        assert!(silent.as_mut().now_or_never().is_none() && older.as_mut().now_or_never().is_none());
        drop(newer.now_or_never().unwrap());
        assert!(silent.as_mut().now_or_never().is_none());
        drop(older.now_or_never().unwrap());
        assert!(later.as_mut().now_or_never().is_none());
        drop(silent.now_or_never().unwrap());
        drop(later.now_or_never().unwrap());
    }

    #[tokio::test]
    async fn silent_clients_leave_turns_to_speaking_ones_and_more_while_some_log_in() {
        let slots = some_slots();
        let turns = Turns::new(Limits { all: 4, silent: 3, silent_beside: 1 }, slots.clone());
        let speaker = slots.acquire().await;
        speaker.set_speaking();
        let _silent = turns.wait(Client::Silent).await;
        assert!(turns.wait(Client::Silent).now_or_never().is_none());
        speaker.set_authenticated();
        let _others = [turns.wait(Client::Silent).await, turns.wait(Client::Silent).await];
        assert!(turns.wait(Client::Silent).now_or_never().is_none());
        let _speaks = turns.wait(Client::Speaking).now_or_never().unwrap();
        assert!(turns.wait(Client::Speaking).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_client_that_stops_waiting_takes_no_turn() {
        let turns = Turns::new(Limits { all: 1, silent: 1, silent_beside: 1 }, some_slots());
        let first = turns.wait(Client::Speaking).await;
        for _ in 0..10 {
            assert!(turns.wait(Client::Speaking).now_or_never().is_none());
        }
        assert!(turns.lock().waiting.is_empty());
        let mut last = pin!(turns.wait(Client::Silent));
        assert!(last.as_mut().now_or_never().is_none());
        drop(first);
        assert!(last.now_or_never().is_some());
        assert!(turns.wait(Client::Speaking).now_or_never().is_some());
    }
}
