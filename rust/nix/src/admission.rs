//! Decides which paths are valid for a guest's connection.
//!
//! ```text
//!  asked ──▶ held and described, with its closure ──▶ scanned, or known from before ──▶ admitted
//!                 │ not valid                              │ not in the share, changed names  │
//!                 ▼                                        ▼                                  ▼
//!              "not valid"        "not valid", and so is all that refers to it        the guest's answer
//! ```
//!
//! The closure counts because the guest's Nix adopts a path with all that it refers to. Decisions are cached while the
//! connection lasts; they stay true because the connection to the host's daemon holds every path decided on.

use super::{
    case_hack,
    known_paths::Contents,
    path::StorePath,
    state::Inner,
    temp_roots::ConnectionRoots,
    upstream::{PathInfo, Relation, Upstream, UpstreamError},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

/// Paths that are scanned before the task can be cancelled.
const AT_ONCE: usize = 64;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The host's daemon failed or refused.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The limit for all connections is reached.
    #[error("the guest has asked for more than {0} paths of the host's store at once")]
    TooMany(usize),
    /// The known paths cannot be written, so the guest must not get the description.
    #[error("the host cannot note that the guest knows a path of its store: {0}")]
    KnownPaths(io::Error),
    /// The request requires a valid path, and this one is not.
    #[error("path '{0}' is not valid")]
    NotValid(String),
}

impl AdmissionError {
    /// Whether the connection can answer no further questions.
    pub fn is_final(&self) -> bool {
        match self {
            AdmissionError::Upstream(UpstreamError::Refused(_))
            | AdmissionError::KnownPaths(_)
            | AdmissionError::NotValid(_) => false,
            AdmissionError::Upstream(_) | AdmissionError::TooMany(_) => true,
        }
    }
}

/// A path that is valid on the host.
#[derive(Debug)]
struct Known {
    info: Arc<PathInfo>,
    admitted: bool,
}

/// What one connection of the guest has asked for.
#[derive(Debug)]
pub struct Admission {
    inner: Arc<Inner>,
    upstream: Option<Upstream>,
    known: HashMap<StorePath, Known>,
    roots: ConnectionRoots,
}

impl Admission {
    /// Connects to the host's daemon. If that fails no path is valid, and builds use copies.
    pub async fn new(inner: Arc<Inner>) -> Admission {
        let upstream = match inner.upstream().await {
            Ok(upstream) => Some(upstream),
            Err(e) => {
                tracing::warn!("the guest cannot use the host's store: {e}");
                None
            }
        };
        let roots = inner.temp_roots.for_connection();
        Admission { inner, upstream, known: HashMap::new(), roots }
    }

    /// Which of these are valid for the guest. They are held from now on.
    pub async fn valid(&mut self, asked: &[StorePath]) -> Result<Vec<bool>, AdmissionError> {
        if self.inner.record().closed().is_some() {
            return Ok(vec![false; asked.len()]);
        }
        let fresh = self.learn(asked).await?;
        self.decide(&fresh).await;
        Ok(asked.iter().map(|path| self.known.get(path).is_some_and(|known| known.admitted)).collect())
    }

