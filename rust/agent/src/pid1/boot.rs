//! The two boot stages, except for the parts with a module of their own.

use super::{
    accounts, disk, modules, mounts, net,
    payload::{self, Payload},
};
use crate::console::{Phases, say, since_kernel};
use crate::pid1::tasks::Outcome;
use dvn_protocol::GuestConfig;
use rustix::{
    fs as sys,
    mount::MountFlags,
    process::{Resource, Rlimit, setrlimit},
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};
use std::{fs, path::Path};

/// Where the system image is mounted until it becomes the root.
const NEW_ROOT: &str = "/sysroot";

/// In the initramfs: loads drivers, mounts the system image, takes the payload. Ends with the system image as root.
pub fn stage_one(phases: &Phases) -> Outcome<Payload> {
    let kernel = since_kernel();
    for dir in ["/proc", "/dev", NEW_ROOT] {
        mounts::directory(dir, 0o755, (0, 0))?;
    }
    mounts::kernel_fs("proc", "/proc", "")?;
    mounts::mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    open_console();
    phases.mark_at("kernel", kernel);

    modules::load(Path::new("/mods"));
    // The console's driver may have been among the modules.
    open_console();
    phases.mark("modules");

    let system = disk::system()?;
    let kind = disk::image_kind(&system)?;
    mounts::mount(&system, NEW_ROOT, kind, MountFlags::RDONLY | MountFlags::NOATIME | MountFlags::NODEV, "")?;
    let payload = payload::take(NEW_ROOT)?;
    // The rest of the initramfs only takes memory.
    let _ = fs::remove_dir_all("/mods");
    let _ = fs::remove_file("/init");
    for dir in ["/dev", "/proc"] {
        rustix::mount::mount_move(dir, format!("{NEW_ROOT}{dir}"))
            .map_err(|e| format!("{dir} cannot be moved to the system image: {e}"))?;
    }
    mounts::switch_root(NEW_ROOT)?;
    phases.mark("root");
    Ok(payload)
}

/// In the system image: everything that needs neither the data disk nor a service.
pub fn stage_two(config: &GuestConfig) -> Outcome<()> {
    mounts::kernel_fs("sysfs", "/sys", "")?;
    if let Err(e) = mounts::kernel_fs("cgroup2", "/sys/fs/cgroup", "") {
        say(e);
    }
    mounts::tmpfs("/run", "mode=0755")?;
    mounts::tmpfs("/mnt", "mode=0755,size=1m")?;
    mounts::tmpfs("/root", "mode=0700")?;
    mounts::tmpfs("/home", "mode=0755")?;
    for (dir, mode) in [("/dev/pts", 0o755), ("/dev/shm", 0o1777)] {
        mounts::directory(dir, mode, (0, 0))?;
    }
    mounts::mount("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "mode=0620,ptmxmode=0666")?;
    mounts::tmpfs("/dev/shm", "mode=1777")?;
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        let path = format!("/dev/{name}");
        if fs::symlink_metadata(&path).is_err() {
            let _ = std::os::unix::fs::symlink(target, &path);
        }
    }

    // With nested virtualization, builds use it.
    let _ = sys::chmod("/dev/kvm", 0o666.into());

    if let Some(builder) = accounts::user("builder") {
        mounts::directory("/home/builder", 0o700, builder)?;
    }
    rustix::system::sethostname(config.host_name.as_bytes())
        .map_err(|e| format!("the host name {:?} cannot be set: {e}", config.host_name))?;
    catch_up(config.unix_seconds);
    net::link::loopback_up();
    raise_descriptor_limit();
    Ok(())
}

/// Makes Nix's directories on the data disk, and mounts all but the store. The build users' group must be able to write
/// to the store's top directory only. Returns the build users.
pub fn nix_directories() -> Outcome<accounts::BuildUsers> {
    let builders = accounts::build_users();
    mounts::directory("/data/nix/store", 0o1775, (0, builders.gid))?;
    mounts::directory("/data/nix/var", 0o755, (0, 0))?;
    mounts::directory("/data/tmp", 0o1777, (0, 0))?;
    mounts::bind("/data/nix/var", "/nix/var")?;
    mounts::bind("/data/tmp", "/tmp")?;
    Ok(builders)
}

/// The kernel's default limit is 1024 descriptors, and each connection takes three.
pub fn raise_descriptor_limit() {
    let limit = Rlimit { current: Some(65536), maximum: Some(524_288) };
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        say(format_args!("the limit of open files cannot be raised: {e}"));
    }
}

/// Sets the clock if it is behind the host's.
pub fn catch_up(unix_seconds: u64) {
    let Ok(seconds) = i64::try_from(unix_seconds) else { return };
    if clock_gettime(ClockId::Realtime).tv_sec < seconds
        && let Err(e) = clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: 0 })
    {
        say(format_args!("the clock cannot be set: {e}"));
    }
}

/// The initramfs has no console device, so the kernel may have started this process without open descriptors.
fn open_console() {
    let flags = sys::OFlags::RDWR | sys::OFlags::NOCTTY;
    if let Ok(console) = sys::open("/dev/console", flags, sys::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}
