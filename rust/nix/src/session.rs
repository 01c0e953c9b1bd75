//! A session: while a guest works, everything that it was ever told of is held on the host.
//!
//! Connections of the guest hold what they ask for, but only while they last; what its Nix has written into its own database
//! it never asks for again. So a session has a connection to the host's daemon of its own, on which the whole ledger is held.
//!
//! Nothing falls between the two: a session joins the [`Register`](crate::register::Register) *before* it reads the ledger, and a path is written to the
//! ledger *before* the sessions in the register are told to hold it.

use super::{
    ledger::Telling,
    path::StorePath,
    register::Order,
    state::Inner,
    upstream::{Upstream, UpstreamError},
};
use dvn_types::{Kind, Report};
use futures_util::future::try_join_all;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Orders that may wait for a session's connection at once.
const QUEUE: usize = 64;

/// Paths for which a session takes a further connection: the daemon serves each with a process of its own.
const PATHS_EACH: usize = 1000;

/// Connections that a session takes at most.
const MOST_CONNECTIONS: usize = 4;

/// Holds what the guest relies on for as long as it lives. Dropping it lets go.
#[derive(Debug)]
pub struct Session {
    /// Paths, in full, that the guest was told of and that are gone from the host, or have become something else.
    pub vanished: Vec<String>,
    lost: watch::Receiver<bool>,
    /// Each keeps one connection open.
    orders: Vec<mpsc::Sender<Order>>,
}

impl Session {
    /// Resolves when the host's daemon has dropped the session, for instance because it was restarted: nothing is held any
    /// more, and a new session is needed before the guest goes on. Pending for ever if that doesn't happen.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|&lost| lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// The same, at this moment.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }
}

/// Opens a session.
pub async fn open(inner: &Arc<Inner>) -> Result<Session, Report> {
    let (tell_lost, lost) = watch::channel(false);
    if inner.record().closed().is_some() {
        let all = entries(inner).into_iter().map(|(path, _, telling)| (path, telling)).collect();
        return Ok(Session { vanished: vanished(inner, all), lost, orders: Vec::new() });
    }
    let (orders, ordered) = mpsc::channel(QUEUE);
    inner.sessions.join(&orders);
    let told = entries(inner);
    let connections = (told.len() / PATHS_EACH).clamp(1, MOST_CONNECTIONS);
    let portions = told.chunks(told.len().div_ceil(connections).max(1)).chain(told.is_empty().then_some(&[][..]));
    let held = try_join_all(portions.map(|portion| hold(inner, portion))).await.map_err(|e| report(&e))?;

    let mut session = Session { vanished: Vec::new(), lost, orders: vec![orders] };
    let mut ordered = Some(ordered);
    for (upstream, gone) in held {
        session.vanished.extend(vanished(inner, gone));
        // What the guest is told meanwhile is held by the first connection; the others have nothing more to do.
        let ordered = ordered.take().unwrap_or_else(|| {
            let (orders, ordered) = mpsc::channel(1);
            session.orders.push(orders);
            ordered
        });
        tokio::spawn(keep(Arc::clone(inner), upstream, ordered, tell_lost.clone()));
    }
    Ok(session)
}

/// A path of the ledger, the hash of its contents, and which telling it was.
type Entry = (StorePath, Box<str>, Telling);

fn entries(inner: &Inner) -> Vec<Entry> {
    inner.ledger().told().map(|(path, told, telling)| (path.clone(), told.nar_hash.clone(), telling)).collect()
}

/// Notes in the ledger what has vanished; its full paths.
fn vanished(inner: &Inner, gone: Vec<(StorePath, Telling)>) -> Vec<String> {
    inner.ledger().mark_vanished(&gone);
    gone.into_iter().map(|(path, _)| path.within(&inner.logical_dir)).collect()
}

/// Holds a portion of the ledger on a connection of its own, and finds what of it has vanished.
async fn hold(inner: &Inner, told: &[Entry]) -> Result<(Upstream, Vec<(StorePath, Telling)>), UpstreamError> {
    let mut upstream = inner.upstream().await?;
    let paths: Vec<_> = told.iter().map(|(path, ..)| path.clone()).collect();
    let described = upstream.hold_and_describe(&paths).await?;
    let gone = told.iter().zip(described).filter(|((_, nar_hash, _), described)| {
        described.as_ref().is_none_or(|described| *described.nar_hash != **nar_hash)
    });
    Ok((upstream, gone.map(|((path, _, telling), _)| (path.clone(), *telling)).collect()))
}

/// Keeps a connection until the session is dropped or the daemon goes.
async fn keep(
    inner: Arc<Inner>,
    mut upstream: Upstream,
    mut ordered: mpsc::Receiver<Order>,
    tell_lost: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            order = ordered.recv() => {
                let Some((path, done)) = order else { break };
                if let Err(e) = upstream.hold(&[path]).await {
                    tracing::warn!("what the guest uses of the host's store is no longer held: {e}");
                    break;
                }
                let _ = done.send(());
            }
            () = upstream.lost() => {
                tracing::warn!("what the guest uses of the host's store is no longer held: the host's Nix daemon has closed the connection");
                break;
            }
        }
    }
    tell_lost.send_replace(true);
    drop((ordered, upstream));
    inner.make_durable().await;
}

fn report(error: &UpstreamError) -> Report {
    let report = Report::new(Kind::Host, format!("the host's store cannot be used by the guest: {error}"));
    match error {
        UpstreamError::Unreachable(_) | UpstreamError::Silent(_) => {
            report.hint("see whether Nix itself works on this host: `nix store info --store daemon`")
        }
        UpstreamError::Dialect(..) => report.hint("update Nix on this host"),
        UpstreamError::Wire(_) => {
            report.hint("if Nix's setting allowed-users is not `*`, add the user as whom darwin-vz-nix runs")
        }
        UpstreamError::Refused(_) => report,
    }
}
