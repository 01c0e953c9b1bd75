//! Invalid input: one clear error that says what, why and what to do, and nothing left behind.

use crate::lab::{Lab, backend, bundle_like};
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

/// The error of a `start` with these settings.
fn start_error(settings: &str, code: i32) -> (String, Lab) {
    let lab = Lab::running(settings);
    let error = lab.fails(&["start"], code);
    assert!(error.contains("error: ") && error.contains("hint: "), "{error}");
    assert!(!lab.machine().join("run").join("vsock").exists());
    (error, lab)
}

#[test]
fn bundles_that_cannot_boot_are_refused_before_a_boot() {
    let (error, lab) = start_error("bundle = \"/nonexistent\"", 6);
    assert!(error.contains("no guest bundle at /nonexistent"), "{error}");
    assert!(!lab.machine().join("data.img").exists());

    for (key, value, expected) in [
        ("version", serde_json::json!(99), "version 99"),
        ("kernel", serde_json::json!("initrd"), "needs"),
        ("initrd", serde_json::json!("absent"), "absent"),
        ("minimumDisk", serde_json::json!(1_u64 << 40), "at least 1.0 TiB"),
    ] {
        let tmp = tempfile::tempdir().unwrap();
        let bundle = bundle_like(tmp.path(), |json| json[key] = value);
        let (error, lab) = start_error(&format!("bundle = {bundle:?}"), if key == "minimumDisk" { 3 } else { 6 });
        assert!(error.contains(expected), "{key}: {error}");
        assert!(!lab.machine().join("data.img").exists());
    }
}

