//! A guest whose PID 1 is systemd: the NixOS guest's own units and scripts on Debian's programs (tests/guest/systemd.sh).
//!
//! `make check-guests BOOTS=50` makes the first of these boot 50 times, and keeps every console.

use crate::{
    bare::Bare,
    inputs::{add_text, build},
    lab::{Door, Lab, bundle, changed, path_from_env, stdout_of, wait},
};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

/// The system in its image.
const SYSTEM: &str = "/nix/store/00000000000000000000000000000000-nixos";

fn guest() -> PathBuf {
    path_from_env("DVN_TEST_BUNDLE_systemd")
}

fn settings() -> String {
    format!("bundle = {:?}", guest())
}

/// Kinds of processes that start_holder files of the data disk during a stop.
const HOLDERS: [&str; 5] = ["nothing", "a build", "a log-in", "a program that ignores signals", "a deleted file"];

/// Starts it, and waits until it holds a file.
fn start_holder(lab: &Lab, holder: &str) -> Option<Child> {
    let log_in = |script: &str| {
        let mut command = lab.program(&["ssh", "--", script]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    const STAY: &str = "while :; do sleep 1; done";
    let child = match holder {
        "nothing" => return None,
        "a build" => {
            let script = format!("exec 3>held; echo >&3; {STAY}");
            lab.build(Door::Direct, "held", &script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        }
        "a log-in" => log_in(&format!("exec 3>/tmp/held; {STAY}")),
        "a program that ignores signals" => {
            log_in(&format!("(trap '' TERM HUP INT; exec 3>/tmp/held >/dev/null 2>&1; {STAY}) & sleep 1000"))
        }
        "a deleted file" => log_in(&format!("exec 3>/tmp/held; sync; rm /tmp/held; : >/tmp/deleted; {STAY}")),
        other => panic!("no holder {other:?}"),
    };
    let seen = match holder {
        "a build" => "ps -o user,args | grep -q '^nixbld.*slee[p]'",
        "a deleted file" => "rm /tmp/deleted",
        _ => "test -e /tmp/held",
    };
    let seen = format!("{seen} 2>/dev/null && echo yes || echo no");
    wait(holder, || lab.ssh(&seen) == "yes\n");
    Some(child)
}

/// Sockets that other computers could reach, in the format of /proc/net; the DHCP client has one.
fn reachable(tables: &str) -> Vec<String> {
    let lines = tables.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let open = lines.filter(|words| words.len() > 4 && words[0].ends_with(':'));
    // Listening TCP sockets, unconnected UDP sockets.
    let open = open.filter(|words| words[3] == "0A" || (words[3] == "07" && words[2].ends_with(":0000")));
    let loopback =
        |address: &str| address.len() == 8 && address.ends_with("7F") || address == "00000000000000000000000001000000";
    let reachable = open.filter(|words| {
        let (address, port) = words[1].rsplit_once(':').unwrap();
        !loopback(address) && !["0044", "0222"].contains(&port)
    });
    reachable.map(|words| words[1].to_owned()).collect()
}

/// Whether a guest has left its data disk clean: ext4's "valid" mark.
fn is_clean(disk: &Path) -> bool {
    let mut state = [0; 2];
    fs::File::open(disk).unwrap().read_exact_at(&mut state, 1024 + 58).unwrap();
    state[0] & 1 == 1
}

/// Keeps the console of a boot, if a directory for it is given.
fn keep_console(lab: &Lab, boot: usize) {
    if let Some(dir) = std::env::var_os("DVN_TEST_CONSOLES") {
        fs::create_dir_all(&dir).unwrap();
        let _ = fs::copy(lab.machine().join("console.log"), Path::new(&dir).join(format!("boot-{boot:03}.log")));
    }
}

#[test]
fn every_stop_leaves_the_disk_clean_whatever_holds_it() {
    let boots: usize = std::env::var("DVN_TEST_BOOTS").map_or(HOLDERS.len(), |number| number.parse().unwrap());
    let lab = Lab::running(&settings());
    let mut kept: Vec<String> = vec![SYSTEM.to_owned()];
    let mut expected = "formatted";
    for boot in 0..boots {
        let started = lab.cli(&["start"]);
        keep_console(&lab, boot);
        stdout_of(&started, &format!("boot {boot}"));
        assert_eq!(
            lab.status()["lastBoot"]["dataDisk"],
            expected,
            "boot {boot}, after a stop with the holder before it"
        );
        let all = format!(
            "nix-store --query --hash {} >/dev/null && cat {} >/dev/null && echo all",
            kept.join(" "),
            kept[1..].join(" ")
        );
        assert_eq!(lab.ssh(&all), "all\n", "boot {boot}: paths that were there are valid and can be read");
        let name = format!("kept-{boot}");
        let path = stdout_of(&lab.build(Door::Direct, &name, "echo kept >$out").output().unwrap(), &name);
        let holder = HOLDERS[boot % HOLDERS.len()];
        let child = start_holder(&lab, holder);
        // In a long run, sometimes like a power failure: the next boot gets an unclean disk.
        let unclean = boot % (HOLDERS.len() + 2) == HOLDERS.len();
        lab.ok(if unclean { &["stop", "--force"] } else { &["stop"] });
        keep_console(&lab, boot);
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert_eq!(lab.status()["lastExit"], if unclean { "killed" } else { "powered-off" }, "boot {boot}, {holder}");
        if unclean {
            (expected, kept) = ("rebuilt", vec![SYSTEM.to_owned()]);
        } else {
            expected = "kept";
            kept.push(path.trim().to_owned());
        }
        println!("boot {boot}: {holder}, {}", if unclean { "killed" } else { "clean" });
    }
    assert_eq!(is_clean(&lab.machine().join("data.img")), expected == "kept", "after the last stop");
}

#[test]
fn with_the_hosts_store_shared_it_builds_on_it_and_keeps_its_own() {
    let lab = Lab::sharing(&settings());
    let input = add_text(&lab, "input", "from the host\n");
    let copy = |name: &str| build(&lab, Door::Direct, name, std::slice::from_ref(&input), "cat $inputs >$out");
    assert_eq!(copy("first"), "from the host\n");
    let own = || lab.ssh("ls /data/nix/store");
    assert!(own().contains("-first\n") && !own().contains("-input\n"), "{}", own());
    assert_eq!(lab.status()["store"]["sharing"], "on");
    lab.ok(&["stop"]);
    assert_eq!(lab.status()["lastExit"], "powered-off");
    assert_eq!(copy("second"), "from the host\n");
    assert_eq!(lab.status()["lastBoot"]["dataDisk"], "kept");
    assert!(own().contains("-first\n") && own().contains("-second\n") && !own().contains("-input\n"), "{}", own());
    assert_eq!(lab.ssh(&format!("nix-store --query --hash {SYSTEM} >/dev/null && echo valid")), "valid\n");
}

#[test]
fn with_all_of_its_services_nothing_listens_on_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let whole = changed(&guest(), dir.path(), |json| {
        json["cmdline"] = format!("{} systemd.unit=whole.target", json["cmdline"].as_str().unwrap()).into();
    });
    let lab = Lab::running(&format!("bundle = {whole:?}"));
    lab.ok(&["start"]);
    // It has a name server from DHCP, and resolved answers.
    wait("an address", || !lab.ssh("ls /run/systemd/netif/leases 2>/dev/null || true").is_empty());
    let tables = lab.ssh("cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6");
    assert!(tables.contains("3500007F:0035"), "resolved answers on this machine:\n{tables}");
    assert_eq!(reachable(&tables), Vec::<String>::new(), "{tables}");
    lab.ok(&["stop"]);
    assert_eq!(lab.status()["lastExit"], "powered-off");
}

#[test]
fn a_press_of_the_power_button_right_at_ready_is_not_lost() {
    for guest in [guest(), bundle()] {
        let lab = Lab::running(&format!("bundle = {guest:?}"));
        // Only QEMU's command line is taken from the product, which has other ways to stop a guest.
        let mut start = lab.program(&["start"]).stderr(Stdio::null()).spawn().unwrap();
        wait("QEMU to run", || lab.children(&format!("qemu-system-{}", std::env::consts::ARCH)).len() == 1);
        let bare = Bare::like(&lab);
        lab.ok(&["stop", "--force"]);
        let _ = start.wait();

        let mut running = bare.boot();
        assert!(running.ready().contains("\"ready\""));
        running.press_power_button();
        wait(&format!("{} to power off after one press", guest.display()), || running.is_off());
        assert!(is_clean(&bare.disk()), "{}", guest.display());
    }
}
