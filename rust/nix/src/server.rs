//! The server side of Nix's worker protocol, for one connection of the guest: greeting, then one request after another.
//!
//! The server reads a request to its end before it acts on it, and answers before it reads the next. So a guest that
//! does not read its answers delays only itself. A refused request gets the protocol's own error. If the end of a
//! refused request is unknown, the server then closes the connection.

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

/// Longest string in a request, in bytes, other than a path: a setting such as the trusted keys.
const LONGEST: usize = 256 * 1024;

/// Paths of a request that are decided on together. This bounds memory.
const AT_ONCE: usize = 1024;

/// Bytes of a refused request that are read and discarded, so that the client gets to read the error.
const DRAIN_LIMIT: usize = 256 * 1024 * 1024;

/// Discarding ends when no byte arrives for this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The gate's answer when Nix asks for the daemon's version.
const VERSION: &str = concat!("darwin-vz-nix ", env!("CARGO_PKG_VERSION"));

/// The gate's answer when Nix asks whether it is trusted.
const NOT_TRUSTED: u64 = 2;

/// The first protocol in which the daemon sends its version.
const FIRST_WITH_VERSION: u64 = 1 << 8 | 33;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum CloseReason {
    /// The guest closed it.
    #[error("closed")]
    Closed,
    /// The guest sent something unreadable.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The request is refused, and its end is unknown.
    #[error("{0}")]
    Refused(String),
    /// The request was read, and the connection can answer nothing more.
    #[error("{0}")]
    Failed(String),
}

/// Serves a connection until it ends.
pub async fn serve(inner: Arc<Inner>, guest: Guest) {
    let limits = inner.settings.limits;
    let mut server = Server { from: Decoder(guest), admission: Admission::new(Arc::clone(&inner)).await, inner };
    let end = match timeout(limits.greeting, greet(&mut server.from, Encoder::done())).await {
        Ok(Ok(())) => loop {
            if let Err(end) = server.request().await {
                break end;
            }
        },
        Ok(Err(end)) => end,
        Err(_) => return,
    };
    if matches!(end, CloseReason::Closed | CloseReason::Wire(WireError::Io(_))) {
        return;
    }
    tracing::debug!("a connection of the guest to the host's store is closed: {end}");
    let said = say(&mut server.from, Encoder::error(&end.to_string())).await;
    if said.is_ok() && !matches!(end, CloseReason::Failed(_)) {
        drain(&mut server.from).await;
    }
}

/// Sends the reason for refusing a connection at the end of the greeting, the first place where a client reads errors.
pub async fn refuse(limits: Limits, guest: Guest, why: String) {
    let mut from = Decoder(guest);
    if let Ok(Ok(())) = timeout(limits.greeting, greet(&mut from, Encoder::error(&why))).await {
        drain(&mut from).await;
    }
}

async fn say(to: &mut Decoder<Guest>, words: Encoder) -> Result<(), WireError> {
    to.0.write_all(words.as_slice()).await?;
    Ok(to.0.flush().await?)
}

/// Discards what a client still sends: it has not read the error yet, and a closed connection would lose it.
async fn drain(from: &mut Decoder<Guest>) {
    let mut chunk = vec![0; 64 * 1024];
    let mut taken = 0;
    while taken < DRAIN_LIMIT {
        match timeout(DRAIN_TIMEOUT, from.0.read(&mut chunk)).await {
            Ok(Ok(some)) if some > 0 => taken += some,
            _ => return,
        }
    }
}

