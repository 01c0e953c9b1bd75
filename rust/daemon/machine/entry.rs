//! How a client gets into the guest: a lease, the host's store held for it, a stream to the service.
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
