//! Checks whether a guest can build: sends its nix-daemon a trivial build, which it must carry out itself.
//!
//! ```text
//!  us      magic ▸            version, two settings ▸                      build this ▸                 is it valid? ▸
//!  daemon          ◂ magic, version                   ◂ its name, trust, end            ◂ log, end, built              ◂ end, yes
//! ```
//!
//! Every guest can do this build (docs/guest-contract.md): the sandbox's `/bin/sh` writes a word. It has no inputs and
//! a new output path each time, so an old result cannot answer it. It leaves some bytes of garbage behind.
//!
//! This module speaks only the needed part of Nix's worker protocol, in the encoding of [`dvn_nix::wire`].

use dvn_hypervisor::GuestStream;
use dvn_nix::wire::{CLIENT_MAGIC, DAEMON_MAGIC, Decoder, Encoder, LONGEST, PROTOCOL, WireError};
use dvn_types::{Arch, Kind, Report};
use rand::RngExt;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncWriteExt, BufStream},
    time::timeout,
};

/// Time limit for the whole check. A guest that has just booted is busy, and may be an emulated one.
const TIMEOUT: Duration = Duration::from_secs(120);

const IS_VALID_PATH: u64 = 1;
const BUILD_DERIVATION: u64 = 36;

/// The daemon's number for a successful build.
const BUILT: u64 = 0;

/// Longest explanation that is repeated, in characters.
const MAX_EXPLANATION: usize = 500;

/// Characters of the hash part of a store path.
const LETTERS: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why a guest cannot build.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error("its nix-daemon does not answer: it hangs up")]
    HangsUp,
    #[error("its nix-daemon does not follow the protocol: {0}")]
    Strange(WireError),
    #[error("it has not built within {TIMEOUT:?}")]
    Slow,
    #[error("it cannot build: {0}")]
    CannotBuild(String),
}

impl From<WireError> for Unhealthy {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => Unhealthy::HangsUp,
            other => Unhealthy::Strange(other),
        }
    }
}

/// Sends the nix-daemon at the other end of the stream a build.
pub async fn ask(stream: GuestStream, arch: Arch) -> Result<(), Report> {
    let mut daemon = Daemon(Decoder(BufStream::new(stream)));
    let well = async {
        daemon.greet().await?;
        daemon.build(arch).await
    };
    let unhealthy = match timeout(TIMEOUT, well).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(unhealthy)) => unhealthy,
        Err(_) => Unhealthy::Slow,
    };
    Err(Report::new(Kind::Guest, format!("the guest is up, but {unhealthy}")))
}

struct Daemon(Decoder<BufStream<GuestStream>>);

impl Daemon {
    async fn say(&mut self, words: Encoder) -> Result<(), Unhealthy> {
        let stream = &mut self.0.0;
        let said = async {
            stream.write_all(words.as_slice()).await?;
            stream.flush().await
        };
        // If the daemon has hung up, reading its answer shows that.
        match said.await {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(WireError::from(e).into()),
            _ => Ok(()),
        }
    }

    async fn outcome(&mut self) -> Result<(), Unhealthy> {
        self.0.outcome().await?.map_err(|why| Unhealthy::CannotBuild(plain(&why)))
    }

    async fn greet(&mut self) -> Result<(), Unhealthy> {
        self.say(Encoder::default().number(CLIENT_MAGIC)).await?;
        let magic = self.0.number().await?;
        if magic != DAEMON_MAGIC {
            return Err(WireError::Unexpected(format!("it greets with {magic:#x}")).into());
        }
        let theirs = self.0.number().await?;
        if theirs >> 8 != PROTOCOL >> 8 || theirs < PROTOCOL {
            let spoken = format!("it speaks worker protocol {}.{}", theirs >> 8, theirs & 0xff);
            return Err(WireError::Unexpected(spoken).into());
        }
        // Two settings without a meaning today.
        self.say(Encoder::default().number(PROTOCOL).number(0).number(0)).await?;
        let _version = self.0.bytes(LONGEST).await?;
        let _trusted = self.0.number().await?;
        self.outcome().await
    }

    async fn build(&mut self, arch: Arch) -> Result<(), Unhealthy> {
        let output = path("darwin-vz-nix-health");
        self.say(request(&path("darwin-vz-nix-health.drv"), &output, arch)).await?;
        self.outcome().await?;
        let end = self.0.number().await?;
        let why = self.0.bytes(LONGEST).await?;
        if end != BUILT {
            return Err(Unhealthy::CannotBuild(format!("{} (end {end})", plain(&String::from_utf8_lossy(&why)))));
        }
        for _times_varies_began_ended in 0..4 {
            self.0.number().await?;
        }
        for _ in 0..self.0.length_of_list(1).await? {
            let (_output, _realisation) = (self.0.bytes(LONGEST).await?, self.0.bytes(LONGEST).await?);
        }
        self.say(Encoder::default().number(IS_VALID_PATH).bytes(output.as_bytes())).await?;
        self.outcome().await?;
        match self.0.number().await? {
            1 => Ok(()),
            _ => Err(Unhealthy::CannotBuild("the output of its build is not there".to_owned())),
        }
    }
}

