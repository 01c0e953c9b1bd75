//! The guest's agent: PID 1 of the base guest, a service of others. All of it is in `pid1`; elsewhere than on Linux there is nothing to run.

#[cfg(target_os = "linux")]
mod pid1;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    pid1::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("darwin-vz-agent is for a Linux guest and does nothing on this system");
    std::process::ExitCode::from(64)
}
