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
//! of the host's Nix is written to. The programs end with the future that runs them.

use super::health;
use crate::{
    error::{Kind, Report},
    hypervisor::Verb,
    log_file::{self, LogFile},
    spec::Arch,
    supervisor::Lease,
};
use bytesize::ByteSize;
use darwin_vz_agent::NIX_PORT;
use std::{
    ffi::{OsStr, OsString},
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// Where `nix` is, if not on the daemon's PATH, which a service manager makes short.
const USUAL_PLACES: [&str; 2] = ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"];

/// Most that is kept of the build's log, in bytes; as much again of the log before.
const LOG_LIMIT: u64 = 4 << 20;

/// Lines of the log that an error repeats.
const LOG_LINES: usize = 3;

/// Longest answer that is read from a program, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Room to leave on the host's volume, in bytes.
const LEAST_FREE: u64 = crate::guest::disk::LEAST_FREE;

/// A `nix` of the host, for one machine.
#[derive(Clone, Debug)]
pub struct Nix {
    /// Where it is, if configured.
    pub programs: Option<PathBuf>,
    /// `PATH` of the daemon.
    pub search_path: OsString,
    /// All other variables that it gets.
    pub environment: Vec<(OsString, OsString)>,
    /// The guest's store.
    pub address: String,
    /// Where its output goes.
    pub log: PathBuf,
}

/// Why there is no bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something could not be reached; another time it may.
    Passing(Report),
    /// The recipe itself, or this host: it would fail again.
    Lasting(Report),
}

/// What is done for a recipe. A trait, so that what follows from it is tested without a guest.
pub trait Workshop: Send + Sync + 'static {
    /// Builds the recipe and puts the bundle at `place`, where nothing is yet; `home` is a directory of its own. Resolves to
    /// the store path.
    fn build<'a>(&'a self, recipe: &'a Path, home: &'a Path, place: &'a Path) -> Verb<'a, Result<String, Failure>>;
    /// Whether a guest of this architecture, which says that it is ready, can build.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> Verb<'a, Result<(), Report>>;
}

impl Workshop for Nix {
    fn build<'a>(&'a self, recipe: &'a Path, home: &'a Path, place: &'a Path) -> Verb<'a, Result<String, Failure>> {
        Box::pin(Nix::build(self, recipe, home, place))
    }

    // Not with a `nix` through the door, which is closed for the time of the try.
    fn examine<'a>(&'a self, lease: &'a Lease, arch: Arch) -> Verb<'a, Result<(), Report>> {
        Box::pin(async move { health::ask(lease.guest().connect(NIX_PORT).await?, arch).await })
    }
}

impl Nix {
    async fn build(&self, recipe: &Path, home: &Path, place: &Path) -> Result<String, Failure> {
        let programs = self.find().map_err(Failure::Lasting)?;
        let log = LogFile::fresh(&self.log, LOG_LIMIT).map_err(|e| Failure::Lasting(self.no_log(&e)))?;
        let mut job = Job { nix: self, programs, home, log };
        let recipe = recipe.to_string_lossy();
        // The sources of a recipe were made on this host and are signed by nobody; the guest takes this peer's word.
        job.nix(&["copy", "--no-check-sigs", "--to", &self.address, &recipe]).await.map_err(|why| {
            Failure::Passing(self.failed(&format!("the recipe {recipe} could not be handed to the guest"), &why))
        })?;
        let output = format!("{recipe}^out");
        let build =
            ["build", "--no-link", "--print-out-paths", "--print-build-logs", "--store", &self.address, &output];
        let built = job.nix(&build).await.map_err(|why| {
            Failure::Lasting(self.failed(&format!("the guest could not build the recipe {recipe}"), &why))
        })?;
        let fetch = |why: String| Failure::Passing(self.failed("the guest that was built could not be fetched", &why));
        let sizes = job.nix(&["path-info", "--size", "--store", &self.address, &built]).await.map_err(fetch)?;
        room_for(&sizes, place).map_err(Failure::Lasting)?;
        job.fetch(&built, place).await.map_err(fetch)?;
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

    fn failed(&self, what: &str, why: &str) -> Report {
        let lines = log_file::last_lines(&self.log, LOG_LINES).unwrap_or_default();
        let lines = if lines.is_empty() { why.to_owned() } else { lines.join(" / ") };
        Report::new(Kind::Bundle, format!("{what}: {lines}")).hint("see the whole log: `darwin-vz-nix logs --build`")
    }

    fn no_log(&self, error: &std::io::Error) -> Report {
        crate::machine_dir::state_error(&self.log, "cannot write", error)
    }
}

/// One build.
struct Job<'a> {
    nix: &'a Nix,
    programs: PathBuf,
    home: &'a Path,
    log: LogFile,
}

