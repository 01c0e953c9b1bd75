//! Evidence after the fact: the consoles of earlier boots, why one failed, a helper's last output.

use crate::lab::{Lab, backend, bundle, bundle_like, kill, wait};
use serde_json::Value;
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

fn boots(lab: &Lab) -> Vec<Value> {
    let list: Value = serde_json::from_str(&lab.api("/v1/machines/builder/boots")).unwrap();
    list["boots"].as_array().unwrap().clone()
}

#[test]
fn the_console_and_the_reason_of_a_failed_boot_are_there_after_a_good_one() {
    let tmp = tempfile::tempdir().unwrap();
    let broken = bundle_like(tmp.path(), |_| {});
    empty_system(&broken);
    let mut lab = Lab::running(&format!("bundle = {broken:?}"));
    let error = lab.fails(&["start"], 7);
    let (_, why) = error.split_once("the console says why: ").unwrap_or_else(|| panic!("{error}"));
    assert!(why.contains("FAILED: "), "{error}");
    lab.end_daemon();

    lab.configure("");
    lab.run_daemon();
    lab.ok(&["start"]);
    let printed = |boot: &str| lab.ok(&["logs", "--console", "--boot", boot]);
    assert!(printed("-1").contains("FAILED: ") && printed("1").contains("FAILED: "));
    assert!(!printed("0").contains("FAILED: ") && printed("0") == lab.ok(&["logs", "--console"]));
    let shown = lab.ok(&["logs", "--boots"]);
    assert!(shown.contains("FAILED: ") && shown.contains(broken.to_str().unwrap()), "{shown}");
    let shown = lab.ok(&["doctor", "boots"]);
    assert!(shown.starts_with("ok ") && shown.contains("FAILED: ") && shown.contains("logs --boot 1"), "{shown}");
    let records = boots(&lab);
    assert_eq!((&records[0]["outcome"], &records[1]["outcome"]), (&"running".into(), &"failed".into()));
    assert!(lab.fails(&["logs", "--boot", "-2"], 11).contains("hint: "));

    // Also without a daemon, and not after the machine was deleted.
    lab.end_daemon();
    assert!(lab.ok(&["logs", "--boot", "-1"]).contains("FAILED: "));
    assert!(lab.ok(&["logs", "--boots"]).contains("powered-off"));
    lab.ok(&["destroy", "--yes", "--keep-keys"]);
    lab.fails(&["logs", "--boots"], 4);
    assert!(!lab.machine().join("boots").exists());
}

/// The reasons of boots that fail because of the bundle. The reason comes before the end of the console.
#[test]
fn a_boot_that_fails_says_why_and_not_only_how_it_ended() {
    let whole = bundle();
    let manifest: Value = serde_json::from_slice(&fs::read(whole.join("guest.json")).unwrap()).unwrap();
    let image = manifest["images"][0]["file"].as_str().unwrap().to_owned();
    let initrd = manifest["initrd"].as_str().unwrap().to_owned();
    type Damage<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Damage); 2] = [
        ("a system image that ends too early", &|bundle| {
            let data = fs::read(whole.join(&image)).unwrap();
            replace(&bundle.join(&image), &data[..data.len() / 3]);
        }),
        ("a text as initrd", &|bundle| replace(&bundle.join(&initrd), "no archive\n".repeat(1000).as_bytes())),
    ];
    for (what, harm) in cases {
        let tmp = tempfile::tempdir().unwrap();
        let bundle = bundle_like(tmp.path(), |_| {});
        harm(&bundle);
        let lab = Lab::running(&format!("bundle = {bundle:?}\nboot-timeout = \"60s\""));
        let output = lab.cli(&["start"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{what}");
        // A fault found before the boot needs no console. On `vz` the console begins with a driver which is a module of
        // the initrd.
        let seen_before = output.status.code() == Some(6);
        let silent = backend() == "vz" && error.contains("nothing was seen on its console");
        assert!(seen_before || silent || error.contains("the console says why: "), "{what}: {error}");
        let failed: Vec<_> = boots(&lab);
        assert_eq!(failed[0]["outcome"], "failed", "{what}");
        assert_eq!(failed[0]["why"]["message"], lab.status()["cause"]["message"], "{what}");
    }
}

/// A valid, empty file system as the bundle's system: the host sees no fault, and the guest finds no program.
fn empty_system(bundle: &Path) {
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("guest.json")).unwrap()).unwrap();
    let image = bundle.join(manifest["images"][0]["file"].as_str().unwrap());
    fs::remove_file(&image).unwrap();
    let made = std::process::Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&image).arg("8M").status();
    assert!(made.unwrap().success());
}

