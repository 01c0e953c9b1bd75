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
    accounts: Mutex<BTreeMap<MachineName, Account>>,
    /// How long boots took, in seconds.
    pub boot_seconds: Family<Of, Histogram, fn() -> Histogram>,
}

/// What is counted of one machine: what goes through its doors, what has gone, and its builds.
#[derive(Default)]
struct Account {
    /// By the connection's number.
    open: BTreeMap<u64, Open>,
    /// Of connections that have ended.
    past: BTreeMap<&'static str, Traffic>,
    builds: Builds,
}

struct Open {
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
            accounts: Mutex::default(),
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

    /// A boot waits for this, or no longer.
    pub fn waits(&self, machine: &MachineName, reason: Option<String>) {
        self.changed();
        self.tell(machine, What::Waits { reason });
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
            let mut accounts = self.accounts();
            let builds = &mut accounts.entry(machine.clone()).or_default().builds;
            builds.seen += u64::from(running.saturating_sub(builds.running));
            std::mem::replace(&mut builds.running, running)
        };
        if before != running {
            self.tell(machine, What::Builds { running });
        }
    }

    /// Builds in a machine's guest so far.
    pub fn builds_of(&self, machine: &MachineName) -> Builds {
        self.accounts().get(machine).map(|account| account.builds).unwrap_or_default()
    }

    /// What goes through the doors now, the oldest first.
    pub fn connections(&self) -> Vec<Connection> {
        let accounts = self.accounts();
        let open = accounts.iter().flat_map(|(machine, account)| account.open.iter().map(move |open| (machine, open)));
        let mut connections: Vec<_> = open
            .map(|(machine, (connection, open))| Connection {
                connection: *connection,
                machine: machine.clone(),
                door: open.door.to_owned(),
                since_unix_ms: open.since_unix_ms,
                sent: open.carried.sent(),
                received: open.carried.received(),
            })
            .collect();
        connections.sort_by_key(|connection| connection.connection);
        connections
    }

    /// What has gone through each door of a machine so far.
    pub fn traffic(&self, machine: &MachineName) -> BTreeMap<&'static str, Traffic> {
        self.accounts().get(machine).map(Account::traffic).unwrap_or_default()
    }

    /// A client got through a door. Its end is told when the visit is dropped.
    pub fn visit(self: &Arc<Self>, machine: &MachineName, service: Service) -> Visit {
        let door = service.as_str();
        let connection = self.last_connection.fetch_add(1, Relaxed) + 1;
        let carried = Arc::<ByteCounts>::default();
        let open = Open { door, since_unix_ms: unix_ms(), carried: Arc::clone(&carried) };
        self.accounts().entry(machine.clone()).or_default().open.insert(connection, open);
        self.tell(machine, What::Opened { door: door.to_owned(), connection });
        Visit { chronicle: Arc::clone(self), machine: machine.clone(), door, connection, carried }
    }

    /// The machine is removed: nothing is counted of it any more. One that gets its name later begins at 0.
    pub fn forget(&self, machine: &MachineName) {
        self.accounts().remove(machine);
        self.boot_seconds.remove(&Of { machine: machine.to_string() });
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<MachineName, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, machine: &MachineName, what: What) {
        let id = self.last_event.fetch_add(1, Relaxed) + 1;
        // Fails when nobody watches.
        let _ = self.events.send(Event { id, unix_ms: unix_ms(), machine: machine.clone(), what });
    }
}

impl Account {
    fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        let mut all = self.past.clone();
        for open in self.open.values() {
            let traffic = all.entry(open.door).or_default();
            traffic.connections += 1;
            traffic.open += 1;
            traffic.sent += open.carried.sent();
            traffic.received += open.carried.received();
        }
        all
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
        // A connection of a machine that was removed meanwhile is nowhere counted.
        if let Some(account) = self.chronicle.accounts().get_mut(&self.machine)
            && account.open.remove(&self.connection).is_some()
        {
            let past = account.past.entry(self.door).or_default();
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
        let traffic = |door| chronicle.traffic(&name)[door];
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
    fn a_machine_that_is_removed_leaves_no_numbers_and_its_namesake_begins_at_none() {
        let chronicle = Arc::new(Chronicle::default());
        let [name, other]: [MachineName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        drop(chronicle.visit(&name, Service::Ssh));
        let (late, kept) = (chronicle.visit(&name, Service::Ssh), chronicle.visit(&other, Service::Nix));
        chronicle.builds(&name, 2);
        chronicle.forget(&name);
        assert_eq!((chronicle.traffic(&name), chronicle.builds_of(&name)), (BTreeMap::new(), Builds::default()));
        let new = chronicle.visit(&name, Service::Ssh);
        drop(late);
        let one = Traffic { connections: 1, open: 1, ..Traffic::default() };
        assert_eq!(chronicle.traffic(&name), BTreeMap::from([("ssh", one)]));
        assert_eq!(chronicle.traffic(&other), BTreeMap::from([("nix", one)]));
        let numbers = chronicle.connections().iter().map(|open| open.connection).collect::<Vec<_>>();
        assert_eq!(numbers, [3, 4], "the oldest first, whichever machine's");
        drop((new, kept));
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
