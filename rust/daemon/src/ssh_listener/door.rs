//! The SSH door: a loopback port to which every user of this computer can connect.
//!
//! Only the guest's sshd can authenticate a client; the door sees bytes. So a client counts as unauthenticated in the
//! [`ConnectionSlots`] until the guest has answered it a few times ([`Dialogue`]): newer clients can evict it, and its time is
//! limited. A client that has sent nothing comes last: the door waits a moment for its first bytes before it requests a turn for
//! it ([`Turns`]).

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

/// How long the door waits for the first bytes of a client. SSH clients send some at once.
const FIRST_BYTES: Duration = Duration::from_millis(250);

/// How long the door waits for the guest's answer to a client that is gone: see [`finish`].
const ABANDONED: Duration = Duration::from_secs(30);

/// For how many clients the guest may start a server at once.
const TURNS: Limits = Limits { all: 8, silent: 6, silent_beside: 2 };

/// The limits of a door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once. Further ones wait in the socket's queue.
    pub(super) room: SlotLimits,
    /// How long a client may stay unauthenticated once it is connected to the guest: OpenSSH's own limit for a login.
    pub(super) login: Duration,
}

impl Default for Bounds {
    /// An sshd takes 3 MB until its client has logged in, so 200 fit into a guest of 1 GiB and leave some memory. As many builds
    /// can start at once: each of their connections is unauthenticated for a moment.
    fn default() -> Self {
        let room = SlotLimits { unauthenticated: 200, all: 512, stay: Duration::from_secs(10) };
        Bounds { room, login: Duration::from_secs(120) }
    }
}

/// The machine behind the port.
pub trait Target: Send + Sync + 'static {
    /// The machine's name.
    fn name(&self) -> &MachineName;
    /// Whether its guest runs now.
    fn is_running(&self) -> bool;
    /// Connects to the guest's sshd. Dropping the future cancels that.
    fn open(&self) -> BoxFuture<'_, Result<Connection, Report>>;
}

/// Serves SSH clients. When this future is dropped, all their connections end.
pub async fn serve_ssh(listener: TcpListener, machine: Arc<dyn Target>) {
    serve_within(Bounds::default(), listener, machine).await;
}

pub(super) async fn serve_within(bounds: Bounds, listener: TcpListener, machine: Arc<dyn Target>) {
    let mut clients = JoinSet::new();
    let slots = ConnectionSlots::new(format!("the ssh door of {}", machine.name()), bounds.room);
    let turns = Turns::new(TURNS, slots.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Frees the task of a connection that has ended.
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
                // So that the door polls each connection once before later ones can evict it.
                looked.await;
            }
            Err(e) => {
                tracing::warn!(machine = %machine.name(), "cannot accept a connection: {e}");
                sleep(OUT_OF_DESCRIPTORS).await;
            }
        }
    }
}

async fn let_in(mut client: TcpStream, machine: &dyn Target, slot: &Arc<Slot>, turns: &Turns, login: Duration) {
    // Nagle's algorithm delays interactive sessions and Nix's small requests. Disabling it fails only on a dead socket.
    let _ = client.set_nodelay(true);
    let turn = tokio::select! {
        biased;
        // First: bytes that the client has already sent count.
        turn = wait_for_turn(&client, slot, turns) => turn,
        () = slot.evicted() => return log_eviction(machine),
    };
    let Some(turn) = turn else { return };
    let mut opening = pin!(machine.open());
    match while_it_is_there(&client, machine, slot, opening.as_mut()).await {
        Some(Ok(connection)) => {
            let client = Dialogue::new(client, Arc::clone(slot), turn);
            serve(connection, client, machine, slot, login).await;
        }
        Some(Err(report)) => {
            tracing::warn!(machine = %machine.name(), "a connection was refused: {report}");
            // A server may send lines before its banner (RFC 4253, section 4.2); `ssh -v` shows them.
            let _ = client.write_all(format!("darwin-vz-nix: {report}\r\n").as_bytes()).await;
        }
        None => {
            drop(client);
            // The client is gone: a boot only for it is cancelled.
            if machine.is_running() {
                finish(opening, slot, turn).await;
            }
        }
    }
}

/// Opens a connection to the guest. `None`: the client has disconnected without sending anything, or was evicted.
async fn while_it_is_there<T>(
    client: &TcpStream,
    machine: &dyn Target,
    slot: &Slot,
    opening: impl Future<Output = T>,
) -> Option<T> {
    // Bytes that arrive while the guest boots count, too.
    let left = async {
        first_bytes(client, slot).await;
        if !slot.is_silent() {
            pending().await
        }
    };
    tokio::select! {
        biased;
        opened = opening => Some(opened),
        () = left => None,
        () = slot.evicted() => {
            log_eviction(machine);
            None
        }
    }
}

/// Copies until the connection ends, the client is evicted, or it does not log in within `login`.
async fn serve(
    connection: Connection,
    client: Dialogue<TcpStream>,
    machine: &dyn Target,
    slot: &Slot,
    login: Duration,
) {
    let (abandoned, answered) = (client.abandoned(), client.answered());
    let evicted = async {
        slot.evicted().await;
        log_eviction(machine);
        // See `finish`.
        let _ = timeout(ABANDONED, answered.cancelled()).await;
    };
    tokio::select! {
        carried = connection.carry(client) => if let Err(e) = carried {
            tracing::debug!(machine = %machine.name(), "a connection broke: {e}");
        },
        () = stays_unauthenticated(slot, login) => {
            tracing::debug!(machine = %machine.name(), "a connection did not log in within {login:?}");
        }
        () = evicted => {}
        () = async { abandoned.cancelled().await; sleep(ABANDONED).await } => {}
    }
}

fn log_eviction(machine: &dyn Target) {
    tracing::debug!(machine = %machine.name(), "a newer connection evicted an unauthenticated one");
}

/// Opens the connection of a client that is gone, and keeps its turn until the guest has answered.
///
/// The guest starts a server for a client even if the client disconnects at once. If the turn ended with the client, a crowd
/// whose connections are evicted all the time would make the guest start servers faster than it can.
async fn finish(opening: Pin<&mut impl Future<Output = Result<Connection, Report>>>, slot: &Arc<Slot>, turn: Turn) {
    let answered = async {
        if let Ok(connection) = opening.await {
            let _ = connection.carry(Dialogue::<TcpStream>::without_client(Arc::clone(slot), turn)).await;
        }
    };
    let _ = timeout(ABANDONED, answered).await;
}

/// Waits for the client's turn to connect to the guest: as a speaking client if it sends something, as SSH clients do, otherwise
/// as a silent one. `None`: it has disconnected without sending anything.
async fn wait_for_turn(client: &TcpStream, slot: &Slot, turns: &Turns) -> Option<Turn> {
    let mut bytes = pin!(first_bytes(client, slot));
    if timeout(FIRST_BYTES, bytes.as_mut()).await.is_err() {
        tokio::select! {
            () = bytes => {}
            turn = turns.wait(Client::Silent) => return Some(turn),
        }
    }
    if slot.is_silent() { None } else { Some(turns.wait(Client::Speaking).await) }
}

/// Waits until the client has sent something, which remains in the socket, or has ended.
async fn first_bytes(client: &TcpStream, slot: &Slot) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        slot.set_speaking();
    }
}

/// Resolves if the client is still unauthenticated after that time.
async fn stays_unauthenticated(slot: &Slot, login: Duration) {
    sleep(login).await;
    if !slot.is_unauthenticated() {
        pending().await
    }
}
