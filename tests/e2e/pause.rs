//! A paused guest.

use crate::lab::{Lab, TIMEOUT, wait};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

fn host_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn a_connection_resumes_a_paused_guest_with_its_clock_set() {
    let lab = Lab::running("idle-timeout = \"3s\"");
    // A connection that is open and in use during the pause: a silent one would not keep the guest after it.
    let mut open = lab.program(&["ssh", "--", "for i in 1 2 3 4 5 6 7 8 9 a b c d e f; do echo $i; sleep 1; done"]);
    let mut open = open.stdout(Stdio::piped()).spawn().unwrap();
    let (said, heard) = mpsc::channel();
    let lines = BufReader::new(open.stdout.take().unwrap()).lines();
    let listener =
        std::thread::spawn(move || lines.for_each(|line| said.send((Instant::now(), line.unwrap())).unwrap()));
    let mut received = vec![heard.recv_timeout(TIMEOUT).unwrap(), heard.recv_timeout(TIMEOUT).unwrap()];

    assert_eq!(lab.ok(&["pause"]), "builder is paused; the next connection resumes it\n");
    let paused = Instant::now();
    assert_eq!((lab.status()["state"].as_str(), lab.status()["leases"].as_u64()), (Some("paused"), Some(1)));
    sleep(Duration::from_secs(8));
    assert!(lab.is("paused"), "idle time does not count");

    let (resumed, asked) = (Instant::now(), host_now());
    let clock: f64 = lab.ssh("date +%s").trim().parse().unwrap();
    assert!((asked - 1.5..host_now() + 0.5).contains(&clock), "its clock shows {clock}, and it was {asked}");
    assert_eq!(lab.boots(), 1);
    assert!(open.wait().unwrap().success());
    listener.join().unwrap();
    received.extend(heard);
    let text: String = received.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(text, "123456789abcdef", "the connection has lost nothing");
    // Output from before the pause may still be in transit.
    let pause = paused + Duration::from_millis(500)..resumed;
    let while_paused = received.iter().filter(|(when, _)| pause.contains(when)).count();
    assert_eq!(while_paused, 0, "it ran during the pause");

    let metrics = lab.api("/v1/metrics");
    assert!(metrics.contains("\ndarwin_vz_pauses_total{machine=\"builder\"} 1\n"), "{metrics}");
    lab.await_state("stopped");
}

/// With QEMU's own pause the vsock device no longer received anything after the third time.
#[test]
fn a_guest_is_paused_again_and_again_with_traffic_on_its_connections() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    let mut chatter = lab.program(&["ssh", "--", "while :; do echo x; sleep 0.2; done"]);
    let mut chatter = chatter.stdout(Stdio::null()).spawn().unwrap();
    wait("the connection", || lab.status()["leases"] == 1);
    for round in 0..8 {
        lab.ok(&["pause"]);
        sleep(Duration::from_millis(500));
        assert_eq!(lab.ssh(&format!("echo {round}")), format!("{round}\n"));
    }
    assert!(chatter.try_wait().unwrap().is_none(), "the connection lives on");
    chatter.kill().unwrap();
    chatter.wait().unwrap();
    assert_eq!(lab.boots(), 1);
}

#[test]
fn a_paused_guest_is_stopped_cleanly_and_resumed_by_its_verb() {
    let lab = Lab::running("");
    assert!(lab.fails(&["pause"], 8).contains("no guest runs"));
    assert!(lab.fails(&["resume"], 8).contains("no guest runs"));
    lab.ok(&["start"]);
    lab.ok(&["pause"]);
    assert_eq!(lab.ok(&["resume"]), "builder is resumed\n");
    assert!(lab.is("running"));
    lab.ok(&["pause"]);
    assert_eq!(lab.ok(&["start"]), "builder is resumed\n");
    lab.ok(&["pause"]);
    lab.ok(&["stop"]);
    assert_eq!(lab.status()["lastExit"], "powered-off");
    lab.ok(&["start"]);
    assert_eq!((lab.boots(), lab.status()["lastBoot"]["dataDisk"].as_str()), (2, Some("kept")));
    lab.ok(&["pause"]);
    lab.ok(&["stop", "--force"]);
    assert_eq!(lab.status()["lastExit"], "killed");
}

#[test]
fn a_guest_in_use_reports_its_load_and_builds_and_an_idle_one_is_not_asked() {
    let lab = Lab::running("");
    lab.ok(&["start"]);
    let metrics = lab.api("/v1/metrics");
    assert!(metrics.contains("machine_state{machine=\"builder\",state=\"running\"} 1.0"), "{metrics}");
    assert!(!metrics.contains("guest_memory_bytes{"), "it is unused: {metrics}");

    let mut build = lab.build(crate::lab::Door::Direct, "seen", "sleep 15; echo done > $out");
    let mut build = build.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait("the build to be seen", || lab.api("/v1/metrics").contains("\ndarwin_vz_builds{machine=\"builder\"} 1.0\n"));
    let metrics = lab.api("/v1/metrics");
    for wanted in [
        "darwin_vz_guest_memory_bytes{machine=\"builder\",what=\"available\"} ",
        "darwin_vz_guest_disk_bytes{machine=\"builder\",what=\"total\"} ",
        "darwin_vz_connections_open{machine=\"builder\",door=\"nix\"} ",
        "darwin_vz_builds_seen_total{machine=\"builder\"} 1\n",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in {metrics}");
    }
    let connections: serde_json::Value = serde_json::from_str(&lab.ok(&["status", "--connections", "--json"])).unwrap();
    let connection = &connections["connections"][0];
    assert_eq!((connection["door"].as_str(), connection["machine"].as_str()), (Some("nix"), Some("builder")));
    assert!(connection["sent"].as_u64().unwrap() > 0 && connection["received"].as_u64().unwrap() > 0, "{connection}");
    assert!(build.wait().unwrap().success());
}
