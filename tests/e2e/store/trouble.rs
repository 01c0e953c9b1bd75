//! The host's store when it cannot be shared, or only in part: the guest copies, and keeps running.

use super::in_guest;
use crate::{
    inputs::{add, add_text, build},
    lab::{Door, Lab, kill, stdout_of, wait},
};
use std::fs;

/// The number of the daemon's warnings.
fn warnings(lab: &Lab, about: &str) -> usize {
    let log = fs::read_to_string(lab.dir.path().join("daemon.err")).unwrap();
    log.lines().filter(|line| line.contains(" WARN ") && line.contains(about)).count()
}

fn sharing(lab: &Lab) -> String {
    lab.status()["store"]["sharing"].as_str().unwrap().to_owned()
}

#[test]
fn names_that_a_case_insensitive_volume_changes_arrive_as_they_are() {
    let mut lab = Lab::sharing("");
    // As on a Mac: the host's Nix stores `A` beside `a` under another name, and restores the name when it copies.
    lab.nix_settings = "use-case-hack = true\n".to_owned();
    let tree = lab.dir.path().join("tree");
    fs::create_dir_all(tree.join("deep")).unwrap();
    for (name, text) in [("deep/name", "small"), ("deep/NAME", "large"), ("other", "other")] {
        fs::write(tree.join(name), text).unwrap();
    }
    let tree = add(&lab, &tree);
    let stored: Vec<_> =
        fs::read_dir(lab.result(&tree).join("deep")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(stored.iter().any(|name| name.to_string_lossy().contains("~nix~case~hack~")), "{stored:?}");
    let plain = add_text(&lab, "plain", "plain\n");

    let script = "set -- $inputs; cd $1; for f in deep/*; do echo $f $(cat $f); done >$out; cat $2 >>$out";
    let seen = build(&lab, Door::Direct, "true-names", &[tree.clone(), plain.clone()], script);
    let mut seen: Vec<_> = seen.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["deep/NAME large", "deep/name small", "plain"]);
    let in_guest = in_guest(&lab);
    assert!(in_guest.contains(&tree) && !in_guest.contains(&plain), "{in_guest:?}");
    // A path that the guest deletes of its own must show the host's, which has it by now.
    let result = in_guest.iter().find(|path| path.ends_with("-true-names")).unwrap();
    let after = lab.ssh(&format!(
        "cat {result} >/dev/null; nix-store --delete {result} >/dev/null && ls /data/nix/store && cat {result} && stat -c %h {result}"
    ));
    assert!(!after.contains("-true-names\n") && after.contains("deep/NAME large"), "{after}");
    // A deleted file that is still visible has no link.
    assert!(after.ends_with("\n1\n"), "{after}");

    let refused = lab.status()["store"]["refused"].clone();
    let why = |path: &str| {
        refused.as_array().unwrap().iter().find(|one| one["path"] == path).map(|one| one["why"].to_string())
    };
    assert!(why(&tree).unwrap().contains("~nix~case~hack~") && why(&plain).is_none(), "{refused}");
}

#[test]
fn a_disk_works_with_the_share_without_it_and_with_it_again() {
    let mut lab = Lab::sharing("");
    let with = fs::read_to_string(lab.dir.path().join("config.toml")).unwrap();
    let input = add_text(&lab, "input", "input\n");
    let script = "cat $inputs >$out; echo $inputs >>$out";
    let expected = format!("input\n{input}\n");
    assert_eq!(build(&lab, Door::Direct, "with", std::slice::from_ref(&input), script), expected);
    assert!(!in_guest(&lab).contains(&input));

    let again = |lab: &mut Lab, name: &str| {
        lab.ok(&["stop"]);
        lab.end_daemon();
        lab.run_daemon();
        let text = build(lab, Door::Direct, name, std::slice::from_ref(&input), script);
        assert_eq!((lab.status()["lastBoot"]["dataDisk"].as_str(), text.as_str()), (Some("kept"), expected.as_str()));
    };
    lab.configure("share-store = false");
    again(&mut lab, "without");
    assert!(in_guest(&lab).contains(&input), "it was copied");
    assert_eq!(sharing(&lab), "off");
    assert!(!in_guest(&lab).iter().any(|path| path.ends_with("-with")), "what refers to the lost input is gone");

    fs::write(lab.dir.path().join("config.toml"), with).unwrap();
    let more = add_text(&lab, "more", "more\n");
    again(&mut lab, "with-again");
    assert_eq!(
        build(&lab, Door::Ssh, "with-more", &[input.clone(), more.clone()], "cat $inputs >$out"),
        "input\nmore\n"
    );
    assert!(!in_guest(&lab).contains(&more));
}