    /// Describes a path to the guest. From then on it is a known path, and every session holds it.
    pub async fn describe(&mut self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, AdmissionError> {
        if self.valid(std::slice::from_ref(path)).await? != [true] {
            return Ok(None);
        }
        let Some(info) = self.known.get(path).map(|known| Arc::clone(&known.info)) else { return Ok(None) };
        let contents = Contents { nar_hash: info.nar_hash.as_str().into(), nar_size: info.nar_size };
        let new = self.inner.known_paths().record(path, contents).map_err(AdmissionError::KnownPaths)?;
        // The caller of `close` reads the known paths afterwards. If this entry came too late, the guest must not get
        // it.
        if self.inner.record().closed().is_some() {
            return Ok(None);
        }
        if new {
            self.inner.sessions.hold(path).await;
        }
        Ok(Some(info))
    }

    /// All valid known paths. The rest of the host's store is not listed: to decide which of it is valid here, all of
    /// it would have to be scanned and held.
    pub async fn all(&mut self) -> Result<Vec<StorePath>, AdmissionError> {
        let known: Vec<_> = self.inner.known_paths().iter().map(|(path, ..)| path.clone()).collect();
        self.inner.rate_limit.acquire(known.len()).await;
        self.only_valid(known).await
    }

    /// The known paths among the referrers of a path.
    pub async fn referrers(&mut self, path: &StorePath) -> Result<Vec<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(Vec::new()) };
        let (referrers, all) =
            upstream.related(Relation::Referrers, path, |path| self.inner.known_paths().knows(path)).await?;
        self.inner.rate_limit.acquire(all).await;
        self.only_valid(referrers).await
    }

    /// The derivations that produce a path.
    pub async fn derivers(&mut self, path: &StorePath) -> Result<Vec<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(Vec::new()) };
        let (derivers, all) = upstream.related(Relation::ValidDerivers, path, |_| true).await?;
        self.inner.rate_limit.acquire(all).await;
        self.only_valid(derivers).await
    }

    /// The path with this hash part.
    pub async fn by_hash_part(&mut self, hash_part: &str) -> Result<Option<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(None) };
        let path = upstream.path_from_hash_part(hash_part).await?;
        Ok(self.only_valid(path.into_iter().collect()).await?.pop())
    }

    /// The outputs of a derivation.
    pub async fn outputs(&mut self, drv: &StorePath) -> Result<Vec<[Vec<u8>; 2]>, AdmissionError> {
        let valid = self.valid(std::slice::from_ref(drv)).await? == [true];
        match &mut self.upstream {
            Some(upstream) if valid => {
                let outputs = upstream.derivation_output_map(drv).await?;
                self.inner.rate_limit.acquire(outputs.len()).await;
                Ok(outputs)
            }
            _ => Err(AdmissionError::NotValid(drv.within(&self.inner.logical_dir))),
        }
    }

    async fn only_valid(&mut self, mut paths: Vec<StorePath>) -> Result<Vec<StorePath>, AdmissionError> {
        let mut valid = self.valid(&paths).await?.into_iter();
        paths.retain(|_| valid.next() == Some(true));
        Ok(paths)
    }

    /// Holds and describes the paths that are new to this connection, and all they refer to. Does not admit them yet.
    async fn learn(&mut self, asked: &[StorePath]) -> Result<Vec<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(Vec::new()) };
        let mut fresh = Vec::new();
        let mut seen = HashSet::new();
        let mut next: Vec<StorePath> = asked.to_vec();
        loop {
            next.retain(|path| !self.known.contains_key(path) && seen.insert(path.clone()));
            if next.is_empty() {
                return Ok(fresh);
            }
            self.roots.reserve(next.len()).map_err(AdmissionError::TooMany)?;
            let described = upstream.hold_and_describe(&next).await?;
            let mut referred: Vec<StorePath> = Vec::new();
            for (path, info) in next.into_iter().zip(described) {
                let Some(info) = info else { continue };
                referred.extend(info.references.iter().cloned());
                let (path, info) = self.roots.intern(path, info);
                self.known.insert(path.clone(), Known { info, admitted: false });
                fresh.push(path);
            }
            // The paths asked for are counted already.
            referred.retain(|path| !self.known.contains_key(path) && !seen.contains(path));
            self.inner.rate_limit.acquire(referred.len()).await;
            next = referred;
        }
    }

    /// Admits those fresh paths that have no fault and refer only to admitted ones.
    async fn decide(&mut self, fresh: &[StorePath]) {
        let mut faults: HashMap<StorePath, String> = HashMap::new();
        for some in fresh.chunks(AT_ONCE) {
            faults.extend(self.scan(some).await);
        }
        let fresh_set: HashSet<&StorePath> = fresh.iter().collect();
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        for path in fresh {
            let Some(known) = self.known.get(path) else { continue };
            for reference in known.info.references.iter().filter(|&reference| reference != path) {
                if fresh_set.contains(reference) {
                    referrers.entry(reference).or_default().push(path);
                } else if !self.known.get(reference).is_some_and(|known| known.admitted) {
                    faults.entry(path.clone()).or_insert_with(|| refers_to(reference));
                }
            }
        }
        let mut faulty: Vec<StorePath> = faults.keys().cloned().collect();
        while let Some(path) = faulty.pop() {
            for &referrer in referrers.get(&path).into_iter().flatten() {
                if !faults.contains_key(referrer) {
                    faults.insert(referrer.clone(), refers_to(&path));
                    faulty.push(referrer.clone());
                }
            }
        }
        for path in fresh {
            match faults.get(path) {
                Some(why) => self.refuse(path, why),
                None => {
                    if let Some(known) = self.known.get_mut(path) {
                        known.admitted = true;
                    }
                    self.inner.record().admitted(|| path.within(&self.inner.logical_dir));
                }
            }
        }
    }

    fn refuse(&self, path: &StorePath, why: &str) {
        let path = path.within(&self.inner.logical_dir);
        if self.inner.record().refused(path.clone(), why) {
            tracing::info!("{path} is copied to the guest, and not used in place: {why}");
        }
    }

    /// Scans the files of valid paths: are they in the share, and under their own names? Returns the faults.
    async fn scan(&self, paths: &[StorePath]) -> Vec<(StorePath, String)> {
        let inner = Arc::clone(&self.inner);
        let info_of = |path: &StorePath| self.known.get(path).map(|known| Arc::clone(&known.info));
        let all: Vec<_> = paths.iter().filter_map(|path| Some((path.clone(), info_of(path)?))).collect();
        let paths = all.clone();
        let scan = tokio::task::spawn_blocking(move || {
            let fault = |(path, info): (StorePath, Arc<PathInfo>)| {
                let why = inner.fault_of(&path, &info.nar_hash)?;
                Some((path, why))
            };
            paths.into_iter().filter_map(fault).collect()
        });
        // This fails only on a panic or at the program's end; then no path is known to be in order.
        scan.await.unwrap_or_else(|e| all.into_iter().map(|(path, _)| (path, e.to_string())).collect())
    }
}

impl Inner {
    /// The fault of a valid path's files, if there is one. Blocks.
    fn fault_of(&self, path: &StorePath, nar_hash: &str) -> Option<String> {
        let root = self.settings.store_dir.join(path.name());
        let known = self.verdicts().get(path, nar_hash);
        let changed = match known {
            Some(changed) => std::fs::symlink_metadata(&root).map(|_| changed),
            None => case_hack::changed_name(&root).inspect(|changed| {
                self.verdicts().remember(path, nar_hash, changed.as_deref());
            }),
        };
        match changed {
            Ok(None) => None,
            Ok(Some(name)) => Some(format!("names in it differ only in case, and Nix stores one of them as {name}")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Some(format!("it is not in the shared directory {}", self.settings.store_dir.display()))
            }
            Err(e) => Some(format!("it cannot be scanned: {e}")),
        }
    }
}

fn refers_to(path: &StorePath) -> String {
    format!("it refers to {path}, which the guest cannot use in place")
}