/// A path that no store has yet.
fn path(name: &str) -> String {
    let mut random = rand::rng();
    let hash: String = (0..32).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
    format!("/nix/store/{hash}-{name}")
}

/// A request to build a derivation without inputs and with one output.
fn request(drv: &str, output: &str, arch: Arch) -> Encoder {
    let no_strings: [&str; 0] = [];
    // No substituter has it, so none should be asked for it.
    let environment = [("allowSubstitutes", ""), ("out", output), ("preferLocalBuild", "1")];
    let words = Encoder::default()
        .number(BUILD_DERIVATION)
        .bytes(drv.as_bytes())
        .number(1)
        .bytes(b"out")
        .bytes(output.as_bytes())
        .bytes(b"")
        .bytes(b"")
        .list(&no_strings)
        .bytes(format!("{}-linux", arch.as_str()).as_bytes())
        .bytes(b"/bin/sh")
        .list(&["-c", "echo well >$out"])
        .number(environment.len() as u64);
    let words =
        environment.iter().fold(words, |words, (name, value)| words.bytes(name.as_bytes()).bytes(value.as_bytes()));
    words.number(0)
}

/// An explanation on one line, without colours and not too long.
fn plain(text: &str) -> String {
    let mut colour = false;
    let mut shown = |c: char| {
        let was = colour;
        colour = c == '\u{1b}' || colour && c != 'm';
        !(was || colour)
    };
    let text: String = text.chars().filter(|c| shown(*c)).collect();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_EXPLANATION).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_nix::wire::message;
    use tokio::io::AsyncReadExt;

    fn greeting() -> Encoder {
        Encoder::default().number(DAEMON_MAGIC).number(0x126).bytes(b"2.26.3").number(1)
    }

    fn built(end: u64, why: &str) -> Encoder {
        let greeted = greeting().number(message::LAST);
        let logged =
            greeted.number(message::START_ACTIVITY).number(1).number(3).number(105).bytes(b"building").number(0);
        let logged = logged.number(0).number(message::NEXT).bytes(b"a line\n").number(message::STOP_ACTIVITY).number(1);
        let ended = logged.number(message::LAST).number(end).bytes(why.as_bytes());
        ended.number(1).number(0).number(5).number(6).number(0)
    }

    /// The answer of a daemon of Nix 2.26 to a client of our version.
    fn said(valid: u64) -> Vec<u8> {
        built(BUILT, "").number(message::LAST).number(valid).as_slice().to_vec()
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
        let outcome = ask(Box::new(ours), Arch::X86_64).await;
        let heard = heard.await.unwrap();
        if outcome.is_ok() {
            let text = String::from_utf8_lossy(&heard);
            assert!(heard.len() % 8 == 0 && text.contains("x86_64-linux") && text.contains("/bin/sh"), "{text}");
        }
        outcome
    }

    #[tokio::test]
    async fn a_daemon_that_builds_is_healthy() {
        after(&said(1)).await.unwrap();
    }

    #[tokio::test]
    async fn every_other_answer_is_reported() {
        let whole = said(1);
        let with = |at: usize, word: u64| {
            let mut said = whole.clone();
            said[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
            said
        };
        let error = greeting().number(message::LAST).number(message::ERROR).bytes(b"Error").number(0).bytes(b"Error");
        let error = error.bytes(b"\x1b[31;1merror:\x1b[0m the group 'nixbld'\n has no members").number(0).number(0);
        let cases = [
            (vec![], "hangs up"),
            (whole[..40].to_vec(), "hangs up"),
            (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "greets with"),
            (with(1, 0x114), "protocol 1.20"),
            (with(2, u64::MAX), "a string of length"),
            (error.as_slice().to_vec(), "cannot build: error: the group 'nixbld' has no members"),
            (built(3, "no /bin/sh").as_slice().to_vec(), "cannot build: no /bin/sh (end 3)"),
            (said(0), "is not there"),
        ];
        for (said, expected) in cases {
            let report = after(&said).await.unwrap_err();
            assert!(report.kind == Kind::Guest && report.message.contains(expected), "{expected}: {report}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_daemon_causes_a_timeout() {
        let (_daemon, ours) = tokio::io::duplex(1024);
        assert!(ask(Box::new(ours), Arch::Aarch64).await.unwrap_err().message.contains("within 120s"));
    }

    #[test]
    fn every_build_is_a_new_one_of_a_path_that_nix_accepts() {
        let (one, two) = (path("x"), path("x"));
        assert_ne!(one, two);
        assert!(dvn_nix::StorePath::parse("/nix/store", one.as_bytes()).is_ok(), "{one}");
    }
}
