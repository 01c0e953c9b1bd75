//! A command in a guest while it runs: its output arrives as frames, and its input, signals and the terminal's size are sent as frames.
//!
//! ```text
//! stdin, signals ──▶ channel ──▶ task: writer ──▶ agent
//! stdout, stderr ◀──────── carry ◀── reader ◀──── agent       until Exit or Killed
//! ```
//!
//! Writing to the agent is a task of its own, so that output continues while a command does not read its input.

use crate::agent_call::{Connection, broken};
use dvn_protocol::service::{Decoder, Frame};
use dvn_types::{Kind, Report};
use std::io::{self, Write};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

/// Bytes that are read at once.
const BUFFER: usize = 64 * 1024;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(u8),
}

impl Ended {
    /// The exit code of a program that stands for the command: that of a shell.
    pub fn exit_code(self) -> u8 {
        match self {
            // As the kernel does with the argument of `exit`.
            Ended::Exited(code) => code.to_le_bytes()[0],
            Ended::Killed(signal) => signal.wrapping_add(128),
        }
    }
}

/// Copies until the command has ended. `frames` are sent to the agent. If the reader of the output is gone, the command is left as if
/// SIGPIPE had ended it.
pub async fn carry(
    connection: Connection,
    frames: mpsc::Receiver<Vec<u8>>,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<Ended, Report> {
    let Connection { reader, writer } = connection;
    let sending = tokio::spawn(send(writer, frames));
    let ended = receive(reader, stdout, stderr).await;
    sending.abort();
    ended
}

/// Sends frames, then holds the connection: its end would end the command.
async fn send(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame).await.is_err() {
            // The reader sees why.
            break;
        }
    }
    std::future::pending::<()>().await;
}

async fn receive(
    mut reader: impl AsyncRead + Unpin,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> Result<Ended, Report> {
    const SIGPIPE: u8 = 13;
    let (mut decoder, mut buffer) = (Decoder::new(), vec![0; BUFFER]);
    loop {
        let length = reader.read(&mut buffer).await.map_err(|error| broken(&error.to_string()))?;
        if length == 0 {
            return Err(broken("it ended before the command did"));
        }
        decoder.push(&buffer[..length]);
        while let Some(frame) = decoder.next_frame().map_err(|error| broken(&error.to_string()))? {
            let written = match frame {
                Frame::Stdout(data) => stdout.write_all(data).and_then(|()| stdout.flush()),
                Frame::Stderr(data) => stderr.write_all(data).and_then(|()| stderr.flush()),
                Frame::Exit(code) => return Ok(Ended::Exited(code)),
                Frame::Killed(signal) => return Ok(Ended::Killed(signal)),
                Frame::Stdin(_) | Frame::Resize(_) | Frame::Signal(_) => {
                    return Err(broken("the agent sent what only the host sends"));
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended::Killed(SIGPIPE)),
                Err(error) => {
                    return Err(Report::new(Kind::Host, format!("cannot write the command's output: {error}")));
                }
                Ok(()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(frames: &[Frame<'_>]) -> (Result<Ended, Report>, Vec<u8>, Vec<u8>) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = receive(&bytes[..], &mut stdout, &mut stderr).await;
        (ended, stdout, stderr)
    }

    #[tokio::test]
    async fn output_is_divided_and_the_end_is_the_commands() {
        let frames =
            [Frame::Stdout(b"a"), Frame::Stderr(b"x"), Frame::Stdout(b"b"), Frame::Exit(3), Frame::Stdout(b"c")];
        assert_eq!(received(&frames).await, (Ok(Ended::Exited(3)), b"ab".to_vec(), b"x".to_vec()));
        assert_eq!(received(&[Frame::Killed(9)]).await.0, Ok(Ended::Killed(9)));
        for (frames, why) in
            [(&[Frame::Stdout(b"a")][..], "ended before the command did"), (&[Frame::Stdin(b"")], "only the host")]
        {
            let report = received(frames).await.0.unwrap_err();
            assert!(report.message.contains(why), "{report:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (ended, code) in [
            (Ended::Exited(0), 0),
            (Ended::Exited(255), 255),
            (Ended::Exited(256 + 7), 7),
            (Ended::Exited(-1), 255),
            (Ended::Killed(15), 143),
        ] {
            assert_eq!(ended.exit_code(), code, "{ended:?}");
        }
    }

    /// A reader that has gone away, as `head` does.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_early_ends_the_command_quietly() {
        let bytes = Frame::Stdout(b"y").to_bytes();
        assert_eq!(receive(&bytes[..], &mut Closed, &mut Vec::new()).await, Ok(Ended::Killed(13)));
    }

    #[tokio::test]
    async fn frames_are_sent_in_order_and_the_connection_stays_open_after_the_last() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (frames, receiver) = mpsc::channel(4);
        let sending = tokio::spawn(send(ours, receiver));
        frames.send(Frame::Stdin(b"hi").to_bytes()).await.unwrap();
        frames.send(Frame::Stdin(b"").to_bytes()).await.unwrap();
        drop(frames);
        let mut bytes = vec![0; 12];
        theirs.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0, 2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0, 0]);
        assert!(!sending.is_finished());
        sending.abort();
    }
}
