//! Does what a recipe needs, one thing at a time: has it built, tries it at an idle moment, falls back.
//!
//! ```text
//!  build: lease ▸ workshop ▸ adopt                         fails for good: given up until asked; in passing: later
//!  try:   idle moment ▸ stop ▸ boot ▸ examine              good ─▶ current
//!                                   └ fails: boot the last good one ▸ bad
//!  leave: idle moment ▸ stop                               the next boot takes the current one
//! ```
//!
//! The rules that hold here: the guest is replaced in an *idle moment* only, which is the machine's lock held for writing while
//! nobody has a lease and no build runs. Who connects meanwhile waits for that lock and gets a guest that works. Nothing is
//! done again without end: a try ends in a verdict, and setbacks are counted.

use super::{
    generations::{Generations, Task, Work},
    hints::BUILD_AGAIN,
    nix::{Failure, Workshop},
};
use dvn_guest::symptoms;
use dvn_host::blocking;
use dvn_lifecycle::{Handle, Phase};
use dvn_types::{Kind, MachineName, Report, Sizes, ms, unix_ms};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// How often it is asked whether a build without a connection is over.
const PERIOD: Duration = Duration::from_secs(30);

/// After the first setback; doubles with every further one.
const FIRST_DELAY: Duration = Duration::from_secs(30);

/// Setbacks in a row after which nothing more is done unasked. The delays before add up to half an hour.
const SETBACKS: u32 = 6;

/// How long a guest is given to turn out to have ended, which explains a build that failed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks after the generations of one machine.
pub struct Keeper {
    /// Whose.
    pub name: MachineName,
    /// The machine.
    pub handle: Handle,
    /// Held for reading by whoever may cause a boot, and here while the guest is replaced.
    pub files: Arc<RwLock<()>>,
    /// What there is.
    pub generations: Arc<Generations>,
    /// How it is built and examined.
    pub workshop: Arc<dyn Workshop>,
    /// The guest's console.
    pub console: PathBuf,
}

/// Whether the guest may be replaced now.
enum Moment<'a> {
    Now(RwLockWriteGuard<'a, ()>),
    /// Somebody uses the guest: that ends with a change of the machine.
    InUse,
    /// A build runs that no connection waits for: its end changes nothing.
    Builds,
}

/// How a step ended.
enum Step {
    Done,
    /// Not now: after a change of the machine.
    Changed,
    /// Not now: in a while.
    Later(Duration),
    /// Not at all, for the time being.
    Setback(Report),
}

