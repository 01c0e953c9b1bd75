//! The faults, and how each is injected.

use crate::{
    aftermath::{Aftermath, Crowd},
    arena::Arena,
    lab::{Door, Lab, derivation, kill, stdout_of, wait},
};
use rand::{RngExt, rngs::StdRng};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    DaemonKilled,
    DaemonRestartedWithOtherSettings,
    DaemonKilledWhileTheGateIsAsked,
    QemuKilled,
    VsockDeviceKilled,
    KernelPanic,
    GuestFrozen,
    GuestStalled,
    GuestStalledUntilClientsGiveUp,
    VsockDeviceWedged,
    VsockDeviceStalled,
    VirtiofsdKilled,
    VirtiofsdFrozen,
    VirtiofsdStalled,
    HostNixKilled,
    HostNixGone,
    HostGarbageCollected,
    HostDiskFull,
    GuestDiskFull,
    GuestOutOfMemory,
    GuestClockJumps,
    SlowReader,
    FiveHundredConnections,
    SilentCrowdOfAnotherUser,
    ClientKilled,
    Stopped,
    StoppedByForce,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 27] = [
        Fault::DaemonKilled,
        Fault::DaemonRestartedWithOtherSettings,
        Fault::DaemonKilledWhileTheGateIsAsked,
        Fault::QemuKilled,
        Fault::VsockDeviceKilled,
        Fault::KernelPanic,
        Fault::GuestFrozen,
        Fault::GuestStalled,
        Fault::GuestStalledUntilClientsGiveUp,
        Fault::VsockDeviceWedged,
        Fault::VsockDeviceStalled,
        Fault::VirtiofsdKilled,
        Fault::VirtiofsdFrozen,
        Fault::VirtiofsdStalled,
        Fault::HostNixKilled,
        Fault::HostNixGone,
        Fault::HostGarbageCollected,
        Fault::HostDiskFull,
        Fault::GuestDiskFull,
        Fault::GuestOutOfMemory,
        Fault::GuestClockJumps,
        Fault::SlowReader,
        Fault::FiveHundredConnections,
        Fault::SilentCrowdOfAnotherUser,
        Fault::ClientKilled,
        Fault::Stopped,
        Fault::StoppedByForce,
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::DaemonKilled => "daemon killed",
            Fault::DaemonRestartedWithOtherSettings => "daemon restarted, settings changed",
            Fault::DaemonKilledWhileTheGateIsAsked => "daemon killed, gate in use",
            Fault::QemuKilled => "QEMU killed",
            Fault::VsockDeviceKilled => "vsock device killed",
            Fault::KernelPanic => "guest's kernel panics",
            Fault::GuestFrozen => "guest frozen for good",
            Fault::GuestStalled => "guest stalled for 2 s",
            Fault::GuestStalledUntilClientsGiveUp => "guest stalled, clients give up",
            Fault::VsockDeviceWedged => "vsock device wedged for good",
            Fault::VsockDeviceStalled => "vsock device stalled for 2 s",
            Fault::VirtiofsdKilled => "virtiofsd killed",
            Fault::VirtiofsdFrozen => "virtiofsd frozen for good",
            Fault::VirtiofsdStalled => "virtiofsd stalled for 2 s",
            Fault::HostNixKilled => "host's Nix daemon killed",
            Fault::HostNixGone => "host's Nix daemon gone for 5 s",
            Fault::HostGarbageCollected => "host's garbage collected",
            Fault::HostDiskFull => "host's disk full",
            Fault::GuestDiskFull => "guest's disk full",
            Fault::GuestOutOfMemory => "guest out of memory",
            Fault::GuestClockJumps => "guest's clock jumps",
            Fault::SlowReader => "client that does not read",
            Fault::FiveHundredConnections => "500 connections",
            Fault::SilentCrowdOfAnotherUser => "silent crowd of another user",
            Fault::ClientKilled => "client killed",
            Fault::Stopped => "stop",
            Fault::StoppedByForce => "stop --force",
        }
    }

    /// Injects it, and removes what would not disappear by itself (a full disk). `Err`: not possible on this computer.
    pub fn inject(self, arena: &mut Arena, random: &mut StdRng) -> Result<Aftermath, String> {
        match self {
            // The harness acts as the service manager: it starts the daemon again.
            Fault::DaemonKilled => {
                arena.lab.kill_daemon();
                arena.lab.run_daemon();
            }
            Fault::DaemonRestartedWithOtherSettings => {
                let cores = random.random_range(1..=2);
                arena.restart_daemon(Some(("cores = 2", &format!("cores = {cores}"))));
            }
            Fault::DaemonKilledWhileTheGateIsAsked => {
                let mut querying = querying(&arena.lab);
                sleep(Duration::from_millis(random.random_range(0..1500)));
                arena.lab.kill_daemon();
                arena.lab.run_daemon();
                // Its connection ended with the daemon.
                let _ = querying.wait();
            }
            Fault::QemuKilled => kill(running(&arena.lab, &qemu()), "KILL"),
            Fault::VsockDeviceKilled => kill(running(&arena.lab, VSOCK), "KILL"),
            Fault::KernelPanic => {
                let boots = arena.lab.boots();
                as_root(&arena.lab, arena.rounds, "echo c >/proc/sysrq-trigger");
                wait("the panic to end the guest", || arena.lab.boots() != boots || arena.lab.is("stopped"));
            }
            Fault::GuestFrozen => kill(running(&arena.lab, &qemu()), "STOP"),
            Fault::GuestStalled => stall(running(&arena.lab, &qemu())),
            Fault::GuestStalledUntilClientsGiveUp => {
                // The daemon must not find the guest by its silence, as it would within seconds, and a client must get
                // as far as the guest's door.
                arena.restart_daemon_without_the_store(Some(("hang-timeout = \"6s\"", "hang-timeout = \"30m\"")));
                arena.lab.cli(&["ssh", "--", "true"]);
                let qemu = running(&arena.lab, &qemu());
                kill(qemu, "STOP");
                give_up(&arena.lab, random);
                resume(qemu);
                return Ok(Aftermath::OtherSettings);
            }
            Fault::VsockDeviceWedged => kill(running(&arena.lab, VSOCK), "STOP"),
            Fault::VsockDeviceStalled => stall(running(&arena.lab, VSOCK)),
            Fault::VirtiofsdKilled => kill(running(&arena.lab, VIRTIOFSD), "KILL"),
            Fault::VirtiofsdFrozen => {
                kill(running(&arena.lab, VIRTIOFSD), "STOP");
                // The next connection notices it; the builds that wait for the share would not.
                arena.lab.cli(&["ssh", "--", "true"]);
            }
            Fault::VirtiofsdStalled => stall(running(&arena.lab, VIRTIOFSD)),
            // The harness acts as the service manager here, too.
            Fault::HostNixKilled => {
                arena.lab.end_host_nix();
                arena.lab.run_host_nix();
            }
            Fault::HostNixGone => {
                arena.lab.end_host_nix();
                sleep(Duration::from_secs(5));
                arena.lab.run_host_nix();
            }
            Fault::HostGarbageCollected => {
                let mut querying = querying(&arena.lab);
                stdout_of(&arena.lab.host_nix("nix-store").arg("--gc").output().unwrap(), "nix-store --gc");
                querying.kill().unwrap();
                querying.wait().unwrap();
            }
            Fault::HostDiskFull => fill_host(arena)?,
            Fault::GuestDiskFull => {
                arena.lab.cli(&["ssh", "--", "dd if=/dev/zero of=/tmp/fill bs=1M; rm /tmp/fill"]);
            }
            Fault::GuestOutOfMemory => {
                arena.lab.cli(&["ssh", "--", "tail /dev/zero"]);
            }
            Fault::GuestClockJumps => {
                let years = random.random_range(1..10);
                let seconds = 365 * 86_400 * if random.random() { years } else { -years };
                as_root(&arena.lab, arena.rounds, &format!("date -s @$(($(date +%s) + {seconds}))"));
            }
            Fault::SlowReader => {
                let mut reader = arena.lab.program(&["ssh", "--", "cat /dev/zero"]);
                let mut reader = reader.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                let mut first = [0];
                // It may fail: another fault's guest may be stopping.
                let _ = reader.stdout.as_mut().unwrap().read(&mut first);
                sleep(Duration::from_secs(3));
                reader.kill().unwrap();
                reader.wait().unwrap();
            }
            Fault::FiveHundredConnections => {
                let crowd: Vec<_> =
                    (0..500).filter_map(|_| TcpStream::connect(("127.0.0.1", arena.lab.port)).ok()).collect();
                sleep(Duration::from_secs(1));
                assert!(crowd.len() > 400, "only {} got through", crowd.len());
            }
            Fault::SilentCrowdOfAnotherUser => {
                let crowd = Crowd::gather(&[(arena.lab.port, 700), (arena.api_port, 300)]);
                return Ok(Aftermath::Crowd(crowd));
            }
            Fault::ClientKilled => {
                let name = format!("killed{}", arena.rounds);
                let mut client = arena.lab.build(Door::Direct, &name, "sleep 60; echo > $out");
                let mut client = client.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
                sleep(Duration::from_millis(random.random_range(0..5000)));
                client.kill().unwrap();
                client.wait().unwrap();
            }
            Fault::Stopped => drop(arena.lab.cli(&["stop"])),
            Fault::StoppedByForce => drop(arena.lab.cli(&["stop", "--force"])),
        }
        Ok(Aftermath::None)
    }
}

