//! Garbage collections on the host, between builds and during them, while inputs are added, deleted and rebuilt
//! differently.

use crate::lab::{Door, Lab, stderr, stdout_of, wait};
use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

const ROUNDS: usize = 50;
const INPUTS: u64 = 4;

/// Small, fast and the same on every computer: splitmix64.
struct Random(u64);

impl Random {
    fn next_below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.next_below(n) == 0
    }
}

struct Field {
    lab: Lab,
    /// All derivations, as Nix code.
    file: PathBuf,
}

impl Field {
    /// Inputs are built on the host. Each build has another content at the same path. A result is built in the guest
    /// from two inputs and refers to them.
    fn new() -> Field {
        let lab = Lab::sharing("");
        let file = lab.dir.path().join("field.nix");
        let text = r#"
          let make = name: script: inputs: derivation {
                inherit name inputs; system = "ARCH-linux"; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/bin"; };
              input = n: make "input-${n}" "echo ${n} $EPOCHREALTIME $SRANDOM >$out" [ ];
          in { input = n: input (toString n);
               result = a: b: make "result-${toString a}-${toString b}"
                 "for i in $inputs; do echo $i; cat $i; done >$out" [ (input (toString a)) (input (toString b)) ]; }
        "#;
        fs::write(&file, text.replace("ARCH", std::env::consts::ARCH)).unwrap();
        Field { lab, file }
    }

    fn build(&self, mut nix: Command, what: &str, link: &str) -> Command {
        let expression = format!("(import {}).{what}", self.file.display());
        nix.args(["build", "--impure", "--print-out-paths", "--expr", &expression, "--out-link"]);
        nix.arg(self.lab.dir.path().join(link));
        nix
    }

    /// Builds an input on the host, if it is missing, and keeps it.
    fn input(&self, n: u64) -> String {
        let mut nix = self.build(self.lab.host_nix("nix"), &format!("input {n}"), &format!("input-{n}"));
        stdout_of(&nix.output().unwrap(), "an input").trim().to_owned()
    }

    fn collect(&self) -> Command {
        let mut gc = self.lab.host_nix("nix-store");
        gc.arg("--gc");
        gc
    }

    fn unroot(&self, link: &str) {
        let _ = fs::remove_file(self.lab.dir.path().join(link));
    }

    /// The expected content of a result that was built from the host's current inputs.
    fn expected(&self, inputs: &[String]) -> String {
        inputs.iter().map(|path| format!("{path}\n{}", fs::read_to_string(self.lab.result(path)).unwrap())).collect()
    }
}

#[test]
fn no_build_sees_what_is_gone_or_was_replaced() {
    let by_chance = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("DVN_TEST_SEED").map_or(by_chance, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = Random(seed);
    let field = Field::new();
    let lab = &field.lab;
    let mut session: Option<std::process::Child> = None;
    let mut built = 0;
    for round in 0..ROUNDS {
        // A client may use the guest all the time, so that the paths it knows stay held from build to build.
        if random.once_in(4) {
            match session.take() {
                Some(mut ssh) => {
                    ssh.kill().unwrap();
                    ssh.wait().unwrap();
                }
                None => session = Some(lab.program(&["ssh", "--", "sleep 600"]).spawn().unwrap()),
            }
        }
        if random.once_in(2) {
            for n in 0..INPUTS {
                if random.once_in(2) {
                    field.unroot(&format!("input-{n}"));
                }
            }
            // The last build's connection ends a second after its client, and holds its paths until then.
            if session.is_none() && random.once_in(2) {
                wait("the last connection to end", || lab.leases() == 0);
                // It may build without a connection: its paths are held until the next query, which comes within five
                // seconds.
                std::thread::sleep(Duration::from_secs(6));
            }
            stdout_of(&field.collect().output().unwrap(), "between builds");
        }
        let (a, b) = (random.next_below(INPUTS), random.next_below(INPUTS));
        let inputs = [field.input(a), field.input(b)];
        let mut nix = field.build(lab.nix("nix", Door::Direct), &format!("result {a} {b}"), "result");
        let nix = nix.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        if random.once_in(2) {
            std::thread::sleep(Duration::from_millis(random.next_below(800)));
            stdout_of(&field.collect().output().unwrap(), "during a build");
        }
        let output = nix.wait_with_output().unwrap();
        let result = stdout_of(&output, &format!("round {round} with seed {seed}"));
        built += usize::from(stderr(&output).contains("on 'ssh-ng://"));
        let seen = fs::read_to_string(lab.result(&result)).unwrap();
        assert_eq!(seen, field.expected(&inputs), "round {round} with seed {seed}: {}", stderr(&output));
        field.unroot("result");
    }
    if let Some(mut ssh) = session {
        let _ = ssh.kill();
        let _ = ssh.wait();
    }
    let log = fs::read_to_string(lab.dir.path().join("daemon.err")).unwrap();
    assert!(built > ROUNDS / 3, "only {built} results were built in the guest");
    assert!(log.contains("the guest forgets what the host has lost") && !log.contains(" WARN "), "{log}");
    assert_eq!(lab.status()["store"]["sharing"], "on");
}