impl Keeper {
    /// Never ends. Dropping it ends what it does; a try is then without a verdict.
    pub async fn run(self) {
        let mut snapshots = self.handle.watch();
        let mut setbacks = 0;
        loop {
            snapshots.borrow_and_update();
            let step = match self.generations.task() {
                Task::Nothing => Step::Changed,
                Task::Build(recipe) => self.build(&recipe).await,
                Task::Try(number) => self.attempt(number).await,
                Task::Leave => self.leave().await,
            };
            let wait = match step {
                Step::Done => {
                    setbacks = 0;
                    continue;
                }
                Step::Changed => None,
                Step::Later(wait) => Some(wait),
                Step::Setback(why) => {
                    setbacks += 1;
                    self.set_back(why, setbacks)
                }
            };
            let change = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    // The supervisor outlives this task, which holds a handle.
                    None => drop(snapshots.changed().await),
                }
            };
            tokio::select! {
                () = self.generations.asked.notified() => setbacks = 0,
                () = change => {}
            }
        }
    }

    /// Notes a setback, and says when to go on.
    fn set_back(&self, why: Report, setbacks: u32) -> Option<Duration> {
        if setbacks >= SETBACKS {
            self.give_up(why);
            return None;
        }
        let wait = FIRST_DELAY * 2u32.saturating_pow(setbacks - 1);
        tracing::warn!(machine = %self.name, "the guest's successor has to wait {wait:?}: {why}");
        self.generations.work(Work::Postponed { why, until_unix_ms: unix_ms().saturating_add(ms(wait)) });
        Some(wait)
    }

    fn give_up(&self, why: Report) {
        tracing::warn!(machine = %self.name, "the guest has no successor: {why}");
        self.generations.work(Work::GivenUp { why: why.hint(BUILD_AGAIN) });
    }

    async fn build(&self, recipe: &Path) -> Step {
        tracing::info!(machine = %self.name, recipe = %recipe.display(), "the guest builds its successor");
        self.generations.work(Work::Building { since_unix_ms: unix_ms() });
        let outcome = self.built(recipe).await;
        self.generations.work(Work::Free);
        match outcome {
            Ok(number) => {
                tracing::info!(machine = %self.name, generation = number, "built");
                Step::Done
            }
            Err(Failure::Passing(why)) => Step::Setback(why),
            Err(Failure::Lasting(why)) => {
                self.give_up(why);
                Step::Done
            }
        }
    }

    async fn built(&self, recipe: &Path) -> Result<u32, Failure> {
        let store = &self.generations.store;
        let (home, place) = blocking(|| Ok::<_, Report>((store.home()?, store.place()?))).map_err(Failure::Lasting)?;
        // A lease of its own, so that the guest stays from the first step to the last.
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await.map_err(Failure::Passing)?
        };
        let output = match self.workshop.build(&lease, recipe, &home, &place).await {
            Ok(output) => output,
            Err(failure) => {
                let ended = timeout(END_TIMEOUT, lease.guest().exited()).await.is_ok();
                return Err(match failure {
                    // Not the recipe's fault: it may be the user's, who stopped the machine.
                    Failure::Lasting(why) if ended => Failure::Passing(why),
                    failure => failure,
                });
            }
        };
        let (generations, recipe) = (Arc::clone(&self.generations), recipe.to_owned());
        let adopted = spawn_blocking(move || generations.adopt(recipe, output, &place)).await;
        adopted.unwrap_or_else(|e| Err(Report::new(Kind::Internal, e.to_string()))).map_err(Failure::Lasting)
    }

    async fn attempt(&self, number: u32) -> Step {
        let _files = match self.moment().await {
            Moment::Now(files) => files,
            Moment::InUse => return Step::Changed,
            Moment::Builds => return Step::Later(PERIOD),
        };
        tracing::info!(machine = %self.name, generation = number, "tried");
        self.generations.try_begins(number);
        let why = match self.replaced(number).await {
            Ok(()) => {
                tracing::info!(machine = %self.name, generation = number, "good: it boots from now on");
                self.generations.is_good(number);
                return Step::Done;
            }
            Err(why) => why,
        };
        if !tells_of_the_guest(&why) {
            self.generations.was_cut_short(number);
            return Step::Setback(why);
        }
        tracing::warn!(machine = %self.name, generation = number, "bad, so the last good one boots: {why}");
        self.generations.try_is_over();
        let back = async {
            self.handle.stop(true).await?;
            self.handle.start(Sizes::default()).await
        };
        match back.await {
            Ok(()) => {
                self.generations.is_bad(number, why);
                Step::Done
            }
            // What has worked does not work either: then nothing was learnt of the new one.
            Err(also) => {
                self.generations.was_cut_short(number);
                Step::Setback(also)
            }
        }
    }

    /// Stops the guest, boots what is to be tried, and has it build.
    async fn replaced(&self, number: u32) -> Result<(), Report> {
        let arch = self.generations.arch(number)?;
        self.handle.stop(false).await?;
        self.handle.start(Sizes::default()).await?;
        let lease = self.handle.acquire().await?;
        self.workshop.examine(&lease, arch).await.map_err(|mut why| {
            why.message = format!("{}; {}", why.message, blocking(|| symptoms::told(&self.console)));
            why
        })
    }

    async fn leave(&self) -> Step {
        if self.handle.snapshot().phase.is_at_rest() {
            return Step::Changed;
        }
        let _files = match self.moment().await {
            Moment::Now(files) => files,
            Moment::InUse => return Step::Changed,
            Moment::Builds => return Step::Later(PERIOD),
        };
        tracing::info!(machine = %self.name, "stopped: another generation boots next");
        match self.handle.stop(false).await {
            Ok(()) => Step::Changed,
            Err(why) => Step::Setback(why),
        }
    }

    async fn moment(&self) -> Moment<'_> {
        // Whoever may cause a boot holds it until their lease is granted, so a lease cannot appear from here on.
        let Ok(files) = self.files.try_write() else { return Moment::InUse };
        match self.handle.snapshot().phase {
            Phase::Stopped { .. } | Phase::Failed { .. } => Moment::Now(files),
            Phase::Running { leases: 0, .. } => {
                let Ok(lease) = self.handle.acquire().await else { return Moment::InUse };
                match lease.needs_agent() {
                    Ok(agent) if agent.builds().await == Ok(0) => Moment::Now(files),
                    // Also where it does not answer. The idle stop will come, and then there is nothing to ask.
                    _ => Moment::Builds,
                }
            }
            Phase::Starting | Phase::Running { .. } | Phase::Paused { .. } | Phase::Stopping { .. } => Moment::InUse,
        }
    }
}

/// Whether a failed try was the guest's failure. If the host lacked something or the user stopped the machine, it was not.
fn tells_of_the_guest(why: &Report) -> bool {
    matches!(why.kind, Kind::Boot | Kind::Bundle | Kind::Guest)
}

#[cfg(test)]
mod tests;
