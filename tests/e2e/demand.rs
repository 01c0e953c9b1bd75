//! A build starts the VM by itself, runs in it, and the VM stops when idle.

mod at_ready;

use crate::lab::{Door, Lab, stderr, stdout_of};
use std::time::{Duration, Instant};

const WHERE: &str = "read id </proc/sys/kernel/random/boot_id; echo boot $id; echo boot $id > $out";

fn boot_id(text: &str) -> String {
    let line = text.lines().find_map(|line| line.split("boot ").nth(1));
    line.unwrap_or_else(|| panic!("no boot id in {text:?}")).trim().to_owned()
}

#[test]
fn a_build_starts_the_vm_runs_in_it_and_it_stops_when_idle() {
    let lab = Lab::running("idle-timeout = \"3s\"");
    assert!(lab.is("stopped"), "nothing runs before the first build");
    assert_eq!(lab.boots(), 0);

    let output = lab.build(Door::Direct, "direct", WHERE).output().unwrap();
    let path = stdout_of(&output, "the build");
    let built_on = boot_id(&stderr(&output));
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(built_on, here.trim(), "it was built in another kernel than this");
    assert_eq!(
        boot_id(&std::fs::read_to_string(lab.result(&path)).unwrap()),
        built_on,
        "the result is in the host's store"
    );

    let status = lab.status();
    let phases: Vec<_> = status["lastBoot"]["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap().to_owned())
        .collect();
    for phase in ["prepared", "hypervisor", "guest: kernel", "guest: sshd", "ready", "ssh banner"] {
        assert!(phases.iter().any(|p| p == phase), "{phase} is missing in {phases:?}");
    }
    lab.await_state("stopped");
    assert_eq!(lab.status()["lastExit"], "powered-off");
    assert_eq!(lab.boots(), 1);
    for program in ["qemu-system-x86_64", "qemu-system-aarch64", "vhost-device-vsock", "virtiofsd"] {
        assert_eq!(lab.children(program), Vec::<u32>::new(), "{program} is left over");
    }
    assert!(!lab.machine().join("run").exists(), "the initrd with the host key is gone");

    // The other door, on the same machine and disk.
    let output = lab.build(Door::Ssh, "ssh", WHERE).output().unwrap();
    stdout_of(&output, "the build through ssh");
    assert_ne!(boot_id(&stderr(&output)), built_on, "it is another boot");
    assert_eq!((lab.boots(), lab.status()["lastBoot"]["dataDisk"].as_str()), (2, Some("kept")));
}

#[test]
fn twenty_parallel_builds_from_a_stopped_vm_cause_one_boot() {
    let lab = Lab::running("cores = 2");
    let one = |n: usize| {
        format!(
            "(derivation {{ name = \"p{n}\"; system = \"{}-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" \"echo {n} > $out\" ]; }})",
            std::env::consts::ARCH
        )
    };
    let all = (0..20).map(one).collect::<Vec<_>>().join(" ");
    let mut nix = lab.nix("nix-build", Door::Ssh);
    nix.args(["--no-out-link", "-E", &format!("[ {all} ]")]);
    let config = nix.get_envs().find(|(key, _)| *key == "NIX_CONFIG").unwrap().1.unwrap().to_str().unwrap().to_owned();
    // Twenty at once, each with its own connection; the line of nix-config allows as many as there are cores.
    let mut words: Vec<_> = config.lines().next().unwrap().split(' ').map(str::to_owned).collect();
    let jobs =
        words.iter().position(|word| word.parse::<u32>().is_ok()).expect("the builder line has a number of jobs");
    words[jobs] = "20".to_owned();
    let rest = config.lines().skip(1).collect::<Vec<_>>().join("\n");
    nix.env("NIX_CONFIG", format!("{}\n{rest}\n", words.join(" ")));
    let paths = stdout_of(&nix.output().unwrap(), "twenty builds");
    assert_eq!(paths.lines().count(), 20, "{paths}");
    for path in paths.lines() {
        assert!(lab.result(path).is_file(), "{path}");
    }
    assert_eq!(lab.boots(), 1);
}

#[test]
fn killing_qemu_in_a_build_fails_it_and_the_next_one_needs_no_command() {
    let lab = Lab::running("");
    let build = lab
        .build(Door::Direct, "killed", "echo started; while :; do read x < /dev/zero; done")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    lab.await_state("running");
    crate::lab::wait("the build to run", || lab.ssh("ps | grep -c '[r]ead x' || true").trim() != "0");
    crate::lab::kill(lab.qemu(), "KILL");
    let failed = build.wait_with_output().unwrap();
    assert!(!failed.status.success(), "{}", stderr(&failed));
    lab.await_state("stopped");
    assert!(lab.status()["lastExit"].as_str().unwrap().starts_with("crashed: "), "{}", lab.status());

    stdout_of(&lab.build(Door::Direct, "next", WHERE).output().unwrap(), "the next build");
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "rebuilt", "an unclean disk is not booted into");
    assert_eq!(lab.boots(), 2);
}

#[test]
fn a_stop_right_after_the_boot_waits_for_no_grace() {
    let lab = Lab::running("stop-grace = \"10m\"");
    for boot in 0..4 {
        lab.ok(&["start"]);
        assert_eq!(lab.status()["lastBoot"]["dataDisk"], if boot == 0 { "formatted" } else { "kept" });
        let asked = Instant::now();
        lab.ok(&["stop"]);
        assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
        assert_eq!(lab.status()["lastExit"], "powered-off");
    }
}
