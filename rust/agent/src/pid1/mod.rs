//! PID 1 of the base guest: both boot stages in one process, then the services, then the agent protocol.
//!
//! ```text
//! kernel ─ modules ─ root (switched) ─┬─ sshd (warm) ──────────────┐
//!                                     ├─ disk ─ store ─ nix-daemon ─┴─ Ready to the host ─ serve requests
//!                                     └─ network (DHCP; the boot does not wait for it)
//! power button, SIGTERM, ctrl-alt-del, `shut-down` ─▶ shutdown: end processes ─ disk clean ─ power off
//! ```
//!
//! The rules: no input from outside ends this process (each connection has its own thread, and a panic ends only that
//! thread); a boot that fails prints the reason on the console and powers off; the data disk is either mounted from a
//! clean state or formatted.

mod accounts;
mod boot;
mod channel;
mod children;
mod cmdline;
mod disk;
mod ending;
mod figures;
mod garbage;
mod host_store;
mod modules;
mod mounts;
mod net;
mod nix;
mod payload;
mod power;
mod relay;
mod requests;
mod service;
mod shares;
mod shutdown;
mod ssh;
mod tasks;

use crate::{
    console::{Phases, say},
    threads::background,
};
use dvn_protocol::{NIX_PORT, SSH_PORT};
use garbage::{Collector, with_room};
use host_store::HostStore;
use std::{
    net::{Ipv4Addr, TcpListener},
    process::ExitCode,
    sync::Arc,
};
use tasks::{Outcome, SERVICES, serve, vsock_port};

/// Runs the agent: as PID 1, or as one of the commands for guests with another PID 1.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| say(format_args!("panic: {panic}"))));
    if std::process::id() != 1 {
        return beside_pid_1(&std::env::args().skip(1).collect::<Vec<_>>());
    }
    match std::panic::catch_unwind(run) {
        Ok(Ok(())) => say("the agent ended"),
        Ok(Err(why)) => say(format_args!("FAILED: {why}")),
        Err(_) => say("FAILED: the agent panicked; this is a fault of darwin-vz-nix"),
    }
    shutdown::power_off()
}

/// A command of `service`. A boot that fails ends here, too: with a reason on the console and a power-off.
fn beside_pid_1(words: &[String]) -> ExitCode {
    let outcome = match words {
        [command, root, directory] if command == "initrd" => service::initrd(root, directory),
        [command] if command == "service" => service::serve_host(),
        _ => {
            eprintln!(
                "darwin-vz-agent is a guest's PID 1, or is run there as `initrd ROOT DIRECTORY` and `service`; in a guest \
                 with its own operating system as `install` and `daemon`"
            );
            return ExitCode::from(64);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format_args!("FAILED: {why}"));
            shutdown::power_off()
        }
    }
}

fn run() -> Outcome<()> {
    let phases = Arc::new(Phases::default());
    shutdown::catch_signals();
    background("reaper", children::reap);
    let payload = boot::stage_one(&phases)?;
    boot::stage_two(&payload.config)?;

    let sshd = ssh::Pool::start(host_store::settings_beside(&payload.config))?;
    let host_name = payload.config.host_name.clone();
    background("network", move || net::client::run("eth0", &host_name));
    power::watch();
    let data = disk::prepare(payload.config.cache_disk.as_deref())?;
    disk::trouble::watch();
    phases.mark("disk");
    let builders = boot::nix_directories()?;
    let shares = shares::mount_all(&payload.config.shares);
    let store = HostStore::mount(&payload.config, &shares)?;
    host_store::reconcile(store.as_ref())?;
    if let Some(store) = &store {
        store.prepare_daemon()?;
        store.serve(&payload.config.token)?;
    }
    nix::start(store.as_ref().map(HostStore::address));
    phases.mark("store");

    sshd.wait_for_banner(SERVICES)?;
    phases.mark("sshd");
    nix::wait_until_it_answers(SERVICES)?;
    phases.mark("nix-daemon");
    let garbage = Collector::start(builders.clone());
    let ssh = with_room(Arc::clone(&garbage), move || sshd.connect());
    serve("ssh", vsock_port(SSH_PORT)?, ssh.clone());
    serve("nix", vsock_port(NIX_PORT)?, with_room(garbage, nix::connect));
    if let Some(port) = cmdline::read().tcp_ssh {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| format!("TCP port {port}: {e}"))?;
        serve("tcp-ssh", move || listener.accept().map(|(client, _)| client.into()), ssh);
    }
    power::wait_for_button();
    phases.mark("ready");

    let requests = requests::Requests { builders, shares, store };
    channel::run(payload.config.host_ports.agent, &payload.config.token, &phases, data.fate, &Arc::new(requests))
}
