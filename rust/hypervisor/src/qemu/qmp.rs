//! A client of QEMU's monitor protocol (QMP): newline-separated JSON; greeting, capabilities, then commands and events.
//!
//! QEMU connects to this program, so there is no polling at start, and a closed connection means that QEMU has ended.

use serde_json::{Value, json};
use std::{collections::VecDeque, io};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{mpsc, oneshot, watch},
};

/// Longest message of QEMU in bytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// A command in QEMU's format, and the channel for its answer.
type Command = (Value, oneshot::Sender<Result<Value, String>>);

/// Sends commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Qmp {
    commands: mpsc::Sender<Command>,
    /// QEMU's status of the current migration (saving or loading the guest); empty before the first.
    migration: watch::Receiver<String>,
    /// QEMU's name of the device that was removed last; empty before the first.
    removed: watch::Receiver<String>,
}

/// Why the guest was shut down, from the `SHUTDOWN` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered itself off.
    Guest,
    /// The guest was reset, as it is after a kernel panic.
    Reset,
    /// The guest reported a kernel panic to QEMU.
    Panic,
    /// The command `quit`, which ends a guest that has been saved.
    Quit,
    /// Anything else, as QEMU names it.
    Other(String),
}

impl Qmp {
    /// Reads QEMU's greeting on a connection that QEMU opened, and negotiates capabilities. `shutdown` receives the
    /// causes of shutdowns.
    pub async fn greet<S>(stream: S, shutdown: mpsc::UnboundedSender<ShutdownCause>) -> io::Result<Qmp>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let greeting = read(&mut reader).await?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("QEMU's monitor greeted with {greeting}")));
        }
        send(&mut writer, &json!({ "execute": "qmp_capabilities" })).await?;
        let (commands, queue) = mpsc::channel(8);
        let (migration_out, migration) = watch::channel(String::new());
        let (removed_out, removed) = watch::channel(String::new());
        let events = Events { shutdown, migration: migration_out, removed: removed_out };
        tokio::spawn(async move {
            // Ends when QEMU closes the monitor or the last `Qmp` is dropped. The error is of no use to either.
            let _ = converse(reader, writer, queue, events).await;
        });
        Ok(Qmp { commands, migration, removed })
    }

    /// Runs a command without arguments. Returns QEMU's answer; the error is QEMU's message.
    pub async fn run(&self, command: &str) -> Result<Value, String> {
        self.ask(json!({ "execute": command })).await
    }

    /// Runs a command with arguments. Returns QEMU's answer; the error is QEMU's message.
    pub async fn run_with(&self, command: &str, arguments: Value) -> Result<Value, String> {
        self.ask(json!({ "execute": command, "arguments": arguments })).await
    }

    async fn ask(&self, command: Value) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The migration that the next command starts. Must be called before that command, so that no event is missed.
    pub fn migration(&self) -> Migration {
        let mut status = self.migration.clone();
        status.mark_unchanged();
        Migration { qmp: self.clone(), status }
    }

    /// The removal that the next command requests. Must be called before that command, so that no event is missed.
    pub fn removal(&self) -> Removal {
        let mut removed = self.removed.clone();
        removed.mark_unchanged();
        Removal(removed)
    }
}

/// The removal of a device, which the guest has to agree to.
pub struct Removal(watch::Receiver<String>);

impl Removal {
    /// Waits until QEMU has removed the device of this name. Cancel-safe.
    pub async fn of(&mut self, device: &str) -> Result<(), String> {
        loop {
            self.0.changed().await.map_err(|_| gone())?;
            if *self.0.borrow() == device {
                return Ok(());
            }
        }
    }
}

/// A migration: saving or loading the guest. QEMU sends its events only with the capability `events`.
pub struct Migration {
    qmp: Qmp,
    status: watch::Receiver<String>,
}

