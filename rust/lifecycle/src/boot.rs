//! One boot: its jobs, the requested sizes, and its timeline.
//!
//! Invariant: every job ends as news of its epoch, even when the code it calls panics or hangs. A cancelled boot lets its
//! preparation finish, unless that hangs at a file on a volume that does not answer.

use super::{
    events::News,
    handle::Gate,
    job::{Done, Up, guarded},
    provider::{GuestProvider, Ready},
    reports,
};
use dvn_hypervisor::{Guest, GuestAgent, Hypervisor};
use dvn_types::{BootTimeline, MachineName, Report, Sizes, TimelinePhase, ms, unix_ms};
use std::{any::Any, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long the explanation of a failure may delay the error.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the preparation of a cancelled boot may continue before it is dropped. It mostly looks at files; creating a data
/// disk or appending a payload takes a moment.
pub(super) const OVERDUE: Duration = Duration::from_secs(5);

/// How long to wait for the exit of a guest that failed to become ready: the exit explains more than that failure.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// A boot, from the demand to the end of its guest.
pub(super) struct Run {
    /// The requested sizes.
    pub(super) sizes: Sizes,
    /// Ends the jobs below.
    pub(super) cancel: CancellationToken,
    demand: Instant,
    demand_unix_ms: u64,
    phases: Vec<TimelinePhase>,
    /// When the guest was there, its processors, and its memory in bytes.
    up: Option<(Instant, u32, u64)>,
}

impl Run {
    /// Begins now. The demand may be older, if it had to wait for the end of an earlier guest.
    pub(super) fn new(demand: Instant, sizes: Sizes) -> Self {
        let waited = ms(demand.elapsed());
        let phases = match waited {
            0 => vec![],
            at_ms => vec![TimelinePhase { name: "stopped".into(), at_ms }],
        };
        let demand_unix_ms = unix_ms().saturating_sub(waited);
        Run { sizes, cancel: CancellationToken::new(), demand, demand_unix_ms, phases, up: None }
    }

    pub(super) fn is_up(&mut self, up: &Up) {
        self.up = Some((up.booted, up.cores, up.memory));
        for (name, at) in [("prepared", up.prepared), ("hypervisor", up.booted)] {
            self.phases.push(TimelinePhase { name: name.into(), at_ms: ms(at - self.demand) });
        }
    }

    pub(super) fn had_guest(&self) -> bool {
        self.up.is_some()
    }

    /// The whole timeline of a guest that has become ready.
    pub(super) fn timeline(&self, ready: &Ready) -> BootTimeline {
        let origin = self.up.map_or(0, |(booted, ..)| ms(booted - self.demand));
        let mut phases = self.phases.clone();
        let shifted = |phase: &TimelinePhase| TimelinePhase {
            name: phase.name.clone(),
            at_ms: phase.at_ms.saturating_add(origin),
        };
        phases.extend(ready.phases.iter().map(shifted));
        if !phases.iter().any(|phase| phase.name == "ready") {
            phases.push(TimelinePhase { name: "ready".into(), at_ms: ms(self.demand.elapsed()) });
        }
        phases.sort_by_key(|phase| phase.at_ms);
        BootTimeline {
            demand_unix_ms: self.demand_unix_ms,
            phases,
            data_disk: ready.data_disk.clone(),
            kernel: ready.kernel.clone(),
        }
    }

    /// Why this boot cannot satisfy a demand for these sizes; `None` if it can.
    pub(super) fn refuse_sizes(&self, wanted: Sizes) -> Option<Report> {
        let cores = self.up.map(|(_, cores, _)| cores).or(self.sizes.cores);
        let memory = self.up.map(|(.., memory)| memory).or(self.sizes.memory);
        let fits = wanted.cores.is_none_or(|wanted| cores == Some(wanted))
            && wanted.memory.is_none_or(|wanted| memory == Some(wanted))
            && wanted.disk_size.is_none_or(|wanted| self.sizes.disk_size == Some(wanted));
        (!fits).then(reports::other_sizes)
    }
}

/// Both requests in one; `None` if they contradict each other.
pub(super) fn merge_sizes(a: Sizes, b: Sizes) -> Option<Sizes> {
    fn merge<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
        match (a, b) {
            (Some(a), Some(b)) => (a == b).then_some(Some(a)),
            (a, b) => Some(a.or(b)),
        }
    }
    Some(Sizes {
        cores: merge(a.cores, b.cores)?,
        memory: merge(a.memory, b.memory)?,
        disk_size: merge(a.disk_size, b.disk_size)?,
    })
}

