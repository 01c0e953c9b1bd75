//! The figures that docs/ARCHITECTURE.md promises, as a table and in `bench.json`.
//!
//! Every ratio is measured in one run of this program, ours and the reference in turns, on the same kernel, initrd, disk
//! and guest. `cargo bench --bench spine -- --rounds N` sets the number of turns.

#![allow(clippy::unwrap_used)]

#[path = "../e2e/bare.rs"]
#[allow(dead_code)]
mod bare;
mod figures;
#[path = "../e2e/inputs.rs"]
#[allow(dead_code)]
mod inputs;
#[path = "../e2e/lab.rs"]
#[allow(dead_code)]
mod lab;
mod pass;
mod store;

use figures::{Figure, Series};
use lab::{Door, Lab, TIMEOUT, derivation, stdout_of};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Bytes that one measurement of throughput transfers.
const BULK: u64 = 24 << 20;

/// How long the idle daemon is observed.
const REST: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, socket, port] = arguments.as_slice()
        && verb == pass::PASS
    {
        return pass::pass_descriptor(Path::new(socket), port.parse().unwrap());
    }
    let rounds = arguments.iter().position(|a| a == "--rounds").map_or(7, |at| arguments[at + 1].parse().unwrap());

    let (lab, forwarded) = forwarding_lab();
    let mut figures = vec![cold_start(&lab, rounds)];
    lab.ok(&["start"]);
    figures.push(connection(&lab, forwarded, rounds * 5));
    figures.push(throughput(&lab, rounds));
    figures.push(direct_build(&lab, rounds));
    lab.ok(&["stop"]);
    sleep(Duration::from_secs(2));
    figures.push(memory(&lab));
    figures.push(wakeups(&lab));
    figures.push(status(&lab, rounds * 5));
    drop(lab);
    figures.extend(store::figures(rounds.min(3)));

    print!("{}", figures::table(&figures));
    fs::write("bench.json", figures::json(&figures)).unwrap();
    println!("written: bench.json");
}

/// A lab whose guest's sshd is reached through QEMU's own port forward as well: the reference for connections.
fn forwarding_lab() -> (Lab, u16) {
    let forwarded = lab::free_port();
    let mut lab = Lab::new("");
    let bundle = lab::bundle_like(lab.dir.path(), |json| {
        json["cmdline"] = format!("{} darwin-vz.tcp-ssh=22", json["cmdline"].as_str().unwrap()).into();
    });
    lab.configure(&format!("bundle = {bundle:?}\ncores = 2\nidle-timeout = 0"));
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let real = std::env::split_paths(&lab.path).map(|dir| dir.join(&name)).find(|file| file.exists()).unwrap();
    let wrapper = lab.dir.path().join("bin").join(&name);
    fs::create_dir(wrapper.parent().unwrap()).unwrap();
    let script =
        format!("#!/bin/bash\nexec {} \"${{@/#user,/user,hostfwd=tcp:127.0.0.1:{forwarded}-:22,}}\"\n", real.display());
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    lab.path = format!("{}:{}", wrapper.parent().unwrap().display(), lab.path);
    lab.run_daemon();
    (lab, forwarded)
}

/// From a TCP connection to the first byte of the banner.
fn banner(port: u16) -> Duration {
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    // As every SSH client does. For one that is silent, the door waits a moment.
    stream.write_all(b"SSH-2.0-bench\r\n").unwrap();
    let mut text = [0; 4];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"SSH-");
    began.elapsed()
}

fn cold_start(lab: &Lab, rounds: usize) -> Figure {
    // One boot of each, uncounted: the data disks get formatted, the files are in the page cache.
    banner(lab.port);
    let bare = bare::Bare::like(lab);
    lab.ok(&["stop"]);
    bare.boot_to_banner();
    let mut series = Series::default();
    for round in 0..rounds {
        progress("cold start", round, rounds);
        series.reference.push(bare.boot_to_banner());
        series.ours.push(banner(lab.port));
        lab.ok(&["stop"]);
    }
    series.ratio("cold-start-ratio", 1.05, false)
}

