//! `doctor` on real machines: a healthy one has no fault, and each planted fault is found by its check alone.

use crate::lab::{Lab, bundle_like, path_from_env, wait};
use serde_json::Value;
use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

/// The output of `doctor --json`, with its exit code.
struct Findings {
    code: i32,
    checks: Vec<Value>,
}

impl Findings {
    fn by(mut doctor: Command) -> Findings {
        let output = doctor.output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Findings { code: output.status.code().unwrap(), checks: json["checks"].as_array().unwrap().clone() }
    }

    fn with(&self, outcomes: &[&str]) -> Vec<&str> {
        let found = self.checks.iter().filter(|check| outcomes.contains(&check["outcome"].as_str().unwrap()));
        found.map(|check| check["name"].as_str().unwrap()).collect()
    }

    fn of(&self, name: &str) -> &Value {
        self.checks.iter().find(|check| check["name"] == name).unwrap()
    }
}

fn doctor(lab: &Lab, args: &[&str]) -> Findings {
    Findings::by(lab.program(&[&["doctor", "--json"], args].concat()))
}

#[test]
fn a_healthy_machine_has_no_fault_and_is_left_as_it_was() {
    let mut lab = Lab::running("");
    lab.path = format!("{}:{}", lab.path, path_from_env("DVN_TEST_NIX").display());
    let mut deep = lab.program(&["doctor", "--json", "--deep"]);
    deep.env("NIX_CONFIG", format!("builders = {}", lab.ok(&["nix-config", "--only", "builders"])));
    let findings = Findings::by(deep);
    assert_eq!((findings.code, findings.with(&["failed", "warning"])), (0, vec![]), "{:#?}", findings.checks);
    // Checks that do not apply to this computer or machine, and a network that may be blocked. The checks of files come
    // first, before there is a recorded boot.
    let elsewhere =
        ["nested", "rosetta", "signature", "boots", "api-port", "service", "ssh-config", "store-case", "network"];
    let skipped = findings.with(&["not-applicable"]);
    assert!(skipped.iter().all(|name| elsewhere.contains(name)), "{:#?}", findings.checks);
    let build = findings.of("build")["evidence"].as_str().unwrap();
    assert!(build.starts_with("built in the guest with Linux "), "{build}");
    let here = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(!build.contains(here.trim()), "{build}");
    assert_eq!((lab.boots(), lab.is("stopped")), (1, true), "it is stopped again");
    let left = fs::read_dir(lab.machine()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("doctor-")), "the build's store is gone");
}

#[test]
fn a_daemon_that_a_connection_starts_is_woken_and_ended_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lab = Lab::new(&format!("listen = \"{}\"", listener.local_addr().unwrap()));
    let doctor = lab.program(&["doctor", "guest", "--deep"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    listener.set_nonblocking(true).unwrap();
    wait("doctor to connect", || listener.accept().is_ok());
    lab.activate_daemon(listener);
    let output = doctor.unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with("ok       guest            it runs Linux "), "{text}");
    lab.fails(&["status"], 4);
}

/// A machine with its keys, and no daemon.
fn at_rest(settings: &str) -> Lab {
    let mut lab = Lab::running(settings);
    lab.end_daemon();
    let findings = doctor(&lab, &[]);
    assert_eq!((findings.code, findings.with(&["failed", "warning"])), (0, vec![]), "{:#?}", findings.checks);
    lab
}

/// Only that check finds the fault, with that exit code.
fn found(lab: &Lab, check: &str, code: i32) -> Findings {
    let findings = doctor(lab, &[]);
    assert_eq!((findings.code, findings.with(&["failed", "warning"])), (code, vec![check]), "{:#?}", findings.checks);
    findings
}

/// It is gone after `--fix`, which reports the repair.
fn repaired(lab: &Lab, check: &str, code: i32) {
    let plan = found(lab, check, code).of(check)["repairs"].as_array().unwrap().len();
    let findings = doctor(lab, &["--fix"]);
    let done = findings.of(check)["repaired"].as_array().unwrap_or_else(|| panic!("{:#?}", findings.checks));
    assert!(plan > 0 && !done.is_empty(), "{done:?}");
    assert_eq!((findings.code, findings.with(&["failed", "warning"])), (0, vec![]), "{:#?}", findings.checks);
    assert_eq!(doctor(lab, &[]).code, 0);
}

