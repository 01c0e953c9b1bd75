//! The only task that acts on a machine's guest: it passes events to [`machine::step`](super::machine) and performs the
//! effects.
//!
//! Invariant: the actor waits only for the next command, the next finished job and the next deadline. Every call of the
//! hypervisor or the provider is a job in `jobs`, and ends as news.

use super::{
    boot::{self, Run},
    command::{Answer, Command, Lease},
    counters::Counters,
    events::{Effect, Event, News},
    handle::Gate,
    job::{self, Done, Waiter},
    machine::{AfterStop, Machine, Policy, STUCK_AFTER, State, deadline, step},
    pause_jobs,
    provider::{BootEvent, GuestProvider},
    reports,
    snapshot::Snapshot,
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
    /// Demands pass it before they come here.
    pub(super) gate: Option<Arc<dyn Gate>>,
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
    /// The present boot, from its start to the end of its guest.
    run: Option<Run>,
    last_boot: Option<BootTimeline>,
    counters: Counters,
    /// The sizes requested for the present or the last boot.
    sizes: Sizes,
    /// The sizes requested for the next boot, by its first demand and those that joined it.
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
            gate: None,
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
            counters: Counters::default(),
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

    /// Runs until all handles are dropped and the guest is gone.
    pub(super) async fn run(mut self) {
        while !self.is_over() {
            let due = deadline(&self.machine.state);
            // The order matters. News comes first, so that commands meet the current state. Commands come before the
            // timer, so that a connection which arrives at the moment of the idle stop prevents it.
            tokio::select! {
                biased;
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.on_job(done),
                    // Does not happen: jobs catch their panics and are never aborted.
                    Err(error) => tracing::error!(machine = %self.name, "a job of the supervisor was lost: {error}"),
                },
                command = self.inbox.recv(), if !self.abandoned => match command {
                    Some(command) => self.on_command(command),
                    None => {
                        self.abandoned = true;
                        self.handle(Event::Stop { force: true });
                    }
                },
                () = until(due) => self.handle(Event::Tick),
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

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Demand { reply, .. } | Command::Resume { reply } if self.refuses => {
                let _ = reply.send(Err(reports::shutting_down()));
            }
            // Without an answer: it has to pass the gate first.
            Command::Demand { insist, admitted: false, .. }
                if self.machine.state.needs_boot(insist, Instant::now()) => {}
            Command::Demand { insist, sizes, reply, .. } => {
                if let Some(refusal) = self.refuse_sizes(sizes) {
                    let _ = reply.send(Err(refusal));
                    return;
                }
                self.waiters.push(Waiter { since: Instant::now(), reply });
                self.handle(Event::Demand { insist });
            }
            Command::Release { epoch } => self.handle(Event::Release { epoch }),
            Command::Reacquire { epoch } => self.handle(Event::Reacquire { epoch }),
            Command::Stop { force, reply } => {
                self.stoppers.push(reply);
                self.handle(Event::Stop { force });
            }
            Command::End { epoch, force, reply } => match self.machine.state {
                State::Stopped { .. } | State::Failed { .. } => drop(reply.send(Ok(()))),
                _ if epoch != self.machine.boots => drop(reply.send(Ok(()))),
                // The guest is being stopped already. `Stop` would refuse those who wait for the next one.
                State::Stopping { .. } => self.stoppers.push(reply),
                _ => {
                    self.stoppers.push(reply);
                    self.handle(Event::Stop { force });
                }
            },
            Command::GiveWay => self.handle(Event::GiveWay),
            Command::Pause { reply } => {
                self.pausers.push(reply);
                self.handle(Event::Pause);
            }
            // A demand resumes a paused guest. Without a guest it would boot one, so there it is refused.
            Command::Resume { reply } => match self.machine.state {
                State::Running { .. } | State::Paused { .. } => {
                    self.waiters.push(Waiter { since: Instant::now(), reply });
                    self.handle(Event::Demand { insist: true });
                }
                _ => drop(reply.send(Err(reports::nothing_runs()))),
            },
            Command::ShutDown { reply } => {
                self.refuses = true;
                self.stoppers.push(reply);
                self.handle(Event::Stop { force: false });
            }
        }
    }

    /// Notes the sizes for the next boot, or returns why the present boot cannot have them.
    fn refuse_sizes(&mut self, sizes: Sizes) -> Option<Report> {
        match self.machine.state {
            State::Starting { .. } | State::Booting { .. } | State::Running { .. } | State::Paused { .. } => {
                self.run.as_ref().and_then(|run| run.refuse_sizes(sizes))
            }
            State::Stopping { then: AfterStop::Restart { .. }, .. } => {
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

    fn on_job(&mut self, done: Done) {
        match done {
            Done::Up { epoch, up } => {
                self.watch_exit(epoch, up.guest.clone());
                self.guest = Some(up.guest.clone());
                if let Some(run) = &mut self.run {
                    run.is_up(&up);
                }
                self.handle(Event::News { epoch, news: News::Up });
            }
            Done::Ready { epoch, ready } => {
                // A guest that becomes ready while it is being stopped does not reach Running.
                if let (State::Booting { .. }, Some(run)) = (&self.machine.state, &self.run)
                    && epoch == self.machine.boots
                {
                    self.last_boot = Some(run.timeline(&ready));
                    self.agent.send_replace(ready.agent);
                    self.preparation.on_boot_event(BootEvent::Ready);
                }
                self.handle(Event::News { epoch, news: News::Ready });
            }
            Done::News { epoch, news } => {
                if let News::BootFailed(cause) = &news {
                    self.preparation.on_boot_event(BootEvent::Failed(cause.clone()));
                }
                if let News::NoRoom(why) = &news {
                    tracing::info!(machine = %self.name, boot = epoch, "{why}");
                }
                if let News::Exited(exit) = &news {
                    self.preparation.on_boot_event(BootEvent::Ended(exit.clone()));
                    self.guest = None;
                    self.agent.send_replace(None);
                    self.cancel_run();
                }
                self.handle(Event::News { epoch, news });
            }
            Done::Explained { epoch, cause, waiters } => {
                self.handle(Event::News { epoch, news: News::Explained(cause.clone()) });
                deny(waiters, &cause);
            }
            Done::Nothing => {}
        }
    }

    fn handle(&mut self, event: Event) {
        let machine = std::mem::take(&mut self.machine);
        let (now, failures) = (Instant::now(), machine.failures);
        let (machine, effects) = step(machine, event.clone(), now, &self.policy);
        self.counters.note(failures, &event, &machine, &effects, now);
        self.machine = machine;
        if effects.contains(&Effect::Boot) {
            self.sizes = self.next_sizes;
        }
        // Before the answers are sent, so that a caller with an answer finds it in the snapshot.
        self.publish();
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let epoch = self.machine.boots;
        match effect {
            Effect::Boot => {
                let demand = self.waiters.iter().map(|waiter| waiter.since).min().unwrap_or_else(Instant::now);
                let run = Run::new(demand, self.sizes);
                let (hypervisor, preparation) = (self.hypervisor.clone(), self.preparation.clone());
                let gate = self.gate.clone();
                self.jobs.spawn(boot::boot(gate, hypervisor, preparation, run.sizes, epoch, run.cancel.clone()));
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
                    self.jobs.spawn(pause_jobs::request_stop(self.name.clone(), guest, agent));
                }
            }
            Effect::Pause => {
                if let Some(guest) = self.guest.clone() {
                    self.jobs.spawn(pause_jobs::pause(guest, epoch));
                }
            }
            Effect::Resume => {
                if let Some(guest) = self.guest.clone() {
                    let agent = self.agent.borrow().clone();
                    self.jobs.spawn(pause_jobs::resume(self.name.clone(), guest, agent, epoch));
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
            Effect::PauseDone => answer_all(&mut self.pausers, &Ok(())),
            Effect::PauseDenied(report) => answer_all(&mut self.pausers, &Err(report)),
            Effect::Rested => answer_all(&mut self.stoppers, &Ok(())),
            Effect::Stuck(report) => {
                tracing::error!(machine = %self.name, "{report}");
                answer_all(&mut self.stoppers, &Err(report));
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
            // If the waiter is gone, the lease comes back and is dropped, which releases it.
            let _ = waiter.reply.send(Ok(lease));
        }
    }

    fn deny_explained(&mut self, epoch: u64, cause: Report) {
        tracing::warn!(machine = %self.name, boot = epoch, "{cause}");
        self.preparation.on_boot_event(BootEvent::Failed(cause.clone()));
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
                    // It is unknown now whether the guest still runs.
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
            match snapshot.moved(&self.machine, self.last_boot.as_ref(), self.sizes, self.counters) {
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

fn answer_all(replies: &mut Vec<Answer<()>>, answer: &Result<(), Report>) {
    for reply in replies.drain(..) {
        let _ = reply.send(answer.clone());
    }
}

/// Without a deadline there is no timer: a machine at rest never wakes up.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
