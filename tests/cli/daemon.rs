//! The program as its own daemon.

use super::{common::Server, program, run};
use darwin_vz_nix::machine_dir::StateDir;
use std::{path::Path, time::Duration};

/// Ends the daemon, however the test ends.
struct Daemon<'a>(&'a Path);

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = program(self.0, &["stop", "--daemon"]).output();
    }
}

/// A daemon needs a state directory of its own, and no port that others have.
fn settings(dir: &Path) {
    std::fs::write(dir.join("config.toml"), "listen = \"127.0.0.1:0\"\n").unwrap();
}

#[test]
fn start_launches_a_daemon_that_outlives_it() {
    let dir = crate::common::private_dir();
    settings(dir.path());
    let _daemon = Daemon(dir.path());
    let text = run(dir.path(), &["start"]);
    assert!(
        !text.starts_with("exit 0\n") && !text.starts_with("exit 4\n"),
        "a machine without a bundle does not start: {text}"
    );
    let text = run(dir.path(), &["status"]);
    assert!(text.starts_with("exit 0\n") && text.contains("\nbuilder  "), "{text}");
    let text = run(dir.path(), &["run"]);
    assert!(text.starts_with("exit 8\n--- stderr\nerror: "), "a second daemon: {text}");
    assert!(run(dir.path(), &["stop", "--daemon"]).starts_with("exit 0\n"));
    for _ in 0..200 {
        if run(dir.path(), &["status"]).starts_with("exit 4\n") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the daemon still runs");
}

#[test]
fn of_many_starts_at_once_one_launches_the_daemon_and_all_find_it() {
    let dir = crate::common::private_dir();
    settings(dir.path());
    let _daemon = Daemon(dir.path());
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6).map(|_| scope.spawn(|| run(dir.path(), &["start"]))).collect();
        let texts: Vec<String> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        for text in &texts {
            // Each was refused by the machine, none by the lack of a daemon.
            assert!(text.starts_with("exit 6\n") && text.contains("error: no guest bundle is configured"), "{text}");
        }
    });
}

#[test]
fn a_start_whose_daemon_comes_second_waits_for_the_first() {
    let dir = crate::common::private_dir();
    settings(dir.path());
    let path = dir.path().to_owned();
    // A daemon that has the lock, and serves only a while later.
    let _lock = StateDir::open(&path).unwrap().lock().unwrap();
    let start = std::thread::spawn(move || run(&path, &["start"]));
    std::thread::sleep(Duration::from_millis(500));
    let server = Server::at(dir);
    let text = start.join().unwrap();
    assert!(text.starts_with("exit 0\n--- stdout\nbuilder runs\n"), "{text}");
    assert_eq!(server.calls().len(), 1);
}
