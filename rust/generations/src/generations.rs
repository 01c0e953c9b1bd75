//! The generations of one machine, and the reconciler's next task. The crate's page has the diagram.

use crate::{
    generation_state::{GenerationState, Next, Refusal, Verdict},
    hints::BUILD_AGAIN,
    store::Store,
};
use dvn_config::BuilderConfig;
use dvn_guest::{builder::BootSource, bundle::Bundle};
use dvn_host::{blocking, machine_dir::MachineDir};
use dvn_types::{
    Arch, Kind, Report, unix_ms,
    wire::{self, GenerationList, GenerationStatus, GenerationsStatus, Prospect},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// The generations of one machine and their state.
pub struct Generations {
    pub(crate) store: Store,
    config: Arc<BuilderConfig>,
    archs: Vec<Arch>,
    /// Held from a change of the state until it is written, so that changes are written in their order. Readers take only the
    /// lock of `inner`, and wait for no disk.
    writing: Mutex<()>,
    inner: Mutex<Inner>,
    /// Signals that the displayed state has changed.
    changes: watch::Sender<()>,
    /// Signals that a user requested something from the reconciler.
    pub(crate) asked: Notify,
}

struct Inner {
    state: GenerationState,
    /// The unproven generation that boots next.
    trial: Option<Trial>,
    /// The generation of the last boot.
    booted: Option<u32>,
    work: Work,
}

struct Trial {
    number: u32,
    since_unix_ms: u64,
}

/// What the reconciler is doing, or why it does nothing.
pub(crate) enum Work {
    Free,
    Building { since_unix_ms: u64 },
    Postponed { why: Report, until_unix_ms: u64 },
    GivenUp { why: Report },
}

/// The reconciler's next task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Nothing.
    Nothing,
    /// Build this recipe.
    Build(PathBuf),
    /// Boot this generation for the first time.
    Try(u32),
    /// Stop the guest at an idle moment: it is not the current generation.
    Leave,
}

/// The error with which a daemon would refuse a machine's generations. Changes nothing.
pub fn examine(dir: &MachineDir) -> Result<(), Report> {
    Store::examine(dir.generations())
}

impl BootSource for Generations {
    fn bundle(&self) -> Option<PathBuf> {
        let mut inner = self.inner();
        let number = inner.trial.as_ref().map_or(inner.state.current(), |trial| trial.number);
        inner.booted = Some(number);
        drop(inner);
        self.changes.send_replace(());
        if number == 0 { self.config.bundle.clone() } else { Some(self.store.bundle(number)) }
    }
}

impl Generations {
    /// Reads the state from disk, and makes the configured recipe's generation current if it is good. Creates nothing.
    pub fn open(dir: &MachineDir, config: Arc<BuilderConfig>, archs: &[Arch]) -> Result<Generations, Report> {
        let (store, read, there) = Store::open(dir.generations())?;
        let mut state = read.clone();
        state.follow(config.recipe.as_deref(), &bootable(&store, there, archs));
        if state != read {
            store.write(&state)?;
        }
        Ok(Generations {
            store,
            config,
            archs: archs.to_owned(),
            writing: Mutex::new(()),
            inner: Mutex::new(Inner { state, trial: None, booted: None, work: Work::Free }),
            changes: watch::channel(()).0,
            asked: Notify::new(),
        })
    }

    /// Notifies of changes of the displayed state.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// State for the status display. `None` without generations and without a recipe.
    pub fn status(&self) -> Option<GenerationsStatus> {
        let inner = self.inner();
        (self.config.recipe.is_some() || inner.state.upcoming() > 1).then(|| self.overview(&inner))
    }

    /// All generations, the configured bundle first.
    pub fn list(&self) -> GenerationList {
        let inner = self.inner();
        let configured = GenerationStatus {
            number: 0,
            bundle: self.config.bundle.clone(),
            recipe: None,
            output: None,
            built_unix_ms: None,
            verdict: wire::Verdict::Good,
        };
        let built = inner.state.generations().map(|(number, generation)| GenerationStatus {
            number,
            bundle: Some(self.store.bundle(number)),
            recipe: Some(generation.recipe.clone()),
            output: Some(generation.output.clone()),
            built_unix_ms: Some(generation.built_unix_ms),
            verdict: match &generation.verdict {
                Verdict::Untried { .. } => wire::Verdict::Untried,
                Verdict::Good => wire::Verdict::Good,
                Verdict::Bad { why } => wire::Verdict::Bad { why: why.clone() },
            },
        });
        GenerationList {
            status: self.overview(&inner),
            recipe: self.config.recipe.clone(),
            held: inner.state.is_held(),
            generations: std::iter::once(configured).chain(built).collect(),
        }
    }

