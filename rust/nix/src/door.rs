//! One connection of the guest, which takes us for a Nix daemon: greeting, then request after request.
//!
//! A request is read to its end before anything is done about it, and answered before the next is read, so that a guest which
//! does not read its answers holds up nobody but itself. A request that is refused gets the protocol's own error. Where its
//! end cannot be known, the connection is closed after that.

use super::{
    admission::{Admission, AdmissionError},
    connection::Guest,
    operation::{Field, Operation, Query},
    path::{self, StorePath},
    settings::Limits,
    state::Inner,
    upstream::PathInfo,
    wire::{CLIENT_MAGIC, DAEMON_MAGIC, Decoder, Encoder, PROTOCOL, WireError},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Longest string in a request that is not a path: a setting, such as the trusted keys.
const LONGEST: usize = 256 * 1024;

/// Paths of a request that are decided on together; more are not kept in memory.
const AT_ONCE: usize = 1024;

/// How much of a request that was refused is read and thrown away, so that the client comes to read why.
const LEFTOVERS: usize = 256 * 1024 * 1024;

/// After how long without a further byte of it the connection is closed.
const QUIET: Duration = Duration::from_secs(1);

/// What we call ourselves when Nix asks for the daemon's version.
const VERSION: &str = concat!("darwin-vz-nix ", env!("CARGO_PKG_VERSION"));

/// What we answer when Nix asks whether it is trusted.
const NOT_TRUSTED: u64 = 2;

/// The first protocol in which the daemon tells its version.
const FIRST_WITH_VERSION: u64 = 1 << 8 | 33;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The guest has closed it.
    #[error("closed")]
    Closed,
    /// What it sent cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What it sent is not for us, and where it ends is not known.
    #[error("{0}")]
    Refused(String),
    /// Its request was read, and nothing can be answered any more.
    #[error("{0}")]
    Failed(String),
}

/// Serves a connection to its end.
pub async fn serve(inner: Arc<Inner>, guest: Guest) {
    let limits = inner.settings.limits;
    let mut door = Door { from: Decoder(guest), admission: Admission::new(Arc::clone(&inner)).await, inner };
    let end = match timeout(limits.greeting, greet(&mut door.from, Encoder::done())).await {
        Ok(Ok(())) => loop {
            if let Err(end) = door.request().await {
                break end;
            }
        },
        Ok(Err(end)) => end,
        Err(_) => return,
    };
    if matches!(end, End::Closed | End::Wire(WireError::Io(_))) {
        return;
    }
    tracing::debug!("a connection of the guest to the host's store is closed: {end}");
    let said = say(&mut door.from, Encoder::error(&end.to_string())).await;
    if said.is_ok() && !matches!(end, End::Failed(_)) {
        take_leftovers(&mut door.from).await;
    }
}

/// Tells a client why it is not served, where it reads errors first: at the end of the greeting.
pub async fn refuse(limits: Limits, guest: Guest, why: String) {
    let mut from = Decoder(guest);
    if let Ok(Ok(())) = timeout(limits.greeting, greet(&mut from, Encoder::error(&why))).await {
        take_leftovers(&mut from).await;
    }
}

async fn say(to: &mut Decoder<Guest>, words: Encoder) -> Result<(), WireError> {
    to.0.write_all(words.as_slice()).await?;
    Ok(to.0.flush().await?)
}

/// A client that is still sending has not read the error yet, and would lose it with the connection.
async fn take_leftovers(from: &mut Decoder<Guest>) {
    let mut chunk = vec![0; 64 * 1024];
    let mut taken = 0;
    while taken < LEFTOVERS {
        match timeout(QUIET, from.0.read(&mut chunk)).await {
            Ok(Ok(some)) if some > 0 => taken += some,
            _ => return,
        }
    }
}

