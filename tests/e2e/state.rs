//! What is kept between boots, and the effect of a stop.

use crate::lab::{Door, Lab, stdout_of, wait};
use std::fs;

#[test]
fn a_clean_stop_keeps_the_disk_and_a_forced_one_makes_it_anew() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "formatted");
    let path = stdout_of(&lab.build(Door::Direct, "kept", "echo kept > $out").output().unwrap(), "a build");
    let exists = format!("test -e {} && echo yes || echo no", path.trim());
    lab.ok(&["stop"]);
    assert_eq!(lab.status()["lastExit"], "powered-off");
    lab.ok(&["start"]);
    assert_eq!((lab.status()["lastBoot"]["dataDisk"].as_str(), lab.ssh(&exists).as_str()), (Some("kept"), "yes\n"));
    lab.ok(&["stop", "--force"]);
    assert_eq!(lab.status()["lastExit"], "killed");
    lab.ok(&["start"]);
    assert_eq!((lab.status()["lastBoot"]["dataDisk"].as_str(), lab.ssh(&exists).as_str()), (Some("rebuilt"), "no\n"));
}

#[test]
fn an_ephemeral_guest_begins_each_boot_with_an_empty_disk() {
    let lab = Lab::running("ephemeral = true");
    for _ in 0..2 {
        lab.ok(&["start"]);
        assert_eq!(lab.status()["lastBoot"]["dataDisk"], "formatted");
        lab.ok(&["stop"]);
        assert_eq!(lab.status()["lastExit"], "powered-off");
    }
}

#[test]
fn a_damaged_disk_is_made_anew_and_a_larger_one_grows() {
    let mut lab = Lab::running("");
    lab.ok(&["start"]);
    lab.ok(&["stop"]);
    let disk = lab.machine().join("data.img");
    {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&[0xaa; 4096], 1024).unwrap();
    }
    lab.ok(&["start"]);
    assert_ne!(lab.status()["lastBoot"]["dataDisk"], "kept");
    lab.ok(&["stop"]);

    lab.end_daemon();
    lab.configure("disk-size = \"8G\"");
    lab.run_daemon();
    let size = || lab.ssh("df -k /nix/store | tail -n 1 | awk '{print $2}'").trim().parse::<u64>().unwrap();
    assert!(size() > 7 << 20, "{} KiB", size());
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept");
}

/// Damage that is visible from outside loses the cached content, and no boot.
#[test]
fn a_disk_with_damage_that_can_be_seen_from_outside_boots_at_once() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    let disk = lab.machine().join("data.img");
    let length = fs::metadata(&disk).unwrap().len();
    let open = || fs::File::options().write(true).open(&disk).unwrap();
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let harms: [Damage; 3] = [
        ("it was cut off", &|| open().set_len(length / 4).unwrap()),
        ("it is empty", &|| open().set_len(0).unwrap()),
        ("it holds no ext4", &|| {
            std::os::unix::fs::FileExt::write_all_at(&open(), &[0x5a; 64 * 1024], 0).unwrap();
        }),
    ];
    for (boots, (why, harm)) in (2..).zip(harms) {
        lab.ok(&["stop"]);
        harm();
        lab.ok(&["start"]);
        assert_eq!((lab.status()["lastBoot"]["dataDisk"].as_str(), lab.boots()), (Some("rebuilt"), boots), "{why}");
        let log = lab.ok(&["logs"]);
        assert!(
            log.contains(&format!("the data disk is made anew, and what was cached on it is gone: {why}")),
            "{log}"
        );
        assert_eq!(fs::metadata(&disk).unwrap().len(), length, "{why}");
    }
    lab.ok(&["stop"]);
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept", "it is whole again");
}

/// A path with all punctuation that a state directory may have, for QEMU and its helpers, ssh and Nix.
#[test]
fn a_state_directory_whose_path_is_taken_builds_through_both_doors() {
    let tmp = tempfile::Builder::new().prefix("dvn-").tempdir_in("/tmp").unwrap();
    let mut lab = Lab::in_state(&tmp.path().join("~é._-+,:=@^!"), "");
    lab.run_daemon();
    for (door, name) in [(Door::Direct, "direct"), (Door::Ssh, "ssh")] {
        let path = stdout_of(&lab.build(door, name, "echo built > $out").output().unwrap(), name);
        assert_eq!(fs::read_to_string(lab.result(&path)).unwrap(), "built\n");
    }
    assert_eq!(lab.ssh("echo in"), "in\n");
    lab.end_daemon();
}

#[test]
fn destroy_leaves_nothing_or_the_keys() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    let key = fs::read(lab.machine().join("id_ed25519")).unwrap();
    lab.ok(&["destroy", "--yes", "--keep-keys"]);
    assert!(lab.is("stopped") && !lab.machine().join("data.img").exists());
    assert_eq!(fs::read(lab.machine().join("id_ed25519")).unwrap(), key);
    lab.ok(&["destroy", "--yes"]);
    assert_ne!(fs::read(lab.machine().join("id_ed25519")).unwrap(), key, "new keys for a new machine");
    lab.ok(&["start"]);
    assert_eq!(
        (lab.status()["lastBoot"]["dataDisk"].as_str(), lab.ssh("echo in").as_str()),
        (Some("formatted"), "in\n")
    );
}

#[test]
fn start_launches_a_daemon_which_serves_sizes_of_its_own_and_ends_cleanly() {
    let lab = Lab::new("");
    lab.ok(&["start", "--memory", "768M"]);
    let status = lab.status();
    assert_eq!((status["state"].as_str(), status["memory"].as_u64()), (Some("running"), Some(768 << 20)));
    let in_guest: u64 = lab.ssh("awk '/MemTotal/ {print $2}' /proc/meminfo").trim().parse().unwrap();
    assert!(in_guest < 768 << 10 && in_guest > 600 << 10, "{in_guest} KiB");
    let error = lab.fails(&["start", "--memory", "1G"], 8);
    assert!(error.contains("hint: "), "{error}");
    lab.ok(&["start"]);
    assert_eq!(lab.boots(), 1);
    let pid: u32 = serde_json::from_str::<serde_json::Value>(&lab.ok(&["status", "--json"])).unwrap()["pid"]
        .as_u64()
        .unwrap() as u32;
    crate::lab::kill(pid, "TERM");
    wait("the daemon to end", || !crate::lab::alive(pid));
    assert!(!lab.state().join("api.sock").exists());
    lab.fails(&["status"], 4);
}

#[test]
fn a_signal_to_the_daemon_shuts_the_guest_down_cleanly() {
    let mut lab = Lab::running("");
    lab.ok(&["start"]);
    lab.end_daemon();
    assert!(lab.children("vhost-device-vsock").is_empty());
    lab.run_daemon();
    lab.ok(&["start"]);
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept");
}
