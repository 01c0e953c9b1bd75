//! Builds a recipe in the guest and fetches the bundle, with the host's own `nix` and through the direct door.
//!
//! ```text
//!  nix copy ──▶ guest      the recipe, with all recipes and sources below it
//!  nix build ─▶ guest      the guest's nix-daemon builds; its log comes along
//!  nix path-info ◀─ guest  how large the result is
//!  nix store dump-path ◀─ guest ──pipe──▶ nix-store --restore     the result, as files
//! ```
//!
//! Only commands and flags that Nix 2.18 to 2.34 share; features that are experimental in one of them are enabled by
//! name. Nothing writes to the host's Nix. The programs end when their future is dropped, and when they print nothing
//! for too long: [`job`].

mod free_space;
mod host_nix;
mod job;

use super::health;
use dvn_host::{blocking, files::remove_all, log_file::LogFile};
use dvn_lifecycle::Lease;
use dvn_protocol::NIX_PORT;
use dvn_types::{Arch, Kind, Report};
use futures_util::future::BoxFuture;
pub use host_nix::{Failure, Nix, TimeLimits};
use job::{Job, JobError};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;

/// Directories of `nix`, if it is not on the daemon's PATH, which a service manager keeps short.
const USUAL_PLACES: [&str; 2] = ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"];

/// Size of the build log, in bytes. One older log of that size is kept too.
const LOG_LIMIT: u64 = 4 << 20;

/// Builds guest systems. A trait, so that the reconciler is tested without a guest.
pub trait SystemBuilder: Send + Sync + 'static {
    /// Builds the recipe in the guest and puts the bundle at `place`, which must not exist; `home` is a directory for
    /// `nix`. Resolves to the store path.
    fn build<'a>(
        &'a self,
        lease: &'a Lease,
        recipe: &'a Path,
        home: &'a Path,
        place: &'a Path,
    ) -> BoxFuture<'a, Result<String, Failure>>;
    /// Checks that a guest of this architecture, which has reported READY, can build.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> BoxFuture<'a, Result<(), Report>>;
}

impl SystemBuilder for Nix {
    fn build<'a>(
        &'a self,
        lease: &'a Lease,
        recipe: &'a Path,
        home: &'a Path,
        place: &'a Path,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(Nix::build(self, lease, recipe, home, place))
    }

    // Not by a `nix` through the door, which is closed during the try.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { health::ask(lease.guest().connect(NIX_PORT).await?, arch).await })
    }
}

impl Nix {
    async fn build(&self, lease: &Lease, recipe: &Path, home: &Path, place: &Path) -> Result<String, Failure> {
        let programs = blocking(|| self.find()).map_err(Failure::Permanent)?;
        let log = blocking(|| LogFile::fresh(&self.log, LOG_LIMIT));
        let log = log.map_err(|e| Failure::Permanent(self.no_log(&e)))?;
        let agent = &**lease.needs_agent().map_err(Failure::Permanent)?;
        let mut job = Job { nix: self, programs, home, log, agent, least_free: free_space::LEAST_FREE };
        let recipe = recipe.to_string_lossy();
        // The recipe's sources were made on this host and have no signatures; the guest trusts this client.
        let copied = job.nix(&["copy", "--verbose", "--no-check-sigs", "--to", &self.address, &recipe]).await;
        copied.map_err(|why| {
            Failure::Temporary(job.failure(&format!("the recipe {recipe} could not be copied to the guest"), &why))
        })?;
        let output = format!("{recipe}^out");
        let mut build = vec!["build", "--verbose", "--no-link", "--print-out-paths", "--print-build-logs"];
        build.extend(["--store", &self.address, &output]);
        let built = job.nix(&build).await;
        let built =
            built.map_err(|why| job.of_the_recipe(&format!("the guest could not build the recipe {recipe}"), &why))?;
        let unfetched = |job: &Job<'_>, why: &JobError| job.failure("the new guest bundle could not be fetched", why);
        let size = job.nix(&["path-info", "--size", "--store", &self.address, &built]).await;
        let size = free_space::announced(&size.map_err(|why| Failure::Temporary(unfetched(&job, &why)))?);
        if let Some(size) = size {
            free_space::refuse_too_large(size, place).map_err(Failure::Permanent)?;
        }
        if let Err(why) = job.fetch(&built, size, place).await {
            // It may have filled the volume.
            let half = place.to_owned();
            if let Ok(Err(report)) = spawn_blocking(move || remove_all(&half)).await {
                tracing::warn!("{report}"); // The next fetch removes it.
            }
            return Err(Failure::Temporary(unfetched(&job, &why)));
        }
        Ok(built)
    }

    /// The directory with `nix` and `nix-store`.
    fn find(&self) -> Result<PathBuf, Report> {
        let is_there = |dir: &PathBuf| dir.join("nix").is_file() && dir.join("nix-store").is_file();
        if let Some(dir) = &self.programs {
            let missing = || {
                Report::new(Kind::Config, format!("there are no nix and nix-store in {}", dir.display()))
                    .hint("check the `nix` setting: `darwin-vz-nix config`")
            };
            return Some(dir.clone()).filter(is_there).ok_or_else(missing);
        }
        let places = std::env::split_paths(&self.search_path).chain(USUAL_PLACES.map(PathBuf::from));
        places.filter(|dir| dir.is_absolute()).find(is_there).ok_or_else(|| {
            Report::new(Kind::Host, "this host has no nix, which is needed to copy the recipe to the guest")
                .hint("name the directory it is in: `nix = \"/path\"` in the configuration file, or --nix")
        })
    }

    fn no_log(&self, error: &std::io::Error) -> Report {
        dvn_host::files::state_error(&self.log, "cannot write", error)
    }
}

/// The variables of the daemon's environment that its `nix` gets: Nix's own, and those that any program needs.
pub fn environment(all: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    const OTHERS: [&str; 6] = ["TMPDIR", "USER", "LOGNAME", "LANG", "SSL_CERT_FILE", "NIX_SSL_CERT_FILE"];
    let is_wanted = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("NIX_") || OTHERS.contains(&&*name)
    };
    all.into_iter().filter(|(name, _)| is_wanted(name)).collect()
}

#[cfg(test)]
mod tests;
