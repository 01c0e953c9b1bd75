//! A session: while a guest works, it holds every path that the guest knows, on the host.
//!
//! A guest's connection holds the paths that it asks for, but only while it lasts; the guest's Nix never asks again for
//! a path that it has in its own database. So a session has its own connection to the host's daemon, on which it holds
//! all known paths.
//!
//! No path is missed between the two: a session joins [`OpenSessions`](crate::open_sessions::OpenSessions) *before* it
//! reads the known paths, and a path is written to the known paths *before* the open sessions are asked to hold it.

use super::{
    known_paths::Sequence,
    open_sessions::HoldRequest,
    path::StorePath,
    state::Inner,
    upstream::{Upstream, UpstreamError},
};
use dvn_types::{Kind, Report};
use futures_util::future::try_join_all;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Requests that may wait for a session's connection at once.
const QUEUE: usize = 64;

/// Paths per connection of a session: the daemon runs one process per connection.
const PATHS_EACH: usize = 1000;

/// Most connections of a session.
const MOST_CONNECTIONS: usize = 4;

/// Holds what the guest relies on while it lives. Dropping it releases everything.
#[derive(Debug)]
pub struct Session {
    /// Full paths that the guest knows and that are gone from the host or have other contents now.
    pub vanished: Vec<String>,
    lost: watch::Receiver<bool>,
    /// Each keeps one connection open.
    requests: Vec<mpsc::Sender<HoldRequest>>,
}

impl Session {
    /// Resolves when the host's daemon has dropped the session, for instance by a restart: nothing is held any more,
    /// and the guest needs a new session before it continues. Pending for ever otherwise.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|&lost| lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether the host's daemon has dropped the session.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }
}

/// Opens a session.
pub async fn open(inner: &Arc<Inner>) -> Result<Session, Report> {
    let (lost_sender, lost) = watch::channel(false);
    if inner.record().closed().is_some() {
        let all = entries(inner).into_iter().map(|(path, _, sequence)| (path, sequence)).collect();
        return Ok(Session { vanished: vanished(inner, all), lost, requests: Vec::new() });
    }
    let (requests, requested) = mpsc::channel(QUEUE);
    inner.sessions.join(&requests);
    let known = entries(inner);
    let connections = (known.len() / PATHS_EACH).clamp(1, MOST_CONNECTIONS);
    let portions = known.chunks(known.len().div_ceil(connections).max(1)).chain(known.is_empty().then_some(&[][..]));
    let held = try_join_all(portions.map(|portion| hold(inner, portion))).await.map_err(|e| report(&e))?;

    let mut session = Session { vanished: Vec::new(), lost, requests: vec![requests] };
    let mut requested = Some(requested);
    for (upstream, gone) in held {
        session.vanished.extend(vanished(inner, gone));
        // The first connection also holds what the guest learns of later; the others only keep what they hold.
        let requested = requested.take().unwrap_or_else(|| {
            let (requests, requested) = mpsc::channel(1);
            session.requests.push(requests);
            requested
        });
        tokio::spawn(keep(Arc::clone(inner), upstream, requested, lost_sender.clone()));
    }
    Ok(session)
}

/// A known path, the hash of its contents, and its sequence number.
type Entry = (StorePath, Box<str>, Sequence);

fn entries(inner: &Inner) -> Vec<Entry> {
    inner
        .known_paths()
        .iter()
        .map(|(path, contents, sequence)| (path.clone(), contents.nar_hash.clone(), sequence))
        .collect()
}

/// Marks paths as vanished. Returns their full paths.
fn vanished(inner: &Inner, gone: Vec<(StorePath, Sequence)>) -> Vec<String> {
    inner.known_paths().mark_vanished(&gone);
    gone.into_iter().map(|(path, _)| path.within(&inner.logical_dir)).collect()
}

/// Holds a part of the known paths on a new connection, and finds which of them have vanished.
async fn hold(inner: &Inner, known: &[Entry]) -> Result<(Upstream, Vec<(StorePath, Sequence)>), UpstreamError> {
    let mut upstream = inner.upstream().await?;
    let paths: Vec<_> = known.iter().map(|(path, ..)| path.clone()).collect();
    let described = upstream.hold_and_describe(&paths).await?;
    let gone = known.iter().zip(described).filter(|((_, nar_hash, _), described)| {
        described.as_ref().is_none_or(|described| *described.nar_hash != **nar_hash)
    });
    Ok((upstream, gone.map(|((path, _, sequence), _)| (path.clone(), *sequence)).collect()))
}

/// Keeps a connection until the session is dropped or the daemon closes it.
async fn keep(
    inner: Arc<Inner>,
    mut upstream: Upstream,
    mut requested: mpsc::Receiver<HoldRequest>,
    lost_sender: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            request = requested.recv() => {
                let Some((path, done)) = request else { break };
                if let Err(e) = upstream.hold(&[path]).await {
                    tracing::warn!("the host's Nix daemon no longer holds the store paths that the guest uses: {e}");
                    break;
                }
                let _ = done.send(());
            }
            () = upstream.lost() => {
                tracing::warn!("the host's Nix daemon closed the connection that holds the store paths that the guest uses");
                break;
            }
        }
    }
    lost_sender.send_replace(true);
    drop((requested, upstream));
    inner.make_durable().await;
}

fn report(error: &UpstreamError) -> Report {
    let report = Report::new(Kind::Host, format!("the guest cannot use the host's store: {error}"));
    match error {
        UpstreamError::Unreachable(_) | UpstreamError::Silent(_) => {
            report.hint("check that Nix itself works on this host: `nix store info --store daemon`")
        }
        UpstreamError::Dialect(..) => report.hint("update Nix on this host"),
        UpstreamError::Wire(_) => {
            report.hint("if Nix's setting allowed-users is not `*`, add the user that darwin-vz-nix runs as")
        }
        UpstreamError::Refused(_) => report,
    }
}
