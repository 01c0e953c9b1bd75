//! What happens, for those who watch: one growing number for "something changed", a stream of events, and what goes through
//! the doors now and has gone through so far.

use dvn_relay::ByteCounts;
use dvn_types::{
    BootTimeline, MachineName, Service, unix_ms,
    wire::{Connection, Event, GenerationsStatus, State, What},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
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
    doors: Mutex<Doors>,
    /// How long boots took, in seconds.
    pub boot_seconds: Family<Of, Histogram, fn() -> Histogram>,
}

/// What goes through the doors, and what has gone.
#[derive(Default)]
struct Doors {
    open: BTreeMap<u64, Open>,
    /// Of connections that have ended.
    past: BTreeMap<(MachineName, &'static str), Traffic>,
    builds: BTreeMap<MachineName, Builds>,
}

struct Open {
    machine: MachineName,
    door: &'static str,
    since_unix_ms: u64,
    carried: Arc<ByteCounts>,
}

/// Connections through a door to a machine, and bytes over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were let in.
    pub connections: u64,
    /// Those of them that are open.
    pub open: u64,
    /// Bytes to the guest.
    pub sent: u64,
    /// Bytes from the guest.
    pub received: u64,
}

/// Builds in a guest, as far as somebody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Builds {
    /// At the last look.
    pub running: u32,
    /// How many were seen to begin.
    pub seen: u64,
}

/// A label that names a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Its name.
    pub machine: String,
}

/// Bounds between boots of a second and those of minutes, under emulation.
fn boot_histogram() -> Histogram {
    Histogram::new([1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 180.0])
}

impl Default for Chronicle {
    fn default() -> Self {
        Chronicle {
            generation: watch::channel(1).0,
            events: broadcast::channel(BACKLOG).0,
            last_event: AtomicU64::new(0),
            last_connection: AtomicU64::new(0),
            doors: Mutex::default(),
            boot_seconds: Family::new_with_constructor(boot_histogram),
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

    /// A boot reached a guest that answers.
    pub fn booted(&self, machine: &MachineName, boot: &BootTimeline) {
        if let Some(last) = boot.phases.last() {
            let of = Of { machine: machine.to_string() };
            self.boot_seconds.get_or_create(&of).observe(last.at_ms as f64 / 1000.0);
        }
    }

    /// A guest was asked for its builds, or is gone with them.
    pub fn builds(&self, machine: &MachineName, running: u32) {
        let before = {
            let mut doors = self.doors();
            let builds = doors.builds.entry(machine.clone()).or_default();
            builds.seen += u64::from(running.saturating_sub(builds.running));
            std::mem::replace(&mut builds.running, running)
        };
        if before != running {
            self.tell(machine, What::Builds { running });
        }
    }

    /// Builds in a machine's guest so far.
    pub fn builds_of(&self, machine: &MachineName) -> Builds {
        self.doors().builds.get(machine).copied().unwrap_or_default()
    }

    /// What goes through the doors now, the oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        let connection = |(connection, open): (&u64, &Open)| Connection {
            connection: *connection,
            machine: open.machine.clone(),
            door: open.door.to_owned(),
            since_unix_ms: open.since_unix_ms,
            sent: open.carried.sent(),
            received: open.carried.received(),
        };
        self.doors().open.iter().map(connection).collect()
    }

    /// What has gone through each door so far.
    pub fn traffic(&self) -> BTreeMap<(MachineName, &'static str), Traffic> {
        let doors = self.doors();
        let mut all = doors.past.clone();
        for open in doors.open.values() {
            let traffic = all.entry((open.machine.clone(), open.door)).or_default();
            traffic.connections += 1;
            traffic.open += 1;
            traffic.sent += open.carried.sent();
            traffic.received += open.carried.received();
        }
        all
    }

    /// A client got through a door. Its end is told when the visit is dropped.
    pub fn visit(self: &Arc<Self>, machine: &MachineName, service: Service) -> Visit {
        let door = service.as_str();
        let connection = self.last_connection.fetch_add(1, Relaxed) + 1;
        let carried = Arc::<ByteCounts>::default();
        let open = Open { machine: machine.clone(), door, since_unix_ms: unix_ms(), carried: Arc::clone(&carried) };
        self.doors().open.insert(connection, open);
        self.tell(machine, What::Opened { door: door.to_owned(), connection });
        Visit { chronicle: Arc::clone(self), machine: machine.clone(), door, connection, carried }
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, machine: &MachineName, what: What) {
        let id = self.last_event.fetch_add(1, Relaxed) + 1;
        // Fails when nobody watches.
        let _ = self.events.send(Event { id, unix_ms: unix_ms(), machine: machine.clone(), what });
    }
}

/// One connection through a door, from its beginning to its end.
pub struct Visit {
    chronicle: Arc<Chronicle>,
    machine: MachineName,
    door: &'static str,
    connection: u64,
    /// What it carried so far.
    pub carried: Arc<ByteCounts>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (sent, received) = (self.carried.sent(), self.carried.received());
        {
            let mut doors = self.chronicle.doors();
            doors.open.remove(&self.connection);
            let past = doors.past.entry((self.machine.clone(), self.door)).or_default();
            past.connections += 1;
            past.sent += sent;
            past.received += received;
        }
        let what = What::Closed { door: self.door.to_owned(), connection: self.connection, sent, received };
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
        drop(chronicle.visit(&name, Service::Nix));
        let visit = chronicle.visit(&name, Service::Ssh);
        assert_eq!(chronicle.connections().iter().map(|open| open.connection).collect::<Vec<_>>(), [2]);
        let traffic = |door| chronicle.traffic()[&(name.clone(), door)];
        assert_eq!((traffic("ssh").connections, traffic("ssh").open, traffic("nix").open), (1, 1, 0));
        drop(visit);
        assert!(chronicle.connections().is_empty());
        assert_eq!((traffic("ssh").connections, traffic("ssh").open, traffic("nix").connections), (1, 0, 1));
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert_eq!(told.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(told[0].what, What::Opened { door: "nix".into(), connection: 1 });
        assert_eq!(told[3].what, What::Closed { door: "ssh".into(), connection: 2, sent: 0, received: 0 });
    }
    #[test]
    fn builds_are_told_when_their_number_changes() {
        let chronicle = Chronicle::default();
        let name: MachineName = "builder".parse().unwrap();
        let mut events = chronicle.events();
        for running in [0, 2, 2, 1, 3, 0] {
            chronicle.builds(&name, running);
        }
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.what).collect();
        assert_eq!(told, [2, 1, 3, 0].map(|running| What::Builds { running }));
        assert_eq!(chronicle.builds_of(&name), Builds { running: 0, seen: 4 });
    }
}