/// The greeting, ended by `verdict`: requests may follow, or an error.
async fn greet(from: &mut Decoder<Guest>, verdict: Encoder) -> Result<(), CloseReason> {
    if from.number().await? != CLIENT_MAGIC {
        return Err(WireError::Unexpected("this is not a client of a Nix daemon".into()).into());
    }
    say(from, Encoder::default().number(DAEMON_MAGIC).number(PROTOCOL)).await?;
    let theirs = from.number().await?;
    if theirs >> 8 != PROTOCOL >> 8 || theirs < PROTOCOL {
        // A client that old reads the daemon's version before it reads errors, unless it is even older.
        if theirs >= FIRST_WITH_VERSION {
            say(from, Encoder::default().bytes(VERSION.as_bytes())).await?;
        }
        return Err(CloseReason::Refused(format!(
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

struct Server {
    from: Decoder<Guest>,
    admission: Admission,
    inner: Arc<Inner>,
}

impl Server {
    /// Serves one request.
    async fn request(&mut self) -> Result<(), CloseReason> {
        let Some(number) = self.from.number_or_end().await? else { return Err(CloseReason::Closed) };
        self.inner.rate_limit.acquire(1).await;
        let query = match Operation::of(number) {
            Operation::Allowed(query) => query,
            Operation::Refused { name, body: Some(body) } => {
                self.skip(body).await?;
                let refusal = self.refusal(name);
                return Ok(say(&mut self.from, Encoder::error(&refusal)).await?);
            }
            Operation::Refused { name, body: None } => return Err(CloseReason::Refused(self.refusal(name))),
            Operation::Unknown => return Err(CloseReason::Refused(self.refusal(&number.to_string()))),
        };
        let answer = match self.answer(query).await {
            Ok(answer) => answer,
            Err(RequestError::Close(end)) => return Err(end),
            Err(RequestError::Malformed(why)) => Encoder::error(&why),
            Err(RequestError::Admission(e)) if e.is_final() => return Err(CloseReason::Failed(e.to_string())),
            Err(RequestError::Admission(e)) => Encoder::error(&e.to_string()),
        };
        Ok(say(&mut self.from, answer).await?)
    }

    fn refusal(&self, operation: &str) -> String {
        self.inner.record().denied();
        format!("the host's store is read-only here: the operation {operation} is not allowed")
    }

    async fn answer(&mut self, query: Query) -> Result<Encoder, RequestError> {
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
                Ok(match self.admission.describe(&path).await? {
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
                    return Err(RequestError::Malformed("this is not the hash part of a store path".into()));
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

    /// Reads a path to its end before checking it.
    async fn path(&mut self) -> Result<StorePath, RequestError> {
        let path = self.from.bytes(LONGEST).await?;
        StorePath::parse(&self.inner.logical_dir, &path).map_err(|e| RequestError::Malformed(e.to_string()))
    }

    /// Reads and decides in chunks and keeps only valid paths: the request may be long, the answer is bounded by the
    /// host's store.
    async fn valid_paths(&mut self) -> Result<Encoder, RequestError> {
        let dir = Arc::clone(&self.inner.logical_dir);
        let mut left = self.from.length_of_list(self.inner.settings.limits.list).await?;
        let mut answer = Vec::new();
        loop {
            let mut some = Vec::new();
            for _ in 0..left.min(AT_ONCE) {
                let path = self.from.bytes(StorePath::longest_within(&dir)).await?;
                some.push(StorePath::parse(&dir, &path).map_err(|e| CloseReason::Refused(e.to_string()))?);
            }
            self.inner.rate_limit.acquire(some.len()).await;
            left -= some.len();
            if left == 0 {
                let _substitute = self.from.number().await?;
            }
            // An error before the end of the request ends the connection.
            let valid = self.admission.valid(&some).await.map_err(|e| match left {
                0 => RequestError::Admission(e),
                _ => RequestError::Close(CloseReason::Refused(e.to_string())),
            })?;
            answer.extend(some.iter().zip(valid).filter(|&(_, valid)| valid).map(|(path, _)| path.within(&dir)));
            if left == 0 {
                return Ok(Encoder::done().list(&answer));
            }
        }
    }

    /// Skips a request.
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
enum RequestError {
    /// The connection is over.
    Close(CloseReason),
    /// The request is malformed, and was read to its end.
    Malformed(String),
    /// The request cannot be answered.
    Admission(AdmissionError),
}

impl<E: Into<CloseReason>> From<E> for RequestError {
    fn from(end: E) -> Self {
        RequestError::Close(end.into())
    }
}

impl From<AdmissionError> for RequestError {
    fn from(error: AdmissionError) -> Self {
        RequestError::Admission(error)
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