/// `doctor` finds it before a boot is tried.
#[test]
fn virtual_machines_in_a_guest_that_can_have_none_are_refused_by_start_and_doctor() {
    // Emulated guests have none, on any computer.
    let accelerator = if backend() == "vz" { "" } else { "accelerator = \"tcg\"\n" };
    let settings = format!("nested-virtualization = true\n{accelerator}");
    let (error, lab) = start_error(&settings, 5);
    assert!(
        error.contains("a guest cannot run virtual machines here") && error.contains("nested-virtualization"),
        "{error}"
    );
    assert!(!lab.machine().join("data.img").exists());
    let output = lab.cli(&["doctor", "nested"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(5) && text.contains("a guest cannot run virtual machines here"), "{text}");
}

#[test]
fn missing_programs_name_their_packages() {
    let tmp = tempfile::tempdir().unwrap();
    let mut lab = Lab::new("");
    let everything = std::mem::replace(&mut lab.path, tmp.path().to_str().unwrap().to_owned());
    lab.run_daemon();
    let error = lab.fails(&["start"], 5);
    assert!(error.contains("package qemu-system-x86"), "{error}");
    lab.end_daemon();

    for (missing, package) in
        [("vhost-device-vsock", "vhost-device-vsock@"), ("virtiofsd", "package virtiofsd"), ("setpriv", "util-linux")]
    {
        let tmp = tempfile::tempdir().unwrap();
        for program in ["qemu-system-x86_64", "qemu-system-aarch64", "vhost-device-vsock", "virtiofsd", "setpriv"] {
            if let Some(found) =
                std::env::split_paths(&everything).map(|dir| dir.join(program)).find(|file| file.exists())
                && program != missing
            {
                std::os::unix::fs::symlink(found, tmp.path().join(program)).unwrap();
            }
        }
        let mut lab = Lab::new("share-store = true\nstore-dir = \"/tmp\"");
        lab.path = tmp.path().to_str().unwrap().to_owned();
        lab.run_daemon();
        // Debian 12 has an older virtiofsd in the directory for helpers; it is found, and must not be used instead.
        if missing == "virtiofsd" && Path::new("/usr/lib/qemu/virtiofsd").exists() {
            lab.fails(&["start"], 5);
            continue;
        }
        let error = lab.fails(&["start"], 5);
        assert!(error.contains(package), "{missing}: {error}");
        assert!(lab.children("qemu-system-x86_64").is_empty());
    }
}

#[test]
fn a_port_in_use_and_a_second_daemon_are_refused() {
    let lab = Lab::running("");
    let error = lab.fails(&["daemon"], 8);
    assert!(error.contains("already owns the state directory"), "{error}");

    let other = Lab::new(&format!("listen = \"127.0.0.1:{}\"", lab.port));
    let error = other.fails(&["daemon"], 8);
    assert!(error.contains(&lab.port.to_string()) && error.contains("ss -ltnp"), "{error}");
    assert!(!other.state().join("api.sock").exists());
    assert!(lab.is("stopped"), "the first one is unharmed");
}

#[test]
fn a_state_directory_that_is_not_ours_alone_is_refused() {
    let lab = Lab::new("");
    fs::create_dir(lab.state()).unwrap();
    fs::set_permissions(lab.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = lab.fails(&["daemon"], 9);
    assert!(error.contains("chmod 700"), "{error}");
    fs::set_permissions(lab.state(), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(lab.state(), Some(65534), None).unwrap();
    let error = lab.fails(&["daemon"], 9);
    assert!(error.contains("belongs to user 65534"), "{error}");

    let lab = Lab::new("");
    fs::write(lab.state(), "a file").unwrap();
    let error = lab.fails(&["daemon"], 9);
    assert!(error.contains("cannot make the directory"), "{error}");
}

#[test]
fn keys_that_are_open_or_damaged_are_refused_and_kept() {
    let mut lab = Lab::running("");
    lab.end_daemon();
    let key = lab.machine().join("id_ed25519");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(lab.fails(&["daemon"], 9).contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let whole = fs::read(&key).unwrap();
    fs::write(&key, &whole[..100]).unwrap();
    assert!(lab.fails(&["daemon"], 9).contains("damaged"));
    assert_eq!(fs::read(&key).unwrap(), &whole[..100]);
    fs::write(&key, whole).unwrap();
    lab.run_daemon();
}

#[test]
fn a_full_disk_is_refused_before_the_image_is_made() {
    let tmp = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    let at = tmp.path().to_str().unwrap();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "small", at]), "these tests run as root");
    let state = tmp.path().join("s");
    let mut lab = Lab::in_state(&state, "");
    lab.run_daemon();
    let error = lab.fails(&["start"], 9);
    assert!(error.contains("MiB are missing") && error.contains("MiB of something else on that volume"), "{error}");
    assert!(!lab.machine().join("data.img").exists());
    lab.end_daemon();
    assert!(mount(&["umount", at]));
}

/// The command that the error suggests does not change what hosts know of the machine.
#[test]
fn on_a_host_whose_disk_is_full_the_error_names_the_image_and_what_frees_it() {
    let tmp = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).status().unwrap().success();
    let at = tmp.path().to_str().unwrap();
    assert!(mount(&["mount", "-t", "tmpfs", "-o", "size=480m,mode=700", "small", at]), "these tests run as root");
    let mut lab = Lab::in_state(&tmp.path().join("s"), "");
    lab.run_daemon();
    lab.end_daemon();
    let (image, key) = (lab.machine().join("data.img"), lab.machine().join("id_ed25519"));
    let known = fs::read(&key).unwrap();
    let mut file = fs::File::create(&image).unwrap();
    while file.write_all(&[1; 64 * 1024]).is_ok() {}
    drop(file);
    // A daemon still starts, and reports it.
    lab.run_daemon();
    let error = lab.fails(&["start"], 9);
    assert!(error.contains("0 B free") && error.contains(": 256.0 MiB are missing"), "{error}");
    assert!(error.contains("MiB are the data disk, which the next boot recreates"), "{error}");
    assert!(image.metadata().unwrap().len() > 400 << 20, "nothing is thrown away unasked");
    assert!(error.contains("`darwin-vz-nix destroy --keep-keys --keep-generations` deletes it"), "{error}");
    lab.ok(&["destroy", "--keep-keys", "--keep-generations", "--yes"]);
    lab.ok(&["start"]);
    assert_eq!(fs::read(&key).unwrap(), known);
    lab.end_daemon();
    assert!(mount(&["umount", at]));
}
