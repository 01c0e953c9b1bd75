//! The agent as a service of a guest with its own operating system (`dvn_protocol::service`).
//!
//! ```text
//! accept (host only) ─ thread per connection: connection ─┬─ facts, clock, power: an answer
//!                                                         └─ exec: command (starts it) ─ session (frames both ways)
//! ```
//!
//! The rules: each connection has its own thread and bounded buffers, so that a client that hangs delays no other; a
//! command that is not detached ends with its connection.

mod command;
mod connection;
mod facts;
pub mod install;
mod power;
mod programs;
mod session;
mod users;

use crate::{console::say, threads::background, vsock};
use dvn_protocol::service::SERVICE_PORT;
use programs::PATH;
use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The kernel's interface to vsock, and the driver that adds it.
const DEVICE: &str = "/dev/vsock";
const DRIVER: &str = "vmw_vsock_virtio_transport";

/// Runs the service. Returns only if it cannot start.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| say(format_args!("panic: {panic}"))));
    match listen() {
        Ok(listener) => serve(move || Ok(vsock::accept(&listener)?)),
        Err(why) => {
            say(format_args!("FAILED: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn listen() -> Result<OwnedFd, String> {
    if !Path::new(DEVICE).exists() {
        // It may be part of the kernel; listening shows whether it is there.
        let loaded = Command::new("modprobe").arg(DRIVER).env("PATH", PATH).status();
        if !loaded.is_ok_and(|status| status.success()) {
            say(format_args!("the module {DRIVER} cannot be loaded"));
        }
    }
    vsock::listen(SERVICE_PORT, BACKLOG).map_err(|e| {
        format!("vsock port {SERVICE_PORT} cannot be opened: {e}; the kernel needs the module {DRIVER}, and the machine a vsock device")
    })
}

/// Serves every connection from `accept`. Never returns.
fn serve(accept: impl Fn() -> io::Result<OwnedFd>) -> ! {
    loop {
        match accept() {
            Ok(client) => background("connection", move || connection::serve(&client)),
            Err(e) => {
                say(format_args!("accept: {e}"));
                thread::sleep(Duration::from_millis(100)); // out of descriptors or memory, which may pass
            }
        }
    }
}