fn replace(file: &Path, bytes: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Wraps every program that runs a guest so that it ends early with a message: at its start, or while the guest runs.
#[test]
fn a_helper_that_ends_early_is_quoted_with_what_to_do() {
    if backend() == "vz" {
        return;
    }
    let emulator = format!("qemu-system-{}", std::env::consts::ARCH);
    for helper in [emulator.as_str(), "vhost-device-vsock", "virtiofsd"] {
        let tools = tempfile::tempdir().unwrap();
        let mut lab = Lab::new(&format!("share-store = true\nstore-dir = {:?}", std::env::temp_dir()));
        wrap(tools.path(), helper, "echo 'a word: Cannot allocate memory' >&2; exit 1");
        lab.path = format!("{}:{}", tools.path().display(), lab.path);
        lab.run_daemon();
        let error = lab.fails(&["start"], 5);
        assert!(error.contains(&format!("{helper} ended with exit code 1: a word: Cannot")), "{helper}: {error}");
        assert!(error.contains("hint: the computer may be short of memory"), "{helper}: {error}");
        let kept = boots(&lab)[0]["why"]["message"].as_str().unwrap().to_owned();
        assert!(kept.contains("a word"), "{kept}");
    }
}

/// QEMU opens its monitor before it allocates the guest's memory.
#[test]
fn qemu_that_gets_no_memory_says_so() {
    if backend() == "vz" {
        return;
    }
    let emulator = format!("qemu-system-{}", std::env::consts::ARCH);
    let tools = tempfile::tempdir().unwrap();
    let mut lab = Lab::new("memory = \"2G\"");
    let real = found(&lab.path, &emulator);
    wrap(tools.path(), &emulator, &format!("ulimit -v 1500000; exec {} \"$@\"", real.display()));
    lab.path = format!("{}:{}", tools.path().display(), lab.path);
    lab.run_daemon();
    let error = lab.fails(&["start"], 5);
    assert!(error.contains("Cannot allocate memory") && error.contains("setting memory"), "{error}");
}

#[test]
fn a_helper_that_fails_while_the_guest_runs_is_quoted_too() {
    if backend() == "vz" {
        return;
    }
    let tools = tempfile::tempdir().unwrap();
    let mut lab = Lab::new("");
    let helper = "vhost-device-vsock";
    let real = found(&lab.path, helper);
    // The process keeps the helper's name, by which the test finds it.
    let script = format!(
        "{} \"$@\" & child=$!; trap 'kill -KILL $child; echo out of luck >&2; exit 9' USR1; wait $child",
        real.display()
    );
    wrap(tools.path(), helper, &script);
    lab.path = format!("{}:{}", tools.path().display(), lab.path);
    lab.run_daemon();
    lab.ok(&["start"]);
    let shells = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.starts_with("/bin/sh\0") && line.contains(tools.path().to_str()?))
            .then(|| process.file_name().to_str()?.parse::<u32>().ok())?
    });
    let shell = shells.collect::<Vec<_>>()[0];
    kill(shell, "USR1");
    lab.await_state("stopped");
    let exit = lab.status()["lastExit"].as_str().unwrap().to_owned();
    assert!(exit.contains("vhost-device-vsock ended with exit code 9: ") && exit.contains("out of luck"), "{exit}");
    let shown = lab.ok(&["doctor", "boots"]);
    assert!(shown.starts_with("warning ") && shown.contains("out of luck"), "{shown}");
}

