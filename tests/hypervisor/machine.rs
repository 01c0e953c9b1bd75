//! A machine with an empty disk and the test medium (`tests/guest/iso.sh`), in a directory of its own.

use dvn_hypervisor::{
    Backend, Exit, Guest, Hypervisor,
    disks::SystemDisk,
    for_this_host,
    spec::{Boot, Devices, MachineSpec, Nic, Screen},
};
use dvn_types::Arch;
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Longest wait for anything: for machines that are translated, beside others.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes of the empty disk.
pub const DISK: u64 = 64 << 20;

/// The size of the screen.
pub const SCREEN: Screen = Screen { width: 1280, height: 800 };

pub struct Machine {
    dir: TempDir,
    pub hypervisor: Arc<dyn Hypervisor>,
}

impl Machine {
    pub fn new(backend: Backend) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let disk = fs::File::create(dir.path().join("disk.img")).unwrap();
        disk.set_len(DISK).unwrap();
        let hypervisor = for_this_host(Some(backend), &env::var_os("PATH").unwrap(), None).unwrap();
        Machine { dir, hypervisor }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A machine without vsock; with a screen if the backend shows it.
    pub fn spec(&self) -> MachineSpec {
        let run = self.path("run");
        fs::create_dir_all(&run).unwrap();
        let disks = vec![SystemDisk::new(self.path("disk.img"), false), SystemDisk::new(medium(), true)];
        let nics = vec![Nic { mac: "02:00:00:00:00:07".parse().unwrap() }];
        let display = self.hypervisor.capabilities().display.is_ok().then_some(SCREEN);
        MachineSpec {
            name: "library".parse().unwrap(),
            arch: Arch::host().unwrap(),
            cores: 1,
            memory: 512 << 20,
            boot: Boot::Efi { variables: self.path("nvram.bin") },
            devices: Devices { disks, nics, display, ..Devices::default() },
            runtime_dir: run,
            console_log: self.path("console.log"),
        }
    }

    /// What the guest has written in this boot.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("console.log")).unwrap_or_default()).into_owned()
    }

    /// The numbers that the guest has counted in this boot, of whole lines.
    pub fn counted(&self) -> Vec<u64> {
        let console = self.console();
        let lines = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.filter_map(|line| line.trim().strip_prefix("medium: count ")?.parse().ok()).collect()
    }

    /// Waits until the console is as it should be, for as long as the guest lives.
    pub async fn until(&self, guest: &dyn Guest, what: &str, is_so: impl Fn(&Machine) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !is_so(self) {
            tokio::select! {
                exit = guest.exited() => panic!("waiting for {what}: the guest {exit}\n{}", self.console()),
                () = sleep(Duration::from_millis(50)) => {}
            }
            assert!(Instant::now() < give_up, "waiting for {what} in vain\n{}", self.console());
        }
    }

    /// Presses the power button and waits for the end.
    pub async fn powers_off(&self, guest: &dyn Guest) {
        guest.request_stop().await.unwrap();
        let exit = tokio::time::timeout(PATIENCE, guest.exited()).await.expect("it hears the button");
        assert_eq!(exit, Exit::PoweredOff, "{}", self.console());
        assert!(self.console().contains("medium: power button"), "{}", self.console());
        assert!(!self.path("run").exists(), "nothing of the boot is left");
    }
}

fn medium() -> &'static Path {
    static MEDIUM: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let given = env::var_os("DVN_TEST_MEDIUM");
        given
            .expect("DVN_TEST_MEDIUM is not set: run this with `make test`, or give it what tests/guest/iso.sh prints")
            .into()
    });
    &MEDIUM
}
