//! What happens, for those who watch: one growing number for "something changed", and a stream of events.

use crate::{
    api::types::{Event, GenerationsStatus, Service, State, What},
    front_door::Carried,
    spec::MachineName,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{broadcast, watch};

/// Events that a slow watcher may lag behind before it misses some.
const BACKLOG: usize = 256;

/// The daemon's record of changes. Nothing is kept: who does not watch misses it.
pub struct Chronicle {
    generation: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    last_event: AtomicU64,
    last_connection: AtomicU64,
}

impl Default for Chronicle {
    fn default() -> Self {
        Chronicle {
            generation: watch::channel(1).0,
            events: broadcast::channel(BACKLOG).0,
            last_event: AtomicU64::new(0),
            last_connection: AtomicU64::new(0),
        }
    }
}

impl Chronicle {
    /// Something that the status shows has changed.
    pub fn changed(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Changes with every change of the status.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// A lifecycle moved.
    pub fn moved(&self, machine: &MachineName, state: State) {
        self.tell(machine, What::State { state });
    }

    /// Something became of a generation.
    pub fn generations(&self, machine: &MachineName, status: GenerationsStatus) {
        self.tell(machine, What::Generations { status });
    }

    /// A client got through a door. Its end is told when the visit is dropped.
    /// What it sent is added to `sent` then.
    pub fn visit(self: &Arc<Self>, machine: &MachineName, service: Service, sent: &Arc<AtomicU64>) -> Visit {
        let door = match service {
            Service::Ssh => "ssh",
            Service::Nix => "nix",
        };
        let connection = self.last_connection.fetch_add(1, Relaxed) + 1;
        self.tell(machine, What::Opened { door: door.to_owned(), connection });
        Visit {
            chronicle: Arc::clone(self),
            machine: machine.clone(),
            door,
            connection,
            carried: Carried::default(),
            sent: Arc::clone(sent),
        }
    }

    fn tell(&self, machine: &MachineName, what: What) {
        let id = self.last_event.fetch_add(1, Relaxed) + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        // Fails when nobody watches.
        let _ = self.events.send(Event { id, unix_ms, machine: machine.clone(), what });
    }
}

/// One connection through a door, from its beginning to its end.
pub struct Visit {
    chronicle: Arc<Chronicle>,
    machine: MachineName,
    door: &'static str,
    connection: u64,
    /// What it carried so far.
    pub carried: Carried,
    sent: Arc<AtomicU64>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.sent.fetch_add(self.carried.sent(), Relaxed);
        let what = What::Closed {
            door: self.door.to_owned(),
            connection: self.connection,
            sent: self.carried.sent(),
            received: self.carried.received(),
        };
        self.chronicle.tell(&self.machine, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_is_told_twice_with_one_number() {
        let chronicle = Arc::new(Chronicle::default());
        let name: MachineName = "builder".parse().unwrap();
        let mut events = chronicle.events();
        let sent = Arc::new(AtomicU64::new(0));
        drop(chronicle.visit(&name, Service::Nix, &sent));
        drop(chronicle.visit(&name, Service::Ssh, &sent));
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert_eq!(told.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(told[0].what, What::Opened { door: "nix".into(), connection: 1 });
        assert_eq!(told[3].what, What::Closed { door: "ssh".into(), connection: 2, sent: 0, received: 0 });
    }
}