fn connection(lab: &Lab, forwarded: u16, rounds: usize) -> Figure {
    let mut series = Series::default();
    let pause = || sleep(Duration::from_millis(600));
    banner(forwarded);
    for round in 0..rounds {
        progress("connection", round, rounds);
        pause();
        series.ours.push(banner(lab.port));
        pause();
        series.reference.push(banner(forwarded));
    }
    series.ratio("connection-ratio", 1.0, false)
}

fn throughput(lab: &Lab, rounds: usize) -> Figure {
    let config = lab.dir.path().join("ssh_config");
    fs::write(&config, lab.ok(&["nix-config", "--only", "ssh"])).unwrap();
    let me = std::env::current_exe().unwrap();
    let proxy =
        format!("ProxyCommand={} {} {} 22", me.display(), pass::PASS, lab.machine().join("run/vsock").display());
    let take = |options: &[&str]| {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(&config).args(options).args(["darwin-vz-builder", &format!("head -c {BULK} /dev/zero")]);
        let mut child = ssh.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0; 1];
        // From the first byte on: the handshake is measured separately.
        out.read_exact(&mut first).unwrap();
        let began = Instant::now();
        let n = std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        let took = began.elapsed();
        assert!(child.wait().unwrap().success() && n == BULK - 1);
        took
    };
    let mut series = Series::default();
    for round in 0..rounds {
        progress("throughput", round, rounds);
        series.ours.push(take(&[]));
        series.reference.push(take(&["-o", &proxy, "-o", "ProxyUseFdpass=yes"]));
    }
    series.rate_ratio("throughput-ratio", 0.95, BULK as f64 / f64::from(1 << 20), "MiB/s")
}

fn direct_build(lab: &Lab, rounds: usize) -> Figure {
    let mut serial = 0;
    let mut build = |door: Door| {
        serial += 1;
        let mut nix = lab.nix("nix-build", door);
        nix.args(["--no-out-link", "-E", &derivation(&format!("bench-{serial}"), "echo > $out")]);
        let began = Instant::now();
        stdout_of(&nix.output().unwrap(), "a trivial build");
        began.elapsed()
    };
    build(Door::Direct);
    build(Door::Ssh);
    let mut series = Series::default();
    for round in 0..rounds {
        progress("trivial build", round, rounds);
        series.ours.push(build(Door::Direct));
        series.reference.push(build(Door::Ssh));
    }
    series.ratio("direct-build-ratio", 0.6, false)
}

/// A number of `/proc/PID/status`, or the sum over its threads.
fn of_status(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn memory(lab: &Lab) -> Figure {
    let kib = of_status(Path::new(&format!("/proc/{}/status", lab.daemon_pid())), "VmRSS");
    Figure::without_reference("daemon-rss-mib", kib as f64 / 1024.0, "MiB", 15.0)
}

fn wakeups(lab: &Lab) -> Figure {
    let switches = || -> BTreeMap<PathBuf, u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", lab.daemon_pid())).unwrap().flatten();
        let of = |thread: PathBuf| (of_status(&thread.join("status"), "voluntary_ctxt_switches"), thread);
        threads.map(|thread| of(thread.path())).map(|(switches, thread)| (thread, switches)).collect()
    };
    let before = switches();
    sleep(REST);
    // A thread that has ended since has no number any more.
    let woken = switches().iter().map(|(thread, now)| now - before.get(thread).unwrap_or(&0)).sum::<u64>();
    Figure::without_reference("daemon-wakeups-per-s", woken as f64 / REST.as_secs_f64(), "1/s", 1.0)
}

fn status(lab: &Lab, rounds: usize) -> Figure {
    let time = |command: &mut Command| {
        let began = Instant::now();
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
        began.elapsed()
    };
    let mut series = Series::default();
    for _ in 0..rounds {
        series.ours.push(time(&mut lab.program(&["status"])));
        series.reference.push(time(&mut Command::new("true")));
    }
    series.milliseconds("status-ms", 15.0)
}

fn progress(what: &str, round: usize, rounds: usize) {
    eprintln!("{what}: {} of {rounds}", round + 1);
}
