//! PID 1 of the base guest: both boot stages in one process, then the services, then the agent protocol.
//!
//! ```text
//! kernel ─ modules ─ root (switched) ─┬─ sshd (warm) ──────────────┐
//!                                     ├─ disk ─ store ─ nix-daemon ─┴─ Ready to the host ─ serve requests
//!                                     └─ network (DHCP; nobody waits for it)
//! power button, SIGTERM, ctrl-alt-del, `shut-down` ─▶ shutdown: end processes ─ disk clean ─ power off
//! ```
//!
//! The rules: nothing that arrives from outside ends this process (each connection has its own thread, a panic ends only
//! that thread); a boot that cannot go on says why on the console and powers off; the data disk is either mounted from a
//! clean state or made anew.

mod accounts;
mod boot;
mod channel;
mod children;
mod cmdline;
mod console;
mod disk;
mod figures;
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
mod vsock;

use console::{Phases, say};
use darwin_vz_agent::{NIX_PORT, SSH_PORT};
use host_store::HostStore;
use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

/// Why something of the boot could not be done; a sentence for the console.
type Outcome<T> = Result<T, String>;

/// How long sshd or nix-daemon may take to answer before the boot is given up.
const SERVICES: Duration = Duration::from_secs(120);

/// Connections that may wait in the kernel for each vsock port.
const BACKLOG: i32 = 512;

/// Runs the agent: as PID 1, or as one of the commands for guests that have another.
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

/// A command of `service`. A boot that cannot go on ends here, too: with a reason on the console and the power off.
fn beside_pid_1(words: &[String]) -> ExitCode {
    let outcome = match words {
        [command, root, directory] if command == "initrd" => service::initrd(root, directory),
        [command] if command == "service" => service::serve_host(),
        _ => {
            eprintln!(
                "darwin-vz-agent is a guest's PID 1, or is called there as `initrd ROOT DIRECTORY` and `service`"
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

    let sshd = ssh::Pool::start()?;
    let host_name = payload.config.host_name.clone();
    background("network", move || net::client::run("eth0", &host_name));
    power::watch();
    let data = disk::prepare()?;
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
    let ssh = move || sshd.connect();
    serve("ssh", vsock_port(SSH_PORT)?, ssh.clone());
    serve("nix", vsock_port(NIX_PORT)?, nix::connect);
    if let Some(port) = cmdline::read().tcp_ssh {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| format!("TCP port {port}: {e}"))?;
        serve("tcp-ssh", move || listener.accept().map(|(client, _)| client.into()), ssh);
    }
    phases.mark("ready");

    let requests = requests::Requests { builders, shares, store };
    channel::run(payload.config.host_ports.agent, &payload.config.token, &phases, data.fate, &Arc::new(requests))
}

/// Connections to a vsock port of this guest, one a call.
fn vsock_port(port: u32) -> Outcome<impl Fn() -> io::Result<OwnedFd> + Send + 'static> {
    let listener = vsock::listen(port, BACKLOG).map_err(|e| format!("vsock port {port} cannot be opened: {e}"))?;
    Ok(move || Ok(vsock::accept(&listener)?))
}

/// Joins every connection that `accept` gives with one that `service` gives.
fn serve<A, S, O>(name: &'static str, accept: A, service: S)
where
    A: Fn() -> io::Result<OwnedFd> + Send + 'static,
    S: Fn() -> io::Result<O> + Clone + Send + 'static,
    O: Into<relay::Server>,
{
    background(name, move || {
        loop {
            match accept() {
                Ok(client) => {
                    let service = service.clone();
                    background(name, move || match service() {
                        Ok(server) => relay::join(client, server.into()),
                        Err(e) => say(format_args!("{name}: a connection was dropped: {e}")),
                    });
                }
                Err(e) => {
                    say(format_args!("{name}: accept: {e}"));
                    thread::sleep(Duration::from_millis(100)); // out of descriptors or memory: it may pass
                }
            }
        }
    });
}

/// A thread with a small stack: there is one for each connection. A panic in it ends only it.
fn background(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(128 * 1024);
    if let Err(e) = thread.spawn(work) {
        say(format_args!("{name}: no thread: {e}"));
    }
}
