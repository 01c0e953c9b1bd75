//! The way of a client into a guest: a lease first, then a stream to the guest, then bytes both ways.
//!
//! A client that connects while no guest runs is simply held until one does. What is true of every door: the lease lives
//! exactly as long as the connection, and dozes while nothing has moved on it for the idle timeout. So a connection that
//! somebody forgot does not keep the guest for ever; its guest goes one idle timeout later, unless something builds there.

mod carry;
#[cfg(test)]
mod crowd;

pub use carry::{Carried, carry};

use crate::{
    api::types::Service,
    daemon::{Machine, Visit},
    guest::sharing::Hold,
    hypervisor::GuestStream,
    supervisor::Lease,
};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// How long to wait when the process has no descriptors left for a further connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Looks at a connection in one time of allowed silence, and the shortest time between two.
const LOOKS: u32 = 4;
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// A client's way to one service of a guest. While it lives the guest is in use.
pub struct Passage {
    pub(crate) lease: Lease,
    pub(crate) guest: GuestStream,
    pub(crate) visit: Visit,
    /// How long the connection may be silent before it no longer keeps the guest; `None` for ever.
    pub(crate) silence: Option<Duration>,
    /// What it may use of the host's store stays there for as long.
    pub(crate) _hold: Option<Arc<Hold>>,
}

impl Passage {
    /// Carries bytes both ways until both ends are done. Returns the bytes sent to and received from the guest.
    pub async fn carry<S>(self, client: S) -> std::io::Result<(u64, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut lease = self.lease;
        let carried = &self.visit.carried;
        let outcome = tokio::select! {
            outcome = carry(client, self.guest, carried) => outcome,
            () = doze_in_silence(&mut lease, carried, self.silence) => Ok(()),
        };
        drop(lease);
        outcome.map(|()| (self.visit.carried.sent(), self.visit.carried.received()))
    }
}

/// Looks from time to time whether something has moved. Never ends.
async fn doze_in_silence(lease: &mut Lease, carried: &Carried, silence: Option<Duration>) {
    let Some(silence) = silence else { return pending().await };
    // Often enough that a connection which wakes up is noticed well before its guest is stopped as idle.
    let pause = (silence / LOOKS).max(SHORTEST_LOOK);
    let moved = || (carried.sent(), carried.received());
    let (mut before, mut silent_for) = (moved(), Duration::ZERO);
    loop {
        tokio::time::sleep(pause).await;
        match moved() {
            now if now == before => {
                silent_for = silent_for.saturating_add(pause);
                if silent_for >= silence {
                    lease.doze();
                }
            }
            now => {
                (before, silent_for) = (now, Duration::ZERO);
                lease.wake();
            }
        }
    }
}

/// Connections that one SSH door serves at once; further ones wait in the socket's queue. Every user of this computer can
/// connect, and nobody knows who it is before the guest's sshd does.
const PLACES: usize = 512;

/// Lets ssh clients in, for as long as the program runs.
pub async fn serve_ssh(listener: TcpListener, machine: Arc<Machine>) {
    serve_within(PLACES, listener, machine).await;
}

async fn serve_within(connections: usize, listener: TcpListener, machine: Arc<Machine>) {
    let places = Arc::new(Semaphore::new(connections));
    let mut told = false;
    loop {
        match places.available_permits() {
            0 if !told => {
                tracing::warn!(machine = %machine.name(), connections, "more clients than are let in at once; they wait");
                told = true;
            }
            free if free > connections / 2 => told = false,
            _ => {}
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let machine = Arc::clone(&machine);
                tokio::spawn(async move {
                    let_in(client, machine).await;
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!(machine = %machine.name(), "cannot accept a connection: {e}");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn let_in(mut client: TcpStream, machine: Arc<Machine>) {
    // Interactive sessions and Nix's small questions suffer from Nagle's algorithm; it fails only on a dead socket.
    let _ = client.set_nodelay(true);
    match machine.open(Service::Ssh).await {
        Ok(passage) => {
            if let Err(e) = passage.carry(client).await {
                tracing::debug!(machine = %machine.name(), "a connection broke: {e}");
            }
        }
        Err(report) => {
            tracing::warn!(machine = %machine.name(), "a connection was refused: {report}");
            // A server may send lines before its banner (RFC 4253, section 4.2); `ssh -v` shows them.
            let _ = client.write_all(format!("darwin-vz-nix: {report}\r\n").as_bytes()).await;
        }
    }
}