#[test]
fn a_share_that_hangs_is_left_with_one_warning_and_builds_go_on() {
    let lab = Lab::sharing("");
    let (one, two) = (add_text(&lab, "one", "one\n"), add_text(&lab, "two", "two\n"));
    let script = "cat $inputs >$out; echo $inputs >>$out";
    assert_eq!(build(&lab, Door::Direct, "before", std::slice::from_ref(&one), script), format!("one\n{one}\n"));
    let helper = lab.children("virtiofsd")[0];
    kill(helper, "STOP");
    let both = [one.clone(), two.clone()];
    let seen = build(&lab, Door::Direct, "hanging", &both, script);
    let later = build(&lab, Door::Ssh, "hanging-still", &both, script);
    kill(helper, "CONT");
    assert_eq!((seen, later), (format!("one\ntwo\n{one} {two}\n"), format!("one\ntwo\n{one} {two}\n")));
    assert!(both.iter().all(|path| in_guest(&lab).contains(path)), "they were copied");
    assert_eq!((sharing(&lab).as_str(), warnings(&lab, "")), ("left", 1));
    assert!(lab.ok(&["status"]).contains("not shared until the next boot"));

    // The next boot shares again.
    lab.ok(&["stop"]);
    let three = add_text(&lab, "three", "three\n");
    assert_eq!(build(&lab, Door::Direct, "after", std::slice::from_ref(&three), "cat $inputs >$out"), "three\n");
    assert!(!in_guest(&lab).contains(&three) && sharing(&lab) == "on");
}

#[test]
fn a_host_daemon_that_is_gone_is_done_without_and_one_that_restarts_is_found_again() {
    let mut lab = Lab::sharing("");
    let one = add_text(&lab, "one", "one\n");
    assert_eq!(
        build(&lab, Door::Direct, "at-first", std::slice::from_ref(&one), "echo $inputs >$out"),
        format!("{one}\n")
    );
    // Restarted while a client uses the guest: the paths in use are held again.
    let mut session = lab.program(&["ssh", "--", "sleep 60"]).spawn().unwrap();
    let is_held = |lab: &Lab| {
        stdout_of(&lab.host_nix("nix-store").args(["--gc", "--print-live"]).output().unwrap(), "--print-live")
            .contains(&one)
    };
    // Neither the input's own build nor anything else on the host holds it now.
    wait("the guest's paths to be held", || is_held(&lab));
    lab.end_host_nix();
    lab.run_host_nix();
    wait("the guest's paths to be held again", || is_held(&lab));
    assert_eq!((sharing(&lab).as_str(), warnings(&lab, "not shared")), ("on", 0));
    let _ = session.kill();
    let _ = session.wait();
    wait("the session's end", || lab.leases() == 0);

    wait("the guest's paths to be let go", || !is_held(&lab));

    lab.end_host_nix();
    stdout_of(&lab.host_nix("nix-store").arg("--gc").output().unwrap(), "nix-store --gc");
    let two = add_text(&lab, "two", "two\n");
    assert_eq!(build(&lab, Door::Direct, "alone", std::slice::from_ref(&two), "cat $inputs >$out"), "two\n");
    let in_guest = in_guest(&lab);
    // Paths that referred to the lost one are lost, too.
    assert!(in_guest.contains(&two) && !in_guest.iter().any(|path| path.ends_with("-at-first")), "{in_guest:?}");
    assert_eq!((sharing(&lab).as_str(), warnings(&lab, "no longer shared")), ("left", 1));
}

#[test]
fn what_a_build_without_a_connection_needs_is_held_until_it_is_done() {
    let lab = Lab::sharing("idle-timeout = \"10s\"");
    let input = add_text(&lab, "needed", "needed\n");
    let is_held = |lab: &Lab| {
        let roots =
            stdout_of(&lab.host_nix("nix-store").args(["--gc", "--print-roots"]).output().unwrap(), "--print-roots");
        roots.lines().any(|root| root.starts_with("{temp") && root.ends_with(&input))
    };
    // The gate has described it to the guest before, so the guest does not ask again, and no connection to the gate
    // holds it.
    assert_eq!(build(&lab, Door::Direct, "known", std::slice::from_ref(&input), "cat $inputs >$out"), "needed\n");
    // A build in the guest whose client leaves after its start. It reads its input late.
    let script = format!("sleep 30; cat {input} > $out");
    let expression = crate::lab::derivation("orphan", &script).replacen(
        "derivation {",
        &format!("derivation {{ input = builtins.storePath {input};"),
        1,
    );
    let out = lab.ssh(&format!(
        "echo '{expression}' >orphan.nix; nix-store -q --outputs $(nix-instantiate orphan.nix)
         nix-build orphan.nix --no-out-link </dev/null >log 2>&1 &
         n=0; until grep -q ^building log; do n=$((n + 1)); [ $n -lt 60 ] || {{ cat log; break; }}; sleep 1; done"
    ));
    wait("the connection to end, and the build to keep the VM alone", || {
        let status = lab.status();
        assert_eq!(status["state"], "running", "{status}");
        status["leases"] == 0 && status["builds"] == 1
    });
    assert!(is_held(&lab));
    stdout_of(&lab.host_nix("nix-store").arg("--gc").output().unwrap(), "nix-store --gc");
    assert!(lab.result(&input).exists(), "it is not collected");
    lab.await_state("stopped");
    wait("it to be let go", || !is_held(&lab));
    assert_eq!(lab.ssh(&format!("cat {}", out.trim())), "needed\n");
}
