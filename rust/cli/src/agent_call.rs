//! Requests to the agent that runs as a service in a machine, over a stream that the daemon opens.

use dvn_client::{Client, RawStream};
use dvn_protocol::{
    messages::MAX_LINE,
    service::{self, Answer, Call, Reply},
};
use dvn_types::{Kind, MachineName, Report};
use std::{io::Cursor, time::Duration};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::unix::OwnedWriteHalf,
};

/// Time limit for the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection after the agent's answer.
pub struct Connection {
    /// What the agent sends next.
    pub reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// To close it ends the command, unless it is detached.
    pub writer: OwnedWriteHalf,
}

/// Sends a request on a connection of its own. An error is also that the agent refuses it.
pub async fn call(client: &Client, machine: &MachineName, call: &Call) -> Result<(Reply, Connection), Report> {
    let line = service::line(call).map_err(|why| {
        Report::new(Kind::Config, format!("the command cannot be sent: {why}"))
            .hint("shorten its arguments and variables; a command can also read its input")
    })?;
    let RawStream { stream, early } = client.agent(machine).await?;
    let (stream, mut writer) = stream.into_split();
    let mut reader = BufReader::new(Cursor::new(early).chain(stream));
    let asked = async {
        writer.write_all(&line).await.map_err(|error| broken(&error.to_string()))?;
        answer(&mut reader).await
    };
    let answered = tokio::time::timeout(TIMEOUT, asked).await;
    let answered = answered.unwrap_or_else(|_| Err(broken(&format!("no answer within {} s", TIMEOUT.as_secs()))))?;
    match answered {
        Ok(reply) => Ok((reply, Connection { reader: Box::new(reader), writer })),
        Err(why) => Err(Report::new(Kind::Guest, why)),
    }
}

/// Reads the answer's line, and nothing after it.
async fn answer(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Answer, Report> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE as u64).read_until(b'\n', &mut line).await;
    read.map_err(|error| broken(&error.to_string()))?;
    if line.last() != Some(&b'\n') {
        let why = if line.len() < MAX_LINE { "it ended without an answer" } else { "its answer is too long" };
        return Err(broken(why));
    }
    serde_json::from_slice(&line).map_err(|error| broken(&format!("its answer is invalid: {error}")))
}

/// The agent gave an answer that does not belong to the request.
pub fn unexpected(reply: &Reply) -> Report {
    broken(&format!("it gave the answer of another request: {reply:?}"))
}

/// The connection to the agent did not do what it is for.
pub fn broken(why: &str) -> Report {
    Report::new(Kind::Guest, format!("the connection to the agent in the guest failed: {why}"))
        .hint("see whether the machine runs: `darwin-vz-nix list`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_a_line_and_what_follows_stays() {
        let mut reader: &[u8] = b"{\"Ok\":{\"kind\":\"started\",\"pid\":7}}\n\x01rest";
        assert_eq!(answer(&mut reader).await.unwrap(), Ok(Reply::Started { pid: 7 }));
        assert_eq!(reader, b"\x01rest");
        for (bytes, why) in [
            (b"".to_vec(), "ended without an answer"),
            (b"{\"Ok\"".to_vec(), "ended without an answer"),
            (b"hello\n".to_vec(), "its answer is invalid"),
            (vec![b'x'; MAX_LINE + 5], "its answer is too long"),
        ] {
            let report = answer(&mut &bytes[..]).await.unwrap_err();
            assert!(report.message.contains(why) && report.kind == Kind::Guest, "{report:?}");
        }
    }
}
