//! The SSH door: a loopback port to which every user of this computer can connect.
//!
//! Who a client is, only the guest's sshd finds out; the door sees bytes. So a client is a stranger in the [`ConnectionSlots`] until the
//! guest has answered it a few times ([`Dialogue`]): it gives way to newer ones, and has limited time. One that has sent nothing
//! comes last: it waits a moment for its first words before it asks for a turn to get to the guest ([`Turns`]).

use super::{
    dialogue::Dialogue,
    turns::{Client, Limits, Turn, Turns},
};
use crate::connection::Connection;
use dvn_host::connection_slots::{self, ConnectionSlots, Slot, SlotLimits};
use dvn_types::{MachineName, Report};
use futures_util::future::BoxFuture;
use std::{
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long to wait when the process has no descriptors left for a further connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// How long a client is waited for that says nothing at once. Clients of SSH do.
const FIRST_WORDS: Duration = Duration::from_millis(250);

/// How long the door waits for the guest's answer to a client that is gone: see [`finish`].
const ABANDONED: Duration = Duration::from_secs(30);

/// Clients at once for which the guest starts a server.
const TURNS: Limits = Limits { all: 8, silent: 6, silent_beside: 2 };

/// What a door takes upon itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once. Further ones wait in the socket's queue.
    pub(super) room: SlotLimits,
    /// How long a client may be a stranger once it is connected to the guest: as long as OpenSSH gives a login.
    pub(super) login: Duration,
}

impl Default for Bounds {
    /// An sshd takes 3 MB until somebody has logged in, so that 200 fit into a guest of 1 GiB, and leave it some room; and so many
    /// builds that start at once are strangers for a moment.
    fn default() -> Self {
        let room = SlotLimits { unauthenticated: 200, all: 512, stay: Duration::from_secs(10) };
        Bounds { room, login: Duration::from_secs(120) }
    }
}

/// What is behind the port.
pub trait Behind: Send + Sync + 'static {
    /// Whose port it is.
    fn name(&self) -> &MachineName;
    /// Whether its guest runs now.
    fn is_running(&self) -> bool;
    /// The way to the guest's sshd. Dropping the future gives up.
    fn open(&self) -> BoxFuture<'_, Result<Connection, Report>>;
}

/// Lets ssh clients in. When this is dropped, all their connections end.
pub async fn serve_ssh(listener: TcpListener, machine: Arc<dyn Behind>) {
    serve_within(Bounds::default(), listener, machine).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, machine: Arc<dyn Behind>) {
    let mut clients = JoinSet::new();
    let slots = ConnectionSlots::new(format!("the ssh door of {}", machine.name()), bounds.room);
    let turns = Turns::new(TURNS, slots.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Takes no note of it, but frees it.
            Some(_) = clients.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let slot = Arc::new(slots.acquire().await);
                let (machine, turns) = (Arc::clone(&machine), turns.clone());
                let (look, looked) = connection_slots::first_look();
                clients.spawn(async move {
                    tokio::select! {
                        biased;
                        () = let_in(client, &*machine, &slot, &turns, bounds.login) => {}
                        () = look.is_done() => {}
                    }
                });
                // So that the door looks at each connection once before later ones can evict it.
                looked.await;
            }
            Err(e) => {
                tracing::warn!(machine = %machine.name(), "cannot accept a connection: {e}");
                sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn let_in(mut client: TcpStream, machine: &dyn Behind, slot: &Arc<Slot>, turns: &Turns, login: Duration) {
    // Interactive sessions and Nix's small questions suffer from Nagle's algorithm; it fails only on a dead socket.
    let _ = client.set_nodelay(true);
    let turn = tokio::select! {
        biased;
        // First: what the client has said already counts.
        turn = its_turn(&client, slot, turns) => turn,
        () = slot.evicted() => return gave_way(machine),
    };
    let Some(turn) = turn else { return };
    let mut opening = pin!(machine.open());
    let opened = {
        // Words that come while the guest boots count, too.
        let left = async {
            first_words(&client, slot).await;
            if !slot.is_silent() {
                pending().await
            }
        };
        tokio::select! {
            biased;
            opened = opening.as_mut() => Some(opened),
            () = left => None,
            () = slot.evicted() => {
                gave_way(machine);
                None
            }
        }
    };
    match opened {
        Some(Ok(connection)) => {
            let client = Dialogue::new(client, Arc::clone(slot), turn);
            let (abandoned, answered) = (client.abandoned(), client.answered());
            let gives_way = async {
                slot.evicted().await;
                gave_way(machine);
                // See `finish`.
                let _ = timeout(ABANDONED, answered.cancelled()).await;
            };
            tokio::select! {
                carried = connection.carry(client) => if let Err(e) = carried {
                    tracing::debug!(machine = %machine.name(), "a connection broke: {e}");
                },
                () = stays_a_stranger(slot, login) => {
                    tracing::debug!(machine = %machine.name(), "a connection did not log in within {login:?}");
                }
                () = gives_way => {}
                () = async { abandoned.cancelled().await; sleep(ABANDONED).await } => {}
            }
        }
        Some(Err(report)) => {
            tracing::warn!(machine = %machine.name(), "a connection was refused: {report}");
            // A server may send lines before its banner (RFC 4253, section 4.2); `ssh -v` shows them.
            let _ = client.write_all(format!("darwin-vz-nix: {report}\r\n").as_bytes()).await;
        }
        None => {
            drop(client);
            // A boot that only this client wanted need not go on.
            if machine.is_running() {
                finish(opening, slot, turn).await;
            }
        }
    }
}

fn gave_way(machine: &dyn Behind) {
    tracing::debug!(machine = %machine.name(), "a connection gave way to a newer one");
}

/// Opens the connection of a client that is gone, and keeps its turn until the guest has answered.
///
/// The guest starts a server for a client even if that leaves at once. If the turn ended with the client, a crowd whose
/// connections give way all the time would have the guest start servers faster than it can.
async fn finish(opening: Pin<&mut impl Future<Output = Result<Connection, Report>>>, slot: &Arc<Slot>, turn: Turn) {
    let answered = async {
        if let Ok(connection) = opening.await {
            let _ = connection.carry(Dialogue::<TcpStream>::without_client(Arc::clone(slot), turn)).await;
        }
    };
    let _ = timeout(ABANDONED, answered).await;
}

/// Waits for the client's turn to get to the guest. It speaks first, as clients of SSH do; or it does not. `None`: it has
/// left without a word.
async fn its_turn(client: &TcpStream, slot: &Slot, turns: &Turns) -> Option<Turn> {
    let mut words = pin!(first_words(client, slot));
    if timeout(FIRST_WORDS, words.as_mut()).await.is_err() {
        tokio::select! {
            () = words => {}
            turn = turns.wait(Client::Silent) => return Some(turn),
        }
    }
    if slot.is_silent() { None } else { Some(turns.wait(Client::Speaking).await) }
}

/// Waits until the client has sent something, which stays where it is, or has ended.
async fn first_words(client: &TcpStream, slot: &Slot) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        slot.set_speaking();
    }
}

/// Resolves when the client is still a stranger after that time.
async fn stays_a_stranger(slot: &Slot, login: Duration) {
    sleep(login).await;
    if !slot.is_unauthenticated() {
        pending().await
    }
}
