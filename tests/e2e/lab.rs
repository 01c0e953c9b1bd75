//! A separate daemon for one test, and a Nix that may build only through it.

use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything. Guests are emulated, and other tests run beside this one.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// Variables that `make test` sets; without them these tests cannot run.
pub fn path_from_env(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => {
            panic!("{variable} is not set: run these tests with `make test`, which builds the guest and fetches Nix")
        }
    }
}

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub path: String,
    /// Additional lines of every Nix command's configuration.
    pub nix_settings: String,
    /// The directory of the host's Nix; `None` is `DVN_TEST_NIX`.
    pub nix_programs: PathBuf,
    state: PathBuf,
    daemon: Option<Child>,
    host_nix: Option<Child>,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Lab {
    /// A state directory and a configuration; `settings` are additional lines of TOML, which win.
    pub fn new(settings: &str) -> Lab {
        let dir = tempfile::Builder::new().prefix("dvn-").tempdir_in("/tmp").unwrap();
        let state = dir.path().join("s");
        Lab::at(dir, state, settings)
    }

    /// The same with its state elsewhere.
    pub fn in_state(state: &Path, settings: &str) -> Lab {
        let dir = tempfile::Builder::new().prefix("dvn-").tempdir_in("/tmp").unwrap();
        Lab::at(dir, state.to_owned(), settings)
    }

    fn at(dir: tempfile::TempDir, state: PathBuf, settings: &str) -> Lab {
        let lab = Lab {
            dir,
            state,
            port: free_port(),
            path: std::env::var("PATH").unwrap(),
            nix_settings: String::new(),
            nix_programs: PathBuf::new(),
            daemon: None,
            host_nix: None,
        };
        lab.configure(settings);
        lab
    }

    /// Writes the configuration again.
    pub fn configure(&self, settings: &str) {
        let defaults = format!(
            "bundle = {:?}\ncores = 1\nmemory = \"1G\"\ndisk-size = \"4G\"\nidle-timeout = \"10m\"\nshare-store = false\nlisten = \"127.0.0.1:{}\"\nbackend = {:?}\n",
            bundle(),
            self.port,
            backend(),
        );
        let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
        let given: Vec<_> = settings.lines().map(key).collect();
        let kept = defaults.lines().filter(|line| !given.contains(&key(line)));
        let text = kept.chain(settings.lines()).collect::<Vec<_>>().join("\n");
        fs::write(self.dir.path().join("config.toml"), text).unwrap();
    }

    /// The same with its daemon running.
    pub fn running(settings: &str) -> Lab {
        let mut lab = Lab::new(settings);
        lab.run_daemon();
        lab
    }

    /// The same on a host with a Nix daemon, whose store the guest may build on.
    pub fn sharing(settings: &str) -> Lab {
        let mut lab = Lab::new("");
        lab.run_host_nix();
        lab.configure_sharing(settings);
        lab.run_daemon();
        lab
    }

    /// Writes the configuration again, with this lab's store as the host's shared store.
    pub fn configure_sharing(&self, settings: &str) {
        let store = self.dir.path().join("host/nix/store");
        fs::create_dir_all(&store).unwrap();
        let socket = self.host_nix_socket();
        self.configure(&format!("share-store = true\nstore-dir = {store:?}\nstore-daemon = {socket:?}\n{settings}"));
    }

    fn host_nix_socket(&self) -> PathBuf {
        self.dir.path().join("nix.sock")
    }

    /// Starts the daemon of the host's Nix.
    pub fn run_host_nix(&mut self) {
        let mut daemon = self.host_nix("nix-daemon");
        daemon.env("NIX_DAEMON_SOCKET_PATH", self.host_nix_socket()).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = fs::remove_file(self.host_nix_socket());
        self.host_nix = Some(daemon.spawn().unwrap());
        wait("the host's Nix daemon", || self.host_nix_socket().exists());
    }

    /// Ends it, with its processes for its clients.
    pub fn end_host_nix(&mut self) {
        if let Some(mut daemon) = self.host_nix.take() {
            let serving = children_of(daemon.id());
            let _ = daemon.kill();
            let _ = daemon.wait();
            // One may have ended meanwhile.
            let _ = Command::new("kill")
                .arg("-KILL")
                .args(serving.iter().map(u32::to_string))
                .stderr(Stdio::null())
                .status();
        }
    }

    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    pub fn machine(&self) -> PathBuf {
        self.state().join("machines/builder")
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", &self.path).env("HOME", self.dir.path()).stdin(Stdio::null());
        command
    }

    /// The program, for this lab's daemon.
    pub fn program(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_darwin-vz-nix"));
        command
            .arg("--state-dir")
            .arg(self.state())
            .arg("--config")
            .arg(self.dir.path().join("config.toml"))
            .args(args);
        command
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        self.program(args).output().unwrap()
    }

    /// What a verb prints; it must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        stdout_of(&self.cli(args), &args.join(" "))
    }

    /// What a verb prints on stderr; it must fail with this exit code.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.cli(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stdout));
        text
    }

    pub fn run_daemon(&mut self) {
        let log = fs::File::create(self.dir.path().join("daemon.err")).unwrap();
        let mut run = self.program(&["daemon"]);
        run.stdout(Stdio::null()).stderr(log);
        self.daemon = Some(run.spawn().unwrap());
        wait("the daemon to answer", || self.cli(&["status"]).status.success());
    }

    /// Starts the daemon as systemd does, with its listening socket.
    pub fn activate_daemon(&mut self, listener: TcpListener) {
        // The protocol requires the socket as descriptor 3 and the receiver's process id in the environment.
        let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;
        let program = self.program(&["daemon"]);
        let mut activated = Command::new("sh");
        activated.args(["-c", script, "sh"]).arg(program.get_program()).args(program.get_args());
        activated.env_clear().envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        activated.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::null());
        // This closes our own copy of the socket.
        self.adopt(activated.spawn().unwrap());
    }

    /// Takes over a daemon that was started another way.
    pub fn adopt(&mut self, daemon: Child) {
        self.daemon = Some(daemon);
    }

    /// The daemon's process, while this lab has one.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Ends the daemon as a service manager does.
    pub fn end_daemon(&mut self) {
        self.end_daemon_by("TERM");
    }

    /// Ends the daemon by this signal; it must do so cleanly.
    pub fn end_daemon_by(&mut self, signal: &str) {
        kill(self.daemon_pid(), signal);
        let ended = self.daemon.take().unwrap().wait().unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Ends the daemon as the kernel does when memory is short.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub fn status(&self) -> Value {
        let status: Value = serde_json::from_str(&self.ok(&["status", "--json"])).unwrap();
        status["machines"].as_array().unwrap().iter().find(|m| m["name"] == "builder").unwrap().clone()
    }

    /// Connections in use. A stopped guest has none.
    pub fn leases(&self) -> u64 {
        self.status()["leases"].as_u64().unwrap_or(0)
    }

    pub fn is(&self, state: &str) -> bool {
        self.status()["state"] == state
    }

    pub fn await_state(&self, state: &str) {
        wait(&format!("the state {state}"), || self.is(state));
    }

    pub fn boots(&self) -> u64 {
        self.status()["boots"].as_u64().unwrap()
    }

    /// The API's answer to a GET over its Unix socket.
    pub fn api(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.state().join("api.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 "), "{answer}");
        body.to_owned()
    }

    /// Runs a shell command in the guest through `darwin-vz-nix ssh`.
    pub fn ssh(&self, script: &str) -> String {
        self.ok(&["ssh", "--", script])
    }

    /// Processes of this lab's guest.
    pub fn children(&self, program: &str) -> Vec<u32> {
        let run = format!("{}/", self.machine().join("run").display());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| {
                let pid = process.file_name().to_str()?.parse().ok()?;
                let line = fs::read(process.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line);
                let name = line.split('\0').next()?.rsplit('/').next()?.to_owned();
                (name == program && line.contains(&run)).then_some(pid)
            })
            .collect()
    }

    /// Processes below the running daemon, by the names of their programs.
    pub fn descendants(&self, named: impl Fn(&str) -> bool) -> Vec<u32> {
        let status: Value = serde_json::from_str(&self.ok(&["status", "--json"])).unwrap();
        let mut found = children_of(status["pid"].as_u64().unwrap().try_into().unwrap());
        for index in 0.. {
            let Some(parent) = found.get(index).copied() else { break };
            found.extend(children_of(parent));
        }
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.retain(|pid| named(name(pid).trim()));
        found
    }

    pub fn qemu(&self) -> u32 {
        let emulator = format!("qemu-system-{}", std::env::consts::ARCH);
        *self.children(&emulator).first().expect("QEMU runs")
    }

    /// A Nix command on this lab's own store.
    pub fn host_nix(&self, program: &str) -> Command {
        let programs = &self.nix_programs;
        let programs = if programs.as_os_str().is_empty() { &path_from_env("DVN_TEST_NIX") } else { programs };
        let mut nix = self.command(programs.join(program));
        nix.env("NIX_REMOTE", format!("local?root={}", self.dir.path().join("host").display()));
        nix.env("NIX_CONFIG", &self.nix_settings);
        nix
    }

    /// The same, without local builds and with the given builders.
    pub fn nix(&self, program: &str, door: Door) -> Command {
        let mut nix = self.host_nix(program);
        nix.env(
            "NIX_CONFIG",
            format!(
                "builders = {}\nmax-jobs = 0\nbuilders-use-substitutes = false\n{}",
                self.builders(door),
                self.nix_settings
            ),
        );
        if door == Door::Ssh {
            let config = self.dir.path().join("ssh_config");
            let known_hosts = self.dir.path().join("known_hosts");
            fs::write(&config, self.ok(&["nix-config", "--only", "ssh"])).unwrap();
            fs::write(&known_hosts, self.ok(&["nix-config", "--only", "known-hosts"])).unwrap();
            let options = format!("-F {} -o UserKnownHostsFile={}", config.display(), known_hosts.display());
            nix.env("NIX_SSHOPTS", options);
        }
        nix
    }

    fn builders(&self, door: Door) -> String {
        let line = self.ok(&["nix-config", "--only", "builders", "--door", door.name()]);
        let line =
            line.lines().find(|line| !line.starts_with('#') && !line.trim().is_empty()).unwrap().trim().to_owned();
        line.strip_prefix("builders =").map_or(line.clone(), |rest| rest.trim().to_owned())
    }

    /// A Nix command on the guest's own store, through a door: its results stay there.
    pub fn nix_in_guest(&self, door: Door, verb: &str) -> Command {
        let mut nix = self.nix("nix", door);
        let line = self.builders(door);
        nix.args([verb, "--store", line.split_whitespace().next().unwrap(), "--eval-store", "auto"]);
        nix
    }

    /// A build of one derivation, whose script runs in `/bin/sh` and writes `$out`. Its output comes on stderr.
    pub fn build(&self, door: Door, name: &str, script: &str) -> Command {
        let mut nix = self.nix("nix", door);
        nix.args(["build", "--print-build-logs", "--no-link", "--print-out-paths", "--impure", "--expr"]);
        nix.arg(derivation(name, script));
        nix
    }

    /// The file in the host's own store behind a store path.
    pub fn result(&self, path: &str) -> PathBuf {
        self.dir.path().join("host").join(path.trim().trim_start_matches('/'))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for file in [self.dir.path().join("daemon.err"), self.machine().join("console.log")] {
                let text = fs::read(&file).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().collect();
                eprintln!("--- {}\n{}", file.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.end_host_nix();
    }
}

/// A door to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Direct,
    Ssh,
}

