//! HTTP on loopback TCP: who connects, before anything of theirs is believed.
//!
//! Every user of this computer can connect and then say nothing. So a connection has little time for the head of a request,
//! and only so many are served at once; further ones wait where they cost nothing, in the socket's queue.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long to wait when the process has no descriptors left for a further connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// What one socket takes upon itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once.
    connections: usize,
    /// How long a request's head may take, and the pause before it.
    head: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { connections: 64, head: Duration::from_secs(10) }
    }
}

/// Serves until `stop`, and then what is under way.
pub(super) async fn serve(listener: TcpListener, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut served = JoinSet::new();
    let next = async || {
        // It is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((client, _)) => Some((client, place)),
            Err(error) => {
                tracing::warn!("the API cannot accept a connection: {error}");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                None
            }
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = served.join_next() => {}
            client = next() => if let Some((client, place)) = client {
                let (routes, stop) = (routes.clone(), stop.clone());
                served.spawn(async move {
                    converse(client, routes, bounds.head, stop).await;
                    drop(place);
                });
            }
        }
    }
    while served.join_next().await.is_some() {}
}

/// Answers one connection's requests.
async fn converse(client: TcpStream, routes: Router, head: Duration, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head);
    let connection = http.serve_connection(TokioIo::new(client), TowerToHyperService::new(routes)).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("a connection to the API broke: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::timeout,
    };

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const SOON: Duration = Duration::from_secs(20);

    async fn served(bounds: Bounds) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let routes = Router::new().route("/", get(async || "here"));
        (address, stop.clone(), tokio::spawn(serve(listener, routes, bounds, stop)))
    }

    async fn said(client: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(SOON, client.read_to_string(&mut text)).await.expect("it is closed").unwrap_or_default();
        text
    }

    #[tokio::test]
    async fn who_does_not_come_to_the_end_of_a_head_is_closed() {
        let (address, ..) = served(Bounds { head: Duration::from_millis(50), ..Bounds::default() }).await;
        for start in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(start).await.unwrap();
            assert!(!said(&mut client).await.contains("here"));
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        assert!(said(&mut client).await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_crowd_waits_for_a_place() {
        let (address, ..) = served(Bounds { connections: 1, ..Bounds::default() }).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        assert!(timeout(Duration::from_millis(200), second.readable()).await.is_err(), "there is one place");
        drop(first);
        assert!(said(&mut second).await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_stop_ends_it() {
        let (address, stop, serving) = served(Bounds::default()).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        idle.readable().await.unwrap();
        stop.cancel();
        timeout(SOON, serving).await.expect("it ends").unwrap();
    }
}