#[test]
fn faults_in_the_state_directory_are_found_and_repaired() {
    let mut lab = at_rest("");
    let machine = lab.machine();
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    set_mode(&machine.join("id_ed25519"), 0o644);
    repaired(&lab, "keys", 9);

    fs::write(machine.join("ssh_host_ed25519_key"), "damage").unwrap();
    repaired(&lab, "keys", 9);
    assert_eq!(fs::read_to_string(machine.join("ssh_host_ed25519_key.aside-1")).unwrap(), "damage");

    let mut known_hosts = fs::read_to_string(machine.join("known_hosts")).unwrap();
    known_hosts.push_str("darwin-vz-builder ssh-ed25519 AAAAFOREIGN\n");
    fs::write(machine.join("known_hosts"), &known_hosts).unwrap();
    repaired(&lab, "known-hosts", 9);
    assert_eq!(fs::read_to_string(machine.join("known_hosts.aside-1")).unwrap(), known_hosts);

    set_mode(&lab.state(), 0o755);
    repaired(&lab, "state-directory", 9);

    // The daemon itself accepts what was repaired.
    lab.run_daemon();
    assert_eq!(doctor(&lab, &[]).code, 0);
}

#[test]
fn faults_around_the_machine_are_found() {
    let lab = at_rest("");

    let taken = TcpListener::bind(("127.0.0.1", lab.port)).unwrap();
    found(&lab, "port", 8);
    drop(taken);

    let lock = File::options().write(true).open(lab.state().join("lock")).unwrap();
    lock.lock().unwrap();
    found(&lab, "daemon", 4);
    drop(lock);

    let tmp = tempfile::tempdir().unwrap();
    let bundle = bundle_like(tmp.path(), |json| json["kernel"] = "gzip".into());
    fs::write(bundle.join("gzip"), [&[0x1f, 0x8b][..], &[0; 2000]].concat()).unwrap();
    lab.configure(&format!("bundle = {bundle:?}"));
    let findings = found(&lab, "kernel", 6);
    assert!(findings.of("kernel")["evidence"].as_str().unwrap().contains("compressed with gzip"));

    let tmp = tempfile::tempdir().unwrap();
    let bundle = bundle_like(tmp.path(), |json| json["initrd"] = "absent".into());
    lab.configure(&format!("bundle = {bundle:?}"));
    found(&lab, "bundle", 6);
    lab.configure("");

    let mut misled = lab.program(&["doctor", "--json"]);
    misled.env("PATH", format!("{}:{}", lab.path, path_from_env("DVN_TEST_NIX").display()));
    misled.env(
        "NIX_CONFIG",
        format!(
            "builders = ssh-ng://localhost?remote-program=/gone/x-darwin-vz-nix-connect {}-linux",
            std::env::consts::ARCH
        ),
    );
    let findings = Findings::by(misled);
    assert_eq!(
        (findings.code, findings.with(&["failed", "warning"])),
        (3, vec!["nix-config"]),
        "{:#?}",
        findings.checks
    );
}

#[test]
fn a_bundle_for_another_processor_and_a_full_volume_are_found() {
    let tools = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    let volume = tempfile::tempdir().unwrap();
    let at = volume.path().to_str().unwrap();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "small", at]), "these tests run as root");
    let full = Lab::in_state(&volume.path().join("s"), "");
    let findings = doctor(&full, &[]);
    assert!(mount(&["umount", at]));
    assert_eq!(
        (findings.code, findings.with(&["failed", "warning"])),
        (9, vec!["disk-space"]),
        "{:#?}",
        findings.checks
    );

    let mut lab = Lab::new("");
    let emulator = format!("qemu-system-{}", std::env::consts::ARCH);
    for program in [emulator.as_str(), "vhost-device-vsock", "virtiofsd", "setpriv"] {
        let file = std::env::split_paths(&lab.path).map(|dir| dir.join(program)).find(|file| file.exists());
        if let Some(file) = file {
            std::os::unix::fs::symlink(file, tools.path().join(program)).unwrap();
        }
    }
    lab.path = tools.path().to_str().unwrap().to_owned();
    let other = if std::env::consts::ARCH == "x86_64" { "aarch64" } else { "x86_64" };
    let tmp = tempfile::tempdir().unwrap();
    let bundle = bundle_like(tmp.path(), |json| json["arch"] = other.into());
    lab.configure(&format!("bundle = {bundle:?}"));
    let findings = found(&lab, "bundle", 6);
    assert!(findings.of("bundle")["evidence"].as_str().unwrap().contains(&format!("is for {other}")));
}
