//! A machine with an empty disk and a medium of `tests/guest/iso.sh`, in a directory of its own.

use dvn_hypervisor::{
    Backend, Exit, Guest, Hypervisor,
    disks::SystemDisk,
    for_this_host,
    spec::{Boot, Devices, MachineSpec, Nic, Screen},
};
use dvn_types::Arch;
use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};
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
        let hypervisor = for_this_host(Some(backend), &env::var_os("PATH").unwrap(), None).unwrap();
        let machine = Machine { dir: tempfile::tempdir().unwrap(), hypervisor };
        machine.disk("disk.img", DISK);
        machine
    }

    /// An empty disk of this name, of so many bytes.
    pub fn disk(&self, name: &str, bytes: u64) -> SystemDisk {
        fs::File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
        SystemDisk::new(self.path(name), false)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The machine with its disk and the test medium.
    pub fn spec(&self) -> MachineSpec {
        self.spec_with(vec![SystemDisk::new(self.path("disk.img"), false), medium("DVN_TEST_MEDIUM")])
    }

    /// A machine with these disks, without vsock; with a screen if the backend shows it.
    pub fn spec_with(&self, disks: Vec<SystemDisk>) -> MachineSpec {
        let run = self.path("run");
        fs::create_dir_all(&run).unwrap();
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
        self.is_off(guest).await;
        assert!(self.console().contains(": power button"), "{}", self.console());
    }

    /// Waits until the guest has powered itself off.
    pub async fn is_off(&self, guest: &dyn Guest) {
        let exit = tokio::time::timeout(PATIENCE, guest.exited()).await.expect("it powers off");
        assert_eq!(exit, Exit::PoweredOff, "{}", self.console());
        assert!(!self.path("run").exists(), "nothing of the boot is left");
    }
}

/// The ISO at this variable's path.
pub fn medium(variable: &str) -> SystemDisk {
    let path = env::var_os(variable);
    let path = path.unwrap_or_else(|| {
        panic!("{variable} is not set: run this with `make test`, or give it what tests/guest/iso.sh prints")
    });
    SystemDisk::new(path, true)
}
