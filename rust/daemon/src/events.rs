//! The daemon's events and connections: a number that grows with each change, a stream of events, and the connections through
//! the doors, open and past.

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

/// How many events a slow subscriber may lag behind before it misses some.
const BACKLOG: usize = 256;

/// Publishes the daemon's changes. Events are not kept: without a subscription they are lost.
pub struct Events {
    generation: watch::Sender<u64>,
    sender: broadcast::Sender<Event>,
    last_event: AtomicU64,
    last_connection: AtomicU64,
    accounts: Mutex<BTreeMap<MachineName, Account>>,
    /// How long boots took, in seconds.
    pub boot_seconds: Family<Of, Histogram, fn() -> Histogram>,
}

/// The numbers of one machine: its open and past connections, and its builds.
#[derive(Default)]
struct Account {
    /// Open connections, by number.
    open: BTreeMap<u64, Open>,
    /// The totals of connections that have ended, by door.
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
    /// Admitted connections.
    pub connections: u64,
    /// Those that are open.
    pub open: u64,
    /// Bytes to the guest.
    pub sent: u64,
    /// Bytes from the guest.
    pub received: u64,
}

/// Builds in a guest, as its answers showed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Builds {
    /// In the last answer.
    pub running: u32,
    /// How many were seen to begin, in total.
    pub seen: u64,
}

/// The label with a machine's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Its name.
    pub machine: String,
}

/// Buckets from a second to the minutes of an emulated guest.
fn boot_histogram() -> Histogram {
    Histogram::new([1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 180.0])
}

impl Default for Events {
    fn default() -> Self {
        Events {
            generation: watch::channel(1).0,
            sender: broadcast::channel(BACKLOG).0,
            last_event: AtomicU64::new(0),
            last_connection: AtomicU64::new(0),
            accounts: Mutex::default(),
            boot_seconds: Family::new_with_constructor(boot_histogram),
        }
    }
}

impl Events {
    /// Publishes that the status has changed.
    pub fn changed(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// A number that grows with every change of the status.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Publishes a machine's new state.
    pub fn moved(&self, machine: &MachineName, state: State) {
        self.send(machine, What::State { state });
    }

    /// Publishes a change of a machine's generations.
    pub fn generations(&self, machine: &MachineName, status: GenerationsStatus) {
        self.send(machine, What::Generations { status });
    }

    /// Publishes what a boot waits for; `None`: it no longer waits.
    pub fn waits(&self, machine: &MachineName, reason: Option<String>) {
        self.changed();
        self.send(machine, What::Waits { reason });
    }

    /// Counts a boot after which the guest answered.
    pub fn booted(&self, machine: &MachineName, boot: &BootTimeline) {
        if let Some(last) = boot.phases.last() {
            let of = Of { machine: machine.to_string() };
            self.boot_seconds.get_or_create(&of).observe(last.at_ms as f64 / 1000.0);
        }
    }

    /// Notes the number of builds in a guest. Publishes it if it has changed.
    pub fn builds(&self, machine: &MachineName, running: u32) {
        let before = {
            let mut accounts = self.accounts();
            let builds = &mut accounts.entry(machine.clone()).or_default().builds;
            builds.seen += u64::from(running.saturating_sub(builds.running));
            std::mem::replace(&mut builds.running, running)
        };
        if before != running {
            self.send(machine, What::Builds { running });
        }
    }

    /// Builds in a machine's guest so far.
    pub fn builds_of(&self, machine: &MachineName) -> Builds {
        self.accounts().get(machine).map(|account| account.builds).unwrap_or_default()
    }

    /// The open connections, the oldest first.
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

    /// The traffic through each door of a machine so far.
    pub fn traffic(&self, machine: &MachineName) -> BTreeMap<&'static str, Traffic> {
        self.accounts().get(machine).map(Account::traffic).unwrap_or_default()
    }

    /// Publishes a new connection, and its end when the record is dropped.
    pub fn connection_opened(self: &Arc<Self>, machine: &MachineName, service: Service) -> ConnectionRecord {
        let door = service.as_str();
        let connection = self.last_connection.fetch_add(1, Relaxed) + 1;
        let carried = Arc::<ByteCounts>::default();
        let open = Open { door, since_unix_ms: unix_ms(), carried: Arc::clone(&carried) };
        self.accounts().entry(machine.clone()).or_default().open.insert(connection, open);
        self.send(machine, What::Opened { door: door.to_owned(), connection });
        ConnectionRecord { events: Arc::clone(self), machine: machine.clone(), door, connection, carried }
    }

