//! The list of checks, in the order in which they run: a check comes after those it depends on.

use super::{
    boots, broken, bundle, check::Check, daemon, data_disk, guest, keys, network, nix_conf, port, service, settings,
    signature, ssh_config, state, state_files, trial_build, trim, volumes,
};

macro_rules! check {
    ($name:literal, $looks_at:literal, $run:path) => {
        Check { name: $name, looks_at: $looks_at, deep: false, run: |subject| Box::pin($run(subject)) }
    };
    ($name:literal, $looks_at:literal, $run:path, deep) => {
        Check { deep: true, ..check!($name, $looks_at, $run) }
    };
}

/// Every check.
pub const ALL: &[Check] = &[
    check!("settings", "the machine's settings, against this computer", settings::settings),
    check!("backend", "what runs the guest, and the helpers it needs", settings::backend),
    check!("nested", "nested virtualization, where the machine uses it", settings::nested),
    check!("rosetta", "Rosetta, where the machine uses it", settings::rosetta),
    check!("signature", "this program's signature and its entitlement to virtual machines", signature::check),
    check!(
        "state-directory",
        "the state directory: its path, its owner, whether other users can write or replace it",
        state::directory
    ),
    check!("state-files", "the files in it: regular ones, which this user may read and write", state_files::check),
    check!("socket-paths", "the length of the paths of Unix sockets", state::socket_paths),
    check!("daemon", "the process that holds the state directory, whether it answers, and its version", daemon::check),
    check!("machine", "whether the running daemon could open the machine, and why not", broken::check),
    check!("boots", "the results of the last boots, and why one failed", boots::check),
    check!("keys", "the machine's private keys: permissions, damage, and the halves that belong together", keys::keys),
    check!("known-hosts", "the pinned host key", keys::known_hosts),
    check!("bundle", "the guest bundle's manifest, files and processor", bundle::bundle),
    check!("kernel", "the format of the guest's kernel", bundle::kernel),
    check!("port", "the address where ssh clients reach the machine", port::check),
    check!("api-port", "the address where the API answers on TCP, if it does", port::api),
    check!("service", "the job of launchd, or the units of systemd, that start the daemon", service::check),
    check!("ssh-config", "what root's ssh, and so Nix's daemon, has configured for the machine", ssh_config::check),
    check!("nix-config", "whether Nix sends builds to the machine, and through a door that exists", nix_conf::check),
    check!("store-case", "whether the shared store is case-sensitive", volumes::store_case),
    check!("disk-space", "free space for the data disk", volumes::disk_space),
    check!("guest", "a guest that boots and answers", guest::boots, deep),
    check!("clock", "the guest's clock, against this computer's", guest::clock, deep),
    check!("network", "name service and downloads in the guest, also behind a VPN", network::check, deep),
    check!("data-disk", "free space of the guest's data disk, after its garbage was collected", data_disk::check, deep),
    check!("trim", "whether space that the guest frees is given back to this computer", trim::check, deep),
    check!("build", "a trivial build by this computer's Nix, through the direct door", trial_build::check, deep),
];
