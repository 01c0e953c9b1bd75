//! Connects a client to the guest: a lease, a clock in sync, the host's store held for it, a stream to the service.
//!
//! The rule: a client whose guest is just ending gets the next one, once.

use super::{Machine, reach};
use crate::connection::Connection;
use dvn_hypervisor::GuestStream;
use dvn_lifecycle::{Lease, Phase};
use dvn_protocol::{
    NIX_PORT, SSH_PORT,
    messages::{Answer, Ask},
};
use dvn_types::{Kind, Report, Service};
use futures_util::future::OptionFuture;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long to wait for the exit of a guest that refuses connections.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a connection failed.
enum Entry {
    /// The guest ended meanwhile.
    GuestGone,
    /// Something else.
    Refused(Report),
}

impl Entry {
    /// The guest failed a connection, perhaps because it is ending: waits for its exit.
    async fn after(lease: &Lease, report: Report) -> Entry {
        match timeout(EXIT_TIMEOUT, lease.guest().exited()).await {
            Ok(_) => Entry::GuestGone,
            Err(_) => Entry::Refused(report),
        }
    }
}

impl Machine {
    /// Starts the guest if necessary and connects to one of its services.
    pub async fn open(&self, service: Service) -> Result<Connection, Report> {
        match self.enter(service).await {
            // The guest was ending: the client gets the next one.
            Err(Entry::GuestGone) => self.enter(service).await,
            entered => entered,
        }
        .map_err(|entry| match entry {
            Entry::GuestGone => Report::new(Kind::Guest, "the guest ended while the connection was made")
                .hint("see why: darwin-vz-nix logs --console"),
            Entry::Refused(report) => report,
        })
    }

    async fn enter(&self, service: Service) -> Result<Connection, Entry> {
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await.map_err(Entry::Refused)?
        };
        // The host may have slept meanwhile, or the guest changed its clock. The client may depend on right dates.
        if let Some(agent) = lease.agent() {
            self.clock.put_right(self.handle.snapshot().boots, agent).await;
        }
        let hold = match &self.sharing {
            Some(sharing) => match sharing.enter(lease.agent()).await {
                Ok(hold) => hold,
                Err(report) => {
                    return Err(match Entry::after(&lease, report).await {
                        Entry::Refused(report) => self.replace(&lease, true, report).await,
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
            None => self.connect(&lease, port).await?,
        };
        let record = self.events.connection_opened(&self.name, service);
        Ok(Connection { lease, guest, record, silence: self.config.lifecycle.idle_timeout, _hold: hold })
    }

    async fn connect(&self, lease: &Lease, port: u32) -> Result<GuestStream, Entry> {
        let began = Instant::now();
        match lease.guest().connect(port).await {
            Ok(stream) => {
                self.reach.succeeded(lease.epoch());
                Ok(stream)
            }
            Err(report) => Err(self.not_reached(lease, began, report).await),
        }
    }

    /// Decides about a guest after a failed connection attempt that began at `began`: see [`reach`].
    async fn not_reached(&self, lease: &Lease, began: Instant, report: Report) -> Entry {
        let (ended, answer) = {
            let ask = OptionFuture::from(lease.agent().map(|agent| agent.ask(Ask::Builds)));
            tokio::join!(timeout(EXIT_TIMEOUT, lease.guest().exited()), ask)
        };
        let is_this_one = self.handle.snapshot().boots == lease.epoch();
        if ended.is_ok() || !is_this_one || !matches!(self.handle.snapshot().phase, Phase::Running { .. }) {
            return Entry::GuestGone;
        }
        let failures = self.reach.failed(lease.epoch(), began);
        let tried = format!("{} ({failures} in a row)", report.message);
        let has_agent = answer.is_some();
        match answer {
            Some(Err(silence)) if self.config.lifecycle.hang_timeout.is_some() => {
                let why = Report { message: format!("{tried}, and {silence}"), ..report };
                self.replace(lease, true, why).await
            }
            Some(Err(silence)) => Entry::Refused(
                Report { message: format!("{tried}, and {silence}"), ..report }
                    .hint("hang-timeout is 0, so the guest stays: darwin-vz-nix stop --force ends it"),
            ),
            Some(Ok(Answer::Builds { running: running @ 1.. })) => Entry::Refused(
                Report { message: format!("{tried}; builds that run in the guest: {running}"), ..report }
                    .hint("the guest is replaced once they are done; to end them now: darwin-vz-nix stop"),
            ),
            Some(Ok(_)) | None if failures >= reach::ENOUGH => {
                let though = if has_agent { ", though the guest's agent answers" } else { "" };
                self.replace(lease, false, Report { message: format!("{tried}{though}"), ..report }).await
            }
            Some(Ok(_)) | None => {
                let answers = if has_agent { "; the guest's agent answers" } else { "" };
                Entry::Refused(
                    Report { message: format!("{tried}{answers}"), ..report }
                        .hint("see what the guest's console says: darwin-vz-nix logs --console"),
                )
            }
        }
    }

    /// Ends a guest that accepts no connections, so that another one can boot.
    async fn replace(&self, lease: &Lease, force: bool, why: Report) -> Entry {
        tracing::warn!(machine = %self.name, boot = lease.epoch(), "the guest is replaced: {why}");
        match self.handle.end(lease.epoch(), force).await {
            Ok(()) => Entry::after(lease, why).await,
            Err(report) => Entry::Refused(report),
        }
    }
}

#[cfg(test)]
mod tests;
