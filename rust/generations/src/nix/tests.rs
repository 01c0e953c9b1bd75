//! Builds with a shell script as `nix`: which calls it gets, what each failure causes, and what is left behind.

use super::*;
use dvn_hypervisor::{
    GuestAgent,
    sim::{Script, Sim},
    sim_agent,
};
use dvn_lifecycle::{InMemory, Policy};
use dvn_protocol::messages::Answer;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

struct Lab {
    tmp: tempfile::TempDir,
    nix: Nix,
}

/// A `nix` that runs these branches of a shell's `case`.
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
        time_limits: TimeLimits::default(),
    };
    Lab { tmp, nix }
}

/// Neither gone nor a zombie.
fn is_alive(pid: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process(pid).is_ok()
        && !fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_ok_and(|stat| stat.contains(") Z "))
}

const GOOD: &str = "copy) ;; build) echo building >&2; echo /nix/store/x-bundle ;; path-info) echo /nix/store/x 9 ;; store) echo nar ;;";

impl Lab {
    async fn build(&self) -> Result<String, Failure> {
        self.build_in(sim_agent::that_says(|_| Answer::Builds { running: 0 })).await
    }

    /// The same, in a guest with this agent.
    async fn build_in(&self, agent: Arc<dyn GuestAgent>) -> Result<String, Failure> {
        let (home, place) = (self.tmp.path().join("home"), self.tmp.path().join("new"));
        let policy = Policy::new(None, Duration::from_secs(60), Duration::from_secs(60));
        let sim = Arc::new(Sim::new(Script::default()));
        let name = "builder".parse().unwrap();
        let handle = dvn_lifecycle::spawn(name, sim, Arc::new(InMemory::with(agent)), policy);
        let lease = handle.acquire().await.unwrap();
        self.nix.build(&lease, Path::new("/nix/store/r.drv"), &home, &place).await
    }

