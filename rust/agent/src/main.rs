//! The guest's agent: PID 1 of the base guest, a service in other guests. All code is in `pid1`; on systems other than
//! Linux the program does nothing.

#[cfg(target_os = "linux")]
mod pid1;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    pid1::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("darwin-vz-agent runs in a Linux guest and does nothing on this system");
    std::process::ExitCode::from(64)
}
