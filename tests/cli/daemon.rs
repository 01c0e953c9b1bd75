//! The program as its own daemon.

use super::{Launched as Daemon, common::Server, run};
use dvn_host::machine_dir::StateDir;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

/// A daemon needs its own state directory, and a free port.
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
    let text = run(dir.path(), &["daemon"]);
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
fn a_daemon_answers_on_tcp_if_configured_and_only_with_its_token() {
    let dir = crate::common::private_dir();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("listen = \"127.0.0.1:0\"\napi-listen = \"127.0.0.1:{port}\"\n");
    std::fs::write(dir.path().join("config.toml"), &text).unwrap();
    let _daemon = Daemon(dir.path());
    let started = run(dir.path(), &["start"]);
    assert!(started.contains("error: no guest bundle is configured"), "{started}");
    let token = std::fs::read_to_string(dir.path().join("api-token")).unwrap();
    let mode = std::fs::metadata(dir.path().join("api-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = |token: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = format!("GET /v1/config HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close");
        write!(stream, "{head}\r\nAuthorization: Bearer {token}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("wrong").starts_with("HTTP/1.1 401 "));
    let answer = ask(token.trim());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let own = format!("{{\"value\":\"127.0.0.1:{port}\",\"origin\":\"{}/config.toml:2\"}}", dir.path().display());
    assert!(answer.contains(&own), "{answer}");

    // The file has changed since; the daemon uses the old settings.
    std::fs::write(dir.path().join("config.toml"), "cores = 1\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let running = run(dir.path(), &["config", "--daemon", "--json"]);
    assert!(running.contains(&format!("\"value\": \"127.0.0.1:{port}\"")), "{running}");
    assert!(!run(dir.path(), &["config", "--json"]).contains(&port.to_string()));
}

/// The daemon lists a machine whose port another program has, and all verbs give that reason, until the port is free.
#[test]
fn a_machine_whose_port_is_taken_is_broken_and_a_start_mends_it_once_the_port_is_free() {
    let dir = crate::common::private_dir();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = format!("[machines.shut]\nlisten = \"127.0.0.1:{port}\"\n[machines.open]\nlisten = \"127.0.0.1:0\"\n");
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    let _daemon = Daemon(dir.path());
    let why = format!("cannot listen on 127.0.0.1:{port}: another program has that port");
    for verb in [&["start"][..], &["stop"], &["logs", "--boots"], &["destroy", "--keep-keys", "--yes"], &["start"]] {
        let text = run(dir.path(), &[&["--machine", "shut"], verb].concat());
        if verb[0] == "destroy" {
            // What is asked is done: the files are gone. The port stays taken.
            assert!(text.starts_with("exit 0\n"), "{verb:?}: {text}");
            continue;
        }
        assert!(text.starts_with("exit 8\n") && text.contains(&why) && text.contains("ss -ltnp"), "{verb:?}: {text}");
    }
    let text = run(dir.path(), &["--machine", "open", "start"]);
    assert!(text.starts_with("exit 6\n"), "the other one is tried, and has no bundle: {text}");
    let text = run(dir.path(), &["status"]);
    assert!(text.contains("\nshut     broken  ") && text.contains(&format!("shut: broken: {why}")), "{text}");
    let text = run(dir.path(), &["--machine", "shut", "status", "--json"]);
    assert!(text.contains("\"state\": \"broken\"") && text.contains(&why), "{text}");
    let text = run(dir.path(), &["--machine", "shut", "doctor", "machine", "port"]);
    assert!(text.starts_with("exit 8\n") && text.matches("failed ").count() == 2 && text.contains(&why), "{text}");
    let mut api = UnixStream::connect(dir.path().join("api.sock")).unwrap();
    api.write_all(b"GET /v1/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut metrics = String::new();
    api.read_to_string(&mut metrics).unwrap();
    assert!(metrics.contains("darwin_vz_machine_state{machine=\"shut\",state=\"broken\"} 1.0"), "{metrics}");

    drop(taken);
    let text = run(dir.path(), &["--machine", "shut", "start"]);
    assert!(text.starts_with("exit 6\n"), "it is tried again, and has no bundle: {text}");
    assert!(!run(dir.path(), &["status"]).contains("broken"));
}

/// In the foreground, where nobody else would tell, a daemon without a machine that works is an error.
#[test]
fn a_daemon_in_the_foreground_ends_when_none_of_its_machines_works() {
    let dir = crate::common::private_dir();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(dir.path().join("config.toml"), format!("listen = \"{}\"\n", taken.local_addr().unwrap())).unwrap();
    let text = run(dir.path(), &["daemon"]);
    assert!(text.starts_with("exit 8\n") && text.contains("another program has that port"), "{text}");
    assert!(!dir.path().join("api.sock").exists());
    let _daemon = Daemon(dir.path());
    let text = run(dir.path(), &["start"]);
    assert!(text.starts_with("exit 8\n") && text.contains("another program has that port"), "{text}");
    assert!(run(dir.path(), &["status"]).contains("\nbuilder  broken  "));
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
            // The machine refused each, so a daemon was there.
            assert!(text.starts_with("exit 6\n") && text.contains("error: no guest bundle is configured"), "{text}");
        }
    });
}

#[test]
fn a_start_whose_daemon_comes_second_waits_for_the_first() {
    let dir = crate::common::private_dir();
    settings(dir.path());
    let path = dir.path().to_owned();
    // A daemon that has the lock, and serves only later.
    let _lock = StateDir::open(&path).unwrap().lock().unwrap();
    let start = std::thread::spawn(move || run(&path, &["start"]));
    std::thread::sleep(Duration::from_millis(500));
    let server = Server::at(dir);
    let text = start.join().unwrap();
    assert!(text.starts_with("exit 0\n--- stdout\nbuilder runs\n"), "{text}");
    assert_eq!(server.calls().len(), 1);
}