    fn overview(&self, inner: &Inner) -> GenerationsStatus {
        let number = inner.state.upcoming();
        let prospect = match (&inner.trial, &inner.work) {
            (Some(Trial { number, since_unix_ms }), _) => {
                Some(Prospect::Trying { number: *number, since_unix_ms: *since_unix_ms })
            }
            (None, Work::Building { since_unix_ms }) => {
                Some(Prospect::Building { number, since_unix_ms: *since_unix_ms })
            }
            (None, Work::Postponed { why, until_unix_ms }) => {
                Some(Prospect::Postponed { why: why.clone(), until_unix_ms: *until_unix_ms })
            }
            (None, Work::GivenUp { why }) => Some(Prospect::GivenUp { why: why.clone() }),
            (None, Work::Free) => {
                match (inner.state.next(self.config.recipe.as_deref()), inner.state.of(self.config.recipe.as_deref())) {
                    (Next::Try(number), _) => Some(Prospect::Waiting { number }),
                    (Next::Nothing, Some((number, generation))) => match &generation.verdict {
                        Verdict::Bad { why } => Some(Prospect::Bad { number, why: why.clone() }),
                        Verdict::Good | Verdict::Untried { .. } => None,
                    },
                    _ => None,
                }
            }
        };
        GenerationsStatus { current: inner.state.current(), running: inner.booted, prospect }
    }

    /// Makes a good generation current, by default the one before. It boots next; the reconciler stops the guest for
    /// that at an idle moment.
    pub fn roll_back(&self, to: Option<u32>) -> Result<(), Report> {
        self.change(|inner, recipe| {
            inner.state.roll_back(to, recipe)?;
            inner.clear_failures();
            Ok(())
        })?;
        self.asked.notify_one();
        Ok(())
    }

    /// Requests another build and try of the recipe, also after a failure.
    pub fn build_again(&self) -> Result<(), Report> {
        self.change(|inner, recipe| {
            inner.state.build_again(recipe)?;
            inner.clear_failures();
            Ok(())
        })?;
        self.asked.notify_one();
        Ok(())
    }

    /// Deletes a generation that is not in use.
    pub fn delete(&self, number: u32) -> Result<(), Report> {
        self.change(|inner, recipe| {
            let was_wanted = inner.state.of(recipe).is_some_and(|(wanted, _)| wanted == number);
            inner.state.delete(number, &inner.in_use())?;
            // A user who deletes a generation does not want it rebuilt at once.
            if was_wanted && matches!(inner.work, Work::Free) {
                let why = Report::new(Kind::Bundle, format!("generation {number} of this recipe was deleted"));
                inner.work = Work::GivenUp { why: why.hint(BUILD_AGAIN) };
            }
            Ok(())
        })?;
        blocking(|| self.store.remove(number))
    }

    /// Reads the state from disk again, after the directory was deleted or kept.
    pub fn reset(&self) -> Result<(), Report> {
        let _writing = self.writing();
        let (_, mut state, there) = Store::open(self.store.root().to_owned())?;
        state.follow(self.config.recipe.as_deref(), &there);
        *self.inner() = Inner { state, trial: None, booted: None, work: Work::Free };
        self.changes.send_replace(());
        Ok(())
    }

    /// Call it after the reconciler was aborted: a generation on trial stays without a verdict.
    pub fn work_aborted(&self) {
        self.note(|inner| {
            inner.work = Work::Free;
            if let Some(trial) = inner.trial.take() {
                inner.state.aborted(trial.number);
            }
        });
    }

    pub(crate) fn task(&self) -> Task {
        let inner = self.inner();
        let next = match inner.work {
            Work::GivenUp { .. } => Next::Nothing,
            _ => inner.state.next(self.config.recipe.as_deref()),
        };
        match (next, &self.config.recipe) {
            (Next::Build, Some(recipe)) => Task::Build(recipe.clone()),
            (Next::Try(number), _) => Task::Try(number),
            _ if inner.booted.is_some_and(|booted| booted != inner.state.current()) => Task::Leave,
            _ => Task::Nothing,
        }
    }

    pub(crate) fn work(&self, work: Work) {
        self.inner().work = work;
        self.changes.send_replace(());
    }

