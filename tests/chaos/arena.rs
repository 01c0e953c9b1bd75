//! One lab on its own file system, and a round of chaos in it.

use crate::{
    aftermath::Aftermath,
    faults::Fault,
    inputs::add_text,
    lab::{Door, Lab, TIMEOUT, derivation, free_port, stderr, stdout_of},
    outcome::Outcome,
};
use rand::{RngExt, rngs::StdRng};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// Settings of the lab's machine: short timeouts.
const SETTINGS: &str = "idle-timeout = \"6s\"\nhang-timeout = \"6s\"\nboot-timeout = \"60s\"\nstop-grace = \"5s\"\ncores = 2\ndisk-size = \"1G\"";

/// Size of the file system with the state, in MiB: larger than a full data disk, and small enough to be filled.
const STATE_MIB: u32 = 1600;

/// Time for the cleanup after a fault.
const SETTLE: Duration = Duration::from_secs(20);

/// Concurrent builds in a round.
const BUILDS: usize = 3;

pub struct Arena {
    pub lab: Lab,
    pub rounds: usize,
    /// The API's TCP address.
    pub api_port: u16,
    /// Store paths of successful builds, and their expected content.
    finished: BTreeMap<String, String>,
    state: Option<Mount>,
}

/// A file system in memory; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(dir: &Path) -> Option<Mount> {
        let size = format!("size={STATE_MIB}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "chaos"]).arg(dir).output().ok()?;
        mounted.status.success().then(|| Mount(dir.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn settings(api_port: u16) -> String {
    format!("{SETTINGS}\napi-listen = \"127.0.0.1:{api_port}\"")
}

struct Build {
    content: String,
    run: JoinHandle<Output>,
}

impl Arena {
    /// Its daemon runs, its guest doesn't.
    pub fn new() -> Arena {
        let mut lab = Lab::new("");
        lab.run_host_nix();
        let api_port = free_port();
        lab.configure_sharing(&settings(api_port));
        fs::create_dir(lab.state()).unwrap();
        fs::create_dir(lab.dir.path().join("roots")).unwrap();
        // Only root can mount: other users get a state directory on a disk that cannot be filled.
        let state = Mount::new(&lab.state());
        lab.run_daemon();
        Arena { lab, rounds: 0, api_port, finished: BTreeMap::new(), state }
    }

    /// Restarts the daemon with the usual settings, but for one, which is replaced.
    pub fn restart_daemon(&mut self, but: Option<(&str, &str)>) {
        self.lab.configure_sharing(&self.settings(but));
        self.lab.end_daemon();
        self.lab.run_daemon();
    }

    /// The same without the host's store, which needs the guest's answers before a connection is served.
    pub fn restart_daemon_without_the_store(&mut self, but: Option<(&str, &str)>) {
        self.lab.configure(&self.settings(but));
        self.lab.end_daemon();
        self.lab.run_daemon();
    }

    fn settings(&self, but: Option<(&str, &str)>) -> String {
        let usual = settings(self.api_port);
        but.map_or(usual.clone(), |(one, other)| usual.replace(one, other))
    }

    /// Whether the state is on a file system that may be filled.
    pub fn can_be_filled(&self) -> bool {
        self.state.is_some()
    }

    /// One fault, and everything after it.
    pub fn round(&mut self, fault: Fault, random: &mut StdRng) -> Outcome {
        self.rounds += 1;
        let mut outcome = Outcome::default();
        let mut part = Instant::now();
        let mut parted = |what| {
            let took = part.elapsed();
            part = Instant::now();
            (what, took)
        };
        // From before the guest runs, over its boot, to the middle of the builds, which come sooner if it runs already.
        let longest = if self.lab.is("running") { 3000 } else { 7000 };
        let builds: Vec<_> = (0..BUILDS).map(|n| self.build(n, door(random), random)).collect();
        sleep(Duration::from_millis(random.random_range(0..longest)));
        outcome.took.push(parted("before"));
        let aftermath = fault.inject(self, random).unwrap_or_else(|why| {
            outcome.absent = Some(why);
            Aftermath::None
        });
        outcome.took.push(parted("fault"));
        for build in builds {
            let output = build.run.join().unwrap();
            if output.status.success() {
                outcome.built += 1;
                self.finished.insert(stdout_of(&output, "a build").trim().to_owned(), build.content);
            } else {
                outcome.failed += 1;
            }
        }
        outcome.took.push(parted("builds"));
        outcome.next = Some(self.next(&aftermath, random));
        outcome.took.push(parted("next"));
        aftermath.end(self);
        outcome.left = self.settled();
        outcome.lost = self.lost();
        outcome.took.push(parted("looking"));
        outcome
    }

    /// The next build, which must succeed: its time, or why it failed.
    fn next(&mut self, aftermath: &Aftermath, random: &mut StdRng) -> Result<Duration, String> {
        let began = Instant::now();
        self.sit_out_the_back_off();
        // The door that the silent connections occupy.
        let door = if let Aftermath::Crowd(_) = aftermath { Door::Ssh } else { door(random) };
        let next = self.build(BUILDS, door, random);
        let output = next.run.join().unwrap();
        if !output.status.success() {
            let said = stderr(&output);
            let first = said.lines().find(|line| line.contains("error")).or(said.lines().last());
            return Err(first.unwrap_or("it said nothing").to_owned());
        }
        self.finished.insert(stdout_of(&output, "the next build").trim().to_owned(), next.content);
        aftermath.look(self)?;
        Ok(began.elapsed())
    }

    /// Failed boots in a row, as with a full disk, make the daemon refuse connections for some seconds. A client waits
    /// then, and so does this test; the time counts.
    fn sit_out_the_back_off(&self) {
        while let Some(ms @ 1..) = self.lab.status()["retryInMs"].as_u64() {
            sleep(Duration::from_millis(ms.min(60_000)));
        }
    }

    /// The last check, on an idle machine.
    pub fn end(mut self) -> Outcome {
        self.lab.await_state("stopped");
        let outcome = Outcome { left: self.settled(), lost: self.lost(), ..Outcome::default() };
        self.lab.end_daemon();
        outcome
    }

    /// Starts a build with unique content and length, and an input that only the host has. Its output is protected from
    /// the host's garbage collector from the moment it exists.
    fn build(&self, n: usize, door: Door, random: &mut StdRng) -> Build {
        let content = format!("{} {n} {}", self.rounds, random.random::<u64>());
        let pause = if n == BUILDS { 0 } else { random.random_range(0..3) };
        let name = format!("round{}-{n}", self.rounds);
        let input = add_text(&self.lab, &format!("{name}-input"), &content);
        let script = format!(
            "read first <{input}; sleep {pause}; read again <{input}; echo \"$first\" >$out; [ \"$first\" = \"$again\" ]"
        );
        let expression = derivation(&name, &script).replacen(
            "derivation {",
            &format!("derivation {{ input = builtins.storePath {input};"),
            1,
        );
        let mut command = self.lab.nix("nix", door);
        command.args(["build", "--print-build-logs", "--print-out-paths", "--impure", "--out-link"]);
        command.arg(self.lab.dir.path().join("roots").join(&name)).args(["--expr", &expression]);
        let run = thread::spawn(move || limited(&mut command).output().unwrap());
        Build { content, run }
    }

    /// Outputs of finished builds that are missing or changed in the host's store.
    fn lost(&self) -> Vec<String> {
        let is_there = |path: &str, content: &str| {
            fs::read_to_string(self.lab.result(path)).is_ok_and(|text| text.trim() == content)
        };
        self.finished.iter().filter(|(path, content)| !is_there(path, content)).map(|(path, _)| path.clone()).collect()
    }

    /// Leftovers after the time for the cleanup.
    fn settled(&self) -> Vec<String> {
        let give_up = Instant::now() + SETTLE;
        loop {
            let left = self.left_over();
            if left.is_empty() || Instant::now() > give_up {
                return left;
            }
            sleep(Duration::from_millis(200));
        }
    }

    fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        let status = self.lab.status();
        let (state, leases) = (status["state"].as_str().unwrap().to_owned(), status["leases"].as_u64().unwrap_or(0));
        if leases > 0 {
            left.push(format!("{leases} leases"));
        }
        let at_rest = state == "stopped";
        if !at_rest && state != "running" {
            left.push(format!("a machine that is {state}"));
        }
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, line) in self.processes() {
            seen.entry(name).or_default().push(line);
        }
        for (name, lines) in seen {
            let helper = name.starts_with("qemu-system-") || name == "vhost-device-vsock" || name == "virtiofsd";
            let allowed = if name == "darwin-vz-nix" || (helper && !at_rest) { 1 } else { 0 };
            left.extend(lines.into_iter().skip(allowed).map(|line| format!("process: {line}")));
        }
        let machine = self.lab.machine();
        for entry in fs::read_dir(&machine).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = [
                "id_ed25519",
                "id_ed25519.pub",
                "ssh_host_ed25519_key",
                "ssh_host_ed25519_key.pub",
                "known_hosts",
                "darwin-vz-nix-connect",
                "data.img",
                "mac",
                "store",
                "console.log",
                "console.log.1",
                "boots",
            ];
            if !(known.contains(&name.as_str()) || (name == "run" && !at_rest)) {
                left.push(format!("file: {name}"));
            }
        }
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.lab.daemon_pid())).map_or(0, Iterator::count);
        if descriptors > 80 {
            left.push(format!("{descriptors} descriptors of the daemon"));
        }
        // Starts a program, so only when all else passes.
        if left.is_empty() {
            left.extend(self.roots_of_processes().into_iter().map(|root| format!("temporary root: {root}")));
        }
        left
    }

    /// Paths of the host's store that a process holds, when no build runs.
    pub fn roots_of_processes(&self) -> Vec<String> {
        let roots = self.lab.host_nix("nix-store").args(["--gc", "--print-roots"]).output().unwrap();
        let roots = stdout_of(&roots, "--print-roots");
        roots.lines().filter(|line| line.starts_with("{temp")).map(str::to_owned).collect()
    }

    /// Processes whose command line names this lab's state: their names and command lines.
    fn processes(&self) -> Vec<(String, String)> {
        let state = self.lab.state().display().to_string();
        let line = |dir: fs::DirEntry| {
            let bytes = fs::read(dir.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            let name = line.split(' ').next()?.rsplit('/').next()?.to_owned();
            line.contains(&state).then_some((name, line))
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(line).collect()
    }
}

fn door(random: &mut StdRng) -> Door {
    if random.random() { Door::Direct } else { Door::Ssh }
}

/// A command with a time limit, so that it cannot block the suite.
fn limited(command: &mut Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg(TIMEOUT.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    limited.env_clear();
    for (name, value) in command.get_envs() {
        limited.env(name, value.unwrap());
    }
    limited
}
