//! How a client gets into the guest: a lease, a clock that is right, the host's store held for it, a stream to the service.
//!
//! The rule: a client that met a guest on its way out gets the next one, once.

use super::Machine;
use crate::{
    api::types::Service,
    error::{Kind, Report},
    front_door::Passage,
    supervisor::Lease,
};
use darwin_vz_agent::{NIX_PORT, SSH_PORT};
use std::time::Duration;
use tokio::time::timeout;

/// How long the end of a guest may take to show that no longer lets anybody in.
const ENDING: Duration = Duration::from_secs(3);

/// Why a client did not get in.
enum Entry {
    /// The guest ended meanwhile.
    GuestGone,
    /// Something else.
    Refused(Report),
}

impl Entry {
    /// The guest did not do what a connection needs: perhaps it is on its way out.
    async fn after(lease: &Lease, report: Report) -> Entry {
        match timeout(ENDING, lease.guest().exited()).await {
            Ok(_) => Entry::GuestGone,
            Err(_) => Entry::Refused(report),
        }
    }
}

impl Machine {
    /// Starts the guest where needed and connects to one of its services.
    pub async fn open(&self, service: Service) -> Result<Passage, Report> {
        match self.enter(service).await {
            // It was on its way out, and whoever needs one gets the next.
            Err(Entry::GuestGone) => self.enter(service).await,
            entered => entered,
        }
        .map_err(|entry| match entry {
            Entry::GuestGone => Report::new(Kind::Guest, "the guest ended while the connection was made")
                .hint("see why: darwin-vz-nix logs --console"),
            Entry::Refused(report) => report,
        })
    }

    async fn enter(&self, service: Service) -> Result<Passage, Entry> {
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await.map_err(Entry::Refused)?
        };
        // The host may have slept since somebody used the guest, and what looks at dates comes first through this door.
        self.clock.put_right(self.handle.snapshot().boots, lease.agent()).await;
        let hold = match &self.sharing {
            Some(sharing) => match sharing.enter(lease.agent()).await {
                Ok(hold) => hold,
                Err(report) => {
                    return Err(match Entry::after(&lease, report).await {
                        Entry::Refused(report) => self.put_away(&lease, report).await,
                        gone @ Entry::GuestGone => gone,
                    });
                }
            },
            None => None,
        };
        let warm = if service == Service::Ssh { self.warm.take() } else { None };
        let port = match service {
            Service::Ssh => SSH_PORT,
            Service::Nix => NIX_PORT,
        };
        let guest = match warm {
            Some(stream) => stream,
            None => match lease.guest().connect(port).await {
                Ok(stream) => stream,
                Err(report) => return Err(Entry::after(&lease, report).await),
            },
        };
        let visit = self.chronicle.visit(&self.name, service);
        Ok(Passage { lease, guest, visit, silence: self.settings.idle_timeout, _hold: hold })
    }

    /// Kills a guest that would refuse everybody from now on.
    async fn put_away(&self, lease: &Lease, why: Report) -> Entry {
        tracing::warn!(machine = %self.name, "the guest is killed, and the next one takes its place: {why}");
        // It has not ended, or this would not have been asked for: so it is the one that the supervisor has.
        match self.handle.stop(true).await {
            Ok(()) => Entry::after(lease, why).await,
            Err(report) => Entry::Refused(report),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::MachineSettings,
        daemon::{Chronicle, Parts},
        guest::agent::Agent,
        hypervisor::sim::{Script, Sim},
        machine_dir::StateDir,
    };
    use darwin_vz_agent::protocol::{Answer, Ask};
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    };
    use tokio::time::{Instant, advance};

    /// Under the paused clock the wall clock moves on by itself, so that `advance` is a jump, as a sleep of the host is.
    #[tokio::test(start_paused = true)]
    async fn a_connection_after_a_sleep_gets_in_once_the_clock_is_right_and_not_before() {
        let (told, busy) = (Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let theirs = (Arc::clone(&told), Arc::clone(&busy));
        let agent = Agent::that_may_say(move |ask| match ask {
            Ask::SetClock { .. } if theirs.1.load(Relaxed) => None,
            Ask::SetClock { .. } => {
                theirs.0.fetch_add(1, Relaxed);
                Some(Answer::Done)
            }
            _ => Some(Answer::Builds { running: 0 }),
        });
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&"builder".parse().unwrap()).unwrap();
        let settings = MachineSettings::sample();
        let parts = Parts::in_memory(Sim::new(Script::default()), agent, &dir, &settings).unwrap();
        let chronicle = Arc::<Chronicle>::default();
        let machine = Machine::assemble("builder".parse().unwrap(), settings, dir, parts, chronicle);
        drop(machine.open(Service::Nix).await.unwrap());
        assert_eq!(told.load(Relaxed), 1);
        drop(machine.open(Service::Nix).await.unwrap());
        assert_eq!(told.load(Relaxed), 1, "it is right");
        // Until nobody sees to the guest any more.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = told.load(Relaxed);
        advance(Duration::from_secs(3600)).await;
        drop(machine.open(Service::Nix).await.unwrap());
        assert_eq!(told.load(Relaxed), before + 1);

        tokio::time::sleep(Duration::from_secs(60)).await;
        busy.store(true, Relaxed);
        let begun = Instant::now();
        drop(machine.open(Service::Nix).await.unwrap());
        assert!(begun.elapsed() >= Duration::from_secs(5), "it waits for the clock: {:?}", begun.elapsed());
    }
}