    /// Adds a build's output as a generation, if it is a bundle that this host can boot. Blocks.
    pub(crate) fn adopt(&self, recipe: PathBuf, output: String, place: &Path) -> Result<u32, Report> {
        self.store.settle()?;
        let bundle = Bundle::open(place, &self.archs)?;
        if bundle.minimum_disk > self.config.disk_size {
            return Err(Report::new(Kind::Config, "the new guest needs a larger data disk than disk-size allows")
                .hint(format!("set disk-size to {} bytes or more", bundle.minimum_disk)));
        }
        // Hosts are configured for the present guest (`nix-config`), and are not configured again.
        if let Some(Ok(base)) = self.config.bundle.as_deref().map(|dir| Bundle::open(dir, &self.archs))
            && (base.arch, &base.ssh_user) != (bundle.arch, &bundle.ssh_user)
        {
            let is = format!("for {} with the user {}", bundle.arch, bundle.ssh_user);
            let was = format!("for {} with the user {}", base.arch, base.ssh_user);
            return Err(Report::new(
                Kind::Bundle,
                format!("the new guest is {is}, and the configured bundle is {was}"),
            )
            .hint("build one with the same architecture and user, or configure another bundle"));
        }
        let number = self.inner().state.upcoming();
        self.store.adopt(number)?;
        let dropped = self.change(|inner, _| {
            inner.state.built(recipe, output, unix_ms());
            inner.work = Work::Free;
            Ok(inner.state.prune(&inner.in_use()))
        })?;
        self.remove(&dropped);
        Ok(number)
    }

    pub(crate) fn try_begins(&self, number: u32) {
        self.note(|inner| {
            inner.state.trying(number);
            inner.work = Work::Free;
            inner.trial = Some(Trial { number, since_unix_ms: unix_ms() });
        });
    }

    /// The architecture of a generation.
    pub(crate) fn arch(&self, number: u32) -> Result<Arch, Report> {
        Ok(blocking(|| Bundle::open(&self.store.bundle(number), &self.archs))?.arch)
    }

    /// The last good generation boots from now on. The caller records the verdict later.
    pub(crate) fn try_is_over(&self) {
        self.note(|inner| inner.trial = None);
    }

    pub(crate) fn is_good(&self, number: u32) {
        let mut dropped = Vec::new();
        self.note(|inner| {
            inner.trial = None;
            inner.state.good(number);
            dropped = inner.state.prune(&inner.in_use());
        });
        self.remove(&dropped);
    }

    pub(crate) fn is_bad(&self, number: u32, why: Report) {
        self.note(|inner| inner.state.bad(number, why));
    }

    pub(crate) fn try_aborted(&self, number: u32) {
        self.note(|inner| {
            inner.trial = None;
            inner.state.aborted(number);
        });
    }

    pub(crate) fn remove(&self, numbers: &[u32]) {
        for number in numbers {
            tracing::info!(generation = number, "deleted: newer ones are kept");
            if let Err(report) = blocking(|| self.store.remove(*number)) {
                tracing::warn!("{report}"); // Removed at the next start.
            }
        }
    }

    /// Applies a user's request and writes it to disk, or leaves everything unchanged.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, Option<&Path>) -> Result<T, Refusal>) -> Result<T, Report> {
        let _writing = self.writing();
        let (changed, before, after) = {
            let mut inner = self.inner();
            let before = inner.state.clone();
            let changed = change(&mut inner, self.config.recipe.as_deref())?;
            (changed, before, inner.state.clone())
        };
        if let Err(report) = blocking(|| self.store.write(&after)) {
            self.inner().state = before;
            return Err(report);
        }
        self.changes.send_replace(());
        Ok(changed)
    }

    /// Records an observation. It counts in memory even if it cannot be written, or the generation would be tried again
    /// and again.
    fn note(&self, change: impl FnOnce(&mut Inner)) {
        let _writing = self.writing();
        let after = {
            let mut inner = self.inner();
            change(&mut inner);
            inner.state.clone()
        };
        if let Err(report) = blocking(|| self.store.write(&after)) {
            tracing::warn!("{report}");
        }
        self.changes.send_replace(());
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        // A change that another thread brings onto the disk comes first.
        blocking(|| self.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Clears earlier failures.
    fn clear_failures(&mut self) {
        if !matches!(self.work, Work::Building { .. }) {
            self.work = Work::Free;
        }
    }

    pub(crate) fn in_use(&self) -> Vec<u32> {
        self.booted.into_iter().chain(self.trial.as_ref().map(|trial| trial.number)).collect()
    }
}

/// The generations that this program can boot. An older one may speak another protocol version.
fn bootable(store: &Store, mut there: BTreeSet<u32>, archs: &[Arch]) -> BTreeSet<u32> {
    // A host that cannot boot anything says nothing about bundles.
    if !archs.is_empty() {
        there.retain(|number| match Bundle::open(&store.bundle(*number), archs) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(generation = number, "ignored: {error}");
                false
            }
        });
    }
    there
}
