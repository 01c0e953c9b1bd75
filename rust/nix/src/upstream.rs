//! A connection to the host's Nix daemon, as a client that only queries.
//!
//! The daemon forks a process for each connection. It releases the paths held by a connection ("temporary roots") when
//! the connection ends. So every connection of a guest has one of these, and so has every session.
//!
//! Rule: hold a path *before* asking about it ([`Upstream::hold_and_describe`]). Otherwise the garbage collector could
//! run in between, and the daemon would keep answering from its cache.

use super::{
    path::StorePath,
    wire::{CLIENT_MAGIC, DAEMON_MAGIC, Decoder, Encoder, LONGEST, MOST, PROTOCOL, WireError},
};
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Requests that are sent before the answer to the first is read.
const PIPELINE: usize = 1024;

/// Why the host's daemon did not answer a question.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Its socket refuses connections.
    #[error("the host's Nix daemon cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It speaks another protocol version.
    #[error("the host's Nix daemon speaks worker protocol {0}.{1}, and 1.35 or later is needed (Nix 2.18)")]
    Dialect(u64, u64),
    /// It sent something malformed, or the connection broke.
    #[error("the connection to the host's Nix daemon failed: {0}")]
    Wire(#[from] WireError),
    /// It sent nothing.
    #[error("the host's Nix daemon did not answer within {0:?}")]
    Silent(Duration),
    /// It answered with an error. The connection is still usable.
    #[error("the host's Nix daemon says: {0}")]
    Refused(String),
}

/// The host database's description of a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// Full path of the derivation that produced it, or empty.
    pub deriver: Vec<u8>,
    /// Hash of its NAR: SHA-256, hexadecimal.
    pub nar_hash: String,
    /// The paths it refers to, possibly itself too.
    pub references: Vec<StorePath>,
    /// Time of registration, in seconds since 1970.
    pub registered: u64,
    /// Size of its NAR in bytes.
    pub nar_size: u64,
    /// Whether it was built on this host.
    pub ultimate: u64,
    /// Signatures.
    pub signatures: Vec<Vec<u8>>,
    /// Content address, or empty.
    pub content_address: Vec<u8>,
}

/// An open connection after its greeting. Unusable after an error other than [`UpstreamError::Refused`].
#[derive(Debug)]
pub struct Upstream {
    incoming: Incoming,
    to: OwnedWriteHalf,
    answer_timeout: Duration,
    version: String,
}

/// The receiving half.
#[derive(Debug)]
struct Incoming {
    from: Decoder<BufReader<OwnedReadHalf>>,
    store_dir: Arc<str>,
}

impl Upstream {
    /// Connects and greets. `store_dir` is the store directory in path names; `answer_timeout` applies to each answer.
    pub async fn connect(
        socket: &Path,
        store_dir: Arc<str>,
        answer_timeout: Duration,
    ) -> Result<Upstream, UpstreamError> {
        let greeting = async {
            let stream = UnixStream::connect(socket).await.map_err(UpstreamError::Unreachable)?;
            let (from, to) = stream.into_split();
            let incoming = Incoming { from: Decoder(BufReader::new(from)), store_dir };
            let mut upstream = Upstream { incoming, to, answer_timeout, version: String::new() };
            upstream.greet().await?;
            Ok(upstream)
        };
        timeout(answer_timeout, greeting).await.unwrap_or(Err(UpstreamError::Silent(answer_timeout)))
    }

    /// The daemon's own version text.
    pub fn version(&self) -> &str {
        &self.version
    }

    async fn greet(&mut self) -> Result<(), UpstreamError> {
        // The last two numbers no longer have a meaning: processor affinity and reserved space.
        let hello = Encoder::default().number(CLIENT_MAGIC).number(PROTOCOL).number(0).number(0);
        self.to.write_all(hello.as_slice()).await.map_err(WireError::from)?;
        let from = &mut self.incoming.from;
        if from.number().await? != DAEMON_MAGIC {
            return Err(WireError::Unexpected("this is not a Nix daemon".into()).into());
        }
        let theirs = from.number().await?;
        if theirs >> 8 != PROTOCOL >> 8 || theirs < PROTOCOL {
            return Err(UpstreamError::Dialect(theirs >> 8, theirs & 0xff));
        }
        self.version = String::from_utf8_lossy(&from.bytes(LONGEST).await?).into_owned();
        let _trusted = from.number().await?;
        self.incoming.outcome().await
    }

