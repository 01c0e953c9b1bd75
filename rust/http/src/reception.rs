//! HTTP on a socket: who connects, before anything of theirs is believed, and how long they may take.
//!
//! Every user of this computer can connect to a TCP port and then say nothing. So a connection has little time for the head of
//! a request and for its body ([`super::given`]), and until its first request is let in, it is a stranger in the [`ConnectionSlots`]: the
//! oldest gives way to the newest. A request that is let in takes one of the [`Seats`]. The Unix socket, which only this user
//! can open, is no different, but has more of both.

use super::seats::{Limits, Seat, Seats};
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

/// How long to wait when the process has no descriptors left for a further connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// What one socket takes upon itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections none of whose requests was let in yet.
    strangers: usize,
    /// What those may do that were.
    limits: Limits,
    /// How long a request's head may take, and the pause before it.
    head: Duration,
}

impl Bounds {
    /// Those of loopback TCP.
    pub(super) const TCP: Bounds = Bounds {
        strangers: 256,
        limits: Limits { requests: 64, watchers: 32, guests: 64 },
        head: Duration::from_secs(10),
    };
    /// Those of the Unix socket, which is also the direct door.
    pub(super) const UNIX: Bounds = Bounds {
        strangers: 256,
        limits: Limits { requests: 256, watchers: 64, guests: 512 },
        head: Duration::from_secs(10),
    };
}

/// A socket that is listened on.
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

/// Serves until `stop`, and then what is under way. `name` is the socket's, for the log.
pub(super) async fn serve(
    name: &str,
    listener: impl Listener,
    routes: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    // A stranger's request comes with its connection, so that it needs no stay.
    let room = SlotLimits { unauthenticated: bounds.strangers, all: usize::MAX, stay: Duration::ZERO };
    let (slots, seats) = (ConnectionSlots::new(name, room), Seats::new(bounds.limits));
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = served.join_next() => {}
            client = listener.accept() => match client {
                Ok(client) => {
                    let seat = seats.seat(slots.acquire().await);
                    let (look, looked) = connection_slots::first_look();
                    let conversation = converse(client, routes.clone(), bounds.head, seat, stop.clone());
                    served.spawn(async move {
                        tokio::select! {
                            biased;
                            () = conversation => {}
                            () = look.is_done() => {}
                        }
                    });
                    // So that each is looked at once before a crowd behind it could take its place.
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

/// Answers one connection's requests.
async fn converse(
    client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    head: Duration,
    seat: Seat,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head);
    let (routes, theirs) = (TowerToHyperService::new(routes), seat.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(theirs.clone());
        routes.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(client), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        biased;
        // First: a request that is there already is read, and may show who it is.
        outcome = connection.as_mut() => outcome,
        () = seat.lost() => return tracing::debug!("a connection to the API gave way to others"),
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
    use crate::seats::seated;
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
        let routes = seated(Router::new().route("/", get(async || "here")));
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
    async fn who_does_not_come_to_the_end_of_a_head_is_closed() {
        let (address, ..) = served(Bounds { head: Duration::from_millis(50), ..Bounds::TCP }).await;
        for start in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert!(!said(&mut ask(address, start).await).await.contains("here"));
        }
        // One that was answered, and is silent since.
        assert!(said(&mut ask(address, KEPT).await).await.ends_with("here"));
        assert!(said(&mut ask(address, REQUEST).await).await.ends_with("here"));
    }

    #[tokio::test]
    async fn the_oldest_stranger_gives_way_and_a_request_gets_through() {
        let (address, ..) = served(Bounds { strangers: 2, ..Bounds::TCP }).await;
        let mut crowd = vec![ask(address, b"GET / HTTP/1.1\r\n").await];
        for _ in 0..3 {
            crowd.push(ask(address, b"").await);
        }
        assert!(said(&mut ask(address, REQUEST).await).await.ends_with("here"));
        for client in &mut crowd[..3] {
            assert_eq!(said(client).await, "");
        }
        assert!(timeout(Duration::from_millis(200), crowd[3].readable()).await.is_err(), "the newest has its place");
    }

    #[tokio::test]
    async fn what_has_asked_once_does_not_give_way_to_strangers() {
        let (address, ..) = served(Bounds { strangers: 1, ..Bounds::TCP }).await;
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