    /// Removes a machine's numbers. A later machine of that name begins at 0.
    pub fn forget(&self, machine: &MachineName) {
        self.accounts().remove(machine);
        self.boot_seconds.remove(&Of { machine: machine.to_string() });
    }

    fn accounts(&self) -> MutexGuard<'_, BTreeMap<MachineName, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, machine: &MachineName, what: What) {
        let id = self.last_event.fetch_add(1, Relaxed) + 1;
        // Fails if there is no subscriber.
        let _ = self.sender.send(Event { id, unix_ms: unix_ms(), machine: machine.clone(), what });
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

/// One connection through a door, from its start to its end.
pub struct ConnectionRecord {
    events: Arc<Events>,
    machine: MachineName,
    door: &'static str,
    connection: u64,
    /// The bytes transferred so far.
    pub carried: Arc<ByteCounts>,
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let (sent, received) = (self.carried.sent(), self.carried.received());
        // A connection of a machine that was removed meanwhile is not counted.
        if let Some(account) = self.events.accounts().get_mut(&self.machine)
            && account.open.remove(&self.connection).is_some()
        {
            let past = account.past.entry(self.door).or_default();
            past.connections += 1;
            past.sent += sent;
            past.received += received;
        }
        let what = What::Closed { door: self.door.to_owned(), connection: self.connection, sent, received };
        self.events.send(&self.machine, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_two_events_with_one_number() {
        let events = Arc::new(Events::default());
        let name: MachineName = "builder".parse().unwrap();
        let mut seen = events.subscribe();
        drop(events.connection_opened(&name, Service::Nix));
        let record = events.connection_opened(&name, Service::Ssh);
        assert_eq!(events.connections().iter().map(|open| open.connection).collect::<Vec<_>>(), [2]);
        let traffic = |door| events.traffic(&name)[door];
        assert_eq!((traffic("ssh").connections, traffic("ssh").open, traffic("nix").open), (1, 1, 0));
        drop(record);
        assert!(events.connections().is_empty());
        assert_eq!((traffic("ssh").connections, traffic("ssh").open, traffic("nix").connections), (1, 0, 1));
        let seen: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
        assert_eq!(seen.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(seen[0].what, What::Opened { door: "nix".into(), connection: 1 });
        assert_eq!(seen[3].what, What::Closed { door: "ssh".into(), connection: 2, sent: 0, received: 0 });
    }

    #[test]
    fn a_removed_machine_leaves_no_numbers_and_its_namesake_begins_at_none() {
        let events = Arc::new(Events::default());
        let [name, other]: [MachineName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        drop(events.connection_opened(&name, Service::Ssh));
        let late = events.connection_opened(&name, Service::Ssh);
        let kept = events.connection_opened(&other, Service::Nix);
        events.builds(&name, 2);
        events.forget(&name);
        assert_eq!((events.traffic(&name), events.builds_of(&name)), (BTreeMap::new(), Builds::default()));
        let new = events.connection_opened(&name, Service::Ssh);
        drop(late);
        let one = Traffic { connections: 1, open: 1, ..Traffic::default() };
        assert_eq!(events.traffic(&name), BTreeMap::from([("ssh", one)]));
        assert_eq!(events.traffic(&other), BTreeMap::from([("nix", one)]));
        let numbers = events.connections().iter().map(|open| open.connection).collect::<Vec<_>>();
        assert_eq!(numbers, [3, 4], "the oldest first, whichever machine's");
        drop((new, kept));
    }

    #[test]
    fn builds_are_published_when_their_number_changes() {
        let events = Events::default();
        let name: MachineName = "builder".parse().unwrap();
        let mut seen = events.subscribe();
        for running in [0, 2, 2, 1, 3, 0] {
            events.builds(&name, running);
        }
        let seen: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).map(|event| event.what).collect();
        assert_eq!(seen, [2, 1, 3, 0].map(|running| What::Builds { running }));
        assert_eq!(events.builds_of(&name), Builds { running: 0, seen: 4 });
    }
}
