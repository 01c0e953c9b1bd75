//! What runs beside the boot: threads, and services that are joined with connections.

use super::{console::say, relay, vsock};
use std::{io, os::fd::OwnedFd, thread, time::Duration};

/// Why something of the boot could not be done; a sentence for the console.
pub type Outcome<T> = Result<T, String>;

/// How long sshd or nix-daemon may take to answer before the boot is given up.
pub const SERVICES: Duration = Duration::from_secs(120);

/// Connections that may wait in the kernel for each vsock port.
const BACKLOG: i32 = 512;

/// Connections to a vsock port of this guest, one a call.
pub fn vsock_port(port: u32) -> Outcome<impl Fn() -> io::Result<OwnedFd> + Send + 'static> {
    let listener = vsock::listen(port, BACKLOG).map_err(|e| format!("vsock port {port} cannot be opened: {e}"))?;
    Ok(move || Ok(vsock::accept(&listener)?))
}

/// Joins every connection that `accept` gives with one that `service` gives.
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
                    thread::sleep(Duration::from_millis(100)); // out of descriptors or memory: it may pass
                }
            }
        }
    });
}

/// A thread with a small stack: there is one for each connection. A panic in it ends only it.
pub fn background(name: &str, work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(128 * 1024);
    if let Err(e) = thread.spawn(work) {
        say(format_args!("{name}: no thread: {e}"));
    }
}