impl Migration {
    /// Waits for its end. The error is QEMU's reason. Cancel-safe.
    pub async fn done(&mut self) -> Result<(), String> {
        loop {
            self.status.changed().await.map_err(|_| gone())?;
            let status = self.status.borrow().clone();
            match status.as_str() {
                "completed" => return Ok(()),
                "failed" | "cancelled" => {
                    let answer = self.qmp.run("query-migrate").await.unwrap_or_default();
                    return Err(answer["error-desc"].as_str().unwrap_or("QEMU gives no reason").to_owned());
                }
                _ => {}
            }
        }
    }
}

fn gone() -> String {
    "QEMU is gone".to_owned()
}

/// The receivers of QEMU's events.
struct Events {
    shutdown: mpsc::UnboundedSender<ShutdownCause>,
    migration: watch::Sender<String>,
    removed: watch::Sender<String>,
}

impl Events {
    fn publish(&self, event: &Value) {
        let data = &event["data"];
        match event["event"].as_str() {
            Some("SHUTDOWN") => {
                let _ = self.shutdown.send(cause(data));
            }
            Some("MIGRATION") => {
                self.migration.send_replace(data["status"].as_str().unwrap_or_default().to_owned());
            }
            // Parts of a device have no name.
            Some("DEVICE_DELETED") => {
                if let Some(device) = data["device"].as_str() {
                    self.removed.send_replace(device.to_owned());
                }
            }
            _ => {}
        }
    }
}

async fn converse<R, W>(
    mut reader: R,
    mut writer: W,
    mut queue: mpsc::Receiver<Command>,
    events: Events,
) -> io::Result<()>
where
    R: AsyncBufReadExt + Unpin + Send + 'static,
    W: AsyncWrite + Unpin,
{
    // QEMU answers in order. The first answer is to `qmp_capabilities`, and is dropped.
    let mut waiting: VecDeque<Option<oneshot::Sender<Result<Value, String>>>> = VecDeque::from([None]);
    // A line may arrive in pieces, so a separate task reads it and is never cancelled halfway.
    let (messages_in, mut messages) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = read(&mut reader) => message,
                // The last `Qmp` was dropped. Dropping this half closes the connection.
                () = messages_in.closed() => return,
            };
            let Ok(message) = message else { return };
            if messages_in.send(message).await.is_err() {
                return;
            }
        }
    });
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { return Ok(()) };
                if message.get("event").is_some() {
                    events.publish(&message);
                } else if let Some(Some(reply)) = waiting.pop_front() {
                    let _ = reply.send(match message.get("return") {
                        Some(value) => Ok(value.clone()),
                        None => Err(message["error"]["desc"].as_str().unwrap_or("QEMU refused").to_owned()),
                    });
                }
            }
            command = queue.recv() => {
                let Some((command, reply)) = command else { return Ok(()) };
                // QEMU may have ended, and its last event, which says why, may not be read yet. So this is not the end: the reader
                // finds it. The dropped `reply` says that QEMU is gone.
                if send(&mut writer, &command).await.is_ok() {
                    waiting.push_back(Some(reply));
                }
            }
        }
    }
}

fn cause(data: &Value) -> ShutdownCause {
    match data["reason"].as_str() {
        Some("guest-shutdown") => ShutdownCause::Guest,
        Some("guest-reset") => ShutdownCause::Reset,
        Some("guest-panic") => ShutdownCause::Panic,
        Some("host-qmp-quit") => ShutdownCause::Quit,
        other => ShutdownCause::Other(other.unwrap_or("for no stated reason").to_owned()),
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, command: &Value) -> io::Result<()> {
    writer.write_all(format!("{command}\n").as_bytes()).await
}

async fn read<R: AsyncBufReadExt + Unpin>(reader: &mut R) -> io::Result<Value> {
    let mut line = Vec::new();
    let n = (&mut *reader).take(MAX_MESSAGE).read_until(b'\n', &mut line).await?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
// The fuzz target includes this file by its path, so the compiler would search the module elsewhere.
#[path = "qmp/tests.rs"]
mod tests;
