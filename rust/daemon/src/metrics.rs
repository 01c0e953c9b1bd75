//! The daemon's metrics, in the text format of OpenMetrics.
//!
//! The rule: each part keeps its own numbers (the supervisor's counters, the events), and this module gathers them only on a
//! request. A guest is asked for its load only while it is in use, so that monitoring does not keep guests awake.

use super::events::{Builds, Events};
use dvn_lifecycle::{Phase, Snapshot};
use dvn_types::{Kind, MachineName, Report};
use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::{
        TypedMetric,
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
    },
    registry::{Metric, Registry},
};
use std::sync::atomic::AtomicU64;
use tokio::time::Instant;

/// How much of a guest is in use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub memory_total: u64,
    pub memory_available: u64,
    pub disk_total: u64,
    pub disk_available: u64,
}

/// The prefix of every name.
const PREFIX: &str = "darwin_vz";

/// The states of a machine, as the API names them.
const STATES: [&str; 7] = ["stopped", "starting", "running", "paused", "stopping", "failed", "broken"];

/// One machine at this moment.
pub struct Sample {
    pub name: MachineName,
    pub snapshot: Snapshot,
    pub builds: Builds,
    /// Only of a guest that is in use and has answered.
    pub load: Option<Load>,
}

type Labels = Vec<(&'static str, String)>;
type Count = Counter<u64>;
type Seconds = Counter<f64, AtomicU64>;
type Amount = Gauge<f64, AtomicU64>;

/// Renders all metrics. A broken machine has only its state.
pub fn render(samples: &[Sample], broken: &[MachineName], events: &Events) -> Result<String, Report> {
    let mut sheet = Sheet(Registry::with_prefix(PREFIX));
    lifecycle(&mut sheet, samples, broken);
    boots(&mut sheet, samples, events);
    traffic(&mut sheet, samples, events);
    guests(&mut sheet, samples);
    let mut text = String::new();
    text::encode(&mut text, &sheet.0)
        .map_err(|error| Report::new(Kind::Internal, format!("the metrics cannot be written: {error}")))?;
    Ok(text)
}

/// Metrics by name, each with a value for each set of labels.
struct Sheet(Registry);

impl Sheet {
    fn add<M, V>(&mut self, name: &str, help: &str, put: fn(&M, V), rows: impl IntoIterator<Item = (Labels, V)>)
    where
        M: EncodeMetric + TypedMetric + Default + Metric,
        fn() -> M: MetricConstructor<M>,
    {
        let family = Family::<Labels, M>::default();
        for (labels, value) in rows {
            put(&family.get_or_create(&labels), value);
        }
        self.0.register(name, help, family);
    }

    fn count(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) {
        self.add::<Count, u64>(name, help, |counter, value| _ = counter.inc_by(value), rows);
    }

    fn amount(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) {
        self.add::<Amount, f64>(name, help, |gauge, value| _ = gauge.set(value), rows);
    }
}

fn of(name: &MachineName, more: &[(&'static str, &str)]) -> Labels {
    let own = ("machine", name.to_string());
    std::iter::once(own).chain(more.iter().map(|(label, value)| (*label, (*value).to_owned()))).collect()
}

fn lifecycle(sheet: &mut Sheet, samples: &[Sample], broken: &[MachineName]) {
    let working = samples.iter().map(|sample| (&sample.name, sample.snapshot.phase.name()));
    let states = working
        .chain(broken.iter().map(|name| (name, "broken")))
        .flat_map(|(name, now)| STATES.map(|state| (of(name, &[("state", state)]), f64::from(u8::from(now == state)))));
    sheet.amount("machine_state", "1 for the state of the machine, 0 for the others", states);
    let leases = samples.iter().map(|Sample { name, snapshot, .. }| {
        let leases = match snapshot.phase {
            Phase::Running { leases, .. } | Phase::Paused { leases, .. } => leases,
            _ => 0,
        };
        (of(name, &[]), f64::from(leases))
    });
    sheet.amount("leases", "Connections and other users of the guest", leases);
    let now = Instant::now();
    let idle = samples.iter().map(|sample| (of(&sample.name, &[]), sample.snapshot.counters.idle(now).as_secs_f64()));
    sheet.add::<Seconds, f64>(
        "idle_seconds",
        "How long guests have run without a user; a pause is no idle time",
        |counter, value| _ = counter.inc_by(value),
        idle,
    );
    let exits = samples.iter().flat_map(|Sample { name, snapshot, .. }| {
        let [powered_off, killed, crashed] = snapshot.counters.exits;
        [("powered-off", powered_off), ("killed", killed), ("crashed", crashed)]
            .map(|(how, n)| (of(name, &[("how", how)]), n))
    });
    sheet.count("guest_exits", "Guests that ended, by how", exits);
    let pauses = samples.iter().map(|sample| (of(&sample.name, &[]), sample.snapshot.counters.pauses));
    sheet.count("pauses", "Pauses of guests", pauses);
}

fn boots(sheet: &mut Sheet, samples: &[Sample], events: &Events) {
    let each = |value: fn(&Snapshot) -> u64| {
        samples.iter().map(move |sample| (of(&sample.name, &[]), value(&sample.snapshot)))
    };
    sheet.count("boots", "Boots begun", each(|snapshot| snapshot.boots));
    sheet.count("boots_ready", "Boots after which the guest answered", each(|snapshot| snapshot.counters.ready));
    sheet.count(
        "boots_failed",
        "Boots that failed. What is in neither number was given up by a stop, or is under way",
        each(|snapshot| snapshot.counters.failed),
    );
    sheet.count(
        "restarts",
        "Boots that followed at once on the end of a guest, for those who waited",
        each(|snapshot| snapshot.counters.restarts),
    );
    sheet.0.register("boot_seconds", "From the demand to a guest that answers", events.boot_seconds.clone());
    let phases = samples.iter().flat_map(|Sample { name, snapshot, .. }| {
        let phases = snapshot.last_boot.iter().flat_map(|boot| &boot.phases);
        phases.map(|phase| (of(name, &[("phase", &phase.name)]), phase.at_ms as f64 / 1000.0))
    });
    sheet.amount("boot_phase_seconds", "When the last boot reached this phase, from the demand", phases);
}

fn traffic(sheet: &mut Sheet, samples: &[Sample], events: &Events) {
    let traffic: Vec<_> = samples.iter().map(|sample| (&sample.name, events.traffic(&sample.name))).collect();
    let all = || traffic.iter().flat_map(|(name, doors)| doors.iter().map(move |(door, of)| (*name, *door, of)));
    let let_in = all().map(|(name, door, traffic)| (of(name, &[("door", door)]), traffic.connections));
    sheet.count("connections", "Connections that were let in", let_in);
    let open = all().map(|(name, door, traffic)| (of(name, &[("door", door)]), traffic.open as f64));
    sheet.amount("connections_open", "Connections that are open", open);
    let bytes = all().flat_map(|(name, door, traffic)| {
        [("to-guest", traffic.sent), ("from-guest", traffic.received)]
            .map(|(direction, bytes)| (of(name, &[("door", door), ("direction", direction)]), bytes))
    });
    sheet.count("connection_bytes", "Bytes over connections, those that are open included", bytes);
}

fn guests(sheet: &mut Sheet, samples: &[Sample]) {
    let running = samples.iter().map(|sample| (of(&sample.name, &[]), f64::from(sample.builds.running)));
    sheet.amount("builds", "Builds in the guest when it was last asked; it is asked only while in use", running);
    let seen = samples.iter().map(|sample| (of(&sample.name, &[]), sample.builds.seen));
    sheet.count("builds_seen", "Builds that were seen to begin; short ones may not be", seen);
    let each = |value: fn(&Load) -> [(&'static str, u64); 2]| {
        let loads = samples.iter().filter_map(|sample| Some((&sample.name, sample.load.as_ref()?)));
        loads.flat_map(move |(name, load)| value(load).map(|(what, bytes)| (of(name, &[("what", what)]), bytes as f64)))
    };
    let memory = each(|load| [("total", load.memory_total), ("available", load.memory_available)]);
    sheet.amount("guest_memory_bytes", "Memory of a guest that is in use", memory);
    let disk = each(|load| [("total", load.disk_total), ("available", load.disk_available)]);
    sheet.amount("guest_disk_bytes", "Data disk of a guest that is in use", disk);
}