    /// Waits until all processes whose numbers scripts wrote to a file have ended.
    async fn all_ended(&self, file: &str) {
        let begun = Instant::now();
        let numbers = self.read(file);
        assert!(!numbers.is_empty());
        for number in numbers.lines() {
            let pid = rustix::process::Pid::from_raw(number.trim().parse().unwrap()).unwrap();
            // Killed at once; when they are reaped depends on their parent.
            while is_alive(pid) {
                assert!(begun.elapsed() < Duration::from_secs(60), "{number} is still alive");
                std::thread::sleep(Duration::from_millis(5));
                tokio::task::yield_now().await;
            }
        }
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
    let calls = lab.read("calls");
    let mut calls: Vec<_> = calls.lines().collect();
    // These two start concurrently.
    calls[3..].sort_unstable();
    assert_eq!(
        calls,
        [
            "copy --verbose --no-check-sigs --to ssh-ng://guest /nix/store/r.drv",
            "build --verbose --no-link --print-out-paths --print-build-logs --store ssh-ng://guest /nix/store/r.drv^out",
            "path-info --size --store ssh-ng://guest /nix/store/x-bundle",
            "--restore",
            "store dump-path --store ssh-ng://guest /nix/store/x-bundle",
        ]
    );
    assert!(lab.read("build.log").contains("\nbuilding\n"));
}

#[tokio::test]
async fn each_failure_is_reported_with_its_last_lines_and_as_temporary_or_permanent() {
    let failing = |verb: &str| {
        let failure = format!("{verb}) echo 'error: no {verb}' >&2; exit 1 ;;");
        GOOD.split_inclusive(";;")
            .map(|case| if case.trim().starts_with(verb) { failure.clone() } else { case.to_owned() })
            .collect::<String>()
    };
    for (verb, passes) in [("copy", true), ("build", false), ("store", true)] {
        let lab = lab(&failing(verb));
        let (report, passing) = match lab.build().await.unwrap_err() {
            Failure::Temporary(report) => (report, true),
            Failure::Permanent(report) => (report, false),
        };
        assert_eq!(passing, passes, "{verb}");
        assert!(report.message.contains(&format!("error: no {verb}")), "{report}");
        assert!(report.hints[0].contains("logs --build"), "{report:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_not_fetched() {
    let lab = lab(&GOOD.replace("/nix/store/x 9", "/nix/store/x 9000000000000000000"));
    let Err(Failure::Permanent(report)) = lab.build().await else { panic!("it was fetched") };
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
    // Killed at once; the runtime reaps it later.
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still alive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A `nix` with a child process; neither ever prints anything again.
const SILENT: &str = "sleep 6000 & echo $! >> \"$0.pids\"; echo $$ >> \"$0.pids\"; wait ;;";

/// The good script with one verb replaced.
fn good_but(verb: &str, way: &str) -> String {
    format!("{verb}) {way} {GOOD}")
}

#[tokio::test]
async fn a_step_that_falls_silent_is_ended_with_all_its_processes_and_may_go_better_another_time() {
    let at_once = ["copy", "build", "path-info", "store"].map(|verb| (verb, SILENT.to_owned()));
    // One that has sent everything and does not end.
    let late = ("store", format!("echo nar; exec >&-; {SILENT}"));
    let steps = at_once.into_iter().chain([late]).map(|(verb, way)| async move {
        let mut lab = lab(&good_but(verb, &way));
        let limit = Duration::from_secs(2);
        lab.nix.time_limits = TimeLimits { silence: limit, stall: limit };
        let Err(Failure::Temporary(report)) = lab.build().await else {
            panic!("{verb} is the recipe's fault, or done")
        };
        assert!(report.message.contains("error: ") && report.message.contains("2s"), "{verb}: {report}");
        lab.all_ended("nix.pids").await;
        assert!(!lab.tmp.path().join("new").exists());
    });
    futures_util::future::join_all(steps).await;
}

#[tokio::test]
async fn a_silent_build_is_left_alone_for_as_long_as_the_guest_says_that_it_builds() {
    let mut lab = lab(&good_but("build", "until [ -e \"$0.go\" ]; do sleep 0.01; done; echo /nix/store/x-bundle ;;"));
    lab.nix.time_limits.silence = Duration::from_millis(100);
    let go = lab.tmp.path().join("nix.go");
    let asked = Arc::<AtomicU32>::default();
    let theirs = Arc::clone(&asked);
    let agent = sim_agent::that_says(move |_| {
        if theirs.fetch_add(1, Relaxed) == 9 {
            fs::write(&go, "").unwrap();
        }
        Answer::Builds { running: 1 }
    });
    assert_eq!(lab.build_in(agent).await, Ok("/nix/store/x-bundle".to_owned()));
    assert!(asked.load(Relaxed) >= 10);
}

#[tokio::test]
async fn a_guest_that_sends_more_than_it_announced_is_cut_off() {
    let flood = good_but("store", "echo $$ >> \"$0.pids\"; exec cat /dev/zero ;;");
    let lab = lab(&flood.replace("/nix/store/x 9", "/nix/store/x 3000000"));
    let Err(Failure::Temporary(report)) = lab.build().await else { panic!("it was taken") };
    assert!(report.message.contains("announced 2.9 MiB and sends more"), "{report}");
    lab.all_ended("nix.pids").await;
    assert!(!lab.tmp.path().join("new").exists());
}

#[tokio::test]
async fn a_volume_that_fills_up_meanwhile_ends_the_fetching() {
    let lab = lab(&good_but("store", "exec cat /dev/zero ;;"));
    let log = LogFile::fresh(&lab.nix.log, LOG_LIMIT).unwrap();
    let agent = sim_agent::detached();
    let (programs, home) = (lab.tmp.path().to_owned(), lab.tmp.path());
    let mut job = Job { nix: &lab.nix, programs, home, log, agent: &*agent, least_free: u64::MAX };
    let Err(JobError::Ended(why)) = job.fetch("/nix/store/x", None, &lab.tmp.path().join("new")).await else {
        panic!("it went on")
    };
    assert!(why.contains("free"), "{why}");
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
