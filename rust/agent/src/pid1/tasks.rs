//! Background work: threads, and services that are joined with connections.

use super::relay;
use crate::console::say;
use crate::threads::background;
use crate::vsock;
use std::{io, os::fd::OwnedFd, thread, time::Duration};

/// Why a step of the boot failed; a sentence for the console.
pub type Outcome<T> = Result<T, String>;

/// How long sshd or nix-daemon may take to answer before the boot fails.
pub const SERVICES: Duration = Duration::from_secs(120);

/// Backlog of pending connections for each vsock port.
const BACKLOG: i32 = 512;

/// Accepts connections to a vsock port of this guest, one per call.
pub fn vsock_port(port: u32) -> Outcome<impl Fn() -> io::Result<OwnedFd> + Send + 'static> {
    let listener = vsock::listen(port, BACKLOG).map_err(|e| format!("vsock port {port} cannot be opened: {e}"))?;
    Ok(move || Ok(vsock::accept(&listener)?))
}

/// Joins every connection from `accept` with one from `service`.
pub fn serve<A, S, O>(name: &'static str, accept: A, service: S)
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
                    thread::sleep(Duration::from_millis(100)); // out of descriptors or memory, which may pass
                }
            }
        }
    });
}
