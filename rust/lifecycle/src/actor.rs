//! The only task that acts on a machine's guest: it feeds events to [`machine::step`](super::machine) and carries out the effects.
//!
//! The rule that holds here: the actor itself waits for nothing but the next command, the next finished job and the
//! next deadline. Whatever touches the hypervisor or the preparation is a job in `jobs`, and ends as news.

use super::{
    boot::{self, Run},
    command::{Answer, Command, Lease},
    events::{Effect, Event, News},
    halt,
    job::{self, Done, Waiter},
    machine::{Machine, Policy, STUCK_AFTER, State, Then, deadline, step},
    provider::{Became, GuestProvider},
    reports,
    snapshot::Snapshot,
    tally::Tally,
};
use dvn_hypervisor::{Exit, Guest, GuestAgent, Hypervisor};
use dvn_types::{BootTimeline, MachineName, Report, Sizes};
use std::sync::Arc;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

pub(super) struct Actor {
    name: MachineName,
    hypervisor: Arc<dyn Hypervisor>,
    preparation: Arc<dyn GuestProvider>,
    policy: Policy,
    inbox: mpsc::UnboundedReceiver<Command>,
    commands: mpsc::WeakUnboundedSender<Command>,
    publisher: watch::Sender<Snapshot>,
    machine: Machine,
    guest: Option<Arc<dyn Guest>>,
    agent: watch::Sender<Option<Arc<dyn GuestAgent>>>,
    /// The present boot, from its beginning to the end of its guest.
    run: Option<Run>,
    last_boot: Option<BootTimeline>,
    tally: Tally,
    /// What the present boot was asked for, or the last.
    sizes: Sizes,
    /// What was asked of the boot to come, by the first demand for it and those that joined it.
    next_sizes: Sizes,
    waiters: Vec<Waiter>,
    stoppers: Vec<Answer<()>>,
    pausers: Vec<Answer<()>>,
    jobs: JoinSet<Done>,
    refuses: bool,
    abandoned: bool,
}

impl Actor {
    pub(super) fn new(
        name: MachineName,
        hypervisor: Arc<dyn Hypervisor>,
        preparation: Arc<dyn GuestProvider>,
        policy: Policy,
        inbox: mpsc::UnboundedReceiver<Command>,
        commands: mpsc::WeakUnboundedSender<Command>,
        (publisher, agent): (watch::Sender<Snapshot>, watch::Sender<Option<Arc<dyn GuestAgent>>>),
    ) -> Self {
        Actor {
            name,
            hypervisor,
            preparation,
            policy,
            inbox,
            commands,
            publisher,
            machine: Machine::default(),
            guest: None,
            agent,
            run: None,
            last_boot: None,
            tally: Tally::default(),
            sizes: Sizes::default(),
            next_sizes: Sizes::default(),
            waiters: vec![],
            stoppers: vec![],
            pausers: vec![],
            jobs: JoinSet::new(),
            refuses: false,
            abandoned: false,
        }
    }

