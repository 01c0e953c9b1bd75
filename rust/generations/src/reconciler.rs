//! Reconciles the guest with the configured recipe, one task at a time: builds it, tries it at an idle moment, falls
//! back.
//!
//! ```text
//!  build: lease ▸ system builder ▸ adopt                   permanent failure: stops until asked; temporary: retries
//!  try:   idle moment ▸ room ▸ stop ▸ boot ▸ examine       good ─▶ current
//!                                   └ fails: boot the last good one ▸ bad
//!  leave: idle moment ▸ stop                               the next boot takes the current one
//! ```
//!
//! Rules: the guest is replaced at an *idle moment* only. That is while this task holds the machine's lock for writing,
//! no lease exists and no build runs. A client that connects meanwhile waits for the lock and gets a guest that works.
//! A try keeps the room of the machine's guest from its beginning to its end, and does not begin while another machine waits
//! for that room: it neither takes a room from others nor waits for one under the lock.
//! Nothing repeats without end: a try ends in a verdict, and setbacks are limited.

use super::{
    files::Files,
    generations::{Generations, Task, Work},
    hints::BUILD_AGAIN,
    nix::{Failure, SystemBuilder},
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
    sync::RwLockWriteGuard,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// Interval of checks whether a build without a connection is over, or whether there is room for a try.
const PERIOD: Duration = Duration::from_secs(30);

/// Delay after the first setback. It doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_secs(30);

/// Setbacks in a row after which the reconciler waits for a user's request. The delays before add up to half an hour.
const MAX_SETBACKS: u32 = 6;

/// How long to wait for a sign that the guest has ended, which explains a failed build.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Manages the generations of one machine.
pub struct Reconciler {
    /// The machine's name.
    pub name: MachineName,
    /// The machine's supervisor.
    pub handle: Handle,
    /// Held for reading by everything that may cause a boot, and for writing while the guest is replaced.
    pub files: Arc<Files>,
    /// The generations and their state.
    pub generations: Arc<Generations>,
    /// Builds and examines guest systems.
    pub builder: Arc<dyn SystemBuilder>,
    /// The guest's console log.
    pub console: PathBuf,
}

/// Whether the guest may be replaced now.
enum Moment<'a> {
    Now(RwLockWriteGuard<'a, ()>),
    /// A client uses the guest, or waits for it. The end of that changes the machine's snapshot, or releases the lock.
    InUse,
    /// A build without a connection runs. Its end does not change the snapshot.
    Builds,
}

/// How a task ended.
enum Step {
    Done,
    /// Wait for a change of the machine's snapshot, or for the lock.
    Changed,
    /// Wait this long.
    Later(Duration),
    /// It failed, and may be retried after a delay.
    Setback(Report),
}

impl Reconciler {
    /// Runs for ever. Dropping the future aborts the task; a try is then without a verdict.
    pub async fn run(self) {
        let (mut snapshots, mut released) = (self.handle.watch(), self.files.released());
        let mut setbacks = 0;
        loop {
            snapshots.borrow_and_update();
            released.borrow_and_update();
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
                    // The supervisor and the lock outlive this task, which holds both.
                    None => tokio::select! {
                        _ = snapshots.changed() => {}
                        _ = released.changed() => {}
                    },
                }
            };
            tokio::select! {
                () = self.generations.asked.notified() => setbacks = 0,
                () = change => {}
            }
        }
    }

    /// Records a setback. Returns how long to wait before the next attempt.
    fn set_back(&self, why: Report, setbacks: u32) -> Option<Duration> {
        if setbacks >= MAX_SETBACKS {
            self.give_up(why);
            return None;
        }
        let wait = FIRST_DELAY * 2u32.saturating_pow(setbacks - 1);
        tracing::warn!(machine = %self.name, "building or trying the guest's successor failed, next attempt in {wait:?}: {why}");
        self.generations.work(Work::Postponed { why, until_unix_ms: unix_ms().saturating_add(ms(wait)) });
        Some(wait)
    }

    fn give_up(&self, why: Report) {
        tracing::warn!(machine = %self.name, "building or trying the guest's successor failed, no further attempt until asked: {why}");
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
            Err(Failure::Temporary(why)) => Step::Setback(why),
            Err(Failure::Permanent(why)) => {
                self.give_up(why);
                Step::Done
            }
        }
    }

    async fn built(&self, recipe: &Path) -> Result<u32, Failure> {
        let store = &self.generations.store;
        let (home, place) =
            blocking(|| Ok::<_, Report>((store.home()?, store.place()?))).map_err(Failure::Permanent)?;
        // One lease from the first step to the last, so that the guest stays.
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await.map_err(Failure::Temporary)?
        };
        let output = match self.builder.build(&lease, recipe, &home, &place).await {
            Ok(output) => output,
            Err(failure) => {
                let ended = timeout(END_TIMEOUT, lease.guest().exited()).await.is_ok();
                return Err(match failure {
                    // Not necessarily the recipe's fault: the user may have stopped the machine.
                    Failure::Permanent(why) if ended => Failure::Temporary(why),
                    failure => failure,
                });
            }
        };
        let (generations, recipe) = (Arc::clone(&self.generations), recipe.to_owned());
        let adopted = spawn_blocking(move || generations.adopt(recipe, output, &place)).await;
        adopted.unwrap_or_else(|e| Err(Report::new(Kind::Internal, e.to_string()))).map_err(Failure::Permanent)
    }

    async fn attempt(&self, number: u32) -> Step {
        let _room = match self.handle.keep_room() {
            Ok(room) => room,
            Err(why) => {
                tracing::debug!(machine = %self.name, generation = number, "not tried yet: {why}");
                return Step::Later(PERIOD);
            }
        };
        let _files = match self.moment().await {
            Moment::Now(files) => files,
            Moment::InUse => return Step::Changed,
            Moment::Builds => return Step::Later(PERIOD),
        };
        tracing::info!(machine = %self.name, generation = number, "trying a new generation");
        self.generations.try_begins(number);
        let why = match self.replaced(number).await {
            Ok(()) => {
                tracing::info!(machine = %self.name, generation = number, "the generation is good and boots from now on");
                self.generations.is_good(number);
                return Step::Done;
            }
            Err(why) => why,
        };
        if !is_guest_failure(&why) {
            self.generations.try_aborted(number);
            return Step::Setback(why);
        }
        tracing::warn!(machine = %self.name, generation = number, "the generation is bad, booting the last good one: {why}");
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
            // It could not be tried: the user stopped it, for example. The verdict stands.
            Err(also) if !is_guest_failure(&also) => {
                self.generations.is_bad(number, why);
                Step::Setback(also)
            }
            // The last good generation does not work either, so the try proves nothing about the new one.
            Err(also) => {
                self.generations.try_aborted(number);
                Step::Setback(also)
            }
        }
    }

    /// Stops the guest, boots the generation, and lets it build.
    async fn replaced(&self, number: u32) -> Result<(), Report> {
        let arch = self.generations.arch(number)?;
        self.handle.stop(false).await?;
        self.handle.start(Sizes::default()).await?;
        let lease = self.handle.acquire().await?;
        self.builder.examine(&lease, arch).await.map_err(|mut why| {
            why.message = format!("{}; {}", why.message, blocking(|| symptoms::summary(&self.console)));
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
        tracing::info!(machine = %self.name, "stopping the guest: another generation boots next");
        match self.handle.stop(false).await {
            Ok(()) => Step::Changed,
            Err(why) => Step::Setback(why),
        }
    }

    async fn moment(&self) -> Moment<'_> {
        // Everything that may cause a boot holds this lock until its lease is granted, so no lease can appear from here
        // on.
        let Some(files) = self.files.try_write() else { return Moment::InUse };
        match self.handle.snapshot().phase {
            Phase::Stopped { .. } | Phase::Failed { .. } => Moment::Now(files),
            Phase::Running { leases: 0, .. } => {
                let Ok(lease) = self.handle.acquire().await else { return Moment::InUse };
                match lease.needs_agent() {
                    Ok(agent) if agent.builds().await == Ok(0) => Moment::Now(files),
                    // Also if it does not answer. The idle stop will come, and ends the question.
                    _ => Moment::Builds,
                }
            }
            Phase::Starting | Phase::Running { .. } | Phase::Paused { .. } | Phase::Stopping { .. } => Moment::InUse,
        }
    }
}

/// Whether a failed try was the guest's failure, and not a lack of the host or a stop by the user.
fn is_guest_failure(why: &Report) -> bool {
    matches!(why.kind, Kind::Boot | Kind::Bundle | Kind::Guest)
}

#[cfg(test)]
mod tests;