#[test]
fn a_daemon_whose_state_directory_goes_stops_its_guest_and_ends() {
    for replaced in [false, true] {
        let mut lab = Lab::running("");
        lab.ok(&["start"]);
        let (daemon, qemu) = (lab.daemon_pid(), lab.qemu());
        match replaced {
            true => {
                fs::rename(lab.state(), lab.dir.path().join("away")).unwrap();
                fs::create_dir(lab.state()).unwrap();
                fs::set_permissions(lab.state(), Permissions::from_mode(0o700)).unwrap();
            }
            false => fs::remove_dir_all(lab.state()).unwrap(),
        }
        // Each connection makes the daemon check.
        let _connection = std::net::TcpStream::connect(("127.0.0.1", lab.port));
        wait("the guest to be gone", || !crate::lab::alive(qemu));
        wait("the daemon to be gone", || !crate::lab::alive(daemon));
        let said = fs::read_to_string(lab.dir.path().join("daemon.err")).unwrap();
        let expected = if replaced { "was replaced by another" } else { "was deleted" };
        assert!(said.contains(expected) && said.contains("hint: "), "{said}");
        lab.fails(&["status"], 4);
        // The next one is an ordinary daemon.
        lab.kill_daemon();
        lab.run_daemon();
        lab.ok(&["start"]);
        assert_eq!(lab.status()["lastBoot"]["dataDisk"], "formatted");
    }
}

#[test]
fn a_daemon_whose_socket_goes_makes_another_and_keeps_its_guest() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    fs::remove_file(lab.state().join("api.sock")).unwrap();
    let _connection = std::net::TcpStream::connect(("127.0.0.1", lab.port));
    wait("the daemon to answer", || lab.cli(&["status"]).status.success());
    assert!(lab.is("running") && lab.boots() == 1);
}

/// A file that blocks every program that opens it, as on a volume that does not answer: while this process has a lease
/// on it, the kernel blocks others for up to 45 s.
#[test]
fn a_bundle_that_hangs_keeps_no_daemon_from_its_end() {
    let tmp = tempfile::tempdir().unwrap();
    let bundle = bundle_like(tmp.path(), |_| {});
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("guest.json")).unwrap()).unwrap();
    let kernel = bundle.join(manifest["kernel"].as_str().unwrap());
    let data = fs::read(&kernel).unwrap();
    replace(&kernel, &data);
    let script = "import fcntl, sys, time\nf = open(sys.argv[1], 'r+b')\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        import signal\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\nprint('held', flush=True)\ntime.sleep(600)\n";
    let mut holder = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&kernel)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut held).unwrap();

    let mut lab = Lab::running(&format!("bundle = {bundle:?}\nstop-grace = \"60s\""));
    let waits = lab.program(&["start"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    lab.await_state("starting");
    // Until it has reached that file.
    let pid = lab.daemon_pid();
    wait("the boot to hang", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        threads.into_iter().any(|thread| {
            fs::read_to_string(thread.path().join("wchan")).is_ok_and(|at| at.contains("lease"))
                || fs::read_to_string(thread.path().join("stack")).is_ok_and(|stack| stack.contains("lease"))
        })
    });
    let shown = String::from_utf8_lossy(&lab.cli(&["doctor", "bundle", "kernel"]).stdout).into_owned();
    assert!(shown.contains("cannot be read within"), "{shown}");
    let begun = std::time::Instant::now();
    lab.end_daemon();
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    let _ = waits.wait_with_output();
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// A program of that name which runs `script`.
fn wrap(dir: &Path, name: &str, script: &str) {
    let file = dir.join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    // A file that is open for writing cannot be executed, and a child of another test may have inherited it for a
    // moment.
    File::open(&file).unwrap().sync_all().unwrap();
}

fn found(path: &str, program: &str) -> PathBuf {
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| file.exists()).unwrap()
}
