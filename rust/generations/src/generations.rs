//! What there is of generations, and what the reconciler is to do next. `lib` has the picture.

use crate::{
    hints::BUILD_AGAIN,
    ledger::{Ledger, Next, Refusal, Verdict},
    store::Store,
};
use dvn_config::MachineSettings;
use dvn_guest::{bundle::Bundle, launch::BootSource};
use dvn_host::{blocking, machine_dir::MachineDir};
use dvn_types::{
    Arch, Kind, Report, unix_ms,
    wire::{self, GenerationList, GenerationStatus, GenerationsStatus, Prospect},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// The generations of one machine: what there is, and what becomes of it.
pub struct Generations {
    pub(crate) store: Store,
    recipe: Option<PathBuf>,
    bundle: Option<PathBuf>,
    disk_size: u64,
    archs: Vec<Arch>,
    /// Held from a change of the ledger until that is written, so that changes are written in their order. Those who only look take
    /// the lock of `inner`, and wait for no disk.
    writing: Mutex<()>,
    inner: Mutex<Inner>,
    /// Something that is shown has changed.
    changes: watch::Sender<()>,
    /// A user asked for something that the keeper does.
    pub(crate) asked: Notify,
}

struct Inner {
    ledger: Ledger,
    /// The generation that boots next although nobody knows whether it can.
    trial: Option<Trial>,
    /// What the last boot booted.
    booted: Option<u32>,
    work: Work,
}

struct Trial {
    number: u32,
    since_unix_ms: u64,
}

/// What the keeper does or why it does nothing.
pub(crate) enum Work {
    Free,
    Building { since_unix_ms: u64 },
    Postponed { why: Report, until_unix_ms: u64 },
    GivenUp { why: Report },
}

/// What the keeper is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Nothing.
    Nothing,
    /// Build that recipe.
    Build(PathBuf),
    /// Boot the generation of that number for the first time.
    Try(u32),
    /// The guest that runs is not the one that should: it may go when nobody needs it.
    Leave,
}

/// What a daemon would refuse of a machine's generations. Changes nothing.
pub fn examine(dir: &MachineDir) -> Result<(), Report> {
    Store::examine(dir.generations())
}

impl BootSource for Generations {
    fn bundle(&self) -> Option<PathBuf> {
        let mut inner = self.inner();
        let number = inner.trial.as_ref().map_or(inner.ledger.current(), |trial| trial.number);
        inner.booted = Some(number);
        drop(inner);
        self.changes.send_replace(());
        if number == 0 { self.bundle.clone() } else { Some(self.store.bundle(number)) }
    }
}

impl Generations {
    /// Reads what there is, and turns to what the recipe has. Makes nothing.
    pub fn open(dir: &MachineDir, settings: &MachineSettings, archs: &[Arch]) -> Result<Generations, Report> {
        let (store, read, there) = Store::open(dir.generations())?;
        let mut ledger = read.clone();
        ledger.follow(settings.recipe.as_deref(), &bootable(&store, there, archs));
        if ledger != read {
            store.write(&ledger)?;
        }
        Ok(Generations {
            store,
            recipe: settings.recipe.clone(),
            bundle: settings.bundle.clone(),
            disk_size: settings.disk_size,
            archs: archs.to_owned(),
            writing: Mutex::new(()),
            inner: Mutex::new(Inner { ledger, trial: None, booted: None, work: Work::Free }),
            changes: watch::channel(()).0,
            asked: Notify::new(),
        })
    }

    /// Tells when something that is shown has changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What the status shows; `None` where there are no generations and no recipe.
    pub fn status(&self) -> Option<GenerationsStatus> {
        let inner = self.inner();
        (self.recipe.is_some() || inner.ledger.upcoming() > 1).then(|| self.overview(&inner))
    }

