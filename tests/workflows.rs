//! The workflows of continuous integration are valid, as far as that can be checked without GitHub: they are YAML,
//! their jobs depend on existing ones, their scripts are bash, and the programs that those call exist.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};
use yaml_rust2::{Yaml, YamlLoader};

/// All errors in a workflow.
fn complaints(text: &str) -> Vec<String> {
    let documents = match YamlLoader::load_from_str(text) {
        Ok(documents) => documents,
        Err(error) => return vec![format!("no YAML: {error}")],
    };
    let [workflow] = documents.as_slice() else { return vec!["not one document".to_owned()] };
    let Some(jobs) = workflow["jobs"].as_hash() else { return vec!["no jobs".to_owned()] };
    let mut wrong = Vec::new();
    if workflow["on"].is_badvalue() {
        wrong.push("nothing starts it".to_owned());
    }
    for (name, job) in jobs {
        let name = name.as_str().unwrap_or_default();
        if job["runs-on"].as_str().is_none() {
            wrong.push(format!("{name}: runs nowhere"));
        }
        let needs = job["needs"].as_vec().cloned().unwrap_or_default();
        for needed in needs.iter().filter(|needed| !jobs.contains_key(needed)) {
            wrong.push(format!("{name}: needs {needed:?}, which is no job"));
        }
        for (index, step) in job["steps"].as_vec().into_iter().flatten().enumerate() {
            wrong.extend(step_complaints(step).into_iter().map(|why| format!("{name}, step {}: {why}", index + 1)));
        }
        if job["steps"].as_vec().is_none_or(Vec::is_empty) {
            wrong.push(format!("{name}: has no steps"));
        }
    }
    wrong
}

fn step_complaints(step: &Yaml) -> Vec<String> {
    match (step["uses"].as_str(), step["run"].as_str()) {
        (Some(action), None) => {
            let pinned = action.split_once("@v").is_some_and(|(_, version)| version.parse::<u32>().is_ok());
            if pinned { Vec::new() } else { vec![format!("{action} names no version")] }
        }
        (None, Some(script)) => script_complaints(script),
        _ => vec!["neither an action nor a script, or both".to_owned()],
    }
}

fn script_complaints(script: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let said = bash.wait_with_output().unwrap();
    if !said.status.success() {
        wrong.push(format!("no bash: {}", String::from_utf8_lossy(&said.stderr).trim()));
    }
    let ours = |word: &&str| [".ci/", "tests/"].iter().any(|start| word.starts_with(start));
    for word in script.split(|c: char| c.is_whitespace() || "()\"'`;".contains(c)).filter(ours) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(word);
        let runs = std::fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
        if !runs {
            wrong.push(format!("{word} is not there, or cannot be run"));
        }
    }
    wrong
}

#[test]
fn every_workflow_is_whole() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows");
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let wrong = complaints(&std::fs::read_to_string(&path).unwrap());
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
        seen += 1;
    }
    assert!(seen > 0);
}

/// `.ci/flake-lock` in a clone, with a Nix that locks to `$PINS` and a `gh` that records its arguments.
struct LockJob(tempfile::TempDir);

