//! The workflows of continuous integration are what GitHub would accept, as far as that can be told without GitHub: they
//! are YAML, their jobs hang together, their scripts are bash, and what those call exists.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};
use yaml_rust2::{Yaml, YamlLoader};

/// Everything that is wrong with a workflow.
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
        assert!(wrong.iter().any(|line| line.contains(said)), "nobody says {said:?}, but: {wrong:?}");
    }
}
