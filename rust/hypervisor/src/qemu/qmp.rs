//! A client of QEMU's monitor protocol (QMP): newline-separated JSON; greeting, capabilities, then commands and events.
//!
//! QEMU dials us, so there is nothing to poll at start, and a closed connection means that QEMU is gone.

use serde_json::{Value, json};
use std::{collections::VecDeque, io};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::{mpsc, oneshot},
};

/// No message of QEMU is longer, in bytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// A command on its way.
type Command = (&'static str, oneshot::Sender<Result<Value, String>>);

/// Sends commands. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Qmp {
    commands: mpsc::Sender<Command>,
}

/// Why the guest was shut down, by the `SHUTDOWN` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// The guest powered itself off.
    Guest,
    /// The guest was reset, which after a panic is how it ends.
    Reset,
    /// The guest told QEMU that its kernel panicked.
    Panic,
    /// Anything else, as QEMU names it.
    Other(String),
}

impl Qmp {
    /// Greets QEMU on a connection that it opened. `shutdown` receives the causes of shutdowns.
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
        send(&mut writer, "qmp_capabilities").await?;
        let (commands, queue) = mpsc::channel(8);
        tokio::spawn(async move {
            // Ends when QEMU closes the monitor or the last `Qmp` goes; either way nobody waits for an error.
            let _ = converse(reader, writer, queue, shutdown).await;
        });
        Ok(Qmp { commands })
    }

    /// Runs a command without arguments, and returns what QEMU answers.
    pub async fn run(&self, command: &'static str) -> Result<Value, String> {
        let gone = || "QEMU is gone".to_owned();
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn converse<R, W>(
    mut reader: R,
    mut writer: W,
    mut queue: mpsc::Receiver<Command>,
    shutdown: mpsc::UnboundedSender<ShutdownCause>,
) -> io::Result<()>
where
    R: AsyncBufReadExt + Unpin + Send + 'static,
    W: AsyncWrite + Unpin,
{
    // QEMU answers in order; the capabilities' answer comes first and nobody waits for it.
    let mut waiting: VecDeque<Option<oneshot::Sender<Result<Value, String>>>> = VecDeque::from([None]);
    // A line may arrive in pieces, so it is read by a task of its own and never cancelled halfway.
    let (messages_in, mut messages) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = read(&mut reader) => message,
                // The last `Qmp` has gone, and with this half the connection goes, too.
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
                if message["event"] == "SHUTDOWN" {
                    let _ = shutdown.send(cause(&message["data"]));
                } else if message.get("event").is_none() && let Some(Some(reply)) = waiting.pop_front() {
                    let _ = reply.send(match message.get("return") {
                        Some(value) => Ok(value.clone()),
                        None => Err(message["error"]["desc"].as_str().unwrap_or("QEMU refused").to_owned()),
                    });
                }
            }
            command = queue.recv() => {
                let Some((command, reply)) = command else { return Ok(()) };
                waiting.push_back(Some(reply));
                send(&mut writer, command).await?;
            }
        }
    }
}

fn cause(data: &Value) -> ShutdownCause {
    match data["reason"].as_str() {
        Some("guest-shutdown") => ShutdownCause::Guest,
        Some("guest-reset") => ShutdownCause::Reset,
        Some("guest-panic") => ShutdownCause::Panic,
        other => ShutdownCause::Other(other.unwrap_or("for no stated reason").to_owned()),
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, command: &str) -> io::Result<()> {
    writer.write_all(format!("{}\n", json!({ "execute": command })).as_bytes()).await
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
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    /// A QEMU of two tricks: it greets, and it answers each line by the next of `answers`.
    async fn qemu(stream: DuplexStream, answers: Vec<Value>) -> Vec<String> {
        let mut stream = BufReader::new(stream);
        let mut seen = Vec::new();
        stream.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").await.unwrap();
        for answer in answers {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap() == 0 {
                break;
            }
            seen.push(line);
            stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
        seen
    }

    #[tokio::test]
    async fn commands_are_answered_in_order_with_events_between() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (shutdown, mut causes) = mpsc::unbounded_channel();
        let event = |reason| json!({"event": "SHUTDOWN", "data": {"guest": true, "reason": reason}});
        let answers = vec![json!({"return": {}}), json!({"return": {"status": "running"}}), event("guest-reset")];
        let peer = tokio::spawn(qemu(theirs, answers));
        let qmp = Qmp::greet(ours, shutdown).await.unwrap();
        assert_eq!(qmp.run("query-status").await.unwrap()["status"], "running");
        assert_eq!(qmp.run("system_powerdown").await, Err("QEMU is gone".into()), "only an event came, then the end");
        drop(qmp);
        assert_eq!(causes.recv().await, Some(ShutdownCause::Reset));
        assert_eq!(peer.await.unwrap()[1].trim(), r#"{"execute":"query-status"}"#);
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_in_qemus_words() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let answers = vec![json!({"return": {}}), json!({"error": {"class": "X", "desc": "not now"}})];
        tokio::spawn(qemu(theirs, answers));
        let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
        assert_eq!(qmp.run("system_powerdown").await, Err("not now".into()));
    }

    #[tokio::test]
    async fn the_monitor_is_closed_when_nobody_needs_it() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let peer = tokio::spawn(qemu(theirs, vec![json!({"return": {}}), json!({"return": {}})]));
        let qmp = Qmp::greet(ours, mpsc::unbounded_channel().0).await.unwrap();
        drop(qmp);
        let seen = tokio::time::timeout(std::time::Duration::from_secs(20), peer).await.unwrap().unwrap();
        assert_eq!(seen.len(), 1, "the capabilities, and then the end: {seen:?}");
    }

    #[tokio::test]
    async fn a_stranger_is_no_qemu() {
        for hello in ["{}\n", "garbage\n", ""] {
            let (ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(hello.as_bytes()).await.unwrap();
            drop(theirs);
            assert!(Qmp::greet(ours, mpsc::unbounded_channel().0).await.is_err(), "{hello:?}");
        }
    }
}