    /// All of them, the configured bundle first.
    pub fn list(&self) -> GenerationList {
        let inner = self.inner();
        let floor = GenerationStatus {
            number: 0,
            bundle: self.bundle.clone(),
            recipe: None,
            output: None,
            built_unix_ms: None,
            verdict: wire::Verdict::Good,
        };
        let built = inner.ledger.generations().map(|(number, generation)| GenerationStatus {
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
            recipe: self.recipe.clone(),
            held: inner.ledger.is_held(),
            generations: std::iter::once(floor).chain(built).collect(),
        }
    }

    fn overview(&self, inner: &Inner) -> GenerationsStatus {
        let number = inner.ledger.upcoming();
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
                match (inner.ledger.next(self.recipe.as_deref()), inner.ledger.of(self.recipe.as_deref())) {
                    (Next::Try(number), _) => Some(Prospect::Waiting { number }),
                    (Next::Nothing, Some((number, generation))) => match &generation.verdict {
                        Verdict::Bad { why } => Some(Prospect::Bad { number, why: why.clone() }),
                        Verdict::Good | Verdict::Untried { .. } => None,
                    },
                    _ => None,
                }
            }
        };
        GenerationsStatus { current: inner.ledger.current(), running: inner.booted, prospect }
    }

    /// Goes to a generation that was good, by default the one before. It boots at the next boot, for which the guest is
    /// stopped when nobody needs it.
    pub fn roll_back(&self, to: Option<u32>) -> Result<(), Report> {
        self.change(|inner, recipe| {
            inner.ledger.roll_back(to, recipe)?;
            inner.start_afresh();
            Ok(())
        })?;
        self.asked.notify_one();
        Ok(())
    }

    /// Has the recipe built and tried, also if that has failed before.
    pub fn build_again(&self) -> Result<(), Report> {
        self.change(|inner, recipe| {
            inner.ledger.build_again(recipe)?;
            inner.start_afresh();
            Ok(())
        })?;
        self.asked.notify_one();
        Ok(())
    }

    /// Deletes one that is not in use.
    pub fn delete(&self, number: u32) -> Result<(), Report> {
        self.change(|inner, recipe| {
            let was_wanted = inner.ledger.of(recipe).is_some_and(|(wanted, _)| wanted == number);
            inner.ledger.delete(number, &inner.in_use())?;
            // Who deletes it does not want to have it back at once.
            if was_wanted && matches!(inner.work, Work::Free) {
                let why = Report::new(Kind::Bundle, format!("generation {number} of this recipe was deleted"));
                inner.work = Work::GivenUp { why: why.hint(BUILD_AGAIN) };
            }
            Ok(())
        })?;
        blocking(|| self.store.remove(number))
    }

    /// Begins anew, after the directory was deleted or kept.
    pub fn reset(&self) -> Result<(), Report> {
        let _writing = self.writing();
        let (_, mut ledger, there) = Store::open(self.store.root().to_owned())?;
        ledger.follow(self.recipe.as_deref(), &there);
        *self.inner() = Inner { ledger, trial: None, booted: None, work: Work::Free };
        self.changes.send_replace(());
        Ok(())
    }

    /// The keeper was ended in the midst of what it did: nothing is learnt of a generation that it tried.
    pub fn work_was_cut_short(&self) {
        self.note(|inner| {
            inner.work = Work::Free;
            if let Some(trial) = inner.trial.take() {
                inner.ledger.cut_short(trial.number);
            }
        });
    }

    pub(crate) fn task(&self) -> Task {
        let inner = self.inner();
        let next = match inner.work {
            Work::GivenUp { .. } => Next::Nothing,
            _ => inner.ledger.next(self.recipe.as_deref()),
        };
        match (next, &self.recipe) {
            (Next::Build, Some(recipe)) => Task::Build(recipe.clone()),
            (Next::Try(number), _) => Task::Try(number),
            _ if inner.booted.is_some_and(|booted| booted != inner.ledger.current()) => Task::Leave,
            _ => Task::Nothing,
        }
    }

    pub(crate) fn work(&self, work: Work) {
        self.inner().work = work;
        self.changes.send_replace(());
    }

    /// Makes what was built a generation, if it is a bundle that this host can boot. Blocks.
    pub(crate) fn adopt(&self, recipe: PathBuf, output: String, place: &Path) -> Result<u32, Report> {
        self.store.settle()?;
        let bundle = Bundle::open(place, &self.archs)?;
        if bundle.minimum_disk > self.disk_size {
            return Err(Report::new(Kind::Config, "the new guest needs a larger data disk than disk-size allows")
                .hint(format!("set disk-size to {} bytes or more", bundle.minimum_disk)));
        }
        // Hosts were told of the guest there is (`nix-config`), and are not told again.
        if let Some(Ok(base)) = self.bundle.as_deref().map(|dir| Bundle::open(dir, &self.archs))
            && (base.arch, &base.ssh_user) != (bundle.arch, &bundle.ssh_user)
        {
            let is = format!("for {} with the user {}", bundle.arch, bundle.ssh_user);
            let was = format!("for {} with the user {}", base.arch, base.ssh_user);
            return Err(Report::new(
                Kind::Bundle,
                format!("the new guest is {is}, and the configured bundle is {was}"),
            )
            .hint("build one like it, or configure another bundle"));
        }
        let number = self.inner().ledger.upcoming();
        self.store.adopt(number)?;
        let dropped = self.change(|inner, _| {
            inner.ledger.built(recipe, output, unix_ms());
            inner.work = Work::Free;
            Ok(inner.ledger.prune(&inner.in_use()))
        })?;
        self.remove(&dropped);
        Ok(number)
    }

    pub(crate) fn try_begins(&self, number: u32) {
        self.note(|inner| {
            inner.ledger.trying(number);
            inner.work = Work::Free;
            inner.trial = Some(Trial { number, since_unix_ms: unix_ms() });
        });
    }

    /// What computer one that was built is for.
    pub(crate) fn arch(&self, number: u32) -> Result<Arch, Report> {
        Ok(blocking(|| Bundle::open(&self.store.bundle(number), &self.archs))?.arch)
    }

    /// From now on the last good one boots. What is known of the try is told after that.
    pub(crate) fn try_is_over(&self) {
        self.note(|inner| inner.trial = None);
    }

    pub(crate) fn is_good(&self, number: u32) {
        let mut dropped = Vec::new();
        self.note(|inner| {
            inner.trial = None;
            inner.ledger.good(number);
            dropped = inner.ledger.prune(&inner.in_use());
        });
        self.remove(&dropped);
    }

    pub(crate) fn is_bad(&self, number: u32, why: Report) {
        self.note(|inner| inner.ledger.bad(number, why));
    }

    pub(crate) fn was_cut_short(&self, number: u32) {
        self.note(|inner| {
            inner.trial = None;
            inner.ledger.cut_short(number);
        });
    }

    pub(crate) fn remove(&self, numbers: &[u32]) {
        for number in numbers {
            tracing::info!(generation = number, "deleted: newer ones are kept");
            if let Err(report) = blocking(|| self.store.remove(*number)) {
                tracing::warn!("{report}"); // Swept at the next start.
            }
        }
    }

    /// What a user asks: done and kept, or refused and as before.
    fn change<T>(&self, change: impl FnOnce(&mut Inner, Option<&Path>) -> Result<T, Refusal>) -> Result<T, Report> {
        let _writing = self.writing();
        let (changed, before, after) = {
            let mut inner = self.inner();
            let before = inner.ledger.clone();
            let changed = change(&mut inner, self.recipe.as_deref())?;
            (changed, before, inner.ledger.clone())
        };
        if let Err(report) = blocking(|| self.store.write(&after)) {
            self.inner().ledger = before;
            return Err(report);
        }
        self.changes.send_replace(());
        Ok(changed)
    }

    /// What was seen: it holds in memory even where it cannot be kept, or it would be tried over and over.
    fn note(&self, change: impl FnOnce(&mut Inner)) {
        let _writing = self.writing();
        let after = {
            let mut inner = self.inner();
            change(&mut inner);
            inner.ledger.clone()
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
    /// What went wrong before counts no more.
    fn start_afresh(&mut self) {
        if !matches!(self.work, Work::Building { .. }) {
            self.work = Work::Free;
        }
    }

    pub(crate) fn in_use(&self) -> Vec<u32> {
        self.booted.into_iter().chain(self.trial.as_ref().map(|trial| trial.number)).collect()
    }
}

/// Those that this program can boot. An older one's may speak another protocol.
fn bootable(store: &Store, mut there: BTreeSet<u32>, archs: &[Arch]) -> BTreeSet<u32> {
    // A host on which nothing can boot says nothing about bundles.
    if !archs.is_empty() {
        there.retain(|number| match Bundle::open(&store.bundle(*number), archs) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(generation = number, "forgotten: {error}");
                false
            }
        });
    }
    there
}
