//! The build with a `nix` that is a shell script: what is called, what comes of each failure, and what is left of it.

use super::*;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

struct Lab {
    tmp: tempfile::TempDir,
    nix: Nix,
}

/// A `nix` whose verbs are these lines of a shell's `case`.
fn lab(verbs: &str) -> Lab {
    let tmp = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = tmp.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    };
    let calls = tmp.path().join("calls").display().to_string();
    program("nix", &format!("shift 2; echo \"$@\" >> {calls}; case $1 in {verbs} esac"));
    program("nix-store", &format!("echo \"$1\" >> {calls}; mkdir $2; cat > $2/guest.json"));
    let nix = Nix {
        programs: Some(tmp.path().to_owned()),
        search_path: "/usr/bin:/bin".into(),
        environment: vec![],
        address: "ssh-ng://guest".to_owned(),
        log: tmp.path().join("build.log"),
    };
    Lab { tmp, nix }
}

const GOOD: &str = "copy) ;; build) echo building >&2; echo /nix/store/x-bundle ;; path-info) echo /nix/store/x 9 ;; store) echo nar ;;";

impl Lab {
    async fn build(&self) -> Result<String, Failure> {
        let (home, place) = (self.tmp.path().join("home"), self.tmp.path().join("new"));
        self.nix.build(Path::new("/nix/store/r.drv"), &home, &place).await
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.tmp.path().join(file)).unwrap()
    }
}

#[tokio::test]
async fn the_recipe_goes_in_and_the_bundle_comes_out() {
    let lab = lab(GOOD);
    assert_eq!(lab.build().await, Ok("/nix/store/x-bundle".to_owned()));
    assert_eq!(lab.read("new/guest.json"), "nar\n");
    assert_eq!(
        lab.read("calls").lines().collect::<Vec<_>>(),
        [
            "copy --no-check-sigs --to ssh-ng://guest /nix/store/r.drv",
            "build --no-link --print-out-paths --print-build-logs --store ssh-ng://guest /nix/store/r.drv^out",
            "path-info --size --store ssh-ng://guest /nix/store/x-bundle",
            "store dump-path --store ssh-ng://guest /nix/store/x-bundle",
            "--restore",
        ]
    );
    assert!(lab.read("build.log").contains("\nbuilding\n"));
}

#[tokio::test]
async fn each_failure_is_told_with_its_last_words_and_whether_it_will_pass() {
    let failing = |verb: &str| {
        let failure = format!("{verb}) echo 'error: no {verb}' >&2; exit 1 ;;");
        GOOD.split_inclusive(";;")
            .map(|case| if case.trim().starts_with(verb) { failure.clone() } else { case.to_owned() })
            .collect::<String>()
    };
    for (verb, passes) in [("copy", true), ("build", false), ("store", true)] {
        let lab = lab(&failing(verb));
        let (report, passing) = match lab.build().await.unwrap_err() {
            Failure::Passing(report) => (report, true),
            Failure::Lasting(report) => (report, false),
        };
        assert_eq!(passing, passes, "{verb}");
        assert!(report.message.contains(&format!("error: no {verb}")), "{report}");
        assert!(report.hints[0].contains("logs --build"), "{report:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_not_fetched() {
    let lab = lab(&GOOD.replace("/nix/store/x 9", "/nix/store/x 9000000000000000000"));
    let Err(Failure::Lasting(report)) = lab.build().await else { panic!("it was fetched") };
    assert!(report.kind == Kind::State && report.message.contains("EiB"), "{report}");
    assert!(!lab.read("calls").contains("dump-path"));
}

#[tokio::test]
async fn the_programs_end_with_the_build() {
    let lab = lab("copy) echo $$ > \"$0.pid\"; exec sleep 600 ;;");
    let begun = Instant::now();
    let pid = lab.tmp.path().join("nix.pid");
    tokio::select! {
        outcome = lab.build() => panic!("{outcome:?}"),
        () = async { while fs::read_to_string(&pid).unwrap_or_default().trim().is_empty() { tokio::time::sleep(Duration::from_millis(5)).await } } => {}
    }
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // Killed at once, and reaped by the runtime in its own time.
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn nix_is_found_where_it_is_configured_on_the_path_or_nowhere() {
    let lab = lab(GOOD);
    let found = Nix { programs: None, search_path: lab.tmp.path().into(), ..lab.nix.clone() };
    assert_eq!(found.find().unwrap(), lab.tmp.path());
    let missing = Nix { programs: Some("/nonexistent".into()), ..lab.nix };
    assert_eq!(missing.find().unwrap_err().kind, Kind::Config);
}

#[test]
fn only_what_nix_needs_is_inherited() {
    let pair = |name: &str| (OsString::from(name), OsString::from("x"));
    let kept = environment(["NIX_REMOTE", "HOME", "DARWIN_VZ_NIX_CORES", "TMPDIR", "AWS_SECRET", "PATH"].map(pair));
    assert_eq!(kept, [pair("NIX_REMOTE"), pair("TMPDIR")]);
}
