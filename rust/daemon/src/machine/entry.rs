//! How a client gets into the guest: a lease, a clock that is right, the host's store held for it, a stream to the service.
//!
//! The rule: a client that met a guest on its way out gets the next one, once.

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
    pub async fn open(&self, service: Service) -> Result<Connection, Report> {
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

    async fn enter(&self, service: Service) -> Result<Connection, Entry> {
        let lease = {
            let _files = self.files.read().await;
            self.handle.acquire().await.map_err(Entry::Refused)?
        };
        // The host may have slept since, or the guest changed its clock, and what looks at dates comes first through this door.
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
        let visit = self.chronicle.visit(&self.name, service);
        Ok(Connection { lease, guest, visit, silence: self.settings.idle_timeout, _hold: hold })
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

    /// Decides about a guest that let a client down which tried from `began` on: see [`reach`].
    async fn not_reached(&self, lease: &Lease, began: Instant, report: Report) -> Entry {
        let (ended, answer) = {
            let ask = OptionFuture::from(lease.agent().map(|agent| agent.ask(Ask::Builds)));
            tokio::join!(timeout(ENDING, lease.guest().exited()), ask)
        };
        let is_this_one = self.handle.snapshot().boots == lease.epoch();
        if ended.is_ok() || !is_this_one || !matches!(self.handle.snapshot().phase, Phase::Running { .. }) {
            return Entry::GuestGone;
        }
        let failures = self.reach.failed(lease.epoch(), began);
        let tried = format!("{} ({failures} in a row)", report.message);
        let has_agent = answer.is_some();
        match answer {
            Some(Err(silence)) if self.settings.hang_timeout.is_some() => {
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

    /// Ends a guest that lets no client in, so that the next one takes its place.
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
