//! The metrics of a made-up machine that has every value, so that the reference shows each metric with its labels.

use super::{
    events::Events,
    metrics::{Sample, render},
};
use crate::metrics::Load;
use dvn_lifecycle::{Counters, Phase, Snapshot};
use dvn_types::{BootTimeline, Kind, MachineName, Report, Service, Sizes, TimelinePhase};
use std::sync::Arc;

/// Phases of a boot, as the agent and the host name them. `guest: …` are the agent's.
const PHASES: [&str; 4] = ["prepared", "hypervisor", "guest: …", "ready"];

/// In the text format of OpenMetrics.
pub fn metrics() -> Result<String, Report> {
    let name: MachineName = "builder".parse().map_err(|why| Report::new(Kind::Internal, format!("builder: {why}")))?;
    let phases = PHASES.iter().map(|name| TimelinePhase { name: (*name).to_owned(), at_ms: 0 });
    let boot = BootTimeline {
        demand_unix_ms: 0,
        phases: phases.collect(),
        data_disk: "kept".to_owned(),
        kernel: String::new(),
    };
    let events = Arc::new(Events::default());
    events.booted(&name, &boot);
    for service in [Service::Ssh, Service::Nix] {
        drop(events.connection_opened(&name, service));
    }
    let snapshot = Snapshot {
        generation: 1,
        phase: Phase::Starting,
        since_unix_ms: 0,
        boots: 1,
        last_boot: Some(boot),
        sizes: Sizes::default(),
        counters: Counters::default(),
    };
    let load = Load { memory_total: 0, memory_available: 0, disk_total: 0, disk_available: 0 };
    let builds = events.builds_of(&name);
    render(&[Sample { name, snapshot, builds, load: Some(load) }], &[], &events)
}
