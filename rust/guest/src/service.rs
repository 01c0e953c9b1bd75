//! The host's end of the service protocol (`dvn_protocol::service`): requests to the agent of a guest with its own
//! operating system. Each request is a connection of its own.

use dvn_hypervisor::{Guest, GuestAgent, GuestStream, agent::no_answer};
use dvn_protocol::{
    VERSION, messages,
    messages::{Ask, MAX_LINE},
    service::{self, Address, Answer, Call, Exec, Hello, Reply, SERVICE_PORT},
};
use dvn_types::{Kind, Report};
use futures_util::future::BoxFuture;
use std::{fmt, sync::Weak, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Time limit for a request, from the connection to the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A command that was started.
pub struct Started {
    /// Its process number in the guest.
    pub pid: u32,
    /// The connection, whose next byte is the first of a frame. To close it ends the command, unless it is detached.
    pub frames: GuestStream,
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Describes agent and guest. Fails if the agent speaks another protocol version.
pub async fn hello(guest: &dyn Guest) -> Result<Hello, Report> {
    let (reply, _) = call(guest, &Call::Hello).await?;
    let Reply::Hello(hello) = reply else { return Err(unexpected(&reply)) };
    if hello.version != VERSION {
        let versions = format!("protocol {}, and this program speaks {VERSION}", hello.version);
        return Err(Report::new(Kind::Guest, format!("the agent in the guest speaks {versions}"))
            .hint("install the agent of this release in the guest: darwin-vz-agent install"));
    }
    Ok(hello)
}

/// The guest's addresses, those of hardware interfaces first.
pub async fn addresses(guest: &dyn Guest) -> Result<Vec<Address>, Report> {
    match call(guest, &Call::Addresses).await?.0 {
        Reply::Addresses { addresses } => Ok(addresses),
        other => Err(unexpected(&other)),
    }
}

/// Sets the guest's clock, in nanoseconds since 1970.
pub async fn set_clock(guest: &dyn Guest, unix_nanos: u64) -> Result<(), Report> {
    done(call(guest, &Call::SetClock { unix_nanos }).await?.0)
}

/// Asks the guest to power off. Resolves when the agent has accepted, before the guest is off.
pub async fn shut_down(guest: &dyn Guest) -> Result<(), Report> {
    done(call(guest, &Call::ShutDown).await?.0)
}

/// Starts a command. An error is the reason why it did not start.
pub async fn exec(guest: &dyn Guest, exec: Exec) -> Result<Started, Report> {
    match call(guest, &Call::Exec(exec)).await? {
        (Reply::Started { pid }, frames) => Ok(Started { pid, frames }),
        (other, _) => Err(unexpected(&other)),
    }
}

fn done(reply: Reply) -> Result<(), Report> {
    if reply == Reply::Done { Ok(()) } else { Err(unexpected(&reply)) }
}

fn unexpected(reply: &Reply) -> Report {
    Report::new(Kind::Guest, format!("the agent in the guest gave the answer of another request: {reply:?}"))
}

/// Sends a request on a new connection, and returns its reply and the connection.
async fn call(guest: &dyn Guest, call: &Call) -> Result<(Reply, GuestStream), Report> {
    let line = service::line(call).map_err(|why| {
        Report::new(Kind::Config, format!("the request to the agent in the guest is too long: {why}"))
            .hint("shorten the arguments or the environment; a command can also read its input")
    })?;
    let answered = async {
        let mut stream = guest.connect(SERVICE_PORT).await.map_err(|e| absent(&e.message))?;
        stream.write_all(&line).await.map_err(|e| absent(&e.to_string()))?;
        let answer = read_line(&mut stream).await?;
        Ok((answer, stream))
    };
    let (answer, stream) = timeout(TIMEOUT, answered).await.unwrap_or_else(|_| Err(no_answer(TIMEOUT)))?;
    match serde_json::from_slice::<Answer>(&answer) {
        Ok(Ok(reply)) => Ok((reply, stream)),
        Ok(Err(why)) => Err(Report::new(Kind::Guest, why)),
        Err(e) => Err(broken(&format!("its answer is invalid: {e}"))),
    }
}

/// Reads up to the first newline, and not one byte more: a command's frames may follow.
async fn read_line(stream: &mut GuestStream) -> Result<Vec<u8>, Report> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => return Ok(line),
            Ok(_) if line.len() + 1 >= MAX_LINE => return Err(broken("its answer is too long")),
            Ok(byte) => line.push(byte),
            Err(e) if line.is_empty() => return Err(absent(&format!("the connection ended without an answer: {e}"))),
            Err(e) => return Err(broken(&e.to_string())),
        }
    }
}

/// Nothing answers on the agent's port, for the reason `why`.
fn absent(why: &str) -> Report {
    Report::new(Kind::Guest, format!("no agent answers in the guest: {why}"))
        .hint("if the guest has started, install the agent in it: run `darwin-vz-agent install` there as root")
}

fn broken(why: &str) -> Report {
    Report::new(Kind::Guest, format!("the request to the agent in the guest failed: {why}"))
}

/// The agent of such a guest, for requests that both protocols have. It does not keep the guest alive.
pub struct ServiceAgent(Weak<dyn Guest>);

impl ServiceAgent {
    /// The agent of this guest, whether it is installed or not.
    pub fn new(guest: Weak<dyn Guest>) -> Self {
        ServiceAgent(guest)
    }

    async fn perform(&self, ask: Ask) -> Result<messages::Answer, Report> {
        let guest = self.0.upgrade().ok_or_else(|| Report::new(Kind::Guest, "the guest has ended"))?;
        match ask {
            Ask::SetClock { unix_nanos } => set_clock(&*guest, unix_nanos).await?,
            Ask::ShutDown => shut_down(&*guest).await?,
            other => {
                let message = format!("the agent of this guest does not support this request: {other:?}");
                return Err(Report::new(Kind::Guest, message));
            }
        }
        Ok(messages::Answer::Done)
    }
}

impl fmt::Debug for ServiceAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceAgent")
    }
}

impl GuestAgent for ServiceAgent {
    fn ask(&self, ask: Ask) -> BoxFuture<'_, Result<messages::Answer, Report>> {
        Box::pin(self.perform(ask))
    }
}

#[cfg(test)]
mod tests;