/// The greeting, up to what follows from it: that requests may come, or an error.
async fn greet(from: &mut Decoder<Guest>, verdict: Encoder) -> Result<(), End> {
    if from.number().await? != CLIENT_MAGIC {
        return Err(WireError::Unexpected("this is no client of a Nix daemon".into()).into());
    }
    say(from, Encoder::default().number(DAEMON_MAGIC).number(PROTOCOL)).await?;
    let theirs = from.number().await?;
    if theirs >> 8 != PROTOCOL >> 8 || theirs < PROTOCOL {
        // A client that old reads the daemon's version before it reads errors, if it is not even older.
        if theirs >= FIRST_WITH_VERSION {
            say(from, Encoder::default().bytes(VERSION.as_bytes())).await?;
        }
        return Err(End::Refused(format!(
            "the guest's Nix speaks worker protocol {}.{}, and the host's store is shared with 1.35 and later (Nix 2.18)",
            theirs >> 8,
            theirs & 0xff
        )));
    }
    if from.number().await? != 0 {
        let _affinity = from.number().await?;
    }
    let _reserve_space = from.number().await?;
    say(from, Encoder::default().bytes(VERSION.as_bytes()).number(NOT_TRUSTED)).await?;
    Ok(say(from, verdict).await?)
}

struct Door {
    from: Decoder<Guest>,
    admission: Admission,
    inner: Arc<Inner>,
}

impl Door {
    /// Serves one request.
    async fn request(&mut self) -> Result<(), End> {
        let Some(number) = self.from.number_or_end().await? else { return Err(End::Closed) };
        self.inner.pace.keep(1).await;
        let query = match Operation::of(number) {
            Operation::Allowed(query) => query,
            Operation::Refused { name, body: Some(body) } => {
                self.skip(body).await?;
                let refusal = self.refusal(name);
                return Ok(say(&mut self.from, Encoder::error(&refusal)).await?);
            }
            Operation::Refused { name, body: None } => return Err(End::Refused(self.refusal(name))),
            Operation::Unknown => return Err(End::Refused(self.refusal(&number.to_string()))),
        };
        let answer = match self.answer(query).await {
            Ok(answer) => answer,
            Err(Trouble::End(end)) => return Err(end),
            Err(Trouble::Question(why)) => Encoder::error(&why),
            Err(Trouble::Admission(e)) if e.is_final() => return Err(End::Failed(e.to_string())),
            Err(Trouble::Admission(e)) => Encoder::error(&e.to_string()),
        };
        Ok(say(&mut self.from, answer).await?)
    }

    fn refusal(&self, operation: &str) -> String {
        self.inner.record().denied();
        format!("the host's store is read-only here: the operation {operation} is not allowed")
    }

    async fn answer(&mut self, query: Query) -> Result<Encoder, Trouble> {
        let dir = Arc::clone(&self.inner.logical_dir);
        let full = |path: &StorePath| path.within(&dir);
        let full_all = |paths: &[StorePath]| Encoder::done().list(&paths.iter().map(full).collect::<Vec<_>>());
        match query {
            Query::IsValidPath => {
                let path = self.path().await?;
                let valid = self.admission.valid(&[path]).await? == [true];
                Ok(Encoder::done().number(valid.into()))
            }
            Query::AddTempRoot => {
                let path = self.path().await?;
                self.admission.valid(&[path]).await?;
                Ok(Encoder::done().number(1))
            }
            Query::PathInfo => {
                let path = self.path().await?;
                Ok(match self.admission.tell(&path).await? {
                    None => Encoder::done().number(0),
                    Some(info) => described(Encoder::done().number(1), &info, full),
                })
            }
            Query::ValidPaths => self.valid_paths().await,
            Query::AllValidPaths => Ok(full_all(&self.admission.all().await?)),
            Query::Referrers => {
                let path = self.path().await?;
                Ok(full_all(&self.admission.referrers(&path).await?))
            }
            Query::ValidDerivers => {
                let path = self.path().await?;
                Ok(full_all(&self.admission.derivers(&path).await?))
            }
            Query::PathFromHashPart => {
                let hash_part = self.from.text(LONGEST).await?;
                if !path::is_hash_part(&hash_part) {
                    return Err(Trouble::Question("this is not the hash part of a store path".into()));
                }
                let path = self.admission.by_hash_part(&hash_part).await?.as_ref().map(full);
                Ok(Encoder::done().bytes(path.unwrap_or_default().as_bytes()))
            }
            Query::DerivationOutputMap => {
                let drv = self.path().await?;
                let outputs = self.admission.outputs(&drv).await?;
                let answer = Encoder::done().number(outputs.len() as u64);
                Ok(outputs.iter().fold(answer, |answer, [name, path]| answer.bytes(name).bytes(path)))
            }
            Query::SubstitutablePaths => {
                self.skip(&[Field::List]).await?;
                Ok(Encoder::done().number(0))
            }
            Query::Realisation => {
                self.skip(&[Field::String]).await?;
                Ok(Encoder::done().number(0))
            }
            Query::SetOptions => {
                self.skip(&[Field::Number; 12]).await?;
                self.skip(&[Field::Map]).await?;
                Ok(Encoder::done())
            }
        }
    }

