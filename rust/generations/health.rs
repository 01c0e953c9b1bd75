//! Whether a guest can build: its nix-daemon greets, and answers a question for which it must look into its database.
//!
//! ```text
//!  us      magic ▸            version, two settings ▸                      is PATH valid? ▸
//!  daemon          ◂ magic, version                   ◂ its name, trust, end           ◂ end, no
//! ```
//!
//! This much of Nix's worker protocol is spoken here, and no more: what a build needs, Nix itself speaks. The version is that of
//! Nix 2.18, which all later ones understand.

use crate::{
    error::{Kind, Report},
    hypervisor::GuestStream,
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// How long the answer may take. A guest that has just come up is busy.
const PATIENCE: Duration = Duration::from_secs(30);

const HELLO: u64 = 0x6e69_7863;
const HELLO_BACK: u64 = 0x6478_696f;
/// 1.35.
const VERSION: u64 = 0x123;
const IS_VALID_PATH: u64 = 1;
const END: u64 = 0x616c_7473;
const MESSAGE: u64 = 0x6f6c_6d67;
const ERROR: u64 = 0x6378_7470;

/// A path of the right form that no store has.
const NO_SUCH_PATH: &str = "/nix/store/00000000000000000000000000000000-darwin-vz-nix";

/// Longest text that a daemon may send here, in bytes.
const MAX_TEXT: u64 = 1 << 16;

/// Asks the nix-daemon at the other end.
pub async fn ask(stream: GuestStream) -> Result<(), Report> {
    let why = match timeout(PATIENCE, converse(stream)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => "it hangs up".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("nothing comes within {PATIENCE:?}"),
    };
    Err(Report::new(Kind::Guest, format!("the guest is up, but its nix-daemon does not answer: {why}")))
}

async fn converse(mut stream: GuestStream) -> io::Result<()> {
    stream.write_u64_le(HELLO).await?;
    stream.flush().await?;
    let hello = stream.read_u64_le().await?;
    if hello != HELLO_BACK {
        return Err(strange(format!("it greets with {hello:#x}")));
    }
    let version = stream.read_u64_le().await?.min(VERSION);
    // Two settings that nothing heeds any more.
    for word in [VERSION, 0, 0] {
        stream.write_u64_le(word).await?;
    }
    stream.flush().await?;
    if version >= 0x121 {
        skip_text(&mut stream).await?;
    }
    if version >= 0x123 {
        stream.read_u64_le().await?;
    }
    end(&mut stream).await?;

    stream.write_u64_le(IS_VALID_PATH).await?;
    stream.write_u64_le(NO_SUCH_PATH.len() as u64).await?;
    stream.write_all(NO_SUCH_PATH.as_bytes()).await?;
    stream.write_all(&[0; 8][..padding(NO_SUCH_PATH.len() as u64)]).await?;
    stream.flush().await?;
    end(&mut stream).await?;
    match stream.read_u64_le().await? {
        0 => Ok(()),
        other => Err(strange(format!("it says {other} of a path that does not exist"))),
    }
}

/// What the daemon logs, up to the end of it.
async fn end(stream: &mut GuestStream) -> io::Result<()> {
    loop {
        match stream.read_u64_le().await? {
            END => return Ok(()),
            MESSAGE => skip_text(stream).await?,
            ERROR => return Err(strange("it reports an error".to_owned())),
            other => return Err(strange(format!("it says {other:#x}"))),
        }
    }
}

async fn skip_text(stream: &mut GuestStream) -> io::Result<()> {
    let length = stream.read_u64_le().await?;
    if length > MAX_TEXT {
        return Err(strange(format!("it sends a text of {length} bytes")));
    }
    let whole = length + padding(length) as u64;
    let skipped = tokio::io::copy(&mut stream.take(whole), &mut tokio::io::sink()).await?;
    if skipped == whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Texts are filled up to a multiple of eight.
fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

fn strange(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a daemon of Nix 2.26 says to a client of our version.
    fn said(valid: u64) -> Vec<u8> {
        let mut said = Vec::new();
        let mut word = |word: u64| said.extend(word.to_le_bytes());
        word(HELLO_BACK);
        word(0x126);
        word(6);
        word(u64::from_le_bytes(*b"2.26.3\0\0"));
        for rest in [1, END, END, valid] {
            word(rest);
        }
        said
    }

    async fn after(said: &[u8]) -> Result<(), Report> {
        let (mut daemon, ours) = tokio::io::duplex(1024);
        daemon.write_all(said).await.unwrap();
        daemon.shutdown().await.unwrap();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            let _ = daemon.read_to_end(&mut heard).await;
            heard
        });
        let outcome = ask(Box::new(ours)).await;
        if outcome.is_ok() {
            assert_eq!(heard.await.unwrap().len() % 8, 0);
        }
        outcome
    }

    #[tokio::test]
    async fn a_daemon_that_answers_is_healthy() {
        after(&said(0)).await.unwrap();
    }

    #[tokio::test]
    async fn whatever_else_it_says_is_told() {
        let whole = said(0);
        let with = |at: usize, word: u64| {
            let mut said = whole.clone();
            said[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
            said
        };
        let cases = [
            (vec![], "hangs up"),
            (whole[..40].to_vec(), "hangs up"),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "greets with"),
            (with(2, u64::MAX), "a text of"),
            (with(5, ERROR), "an error"),
            (with(6, 7), "0x7"),
            (with(7, 1), "says 1 of a path"),
        ];
        for (said, expected) in cases {
            let report = after(&said).await.unwrap_err();
            assert!(report.kind == Kind::Guest && report.message.contains(expected), "{expected}: {report}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_silent_is_not_waited_for_for_ever() {
        let (_daemon, ours) = tokio::io::duplex(1024);
        assert!(ask(Box::new(ours)).await.unwrap_err().message.contains("within 30s"));
    }
}