    /// Runs until all handles are gone and nothing of a guest is left.
    pub(super) async fn run(mut self) {
        while !self.is_over() {
            let due = deadline(&self.machine.state);
            // The order matters: news first, for what is asked is answered by what is true; commands before the clock,
            // so that a connection that comes in the very moment of the idle stop still prevents it.
            tokio::select! {
                biased;
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.heed(done),
                    // Jobs catch their panics and nobody aborts them.
                    Err(error) => tracing::error!(machine = %self.name, "a job of the supervisor was lost: {error}"),
                },
                command = self.inbox.recv(), if !self.abandoned => match command {
                    Some(command) => self.obey(command),
                    None => {
                        self.abandoned = true;
                        self.feed(Event::Stop { force: true });
                    }
                },
                () = until(due) => self.feed(Event::Tick),
            }
        }
    }

    fn is_over(&self) -> bool {
        self.abandoned
            && match self.machine.state {
                State::Stopped { .. } | State::Failed { .. } => true,
                State::Stopping { kills, .. } => kills == STUCK_AFTER,
                _ => false,
            }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Demand { reply, .. } | Command::Resume { reply } if self.refuses => {
                let _ = reply.send(Err(reports::shutting_down()));
            }
            Command::Demand { insist, sizes, reply } => {
                if let Some(refusal) = self.refuse_sizes(sizes) {
                    let _ = reply.send(Err(refusal));
                    return;
                }
                self.waiters.push(Waiter { since: Instant::now(), reply });
                self.feed(Event::Demand { insist });
            }
            Command::Release { epoch } => self.feed(Event::Release { epoch }),
            Command::Retake { epoch } => self.feed(Event::Retake { epoch }),
            Command::Stop { force, reply } => {
                self.stoppers.push(reply);
                self.feed(Event::Stop { force });
            }
            Command::End { epoch, force, reply } => match self.machine.state {
                State::Stopped { .. } | State::Failed { .. } => drop(reply.send(Ok(()))),
                _ if epoch != self.machine.boots => drop(reply.send(Ok(()))),
                // It goes already, and those who wait for the next one are not turned away.
                State::Stopping { .. } => self.stoppers.push(reply),
                _ => {
                    self.stoppers.push(reply);
                    self.feed(Event::Stop { force });
                }
            },
            Command::GiveWay => self.feed(Event::GiveWay),
            Command::Pause { reply } => {
                self.pausers.push(reply);
                self.feed(Event::Pause);
            }
            // To use a guest is to have it go on; only must this not boot one.
            Command::Resume { reply } => match self.machine.state {
                State::Running { .. } | State::Paused { .. } => {
                    self.waiters.push(Waiter { since: Instant::now(), reply });
                    self.feed(Event::Demand { insist: true });
                }
                _ => drop(reply.send(Err(reports::nothing_runs()))),
            },
            Command::ShutDown { reply } => {
                self.refuses = true;
                self.stoppers.push(reply);
                self.feed(Event::Stop { force: false });
            }
        }
    }

    /// Notes the sizes for the boot to come, or says why the boot under way cannot have them.
    fn refuse_sizes(&mut self, sizes: Sizes) -> Option<Report> {
        match self.machine.state {
            State::Starting { .. } | State::Booting { .. } | State::Running { .. } | State::Paused { .. } => {
                self.run.as_ref().and_then(|run| run.refuse_sizes(sizes))
            }
            State::Stopping { then: Then::Restart { .. }, .. } => {
                let merged = boot::merge_sizes(self.next_sizes, sizes);
                self.next_sizes = merged.unwrap_or(self.next_sizes);
                merged.is_none().then(reports::other_sizes)
            }
            State::Stopped { .. } | State::Stopping { .. } | State::Failed { .. } => {
                self.next_sizes = sizes;
                None
            }
        }
    }

    fn heed(&mut self, done: Done) {
        match done {
            Done::Up { epoch, up } => {
                self.watch_exit(epoch, up.guest.clone());
                self.guest = Some(up.guest.clone());
                if let Some(run) = &mut self.run {
                    run.is_up(&up);
                }
                self.feed(Event::News { epoch, news: News::Up });
            }
            Done::Ready { epoch, ready } => {
                // A guest that got ready while it is being stopped has not reached Running.
                if let (State::Booting { .. }, Some(run)) = (&self.machine.state, &self.run)
                    && epoch == self.machine.boots
                {
                    self.last_boot = Some(run.timeline(&ready));
                    self.agent.send_replace(ready.agent);
                    self.preparation.hear(Became::Ready);
                }
                self.feed(Event::News { epoch, news: News::Ready });
            }
            Done::News { epoch, news } => {
                if let News::BootFailed(cause) = &news {
                    self.preparation.hear(Became::Failed(cause.clone()));
                }
                if let News::Exited(exit) = &news {
                    self.preparation.hear(Became::Ended(exit.clone()));
                    self.guest = None;
                    self.agent.send_replace(None);
                    self.cancel_run();
                }
                self.feed(Event::News { epoch, news });
            }
            Done::Explained { epoch, cause, waiters } => {
                self.feed(Event::News { epoch, news: News::Explained(cause.clone()) });
                deny(waiters, &cause);
            }
            Done::Nothing => {}
        }
    }

    fn feed(&mut self, event: Event) {
        let machine = std::mem::take(&mut self.machine);
        let (now, failures) = (Instant::now(), machine.failures);
        let (machine, effects) = step(machine, event.clone(), now, &self.policy);
        self.tally.note(failures, &event, &machine, &effects, now);
        self.machine = machine;
        if effects.contains(&Effect::Boot) {
            self.sizes = self.next_sizes;
        }
        // Before anybody is answered, so that the answer never runs ahead of the snapshot.
        self.publish();
        for effect in effects {
            self.act(effect);
        }
    }

    fn act(&mut self, effect: Effect) {
        let epoch = self.machine.boots;
        match effect {
            Effect::Boot => {
                let demand = self.waiters.iter().map(|waiter| waiter.since).min().unwrap_or_else(Instant::now);
                let run = Run::new(demand, self.sizes);
                let (hypervisor, preparation) = (self.hypervisor.clone(), self.preparation.clone());
                self.jobs.spawn(boot::boot(hypervisor, preparation, run.sizes, epoch, run.cancel.clone()));
                self.run = Some(run);
            }
            Effect::AwaitReady => {
                if let (Some(guest), Some(run)) = (self.guest.clone(), &self.run) {
                    self.jobs.spawn(boot::await_ready(self.preparation.clone(), guest, epoch, run.cancel.clone()));
                }
            }
            Effect::AskBuilds => {
                let (name, agent) = (self.name.clone(), self.agent.borrow().clone());
                self.jobs.spawn(async move {
                    let builds = boot::builds(&name, agent).await;
                    Done::News { epoch, news: News::Builds(builds) }
                });
            }
            Effect::RequestStop => {
                if let Some(guest) = self.guest.clone() {
                    let agent = self.agent.borrow().clone();
                    self.jobs.spawn(halt::request_stop(self.name.clone(), guest, agent));
                }
            }
            Effect::Pause => {
                if let Some(guest) = self.guest.clone() {
                    self.jobs.spawn(halt::pause(guest, epoch));
                }
            }
            Effect::Resume => {
                if let Some(guest) = self.guest.clone() {
                    let agent = self.agent.borrow().clone();
                    self.jobs.spawn(halt::resume(self.name.clone(), guest, agent, epoch));
                }
            }
            Effect::Kill => {
                self.cancel_run();
                if let Some(guest) = self.guest.clone() {
                    let name = self.name.clone();
                    self.jobs.spawn(async move {
                        job::bounded("the kill", &name, async { guest.kill().await }).await;
                        Done::Nothing
                    });
                }
            }
            Effect::Grant(leases) => {
                debug_assert_eq!(leases as usize, self.waiters.len(), "machine and actor count the same waiters");
                self.grant(epoch);
            }
            Effect::Deny(report) => {
                deny(std::mem::take(&mut self.waiters), &report);
            }
            Effect::DenyExplained(cause) => self.deny_explained(epoch, cause),
            Effect::PauseDone => tell(&mut self.pausers, &Ok(())),
            Effect::PauseDenied(report) => tell(&mut self.pausers, &Err(report)),
            Effect::Rested => tell(&mut self.stoppers, &Ok(())),
            Effect::Stuck(report) => {
                tracing::error!(machine = %self.name, "{report}");
                tell(&mut self.stoppers, &Err(report));
            }
        }
    }

    fn grant(&mut self, epoch: u64) {
        let agent = self.agent.borrow().clone();
        let Some(guest) = self.guest.clone() else {
            debug_assert!(false, "Running implies a guest");
            return self.waiters.clear();
        };
        for waiter in self.waiters.drain(..) {
            let lease = Lease::new(guest.clone(), agent.clone(), epoch, self.commands.clone());
            // If the waiter has gone, the lease comes back and is dropped: released like any other.
            let _ = waiter.reply.send(Ok(lease));
        }
    }

    fn deny_explained(&mut self, epoch: u64, cause: Report) {
        tracing::warn!(machine = %self.name, boot = epoch, "{cause}");
        self.preparation.hear(Became::Failed(cause.clone()));
        let waiters = std::mem::take(&mut self.waiters);
        if !self.run.as_ref().is_some_and(Run::had_guest) {
            return deny(waiters, &cause);
        }
        let preparation = self.preparation.clone();
        self.jobs.spawn(async move {
            let cause = boot::explain(preparation, cause).await;
            Done::Explained { epoch, cause, waiters }
        });
    }

    fn watch_exit(&mut self, epoch: u64, guest: Arc<dyn Guest>) {
        let name = self.name.clone();
        self.jobs.spawn(async move {
            let exit = match job::guarded(async { guest.exited().await }).await {
                Ok(exit) => exit,
                Err(panic) => {
                    // Nobody can tell any more whether it lives.
                    job::bounded("the kill", &name, async { guest.kill().await }).await;
                    Exit::Crashed(panic.message)
                }
            };
            Done::News { epoch, news: News::Exited(exit) }
        });
    }

    fn cancel_run(&self) {
        if let Some(run) = &self.run {
            run.cancel.cancel();
        }
    }

    fn publish(&mut self) {
        self.publisher.send_if_modified(|snapshot| {
            match snapshot.moved(&self.machine, self.last_boot.as_ref(), self.sizes, self.tally) {
                Some(next) => {
                    if next.phase.name() != snapshot.phase.name() {
                        tracing::info!(machine = %self.name, boots = next.boots, "{}", next.phase.name());
                    }
                    *snapshot = next;
                    true
                }
                None => false,
            }
        });
    }
}

fn deny(waiters: Vec<Waiter>, report: &Report) {
    for waiter in waiters {
        let _ = waiter.reply.send(Err(report.clone()));
    }
}

fn tell(who: &mut Vec<Answer<()>>, answer: &Result<(), Report>) {
    for reply in who.drain(..) {
        let _ = reply.send(answer.clone());
    }
}

/// Without a deadline there is no timer at all: a machine at rest never wakes up.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