/// Prepares and boots a guest, if there is room for it.
pub(super) async fn boot(
    gate: Option<Arc<dyn Gate>>,
    hypervisor: Arc<dyn Hypervisor>,
    preparation: Arc<dyn GuestProvider>,
    sizes: Sizes,
    epoch: u64,
    cancel: CancellationToken,
) -> Done {
    let _room = match enter(gate, sizes, &cancel).await {
        Ok(room) => room,
        Err(why) => return Done::News { epoch, news: News::NoRoom(why) },
    };
    let boot = async {
        let overdue = async {
            cancel.cancelled().await;
            tokio::time::sleep(OVERDUE).await;
        };
        let spec = tokio::select! {
            biased;
            spec = preparation.prepare(sizes) => spec?,
            () = overdue => return Err(reports::hangs()),
        };
        let (prepared, cores, memory) = (Instant::now(), spec.cores, spec.memory);
        if cancel.is_cancelled() {
            return Err(reports::cancelled());
        }
        tokio::select! {
            biased;
            guest = hypervisor.boot(spec) => Ok(Up { guest: guest?, cores, memory, prepared, booted: Instant::now() }),
            () = cancel.cancelled() => Err(reports::cancelled()),
        }
    };
    match guarded(boot).await {
        Ok(Ok(up)) => Done::Up { epoch, up },
        Ok(Err(cause)) | Err(cause) => Done::News { epoch, news: News::BootFailed(cause) },
    }
}

/// Takes the room for the guest. There is some, unless all the demands that had passed the gate were withdrawn.
async fn enter(
    gate: Option<Arc<dyn Gate>>,
    sizes: Sizes,
    cancel: &CancellationToken,
) -> Result<Option<Box<dyn Any + Send>>, Report> {
    let Some(gate) = gate else { return Ok(None) };
    tokio::select! {
        biased;
        () = gate.vacant() => gate.pass_now(sizes).map(Some),
        () = cancel.cancelled() => Err(reports::cancelled()),
    }
}

/// Waits until the guest is ready, is killed or ends.
pub(super) async fn await_ready(
    preparation: Arc<dyn GuestProvider>,
    guest: Arc<dyn Guest>,
    epoch: u64,
    cancel: CancellationToken,
) -> Done {
    let ready = tokio::select! {
        biased;
        () = cancel.cancelled() => return Done::Nothing,
        ready = guarded(async { preparation.await_ready(guest.clone()).await }) => ready,
    };
    match ready {
        Ok(Ok(ready)) => Done::Ready { epoch, ready },
        Ok(Err(cause)) | Err(cause) => match timeout(END_TIMEOUT, guarded(async { guest.exited().await })).await {
            Ok(_) => Done::Nothing,
            Err(_) => Done::News { epoch, news: News::NotReady(cause) },
        },
    }
}

/// The explained cause, or the cause itself if the explanation fails.
pub(super) async fn explain(preparation: Arc<dyn GuestProvider>, cause: Report) -> Report {
    match timeout(EXPLAIN_TIMEOUT, guarded(async { preparation.explain(cause.clone()).await })).await {
        Ok(Ok(explained)) => explained,
        Ok(Err(_)) | Err(_) => cause,
    }
}

/// The number of builds that run in the guest. A guest whose agent does not answer counts as having none.
pub(super) async fn builds(name: &MachineName, agent: Option<Arc<dyn GuestAgent>>) -> u32 {
    let Some(agent) = agent else { return 0 };
    match guarded(async { agent.builds().await }).await {
        Ok(Ok(running)) => running,
        Ok(Err(report)) | Err(report) => {
            tracing::warn!(machine = %name, "the guest did not report its builds, so it counts as idle: {report}");
            0
        }
    }
}