    /// Holds each path while this connection lasts, then asks for its description: `None` means "not valid". Holding an
    /// invalid path is not an error. The requests for many paths are pipelined.
    pub async fn hold_and_describe(&mut self, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>, UpstreamError> {
        let mut described = Vec::with_capacity(paths.len());
        for some in paths.chunks(PIPELINE) {
            let requests = some.iter().fold(Encoder::default(), |so_far, path| {
                let path = path.within(&self.incoming.store_dir);
                so_far.number(ADD_TEMP_ROOT).bytes(path.as_bytes()).number(QUERY_PATH_INFO).bytes(path.as_bytes())
            });
            let incoming = &mut self.incoming;
            let answers = async {
                for _ in some {
                    described.push(incoming.held_and_described().await?);
                }
                Ok(())
            };
            exchange(&mut self.to, requests, self.answer_timeout, answers).await?;
        }
        Ok(described)
    }

    /// Holds paths that are known to be valid because another connection holds them.
    pub async fn hold(&mut self, paths: &[StorePath]) -> Result<(), UpstreamError> {
        for some in paths.chunks(PIPELINE) {
            let requests = some.iter().fold(Encoder::default(), |so_far, path| {
                so_far.number(ADD_TEMP_ROOT).bytes(path.within(&self.incoming.store_dir).as_bytes())
            });
            let incoming = &mut self.incoming;
            let answers = async {
                for _ in some {
                    incoming.outcome().await?;
                    incoming.from.number().await?;
                }
                Ok(())
            };
            exchange(&mut self.to, requests, self.answer_timeout, answers).await?;
        }
        Ok(())
    }

    /// Asks for a list of paths: referrers or derivers. Returns those that `wanted` accepts, and how many there were in
    /// all.
    pub async fn related(
        &mut self,
        operation: Relation,
        path: &StorePath,
        wanted: impl Fn(&StorePath) -> bool,
    ) -> Result<(Vec<StorePath>, usize), UpstreamError> {
        let number = match operation {
            Relation::Referrers => QUERY_REFERRERS,
            Relation::ValidDerivers => QUERY_VALID_DERIVERS,
        };
        let request = Encoder::default().number(number).bytes(path.within(&self.incoming.store_dir).as_bytes());
        let incoming = &mut self.incoming;
        let answer = async {
            incoming.outcome().await?;
            let mut related = Vec::new();
            let all = incoming.from.length_of_list(MOST).await?;
            for _ in 0..all {
                let path = incoming.path().await?;
                if wanted(&path) {
                    related.push(path);
                }
            }
            Ok((related, all))
        };
        exchange(&mut self.to, request, self.answer_timeout, answer).await
    }

    /// The path with this hash part.
    pub async fn path_from_hash_part(&mut self, hash_part: &str) -> Result<Option<StorePath>, UpstreamError> {
        let request = Encoder::default().number(QUERY_PATH_FROM_HASH_PART).bytes(hash_part.as_bytes());
        let incoming = &mut self.incoming;
        let answer = async {
            incoming.outcome().await?;
            let path = incoming.from.bytes(LONGEST).await?;
            if path.is_empty() { Ok(None) } else { incoming.parse(&path).map(Some) }
        };
        exchange(&mut self.to, request, self.answer_timeout, answer).await
    }

    /// The outputs of a derivation: name, and path if it is known, both in the daemon's notation.
    pub async fn derivation_output_map(&mut self, path: &StorePath) -> Result<Vec<[Vec<u8>; 2]>, UpstreamError> {
        let path = path.within(&self.incoming.store_dir);
        let request = Encoder::default().number(QUERY_DERIVATION_OUTPUT_MAP).bytes(path.as_bytes());
        let incoming = &mut self.incoming;
        let answer = async {
            incoming.outcome().await?;
            let mut map = Vec::new();
            for _ in 0..incoming.from.length_of_list(MOST).await? {
                map.push([incoming.from.bytes(LONGEST).await?, incoming.from.bytes(LONGEST).await?]);
            }
            Ok(map)
        };
        exchange(&mut self.to, request, self.answer_timeout, answer).await
    }

    /// Resolves when the daemon closes the connection or sends something unasked.
    pub async fn lost(&mut self) {
        // Nothing was asked, so any input means a lost connection: an end or bytes.
        let _ = self.incoming.from.0.fill_buf().await;
    }
}

const QUERY_REFERRERS: u64 = 6;
const ADD_TEMP_ROOT: u64 = 11;
const QUERY_PATH_INFO: u64 = 26;
const QUERY_PATH_FROM_HASH_PART: u64 = 29;
const QUERY_VALID_DERIVERS: u64 = 33;
const QUERY_DERIVATION_OUTPUT_MAP: u64 = 41;

/// Which paths [`Upstream::related`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Paths that refer to the given one.
    Referrers,
    /// Valid derivations that produce it.
    ValidDerivers,
}