impl Job<'_> {
    /// A program of Nix in an environment of its own: no configuration of some user's, and nothing left in their home.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env_clear().envs(self.nix.environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", &self.nix.search_path).env("HOME", self.home);
        if program == "nix" {
            command.args(["--extra-experimental-features", "nix-command"]);
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: an interrupt at the daemon's terminal is the daemon's to handle.
        command.process_group(0).kill_on_drop(true);
        command
    }

    fn note(&mut self, args: &[&str]) {
        // A log that cannot be written is no reason not to build; the same goes below.
        let _ = writeln!(self.log, "$ nix {}", args.join(" "));
    }

    /// Runs `nix`; what it prints, trimmed.
    async fn nix(&mut self, args: &[&str]) -> Result<String, String> {
        self.note(args);
        let mut child = started(self.command("nix", args))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (answer, ()) = tokio::join!(read(stdout), keep(stderr, &mut self.log));
        ended("nix", &mut child).await?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }

    /// Joins the program that sends with the one that unpacks. The bytes go through the kernel alone.
    async fn fetch(&mut self, path: &str, place: &Path) -> Result<(), String> {
        let args = ["store", "dump-path", "--store", &self.nix.address, path];
        self.note(&args);
        let mut dump = started(self.command("nix", &args))?;
        let pipe: OwnedFd = match dump.stdout.take().map(ChildStdout::into_owned_fd) {
            Some(Ok(pipe)) => pipe,
            _ => return Err("nix has no output to read".to_owned()),
        };
        let place = place.to_string_lossy();
        let mut restore = self.command("nix-store", &["--restore", &place]);
        restore.stdin(pipe).stdout(Stdio::null());
        let mut restore = started(restore)?;
        let (from, to) = (dump.stderr.take(), restore.stderr.take());
        // One after the other is safe: what the second says meanwhile is an error message at most, and fits into its pipe.
        keep(from, &mut self.log).await;
        keep(to, &mut self.log).await;
        // Both are heard: whichever failed first made the other fail.
        let (dumped, restored) = (ended("nix", &mut dump).await, ended("nix-store", &mut restore).await);
        dumped.and(restored)
    }
}

fn started(mut command: Command) -> Result<Child, String> {
    let program = command.as_std().get_program().to_owned();
    command.spawn().map_err(|error| format!("{} cannot be started: {error}", Path::new(&program).display()))
}

async fn ended(program: &str, child: &mut Child) -> Result<(), String> {
    let describe = |status: ExitStatus| format!("{program} ended with {status}");
    match child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(describe(status)),
        Err(error) => Err(format!("{program} was lost: {error}")),
    }
}

async fn read(stdout: Option<ChildStdout>) -> Vec<u8> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    let Some(mut stdout) = stdout else { return answer };
    // To the end, also where it is too long: a program that cannot write waits.
    while let Ok(length @ 1..) = stdout.read(&mut buffer).await {
        answer.extend_from_slice(&buffer[..length.min(MAX_ANSWER.saturating_sub(answer.len()))]);
    }
    answer
}

async fn keep(stderr: Option<ChildStderr>, log: &mut LogFile) {
    let mut buffer = [0; 4096];
    let Some(mut stderr) = stderr else { return };
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let _ = log.write_all(&buffer[..length]);
    }
}

/// Refuses what does not fit on the host's volume, before it is filled. `sizes` is a line `PATH SIZE`.
fn room_for(sizes: &str, place: &Path) -> Result<(), Report> {
    let Some(size) = sizes.split_whitespace().next_back().and_then(|word| word.parse::<u64>().ok()) else {
        return Ok(()); // A Nix that says it otherwise: then the copy itself will tell.
    };
    let dir = place.parent().unwrap_or(Path::new("/"));
    let unread =
        |e: rustix::io::Errno| crate::machine_dir::state_error(dir, "cannot read the free space of", &e.into());
    let volume = rustix::fs::statvfs(dir).map_err(unread)?;
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    if size.saturating_add(LEAST_FREE) <= free {
        return Ok(());
    }
    let show = |bytes| ByteSize(bytes).display().iec().to_string();
    let message = format!("{} has {} free, and the new guest takes {}", dir.display(), show(free), show(size));
    Err(Report::new(Kind::State, message)
        .hint("free some space on that volume, or delete old ones: `darwin-vz-nix generations delete N`"))
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