    /// Reads a path to its end; what it says comes after that.
    async fn path(&mut self) -> Result<StorePath, Trouble> {
        let path = self.from.bytes(LONGEST).await?;
        StorePath::parse(&self.inner.logical_dir, &path).map_err(|e| Trouble::Question(e.to_string()))
    }

    /// Reads and decides in portions, and keeps what is valid: the request may be long, the answer is what the host has.
    async fn valid_paths(&mut self) -> Result<Encoder, Trouble> {
        let dir = Arc::clone(&self.inner.logical_dir);
        let mut left = self.from.length_of_list(self.inner.settings.limits.list).await?;
        let mut answer = Vec::new();
        loop {
            let mut some = Vec::new();
            for _ in 0..left.min(AT_ONCE) {
                let path = self.from.bytes(StorePath::longest_within(&dir)).await?;
                some.push(StorePath::parse(&dir, &path).map_err(|e| End::Refused(e.to_string()))?);
            }
            self.inner.pace.keep(some.len()).await;
            left -= some.len();
            if left == 0 {
                let _substitute = self.from.number().await?;
            }
            // What goes wrong before the whole request was read ends the connection.
            let valid = self.admission.valid(&some).await.map_err(|e| match left {
                0 => Trouble::Admission(e),
                _ => Trouble::End(End::Refused(e.to_string())),
            })?;
            answer.extend(some.iter().zip(valid).filter(|&(_, valid)| valid).map(|(path, _)| path.within(&dir)));
            if left == 0 {
                return Ok(Encoder::done().list(&answer));
            }
        }
    }

    /// Reads over a request.
    async fn skip(&mut self, body: &[Field]) -> Result<(), WireError> {
        for field in body {
            let strings = match field {
                Field::Number => {
                    self.from.number().await?;
                    0
                }
                Field::String => 1,
                Field::List => self.from.length_of_list(self.inner.settings.limits.list).await?,
                Field::Map => 2 * self.from.length_of_list(self.inner.settings.limits.list).await?,
            };
            for _ in 0..strings {
                self.from.bytes(LONGEST).await?;
            }
        }
        Ok(())
    }
}

/// Why a request gets an error.
enum Trouble {
    /// The connection is over.
    End(End),
    /// The request makes no sense, and was read to its end.
    Question(String),
    /// It cannot be answered.
    Admission(AdmissionError),
}

impl<E: Into<End>> From<E> for Trouble {
    fn from(end: E) -> Self {
        Trouble::End(end.into())
    }
}

impl From<AdmissionError> for Trouble {
    fn from(error: AdmissionError) -> Self {
        Trouble::Admission(error)
    }
}

fn described(answer: Encoder, info: &PathInfo, full: impl Fn(&StorePath) -> String) -> Encoder {
    answer
        .bytes(&info.deriver)
        .bytes(info.nar_hash.as_bytes())
        .list(&info.references.iter().map(full).collect::<Vec<_>>())
        .number(info.registered)
        .number(info.nar_size)
        .number(info.ultimate)
        .list(&info.signatures)
        .bytes(&info.content_address)
}
