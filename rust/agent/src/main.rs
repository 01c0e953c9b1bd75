//! The guest's agent. `pid1`: PID 1 of the base guest, or beside another PID 1 in a guest that boots the same way.
//! `service`: a service of a guest with its own operating system. On systems other than Linux the program does nothing.

#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod console;
#[cfg(target_os = "linux")]
mod pid1;
#[cfg(target_os = "linux")]
mod service;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod vsock;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [command] if command == "daemon" && std::process::id() != 1 => service::main(),
        [command] if command == "install" && std::process::id() != 1 => service::install::main(),
        _ => pid1::main(),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("darwin-vz-agent runs in a Linux guest and does nothing on this system");
    std::process::ExitCode::from(64)
}
