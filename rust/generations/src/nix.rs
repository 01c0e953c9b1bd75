//! Has the guest build a recipe, and fetches the bundle: with the host's own `nix`, through the direct door.
//!
//! ```text
//!  nix copy ──▶ guest      the recipe, with all recipes and sources below it
//!  nix build ─▶ guest      the guest's nix-daemon builds; its log comes along
//!  nix path-info ◀─ guest  how large the result is
//!  nix store dump-path ◀─ guest ──pipe──▶ nix-store --restore     the result, as files
//! ```
//!
//! Commands and flags are those which Nix 2.18 to 2.34 share; what is experimental in any of them is enabled by name. Nothing
//! of the host's Nix is written to. The programs end with the future that runs them, and when they fall silent: [`job`].

mod host_nix;
mod job;
mod room;

use super::health;
use dvn_host::{blocking, files::remove_all, log_file::LogFile};
use dvn_lifecycle::Lease;
use dvn_protocol::NIX_PORT;
use dvn_types::{Arch, Kind, Report};
use futures_util::future::BoxFuture;
pub use host_nix::{Failure, Nix, Patience};
use job::{Job, Trouble};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};
use tokio::task::spawn_blocking;

/// Where `nix` is, if not on the daemon's PATH, which a service manager makes short.
const USUAL_PLACES: [&str; 2] = ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"];

/// Most that is kept of the build's log, in bytes; as much again of the log before.
const LOG_LIMIT: u64 = 4 << 20;

/// What is done for a recipe. A trait, so that what follows from it is tested without a guest.
pub trait Workshop: Send + Sync + 'static {
    /// Has the guest build the recipe and puts the bundle at `place`, where nothing is yet; `home` is a directory of its own.
    /// Resolves to the store path.
    fn build<'a>(
        &'a self,
        lease: &'a Lease,
        recipe: &'a Path,
        home: &'a Path,
        place: &'a Path,
    ) -> BoxFuture<'a, Result<String, Failure>>;
    /// Whether a guest of this architecture, which says that it is ready, can build.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> BoxFuture<'a, Result<(), Report>>;
}

impl Workshop for Nix {
    fn build<'a>(
        &'a self,
        lease: &'a Lease,
        recipe: &'a Path,
        home: &'a Path,
        place: &'a Path,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(Nix::build(self, lease, recipe, home, place))
    }

    // Not with a `nix` through the door, which is closed for the time of the try.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> BoxFuture<'a, Result<(), Report>> {
        Box::pin(async move { health::ask(lease.guest().connect(NIX_PORT).await?, arch).await })
    }
}

impl Nix {
    async fn build(&self, lease: &Lease, recipe: &Path, home: &Path, place: &Path) -> Result<String, Failure> {
        let programs = blocking(|| self.find()).map_err(Failure::Lasting)?;
        let log = blocking(|| LogFile::fresh(&self.log, LOG_LIMIT));
        let log = log.map_err(|e| Failure::Lasting(self.no_log(&e)))?;
        let agent = &**lease.needs_agent().map_err(Failure::Lasting)?;
        let mut job = Job { nix: self, programs, home, log, agent, least_free: room::LEAST_FREE };
        let recipe = recipe.to_string_lossy();
        // The sources of a recipe were made on this host and are signed by nobody; the guest takes this peer's word.
        let copied = job.nix(&["copy", "--verbose", "--no-check-sigs", "--to", &self.address, &recipe]).await;
        copied.map_err(|why| {
            Failure::Passing(job.failure(&format!("the recipe {recipe} could not be handed to the guest"), &why))
        })?;
        let output = format!("{recipe}^out");
        let mut build = vec!["build", "--verbose", "--no-link", "--print-out-paths", "--print-build-logs"];
        build.extend(["--store", &self.address, &output]);
        let built = job.nix(&build).await;
        let built =
            built.map_err(|why| job.of_the_recipe(&format!("the guest could not build the recipe {recipe}"), &why))?;
        let unfetched =
            |job: &Job<'_>, why: &Trouble| job.failure("the guest that was built could not be fetched", why);
        let size = job.nix(&["path-info", "--size", "--store", &self.address, &built]).await;
        let size = room::announced(&size.map_err(|why| Failure::Passing(unfetched(&job, &why)))?);
        if let Some(size) = size {
            room::refuse_too_large(size, place).map_err(Failure::Lasting)?;
        }
        if let Err(why) = job.fetch(&built, size, place).await {
            // It may have filled the volume.
            let half = place.to_owned();
            if let Ok(Err(report)) = spawn_blocking(move || remove_all(&half)).await {
                tracing::warn!("{report}"); // Removed before the next one is fetched.
            }
            return Err(Failure::Passing(unfetched(&job, &why)));
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
            Report::new(Kind::Host, "this host has no nix, which hands the recipe to the guest")
                .hint("name the directory it is in: `nix = \"/path\"` in the configuration file, or --nix")
        })
    }

    fn no_log(&self, error: &std::io::Error) -> Report {
        dvn_host::files::state_error(&self.log, "cannot write", error)
    }
}

/// The variables of the daemon's own environment that its `nix` gets: Nix's, and those that programs need anywhere.
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