impl LockJob {
    fn new() -> LockJob {
        let job = LockJob(tempfile::tempdir().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/flake-lock");
        job.program("nix", "echo \"nix $*\" >>\"$LOG\"; case $* in *'flake update'*) echo \"$PINS\" >flake.lock ;; *'flake check'*) [ \"$PINS\" != broken ] ;; esac");
        job.program(
            "gh",
            "echo \"gh $*\" >>\"$LOG\"; case $* in 'pr list'*) [ ! -e \"$LOG.pr\" ] || echo 7 ;; 'pr create'*) : >\"$LOG.pr\" ;; esac",
        );
        job.shell("git init --quiet --bare remote.git && git clone --quiet remote.git clone 2>&1 && cd clone && git config user.name a && git config user.email a@b && mkdir .ci && cp \"$SCRIPT\" .ci/ && touch flake.nix && git add -A && git commit --quiet -m first && git push --quiet origin HEAD:main", &script);
        job
    }

    fn program(&self, name: &str, body: &str) {
        let bin = self.0.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, script: &str) -> Command {
        let path = format!("{}:{}", self.0.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(&self.0).env("PATH", path).env("LOG", self.0.path().join("log"));
        command.env("HOME", self.0.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        command
    }

    fn shell(&self, script: &str, ours: &Path) {
        let output = self.command(script).env("SCRIPT", ours).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs the job on the main branch: whether it succeeded, and its requests to `gh`.
    fn run(&self, pins: &str) -> (bool, Vec<String>) {
        let log = self.0.path().join("log");
        std::fs::write(&log, "").unwrap();
        let fresh = "cd clone && git fetch --quiet && git checkout --quiet --detach origin/main && git clean -qfdx && .ci/flake-lock";
        let output = self.command(fresh).env("PINS", pins).output().unwrap();
        let asked = std::fs::read_to_string(log).unwrap();
        (output.status.success(), asked.lines().filter(|line| line.starts_with("gh ")).map(str::to_owned).collect())
    }

    /// The lock file of a branch of the remote.
    fn lock_of(&self, branch: &str) -> Option<String> {
        let output = self.command(&format!("git -C remote.git show {branch}:flake.lock")).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn the_lock_is_made_refreshed_and_offered_only_if_all_outputs_evaluate() {
    let job = LockJob::new();
    let (succeeded, asked) = job.run("broken");
    assert!(!succeeded && asked.is_empty() && job.lock_of("flake-lock").is_none(), "{asked:?}");

    let (succeeded, asked) = job.run("pins of monday");
    assert!(succeeded && asked.iter().any(|line| line.starts_with("gh pr create")), "{asked:?}");
    assert!(asked.iter().any(|line| line == "gh workflow run ci.yml --ref flake-lock"), "{asked:?}");
    assert_eq!(job.lock_of("flake-lock").as_deref(), Some("pins of monday\n"));
    assert_eq!(job.lock_of("main"), None, "nothing lands without a review");

    let (succeeded, asked) = job.run("pins of tuesday");
    assert!(succeeded && !asked.iter().any(|line| line.starts_with("gh pr create")), "one request waits: {asked:?}");
    assert_eq!(job.lock_of("flake-lock").as_deref(), Some("pins of tuesday\n"));

    job.shell("git -C remote.git update-ref refs/heads/main refs/heads/flake-lock", Path::new(""));
    let (succeeded, asked) = job.run("pins of tuesday");
    assert!(succeeded && asked.is_empty(), "nothing has changed: {asked:?}");
}

#[test]
fn the_job_for_the_lock_runs_by_itself_and_may_open_a_pull_request() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows/flake-lock.yml");
    let workflow = &YamlLoader::load_from_str(&std::fs::read_to_string(path).unwrap()).unwrap()[0];
    assert!(workflow["on"]["schedule"][0]["cron"].as_str().is_some());
    assert!(!workflow["on"]["workflow_dispatch"].is_badvalue(), "the first lock is made by hand");
    for right in ["contents", "pull-requests", "actions"] {
        assert_eq!(workflow["permissions"][right].as_str(), Some("write"), "{right}");
    }
    // The workflow that it starts on its branch can be started.
    let ci = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows/ci.yml")).unwrap();
    assert!(!YamlLoader::load_from_str(&ci).unwrap()[0]["on"]["workflow_dispatch"].is_badvalue());
}

#[test]
fn faults_are_found() {
    let good = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows/ci.yml")).unwrap();
    for (from, to, said) in [
        ("  linux:\n", "  linux:\n   - x\n", "no YAML"),
        ("needs: [linux, macos]", "needs: [linux, mac]", "which is no job"),
        ("tests/tools/darwin/sign.sh", "tests/tools/darwin/sing.sh", "tests/tools/darwin/sing.sh is not there"),
        ("actions/checkout@v4", "actions/checkout", "names no version"),
        ("$(tests/tools/darwin/sign.sh)", "$(tests/tools/darwin/sign.sh", "no bash"),
        ("\non:\n", "\noff:\n", "nothing starts it"),
        ("runs-on: macos-15", "runs_on: macos-15", "runs nowhere"),
    ] {
        assert!(good.contains(from), "there is no {from:?} to plant a fault in");
        let wrong = complaints(&good.replacen(from, to, 1));
        assert!(wrong.iter().any(|line| line.contains(said)), "no error has {said:?}, only: {wrong:?}");
    }
}
