//! Statistics of the guest: memory, disk, builds.

use super::accounts::BuildUsers;
use dvn_protocol::messages::Answer;
use std::{collections::BTreeSet, fs};

/// Memory and disk. Errors name the file.
pub fn figures() -> Result<Answer, String> {
    let path = "/proc/meminfo";
    let meminfo = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let memory = |name| meminfo_bytes(&meminfo, name).ok_or_else(|| format!("{path} has no {name}"));
    let disk = rustix::fs::statvfs(super::disk::DATA).map_err(|e| format!("{}: {e}", super::disk::DATA))?;
    Ok(Answer::Figures {
        memory_total: memory("MemTotal")?,
        memory_available: memory("MemAvailable")?,
        disk_total: disk.f_blocks.saturating_mul(disk.f_frsize),
        disk_available: disk.f_bavail.saturating_mul(disk.f_frsize),
        shared_inodes: shared_inodes(),
    })
}

/// Cached files and directories of shares; 0 where the kernel does not report them.
pub fn shared_inodes() -> u64 {
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    active_objects(&slabs, "fuse_inode").unwrap_or(0)
}

fn active_objects(slabs: &str, name: &str) -> Option<u64> {
    slabs.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.split_whitespace().next()?.parse().ok()
}

fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The number of running builds.
///
/// nix-daemon gives each build its own build user for as long as it runs, however many processes it has. So the builds
/// are the build users that own a process: the real user in `/proc/PID/status`, numbered in the guest's own user
/// namespace.
pub fn builds(users: &BuildUsers) -> u32 {
    distinct(processes().filter_map(|(_, status)| real_user(&status)), users)
}

/// Every process and its `/proc/PID/status`.
pub fn processes() -> impl Iterator<Item = (i32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, fs::read_to_string(entry.path().join("status")).ok()?)) // it may have ended
    })
}

fn distinct(owners: impl Iterator<Item = u32>, users: &BuildUsers) -> u32 {
    let busy: BTreeSet<u32> = owners.filter(|owner| users.uids.contains(owner)).collect();
    u32::try_from(busy.len()).unwrap_or(u32::MAX)
}

/// The real user in a `/proc/PID/status`; `None` for a process that has ended and is not yet reaped.
pub fn real_user(status: &str) -> Option<u32> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("State")?.starts_with('Z') {
        return None;
    }
    field("Uid")?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let meminfo = "MemTotal:        1004356 kB\nMemFree:  1 kB\nMemAvailable:     901000 kB\n";
        assert_eq!(meminfo_bytes(meminfo, "MemTotal"), Some(1_004_356 * 1024));
        assert_eq!(meminfo_bytes(meminfo, "MemAvailable"), Some(901_000 * 1024));
        assert_eq!(meminfo_bytes(meminfo, "Mem"), None);
    }

    #[test]
    fn a_slab_is_found_by_its_whole_name() {
        let slabs = "# name  <active_objs> <num_objs>\nfuse_inode_x 1 2\nfuse_inode          105    114    832\n";
        assert_eq!(active_objects(slabs, "fuse_inode"), Some(105));
        assert_eq!(active_objects(slabs, "fuse"), None);
    }

    #[test]
    fn a_build_is_a_user_however_many_its_processes() {
        let users = BuildUsers { gid: 30000, uids: [30001, 30002, 30003].into() };
        assert_eq!(distinct([0, 30001, 30001, 1000, 30003].into_iter(), &users), 2);
        assert_eq!(real_user("Name:\tsh\nState:\tS (sleeping)\nUid:\t30001\t0\t0\t0\n"), Some(30001));
        assert_eq!(real_user("Name:\tsh\nState:\tZ (zombie)\nUid:\t30001\t0\t0\t0\n"), None);
    }

    #[test]
    fn this_process_is_listed() {
        let me = rustix::process::getuid().as_raw();
        assert_eq!(builds(&BuildUsers { gid: 0, uids: [me].into() }), 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), name in "[A-Za-z]{0,4}") {
            let _ = (meminfo_bytes(&text, &name), real_user(&text), active_objects(&text, &name));
        }
    }
}
