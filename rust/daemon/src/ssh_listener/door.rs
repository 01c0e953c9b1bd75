//! The SSH door: a loopback port to which every user of this computer can connect.
//!
//! Who a client is, only the guest's sshd finds out; the door sees bytes. So a client is a stranger in the [`Lobby`] until the
//! guest has answered it a few times ([`Dialogue`]): it gives way to newer ones, and has limited time. One that has sent nothing
//! comes last: it waits a moment for its first words before it asks for a turn to get to the guest ([`Turns`]).

use super::{
    dialogue::Dialogue,
    turns::{Client, Limits, Turn, Turns},
};
use crate::connection::Connection;
use dvn_host::lobby::{Lobby, Place, Room};
use dvn_types::{MachineName, Report};
use futures_util::future::BoxFuture;
use std::{future::pending, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

/// How long to wait when the process has no descriptors left for a further connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long a client is waited for that says nothing at once. Clients of SSH do.
const FIRST_WORDS: Duration = Duration::from_millis(250);

/// Clients at once for which the guest starts a server.
const TURNS: Limits = Limits { all: 8, silent: 6, silent_beside: 2 };

/// What a door takes upon itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once. Further ones wait in the socket's queue.
    pub(super) room: Room,
    /// How long a client may be a stranger once it is connected to the guest: as long as OpenSSH gives a login.
    pub(super) login: Duration,
}

impl Default for Bounds {
    /// An sshd takes 3 MB until somebody has logged in, so that 200 fit into a guest of 1 GiB, and leave it some room; and so many
    /// builds that start at once are strangers for a moment.
    fn default() -> Self {
        let room = Room { strangers: 200, all: 512, stay: Duration::from_secs(10) };
        Bounds { room, login: Duration::from_secs(120) }
    }
}

/// What is behind the port.
pub trait Behind: Send + Sync + 'static {
    /// Whose port it is.
    fn name(&self) -> &MachineName;
    /// The way to the guest's sshd. Dropping the future gives up.
    fn open(&self) -> BoxFuture<'_, Result<Connection, Report>>;
}

/// Lets ssh clients in. When this is dropped, all their connections end.
pub async fn serve_ssh(listener: TcpListener, machine: Arc<dyn Behind>) {
    serve_within(Bounds::default(), listener, machine).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, machine: Arc<dyn Behind>) {
    let mut clients = JoinSet::new();
    let lobby = Lobby::new(format!("the ssh door of {}", machine.name()), bounds.room);
    let turns = Turns::new(TURNS, lobby.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Takes no note of it, but frees it.
            Some(_) = clients.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let place = Arc::new(lobby.enter().await);
                let (machine, turns) = (Arc::clone(&machine), turns.clone());
                clients.spawn(async move {
                    tokio::select! {
                        biased;
                        // First: what the client has said already counts.
                        () = let_in(client, &*machine, &place, &turns, bounds.login) => {}
                        () = place.lost() => {
                            tracing::debug!(machine = %machine.name(), "a connection gave way to a newer one");
                        }
                    }
                });
                // So that each is looked at once before a crowd behind it could take its place.
                yield_now().await;
            }
            Err(e) => {
                tracing::warn!(machine = %machine.name(), "cannot accept a connection: {e}");
                sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn let_in(mut client: TcpStream, machine: &dyn Behind, place: &Arc<Place>, turns: &Turns, login: Duration) {
    // Interactive sessions and Nix's small questions suffer from Nagle's algorithm; it fails only on a dead socket.
    let _ = client.set_nodelay(true);
    let Some(turn) = its_turn(&client, place, turns).await else { return };
    let opened = {
        // Words that come while the guest boots count, too.
        let left = async {
            first_words(&client, place).await;
            if !place.is_silent() {
                pending().await
            }
        };
        tokio::select! { opened = machine.open() => opened, () = left => return }
    };
    match opened {
        Ok(passage) => {
            let client = Dialogue::new(client, Arc::clone(place), turn);
            tokio::select! {
                carried = passage.carry(client) => if let Err(e) = carried {
                    tracing::debug!(machine = %machine.name(), "a connection broke: {e}");
                },
                () = stays_a_stranger(place, login) => {
                    tracing::debug!(machine = %machine.name(), "a connection did not log in within {login:?}");
                }
            }
        }
        Err(report) => {
            tracing::warn!(machine = %machine.name(), "a connection was refused: {report}");
            // A server may send lines before its banner (RFC 4253, section 4.2); `ssh -v` shows them.
            let _ = client.write_all(format!("darwin-vz-nix: {report}\r\n").as_bytes()).await;
        }
    }
}

/// Waits for the client's turn to get to the guest. It speaks first, as clients of SSH do; or it does not. `None`: it has
/// left without a word.
async fn its_turn(client: &TcpStream, place: &Place, turns: &Turns) -> Option<Turn> {
    let mut words = pin!(first_words(client, place));
    if timeout(FIRST_WORDS, words.as_mut()).await.is_err() {
        tokio::select! {
            () = words => {}
            turn = turns.wait(Client::Silent) => return Some(turn),
        }
    }
    if place.is_silent() { None } else { Some(turns.wait(Client::Speaking).await) }
}

/// Waits until the client has sent something, which stays where it is, or has ended.
async fn first_words(client: &TcpStream, place: &Place) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        place.speaks();
    }
}

/// Resolves when the client is still a stranger after that time.
async fn stays_a_stranger(place: &Place, login: Duration) {
    sleep(login).await;
    if !place.is_stranger() {
        pending().await
    }
}
