//! Guest systems that the guest builds: tried when the machine is idle, kept if they come up, dropped otherwise.

use crate::lab::{Door, Lab, backend, bundle, path_from_env, stdout_of, wait};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The first part of every recipe here: the kernel and the initrd are those of the guest under test.
const KERNEL: &str = "set -e; mkdir $out; gzip -dc $kernel > $out/vmlinux; cp $initrd $out/initrd";

/// A recipe in the lab's own store: a script with the bundle's files, compressed, as variables.
fn recipe(lab: &Lab, script: &str) -> String {
    let sources = lab.dir.path().join("sources");
    fs::create_dir(&sources).unwrap();
    let manifest = fs::read(bundle().join("guest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let kernel = manifest["kernel"].as_str().unwrap().to_owned();
    let mut changed = manifest;
    changed["kernel"] = "vmlinux".into();
    let make = |name: &str, file: &str, program: &[&str]| {
        if !script.contains(&format!("${name}")) {
            return String::new();
        }
        let path = sources.join(name);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(bundle().join(file)).stdout(fs::File::create(&path).unwrap());
        assert!(command.status().unwrap().success());
        if name == "manifest" {
            fs::write(&path, changed.to_string()).unwrap();
        }
        format!("{name} = builtins.path {{ path = {path:?}; name = {name:?}; }};")
    };
    // The guest hashes its inputs, which is slow under emulation: so they are compressed.
    let sources = [
        make("kernel", &kernel, &["gzip", "-1", "-c"]),
        make("image", "system.img", &["gzip", "-1", "-c"]),
        // The same length, so that nothing else in the image moves: the sandbox of builds gets no `/bin/sh`.
        make(
            "shellless",
            "system.img",
            &["sh", "-c", "LC_ALL=C sed 's|^sandbox-paths = /bin=|sandbox-paths = /bix=|' \"$0\" | gzip -1"],
        ),
        make("initrd", "initrd", &["cat"]),
        make("manifest", "guest.json", &["cat"]),
    ];
    let expression = format!(
        "derivation {{ name = \"bundle\"; system = \"{}-linux\"; builder = \"/bin/sh\"; args = [ \"-c\" {script:?} ]; \
         PATH = \"/bin\"; {} }}",
        std::env::consts::ARCH,
        sources.concat()
    );
    // Escapes what Nix would interpret in a string.
    let expression = expression.replace("\\$", "$").replace("${", "\\${");
    stdout_of(&lab.nix("nix-instantiate", Door::Direct).args(["--expr", &expression]).output().unwrap(), "the recipe")
        .trim()
        .to_owned()
}

/// A daemon that has this recipe, and whose `nix` has the lab's store.
fn with_recipe(script: &str) -> Lab {
    let mut lab = Lab::new("");
    let recipe = recipe(&lab, script);
    lab.configure(&format!("recipe = {recipe:?}\nnix = {:?}", path_from_env("DVN_TEST_NIX")));
    run(&mut lab);
    lab
}

fn run(lab: &mut Lab) {
    let mut run = lab.program(&["daemon"]);
    run.env("NIX_REMOTE", format!("local?root={}", lab.dir.path().join("host").display()));
    let log = fs::File::create(lab.dir.path().join("daemon.err")).unwrap();
    lab.adopt(run.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    wait("the daemon to answer", || lab.cli(&["status"]).status.success());
}

/// Programs whose command line names this lab's machine: `nix`, and its children.
fn nix_clients(lab: &Lab) -> usize {
    let machine = lab.machine().display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&machine)).count()
}

fn list(lab: &Lab) -> Value {
    serde_json::from_str(&lab.ok(&["generations", "--json"])).unwrap()
}

fn pending(lab: &Lab) -> String {
    list(lab)["prospect"]["is"].as_str().unwrap_or_default().to_owned()
}

/// A guest that builds a guest is slow, more so beside other tests.
fn until(lab: &Lab, what: &str, mut is_so: impl FnMut(&Lab) -> bool) {
    let begun = Instant::now();
    while !is_so(lab) {
        assert!(begun.elapsed() < Duration::from_secs(400), "never: {what}\n{}", lab.ok(&["generations"]));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The direct door's address.
fn address(lab: &Lab) -> String {
    let line = lab.ok(&["nix-config", "--only", "builders"]);
    line.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_guest_builds_its_successor_which_takes_over_disk_and_keys_at_an_idle_moment() {
    let script = format!(
        "{KERNEL}; gzip -dc $image > $out/system.img; sed 's/quiet/quiet successor=1/' $manifest > $out/guest.json"
    );
    let mut lab = with_recipe(&script);
    let before = stdout_of(&lab.build(Door::Direct, "before", "echo before > $out").output().unwrap(), "a build");
    let keys = || ["id_ed25519", "ssh_host_ed25519_key"].map(|key| fs::read(lab.machine().join(key)).unwrap());
    let keys_before = keys();
    assert!(!lab.ssh("cat /proc/cmdline").contains("successor"));

    let mut user = lab.program(&["ssh", "--", "sleep 1000"]).stdout(Stdio::null()).spawn().unwrap();
    until(&lab, "it is built", |lab| pending(lab) == "waiting");
    assert!(lab.ok(&["status"]).contains("generation 1 is built"), "{}", lab.ok(&["status"]));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((pending(&lab).as_str(), lab.boots()), ("waiting", 1), "a client is logged in");
    user.kill().unwrap();
    user.wait().unwrap();
    until(&lab, "it is current", |lab| list(lab)["current"] == 1);

    assert!(lab.ssh("cat /proc/cmdline").contains("successor=1"));
    let status = lab.status();
    assert_eq!((&status["generations"]["running"], status["boots"].as_u64()), (&1.into(), Some(2)));
    assert_eq!(status["lastBoot"]["dataDisk"], "kept");
    assert!(keys() == keys_before);
    let mut known = lab.nix("nix", Door::Direct);
    known.args(["path-info", "--store", &address(&lab), before.trim()]);
    assert_eq!(stdout_of(&known.output().unwrap(), "what was built before"), before);

    lab.end_daemon();
    lab.run_daemon();
    assert!(lab.ssh("cat /proc/cmdline").contains("successor=1"), "it is what boots");
    assert_eq!((lab.boots(), pending(&lab).as_str()), (1, ""), "and there is nothing to build");

    lab.ok(&["generations", "rollback"]);
    lab.await_state("stopped");
    assert!(!lab.ssh("cat /proc/cmdline").contains("successor"));
    let list = list(&lab);
    assert_eq!((&list["current"], &list["running"], &list["held"]), (&0.into(), &0.into(), &true.into()));
    assert_eq!((lab.boots(), lab.status()["lastBoot"]["dataDisk"].as_str()), (2, Some("kept")));
    lab.ok(&["destroy", "--yes", "--keep-generations"]);
    assert!(!lab.machine().join("data.img").exists() && lab.machine().join("generations/1").exists());
    assert!(lab.is("stopped"), "the way back is kept, too, so nothing is built");
    lab.ok(&["generations", "delete", "1"]);
    assert!(!lab.machine().join("generations/1").exists());
    lab.fails(&["generations", "rollback", "1"], 11);
}

#[test]
fn a_successor_that_does_not_boot_is_left_for_the_last_good_guest_and_no_client_notices() {
    let script = format!(
        "{KERNEL}; gzip -dc $image > $out/system.img; \
         sed 's|quiet|rdinit=/nonexistent root=/dev/none|' $manifest > $out/guest.json"
    );
    let lab = with_recipe(&script);
    until(&lab, "it is tried", |lab| pending(lab) == "trying");
    stdout_of(&lab.build(Door::Direct, "meanwhile", "echo built > $out").output().unwrap(), "a build during the try");

    let list = list(&lab);
    let bad = &list["generations"][1];
    assert_eq!((&list["current"], &bad["verdict"]), (&0.into(), &"bad".into()), "{list}");
    let why = bad["why"]["message"].as_str().unwrap();
    // As in faults.rs: the console of `vz` may still be empty.
    assert!(why.contains("panic") || backend() == "vz" && why.contains("before it was ready"), "{why}");
    assert!(lab.ok(&["status"]).contains("generation 1 does not work, so generation 0 boots"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lab.boots(), 3, "the guest that built, the one that failed, and the one that took over");
    let error = lab.fails(&["generations", "rollback", "1"], 6);
    assert!(error.contains("has not been seen to work"), "{error}");
}

#[test]
fn a_successor_that_answers_and_cannot_build_is_left_for_the_last_good_guest() {
    let script = format!("{KERNEL}; gzip -dc $shellless > $out/system.img; cp $manifest $out/guest.json");
    let lab = with_recipe(&script);
    until(&lab, "it is found to be bad", |lab| pending(lab) == "bad");
    let list = list(&lab);
    let bad = &list["generations"][1];
    assert_eq!((&list["current"], &bad["verdict"]), (&0.into(), &"bad".into()), "{list}");
    let why = bad["why"]["message"].as_str().unwrap();
    assert!(why.contains("the guest is up, but it cannot build") && why.contains("/bin/sh"), "{why}");
    stdout_of(&lab.build(Door::Direct, "after", "echo built > $out").output().unwrap(), "a build after the try");
    assert_eq!(lab.boots(), 3, "the guest that built, the one that could not, and the one that took over");
}

#[test]
fn a_recipe_that_cannot_be_built_is_reported_with_its_last_output_and_the_machine_works_on() {
    let lab = with_recipe("echo $manifest is no good >&2; exit 7");
    until(&lab, "it is given up", |lab| pending(lab) == "given-up");
    let status = lab.ok(&["status"]);
    assert!(status.contains("could not build the recipe") && status.contains("logs --build"), "{status}");
    assert!(lab.ok(&["logs", "--build"]).contains("manifest is no good"));
    stdout_of(&lab.build(Door::Direct, "after", "echo after > $out").output().unwrap(), "a build");
    assert_eq!((lab.boots(), pending(&lab).as_str()), (1, "given-up"));
    lab.ok(&["generations", "build"]);
    assert_eq!(pending(&lab), "building", "a request gets another attempt");
}

#[test]
fn a_daemon_that_is_killed_while_its_guest_builds_leaves_nothing_and_the_next_one_builds_again() {
    let mut lab = with_recipe("cat $manifest; while :; do read x </dev/zero; done");
    let is_built = |lab: &Lab| lab.ok(&["logs", "--build"]).contains("building '");
    until(&lab, "it is built", is_built);
    assert!(nix_clients(&lab) > 0);
    lab.kill_daemon();
    wait("all to be gone", || nix_clients(&lab) == 0);
    run(&mut lab);
    until(&lab, "it is built again", |lab| lab.boots() == 1 && is_built(lab));
    lab.ok(&["stop", "--force"]);
    until(&lab, "it is postponed", |lab| pending(lab) == "postponed");
}