impl Door {
    pub fn name(self) -> &'static str {
        match self {
            Door::Direct => "direct",
            Door::Ssh => "ssh",
        }
    }
}

/// A Nix expression of one derivation.
pub fn derivation(name: &str, script: &str) -> String {
    format!(
        "derivation {{ name = {name:?}; system = \"{}-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" {script:?} ]; PATH = \"/bin\"; }}",
        std::env::consts::ARCH
    )
}

/// The backend under test. `make test` runs everything with `qemu` and again with `vz`, whose stand-in on Linux boots
/// the same guests.
pub fn backend() -> String {
    std::env::var("DVN_TEST_BACKEND").unwrap_or_else(|_| "auto".to_owned())
}

/// The guest bundle under test.
pub fn bundle() -> PathBuf {
    path_from_env("DVN_TEST_BUNDLE")
}

/// A copy of the bundle with a manifest edited by `change`; files are links.
pub fn bundle_like(dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    changed(&bundle(), dir, change)
}

/// The same of another bundle.
pub fn changed(bundle: &Path, dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let copy = dir.join("bundle");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(bundle).unwrap().flatten() {
        std::os::unix::fs::symlink(file.path(), copy.join(file.file_name())).unwrap();
    }
    let manifest = copy.join("guest.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    change(&mut json);
    fs::remove_file(&manifest).unwrap();
    fs::write(manifest, json.to_string()).unwrap();
    copy
}

/// The standard output of a command that must succeed.
pub fn stdout_of(output: &Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until the condition holds.
pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < give_up, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn kill(pid: u32, signal: &str) {
    let killed = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap();
    assert!(killed.success());
}

/// The processes that are children of this one.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent.to_string())
    };
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).filter(of_parent).collect()
}

pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