const VSOCK: &str = "vhost-device-vsock";
const VIRTIOFSD: &str = "virtiofsd";

fn qemu() -> String {
    format!("qemu-system-{}", std::env::consts::ARCH)
}

/// The process of a guest that answers; starts one if necessary.
fn running(lab: &Lab, program: &str) -> u32 {
    let mut found = None;
    wait("a guest", || {
        lab.cli(&["start"]);
        found = lab.children(program).first().copied();
        found.is_some()
    });
    found.unwrap()
}

/// A program in the guest that queries one path of the host after another.
fn querying(lab: &Lab) -> Child {
    let ask = "while :; do n=$((n + 1)); nix-store --check-validity /nix/store/$(printf %032d $n | tr 0 a)-x 2>/dev/null; done";
    let mut querying = lab.program(&["ssh", "--", ask]);
    querying.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn stall(process: u32) {
    kill(process, "STOP");
    sleep(Duration::from_secs(2));
    resume(process);
}

/// The process may have been killed meanwhile.
fn resume(process: u32) {
    let _ = std::process::Command::new("kill").args(["-CONT", &process.to_string()]).stderr(Stdio::null()).status();
}

/// Clients of every kind (ssh, the direct door's program) connect to a guest that does not answer, and give up after
/// different times. The last does so after the daemon has given up the guest, too, which takes ten seconds.
fn give_up(lab: &Lab, random: &mut StdRng) {
    let verbs: [&[&str]; 3] = [&["ssh", "--", "true"], &["connect"], &["connect", "--service", "ssh"]];
    let last = random.random_range(11..16);
    let clients: Vec<Child> = (0..random.random_range(1..8))
        .map(|n: usize| {
            let patience = if n == 0 { last } else { random.random_range(2..=last) };
            let program = lab.program(verbs[n % verbs.len()]);
            let mut client = std::process::Command::new("timeout");
            client.arg(patience.to_string()).arg(program.get_program()).args(program.get_args());
            client.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
            // Their input does not end, so they end by their timeout.
            client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let began = Instant::now();
    for mut client in clients {
        let stdin = client.stdin.take();
        client.wait().unwrap();
        drop(stdin);
    }
    // ssh's own timeout may be shorter.
    sleep(Duration::from_secs(last).saturating_sub(began.elapsed()));
}

/// Runs a script as root of the guest: a trusted user may set a program that nix-daemon runs after a build.
fn as_root(lab: &Lab, round: usize, script: &str) {
    let build = derivation(&format!("hook{round}"), &format!("echo {round} > $out"));
    lab.cli(&[
        "ssh",
        "--",
        &format!(
            "printf '#!/bin/sh\\n%s\\n' '{script}' >hook; chmod +x hook; \
             timeout 20 nix-build --no-out-link --option post-build-hook $PWD/hook -E '{build}'"
        ),
    ]);
}

/// Makes a new data disk for which the host has no space.
fn fill_host(arena: &mut Arena) -> Result<(), String> {
    if !arena.can_be_filled() {
        return Err("only root can mount a small file system".to_owned());
    }
    arena.lab.cli(&["stop", "--force"]);
    // Existing blocks would need no space.
    let _ = fs::remove_file(arena.lab.machine().join("data.img"));
    let filler = arena.lab.state().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let block = vec![7; 1 << 20];
    while file.write_all(&block).is_ok() {}
    let room = 80 << 20;
    file.set_len(fs::metadata(&filler).unwrap().len().saturating_sub(room)).unwrap();
    let began = Instant::now();
    arena.lab.cli(&["ssh", "--", "dd if=/dev/zero of=/tmp/fill bs=1M count=286; sync; rm -f /tmp/fill"]);
    // The builds of this round hit the full disk, too.
    sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));
    fs::remove_file(filler).unwrap();
    Ok(())
}