/// Sends requests while reading answers, since either side may stop reading until the other has sent something.
async fn exchange<T>(
    to: &mut OwnedWriteHalf,
    requests: Encoder,
    answer_timeout: Duration,
    answers: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    let send = async { to.write_all(requests.as_slice()).await.map_err(|e| WireError::from(e).into()) };
    let both = async { tokio::try_join!(send, answers) };
    let ((), answer) = timeout(answer_timeout, both).await.unwrap_or(Err(UpstreamError::Silent(answer_timeout)))?;
    Ok(answer)
}

impl Incoming {
    /// Skips the daemon's log up to the end of a request.
    async fn outcome(&mut self) -> Result<(), UpstreamError> {
        self.from.outcome().await?.map_err(UpstreamError::Refused)
    }

    /// The answers to one pair of requests. A path that the daemon refuses to hold counts as invalid.
    async fn held_and_described(&mut self) -> Result<Option<PathInfo>, UpstreamError> {
        let held = match self.outcome().await {
            Ok(()) => self.from.number().await.map(|_| true)?,
            Err(UpstreamError::Refused(why)) => {
                tracing::debug!("the host's Nix daemon does not hold a path: {why}");
                false
            }
            Err(e) => return Err(e),
        };
        let described = match self.outcome().await {
            Ok(()) if self.from.number().await? == 0 => None,
            Ok(()) => Some(self.path_info().await?),
            Err(UpstreamError::Refused(why)) => {
                tracing::debug!("the host's Nix daemon does not describe a path: {why}");
                None
            }
            Err(e) => return Err(e),
        };
        Ok(described.filter(|_| held))
    }

    async fn path_info(&mut self) -> Result<PathInfo, UpstreamError> {
        let deriver = self.from.bytes(LONGEST).await?;
        let nar_hash = self.from.text(LONGEST).await?;
        if nar_hash.is_empty() || !nar_hash.bytes().all(|c| c.is_ascii_alphanumeric() || b":+/=-".contains(&c)) {
            return Err(WireError::Unexpected(format!("{nar_hash:?} in the place of a hash")).into());
        }
        let mut references = Vec::new();
        for _ in 0..self.from.length_of_list(MOST).await? {
            references.push(self.path().await?);
        }
        Ok(PathInfo {
            deriver,
            nar_hash,
            references,
            registered: self.from.number().await?,
            nar_size: self.from.number().await?,
            ultimate: self.from.number().await?,
            signatures: self.from.list(MOST, LONGEST).await?,
            content_address: self.from.bytes(LONGEST).await?,
        })
    }

    async fn path(&mut self) -> Result<StorePath, UpstreamError> {
        let path = self.from.bytes(LONGEST).await?;
        self.parse(&path)
    }

    fn parse(&self, path: &[u8]) -> Result<StorePath, UpstreamError> {
        StorePath::parse(&self.store_dir, path).map_err(|e| WireError::Unexpected(e.to_string()).into())
    }
}
