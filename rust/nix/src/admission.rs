//! Which paths a guest's connection may take for valid.
//!
//! ```text
//!  asked ──▶ held and described, with its closure ──▶ looked through, or known from before ──▶ admitted
//!                 │ not valid                              │ not in the share, changed names       │
//!                 ▼                                        ▼                                       ▼
//!              "not valid"        "not valid", and so is all that refers to it            what the guest is told
//! ```
//!
//! The closure counts, since the guest's Nix takes a path over with all it refers to. What was decided is remembered while
//! the connection lasts; it stays true, for the connection to the host's daemon holds every path that was decided on.

use super::{
    case_hack,
    holdings::Share,
    ledger::Told,
    path::StorePath,
    state::Inner,
    upstream::{PathInfo, Relation, Upstream, UpstreamError},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

/// Paths that are looked through before the task may be ended.
const AT_ONCE: usize = 64;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The host's daemon failed, or says no.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The limit of all connections.
    #[error("the guest has asked for more than {0} paths of the host's store at once")]
    TooMany(usize),
    /// The ledger cannot be written, so the guest must not be told.
    #[error("the host cannot note that the guest uses a path of its store: {0}")]
    Ledger(io::Error),
    /// A path that would have to be valid.
    #[error("path '{0}' is not valid")]
    NotValid(String),
}

impl AdmissionError {
    /// Can the connection answer further questions?
    pub fn is_final(&self) -> bool {
        match self {
            AdmissionError::Upstream(UpstreamError::Refused(_))
            | AdmissionError::Ledger(_)
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
    share: Share,
}

impl Admission {
    /// Connects to the host's daemon. If that fails, nothing is valid, and builds go on with copies.
    pub async fn new(inner: Arc<Inner>) -> Admission {
        let upstream = match inner.upstream().await {
            Ok(upstream) => Some(upstream),
            Err(e) => {
                tracing::warn!("the guest gets nothing of the host's store: {e}");
                None
            }
        };
        let share = inner.holdings.share();
        Admission { inner, upstream, known: HashMap::new(), share }
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

    /// Describes a path for the guest, which knows of it from then on: it is in the ledger, and every session holds it.
    pub async fn tell(&mut self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, AdmissionError> {
        if self.valid(std::slice::from_ref(path)).await? != [true] {
            return Ok(None);
        }
        let Some(info) = self.known.get(path).map(|known| Arc::clone(&known.info)) else { return Ok(None) };
        let told = Told { nar_hash: info.nar_hash.as_str().into(), nar_size: info.nar_size };
        let news = self.inner.ledger().record(path, told).map_err(AdmissionError::Ledger)?;
        // Who closes the gate reads the ledger after that. If this line came too late for it, the guest must not be told.
        if self.inner.record().closed().is_some() {
            return Ok(None);
        }
        if news {
            self.inner.sessions.hold(path).await;
        }
        Ok(Some(info))
    }

    /// Everything valid that the guest was ever told of. The rest of the host's store is not listed: to tell which of it is
    /// valid here, all of it would have to be looked through and held.
    pub async fn all(&mut self) -> Result<Vec<StorePath>, AdmissionError> {
        let told: Vec<_> = self.inner.ledger().told().map(|(path, ..)| path.clone()).collect();
        self.inner.pace.keep(told.len()).await;
        self.only_valid(told).await
    }

    /// Of what refers to a path, what the guest was told of.
    pub async fn referrers(&mut self, path: &StorePath) -> Result<Vec<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(Vec::new()) };
        let (referrers, all) =
            upstream.related(Relation::Referrers, path, |path| self.inner.ledger().knows(path)).await?;
        self.inner.pace.keep(all).await;
        self.only_valid(referrers).await
    }

    /// The derivations that make a path.
    pub async fn derivers(&mut self, path: &StorePath) -> Result<Vec<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(Vec::new()) };
        let (derivers, all) = upstream.related(Relation::ValidDerivers, path, |_| true).await?;
        self.inner.pace.keep(all).await;
        self.only_valid(derivers).await
    }

    /// The path with a hash part.
    pub async fn by_hash_part(&mut self, hash_part: &str) -> Result<Option<StorePath>, AdmissionError> {
        let Some(upstream) = &mut self.upstream else { return Ok(None) };
        let path = upstream.path_from_hash_part(hash_part).await?;
        Ok(self.only_valid(path.into_iter().collect()).await?.pop())
    }

    /// What a derivation makes.
    pub async fn outputs(&mut self, drv: &StorePath) -> Result<Vec<[Vec<u8>; 2]>, AdmissionError> {
        let valid = self.valid(std::slice::from_ref(drv)).await? == [true];
        match &mut self.upstream {
            Some(upstream) if valid => {
                let outputs = upstream.derivation_output_map(drv).await?;
                self.inner.pace.keep(outputs.len()).await;
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

    /// Holds and describes what is not known yet, and all it refers to. What is new is not admitted yet.
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
            self.share.take(next.len()).map_err(AdmissionError::TooMany)?;
            let described = upstream.hold_and_describe(&next).await?;
            let mut referred: Vec<StorePath> = Vec::new();
            for (path, info) in next.into_iter().zip(described) {
                let Some(info) = info else { continue };
                referred.extend(info.references.iter().cloned());
                let (path, info) = self.share.describe(path, info);
                self.known.insert(path.clone(), Known { info, admitted: false });
                fresh.push(path);
            }
            // What was asked for has been counted.
            referred.retain(|path| !self.known.contains_key(path) && !seen.contains(path));
            self.inner.pace.keep(referred.len()).await;
            next = referred;
        }
    }

    /// Admits those of the fresh paths that are as they should be and refer only to such.
    async fn decide(&mut self, fresh: &[StorePath]) {
        let mut faults: HashMap<StorePath, String> = HashMap::new();
        for some in fresh.chunks(AT_ONCE) {
            faults.extend(self.look_through(some).await);
        }
        let fresh_ones: HashSet<&StorePath> = fresh.iter().collect();
        let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
        for path in fresh {
            let Some(known) = self.known.get(path) else { continue };
            for reference in known.info.references.iter().filter(|&reference| reference != path) {
                if fresh_ones.contains(reference) {
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

    /// Looks at the files of valid paths: are they in the share, and under their own names? Returns what is wrong.
    async fn look_through(&self, paths: &[StorePath]) -> Vec<(StorePath, String)> {
        let inner = Arc::clone(&self.inner);
        let info_of = |path: &StorePath| self.known.get(path).map(|known| Arc::clone(&known.info));
        let all: Vec<_> = paths.iter().filter_map(|path| Some((path.clone(), info_of(path)?))).collect();
        let paths = all.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let fault = |(path, info): (StorePath, Arc<PathInfo>)| {
                let why = inner.fault_of(&path, &info.nar_hash)?;
                Some((path, why))
            };
            paths.into_iter().filter_map(fault).collect()
        });
        // It fails only if it panics or the program ends; then nothing is known to be in order.
        looking.await.unwrap_or_else(|e| all.into_iter().map(|(path, _)| (path, e.to_string())).collect())
    }
}

impl Inner {
    /// What is wrong with the files of a valid path. Blocks.
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
            Err(e) => Some(format!("it cannot be looked through: {e}")),
        }
    }
}

fn refers_to(path: &StorePath) -> String {
    format!("it refers to {path}, which the guest cannot use in place")
}
