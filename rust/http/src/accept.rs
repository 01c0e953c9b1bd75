//! Accepts connections and serves HTTP on them, with limits for unauthenticated clients.
//!
//! Any user of this computer can connect to a TCP port and then send nothing. So a connection has little time for the
//! head of a request and for its body ([`super::given`]), and until its first request is authenticated it waits in the
//! [`ConnectionSlots`], where a new connection evicts the oldest. An authenticated request takes one of the [`RequestSlots`]. The
//! Unix socket, which only this user can open, works the same with larger limits.

use super::connection_limits::{Limits, RequestSlot, RequestSlots};
use axum::Router;
use dvn_host::connection_slots::{self, ConnectionSlots, SlotLimits};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Delay before accepting again when the process has no free descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// The limits of one socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections without an authenticated request yet.
    unauthenticated: usize,
    /// Limits for the others.
    limits: Limits,
    /// How long a request's head may take, and the pause before it.
    head: Duration,
}

impl Bounds {
    /// The limits of loopback TCP.
    pub(super) const TCP: Bounds = Bounds {
        unauthenticated: 256,
        limits: Limits { requests: 64, watchers: 32, guests: 64 },
        head: Duration::from_secs(10),
    };
    /// The limits of the Unix socket, which also serves the direct door.
    pub(super) const UNIX: Bounds = Bounds {
        unauthenticated: 256,
        limits: Limits { requests: 256, watchers: 64, guests: 512 },
        head: Duration::from_secs(10),
    };
}

/// A listening socket.
pub(super) trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

/// Serves until `stop`, then finishes the requests in progress. `name` is the socket's, for the log.
pub(super) async fn serve(
    name: &str,
    listener: impl Listener,
    routes: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    // A request arrives with its connection, so an unauthenticated connection needs no guaranteed time.
    let limits = SlotLimits { unauthenticated: bounds.unauthenticated, all: usize::MAX, stay: Duration::ZERO };
    let (connections, requests) = (ConnectionSlots::new(name, limits), RequestSlots::new(bounds.limits));
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = served.join_next() => {}
            client = listener.accept() => match client {
                Ok(client) => {
                    let slot = requests.slot(connections.acquire().await);
                    let (look, looked) = connection_slots::first_look();
                    let serving = serve_connection(client, routes.clone(), bounds.head, slot, stop.clone());
                    served.spawn(async move {
                        tokio::select! {
                            biased;
                            () = serving => {}
                            () = look.is_done() => {}
                        }
                    });
                    // So that each connection is looked at once before later ones can evict it.
                    looked.await;
                }
                Err(error) => {
                    tracing::warn!("{name} cannot accept a connection: {error}");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    }
    while served.join_next().await.is_some() {}
}

/// Serves the requests of one connection.
async fn serve_connection(
    client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    head: Duration,
    slot: RequestSlot,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head);
    let (routes, request_slot) = (TowerToHyperService::new(routes), slot.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(request_slot.clone());
        routes.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(client), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        biased;
        // First: a request that has already arrived is read, and may authenticate the connection.
        outcome = connection.as_mut() => outcome,
        () = slot.evicted() => return tracing::debug!("a connection to the API was displaced by others"),
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
    use crate::connection_limits::with_slots;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::timeout,
    };

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const SOON: Duration = Duration::from_secs(20);

    async fn served(bounds: Bounds) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let routes = with_slots(Router::new().route("/", get(async || "here")));
        let serving = serve("a socket", listener, routes, bounds, stop.clone());
        (address, stop, tokio::spawn(serving))
    }

    async fn said(client: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(SOON, client.read_to_string(&mut text)).await.expect("it is closed").unwrap_or_default();
        text
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request).await.unwrap();
        client
    }

    #[tokio::test]
    async fn an_incomplete_head_closes_the_connection() {
        let (address, ..) = served(Bounds { head: Duration::from_millis(50), ..Bounds::TCP }).await;
        for start in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert!(!said(&mut ask(address, start).await).await.contains("here"));
        }
        // An answered connection that is silent since.
        assert!(said(&mut ask(address, KEPT).await).await.ends_with("here"));
        assert!(said(&mut ask(address, REQUEST).await).await.ends_with("here"));
    }

    #[tokio::test]
    async fn the_oldest_unauthenticated_connection_is_displaced_and_a_request_is_answered() {
        let (address, ..) = served(Bounds { unauthenticated: 2, ..Bounds::TCP }).await;
        let mut crowd = vec![ask(address, b"GET / HTTP/1.1\r\n").await];
        for _ in 0..3 {
            crowd.push(ask(address, b"").await);
        }
        assert!(said(&mut ask(address, REQUEST).await).await.ends_with("here"));
        for client in &mut crowd[..3] {
            assert_eq!(said(client).await, "");
        }
        assert!(timeout(Duration::from_millis(200), crowd[3].readable()).await.is_err(), "the newest stays");
    }

    #[tokio::test]
    async fn unauthenticated_connections_do_not_displace_an_authenticated_one() {
        let (address, ..) = served(Bounds { unauthenticated: 1, ..Bounds::TCP }).await;
        let mut known = ask(address, KEPT).await;
        known.readable().await.unwrap();
        let crowd: Vec<_> = futures_util::future::join_all((0..50).map(|_| ask(address, b"GET"))).await;
        known.write_all(REQUEST).await.unwrap();
        assert_eq!(said(&mut known).await.matches("here").count(), 2);
        drop(crowd);
    }

    #[tokio::test]
    async fn a_stop_ends_it() {
        let (address, stop, serving) = served(Bounds::TCP).await;
        let idle = ask(address, KEPT).await;
        idle.readable().await.unwrap();
        stop.cancel();
        timeout(SOON, serving).await.expect("it ends").unwrap();
    }
}
