//! The settings of a machine, as flags.

use clap::Args;
use dvn_config::Key;

/// A machine's settings as flags. They are text here; `config` reads them, so that a value has one spelling everywhere.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings of the machine")]
pub struct MachineFlags {
    /// Processors of the guest
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// Memory of the guest, such as 8G
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Size of the data disk, such as 100G
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<String>,
    /// Begin each boot with an empty data disk
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ephemeral: Option<String>,
    /// Minutes unused until the guest is stopped; 0 is never
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// Where ssh clients reach it: a loopback address and port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of the guest bundle
    #[arg(long, value_name = "DIR")]
    bundle: Option<String>,
    /// A derivation of the host's store, whose output is the guest bundle to build and change to
    #[arg(long, value_name = "DRV")]
    recipe: Option<String>,
    /// Directory with the host's nix, for the recipe
    #[arg(long, value_name = "DIR")]
    nix: Option<String>,
    /// Let an aarch64 guest run x86_64 programs through Rosetta
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rosetta: Option<String>,
    /// Let the guest run virtual machines
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(hide_short_help = true)]
    nested_virtualization: Option<String>,
    /// Let the guest build on the host's store
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    share_store: Option<String>,
    /// The host's store, as a directory
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// The socket of the host's Nix daemon
    #[arg(long, value_name = "FILE")]
    store_daemon: Option<String>,
    /// auto, or what runs the guest: vz (macOS) or qemu (Linux)
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// auto, or force kvm or tcg
    #[arg(long, value_name = "NAME")]
    accelerator: Option<String>,
    /// Seconds that a boot may take
    #[arg(long, value_name = "TIME")]
    boot_timeout: Option<String>,
    /// Seconds that a guest may take to power off before it is killed
    #[arg(long, value_name = "TIME")]
    stop_grace: Option<String>,
    /// Seconds without an answer until a guest in use is killed; 0 is never
    #[arg(long, value_name = "TIME")]
    hang_timeout: Option<String>,
}

impl MachineFlags {
    /// Those that were given.
    pub fn flags(&self) -> Vec<(Key, String)> {
        let given = [
            (Key::Cores, &self.cores),
            (Key::Memory, &self.memory),
            (Key::DiskSize, &self.disk_size),
            (Key::Ephemeral, &self.ephemeral),
            (Key::IdleTimeout, &self.idle_timeout),
            (Key::Listen, &self.listen),
            (Key::Bundle, &self.bundle),
            (Key::Recipe, &self.recipe),
            (Key::Nix, &self.nix),
            (Key::Rosetta, &self.rosetta),
            (Key::NestedVirtualization, &self.nested_virtualization),
            (Key::ShareStore, &self.share_store),
            (Key::StoreDir, &self.store_dir),
            (Key::StoreDaemon, &self.store_daemon),
            (Key::Backend, &self.backend),
            (Key::Accelerator, &self.accelerator),
            (Key::BootTimeout, &self.boot_timeout),
            (Key::StopGrace, &self.stop_grace),
            (Key::HangTimeout, &self.hang_timeout),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}
