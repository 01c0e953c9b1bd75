//! A hypervisor in memory, for tests under virtual time: no process, no socket, no real clock. Its only files are EFI variable
//! stores and saved guests.
//!
//! A [`Script`] determines what its guests do and can be changed between boots; [`Counters`] count what happened. A
//! guest
//! *lives* from the moment `boot` resolves until it powers off, is killed or crashes, or the last reference to it is dropped.

use crate::{
    capabilities::{Capabilities, Limits},
    saved::{self, Saving},
    seam::{Display, Exit, Guest, GuestListener, GuestStream, Hold, Hypervisor},
    spec::{Boot, MachineSpec},
};
use dvn_types::{Arch, Kind, Report};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    time::Instant,
};

/// How boots and guests behave.
#[derive(Clone, Debug)]
pub struct Script {
    /// How long `boot` takes.
    pub boot: Duration,
    /// `boot` fails with this message after the time of a boot.
    pub boot_error: Option<String>,
    /// `boot` never resolves.
    pub boot_wedged: bool,
    /// `boot` panics.
    pub boot_panics: bool,
    /// How long the guest of a cancelled boot exists after the boot was dropped.
    pub cancel: Duration,
    /// Time from the power button to the guest's end.
    pub power_off: Duration,
    /// How many presses of the power button the guest ignores.
    pub deaf_to_presses: usize,
    /// `request_stop` and `kill` take effect, but never resolve.
    pub verbs_wedged: bool,
    /// A kill has no effect within this time after the boot.
    pub deaf_to_kill: Duration,
    /// `pause` fails with this message.
    pub pause_error: Option<String>,
    /// `pause` and `resume` never resolve.
    pub halts_wedged: bool,
    /// How long `suspend` takes.
    pub suspend: Duration,
    /// `suspend` fails with this message after its time, and the guest continues to run.
    pub suspend_error: Option<String>,
    /// `restore` fails with this message, after the time of a boot.
    pub restore_error: Option<String>,
    /// The guest crashes with `kernel panic` this long after its boot.
    pub crash_after: Option<Duration>,
}

impl Default for Script {
    /// Boots in 300 ms and powers off in 200 ms when asked.
    fn default() -> Self {
        Script {
            boot: Duration::from_millis(300),
            boot_error: None,
            boot_wedged: false,
            boot_panics: false,
            cancel: Duration::ZERO,
            power_off: Duration::from_millis(200),
            deaf_to_presses: 0,
            verbs_wedged: false,
            deaf_to_kill: Duration::ZERO,
            pause_error: None,
            halts_wedged: false,
            suspend: Duration::from_millis(500),
            suspend_error: None,
            restore_error: None,
            crash_after: None,
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls of `boot`.
    pub boots: AtomicUsize,
    /// `boot` futures dropped before they resolved.
    pub cancelled: AtomicUsize,
    /// Calls of `request_stop`.
    pub presses: AtomicUsize,
    /// Successful calls of `pause`.
    pub pauses: AtomicUsize,
    /// Successful calls of `resume`.
    pub resumes: AtomicUsize,
    /// Successful calls of `suspend`.
    pub suspends: AtomicUsize,
    /// Successful calls of `restore`.
    pub restores: AtomicUsize,
    /// Calls of `kill`.
    pub kills: AtomicUsize,
    /// Guests that live at the moment.
    pub alive: AtomicUsize,
    /// The most guests that lived at once.
    pub max_alive: AtomicUsize,
}

struct Shared {
    script: Mutex<Script>,
    counters: Counters,
    last: Mutex<Weak<SimGuest>>,
}

/// The hypervisor. Clones share script and counters.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

impl Sim {
    /// A hypervisor whose boots follow `script`.
    pub fn new(script: Script) -> Self {
        let capabilities = Capabilities {
            backend: "sim",
            accelerator: "none",
            archs: vec![Arch::X86_64, Arch::Aarch64],
            rosetta: false,
            nested: false,
            shares: false,
            pause: true,
            efi: Ok(()),
            display: Ok(()),
            forwards: Ok(()),
            suspend: Ok(Vec::new()),
            limits: Limits { cores: (1, u32::MAX), memory: (0, u64::MAX) },
            features: Vec::new(),
        };
        let shared = Shared { script: Mutex::new(script), counters: Counters::default(), last: Mutex::default() };
        Sim { shared: Arc::new(shared), capabilities }
    }

    /// Changes the script for later boots. Living guests keep the script of their boot.
    pub fn rescript(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.shared.script));
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The latest guest, if it is still referenced.
    pub fn guest(&self) -> Option<Arc<SimGuest>> {
        lock(&self.shared.last).upgrade()
    }
}

/// Counts a boot that is dropped before it ends, and keeps what its guest holds for a while.
struct Unfinished<'a> {
    counters: &'a Counters,
    hold: Option<Hold>,
    cancel: Duration,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // A boot that has ended leaves nothing to hold.
        let Some(hold) = self.hold.take() else { return };
        self.counters.cancelled.fetch_add(1, SeqCst);
        if !self.cancel.is_zero() {
            let gone = tokio::time::sleep(self.cancel);
            tokio::spawn(async move {
                gone.await;
                drop(hold);
            });
        }
    }
}

impl Hypervisor for Sim {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn boot_holding(&self, spec: MachineSpec, hold: Hold) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            self.shared.counters.boots.fetch_add(1, SeqCst);
            self.start(spec, hold, |script| script.boot_error.clone()).await
        })
    }

    fn restore_holding(
        &self,
        spec: MachineSpec,
        state: PathBuf,
        hold: Hold,
    ) -> BoxFuture<'_, Result<Arc<dyn Guest>, Report>> {
        Box::pin(async move {
            saved::check(&state, &saved::facts(self.capabilities.backend, &spec, &[])?)?;
            let guest = self.start(spec, hold, |script| script.restore_error.clone()).await?;
            saved::forget(&state)?;
            self.shared.counters.restores.fetch_add(1, SeqCst);
            Ok(guest)
        })
    }
}

impl Sim {
    async fn start(
        &self,
        spec: MachineSpec,
        hold: Hold,
        error: impl FnOnce(&Script) -> Option<String> + Send,
    ) -> Result<Arc<dyn Guest>, Report> {
        let counters = &self.shared.counters;
        let script = lock(&self.shared.script).clone();
        assert!(!script.boot_panics, "the script says so");
        let mut unfinished = Unfinished { counters, hold: Some(hold), cancel: script.cancel };
        tokio::time::sleep(script.boot).await;
        if script.boot_wedged {
            std::future::pending::<()>().await;
        }
        let hold = unfinished.hold.take();
        if let Some(why) = error(&script) {
            return Err(Report::new(Kind::Boot, why));
        }
        if let Boot::Efi { variables } = &spec.boot
            && !variables.exists()
        {
            fs::write(variables, "variables").map_err(|e| Report::new(Kind::State, e.to_string()))?;
        }
        let alive = counters.alive.fetch_add(1, SeqCst) + 1;
        counters.max_alive.fetch_max(alive, SeqCst);
        let guest = Arc::new_cyclic(|me| SimGuest {
            me: me.clone(),
            spec,
            end: watch::Sender::new(None),
            hold: Mutex::new(hold),
            presses: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            kill_works_at: Instant::now() + script.deaf_to_kill,
            refuses_after: Mutex::default(),
            listeners: Mutex::default(),
            shared: self.shared.clone(),
            script: script.clone(),
        });
        if let Some(after) = script.crash_after {
            guest.end_after(after, Exit::Crashed("kernel panic".into()));
        }
        *lock(&self.shared.last) = Arc::downgrade(&guest);
        Ok(guest as Arc<dyn Guest>)
    }
}

/// A guest in memory. Every port echoes what is written to it.
pub struct SimGuest {
    me: Weak<SimGuest>,
    spec: MachineSpec,
    end: watch::Sender<Option<Exit>>,
    hold: Mutex<Option<Hold>>,
    presses: AtomicUsize,
    paused: AtomicBool,
    kill_works_at: Instant,
    /// `connect` fails after this time.
    refuses_after: Mutex<Option<Duration>>,
    listeners: Mutex<HashMap<u32, mpsc::Sender<GuestStream>>>,
    shared: Arc<Shared>,
    script: Script,
}

impl SimGuest {
    /// What it was booted with.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// Ends the guest now. Later calls have no effect.
    pub fn end(&self, exit: Exit) {
        // Only the first end has it.
        let Some(hold) = lock(&self.hold).take() else { return };
        self.shared.counters.alive.fetch_sub(1, SeqCst);
        lock(&self.listeners).clear();
        drop(hold);
        self.end.send_replace(Some(exit));
    }

    /// From now on each `connect` fails after this time.
    pub fn refuse_after(&self, time: Duration) {
        *lock(&self.refuses_after) = Some(time);
    }

    /// Opens a connection from the guest to a port of the host; `None` if nothing listens there.
    pub async fn dial(&self, port: u32) -> Option<DuplexStream> {
        let listener = lock(&self.listeners).get(&port).cloned()?;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        listener.send(Box::new(theirs)).await.ok()?;
        Some(ours)
    }

    fn end_after(&self, after: Duration, exit: Exit) {
        let guest = self.me.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Some(guest) = guest.upgrade() {
                guest.end(exit);
            }
        });
    }

    fn is_gone(&self) -> bool {
        self.end.borrow().is_some()
    }

    async fn wedge(&self) {
        if self.script.verbs_wedged {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for SimGuest {
    fn drop(&mut self) {
        self.end(Exit::Killed);
    }
}

impl Guest for SimGuest {
    fn request_stop(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async move {
            self.shared.counters.presses.fetch_add(1, SeqCst);
            // A paused guest does not notice.
            if !self.paused.load(SeqCst) && self.presses.fetch_add(1, SeqCst) == self.script.deaf_to_presses {
                self.end_after(self.script.power_off, Exit::PoweredOff);
            }
            self.wedge().await;
            Ok(())
        })
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async move {
            self.shared.counters.kills.fetch_add(1, SeqCst);
            if Instant::now() >= self.kill_works_at {
                self.end(Exit::Killed);
            }
            self.wedge().await;
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async move {
            if self.script.halts_wedged {
                std::future::pending::<()>().await;
            }
            if let Some(why) = &self.script.pause_error {
                return Err(Report::new(Kind::Guest, why.clone()));
            }
            self.paused.store(true, SeqCst);
            self.shared.counters.pauses.fetch_add(1, SeqCst);
            Ok(())
        })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async move {
            if lock(&self.shared.script).halts_wedged {
                std::future::pending::<()>().await;
            }
            self.paused.store(false, SeqCst);
            self.shared.counters.resumes.fetch_add(1, SeqCst);
            Ok(())
        })
    }

    fn connect(&self, port: u32) -> BoxFuture<'_, Result<GuestStream, Report>> {
        Box::pin(async move {
            if self.is_gone() {
                return Err(Report::new(Kind::Guest, format!("nothing answers on port {port}: the guest is gone")));
            }
            let refuses = *lock(&self.refuses_after);
            if let Some(after) = refuses {
                tokio::time::sleep(after).await;
                return Err(Report::new(Kind::Guest, format!("port {port} of the guest takes no connection")));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let mut end = self.end.subscribe();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(theirs);
                tokio::select! {
                    _ = tokio::io::copy(&mut read, &mut write) => {}
                    _ = end.wait_for(Option::is_some) => {}
                }
            });
            Ok(Box::new(ours) as GuestStream)
        })
    }

    fn listen(&self, port: u32) -> Result<GuestListener, Report> {
        let (sender, incoming) = mpsc::channel(16);
        lock(&self.listeners).insert(port, sender);
        Ok(GuestListener::new(incoming, None))
    }

    fn suspend(&self, state: PathBuf) -> BoxFuture<'_, Result<(), Report>> {
        Box::pin(async move {
            let saving = Saving::begin(&state)?;
            tokio::time::sleep(self.script.suspend).await;
            if let Some(why) = &self.script.suspend_error {
                return Err(Report::new(Kind::Guest, why.clone()));
            }
            if self.is_gone() {
                return Err(Report::new(Kind::Guest, "the guest is gone"));
            }
            fs::write(saving.path(), "memory")
                .map_err(|e| Report::new(Kind::State, format!("the guest cannot be saved: {e}")))?;
            saving.finish(saved::facts("sim", &self.spec, &[])?, None)?;
            self.shared.counters.suspends.fetch_add(1, SeqCst);
            self.end(Exit::Suspended);
            Ok(())
        })
    }

    fn display(&self) -> Option<Arc<dyn Display>> {
        self.spec.devices.display?;
        Some(Arc::new(SimScreen))
    }

    fn exited(&self) -> BoxFuture<'_, Exit> {
        let mut end = self.end.subscribe();
        Box::pin(async move {
            match end.wait_for(Option::is_some).await.map(|end| end.clone()) {
                Ok(Some(exit)) => exit,
                Ok(None) | Err(_) => Exit::Killed,
            }
        })
    }
}

/// A screen of one black pixel.
struct SimScreen;

/// The PNG of [`SimScreen`].
pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\x0aIDAT\x78\x9c\x63\x60\0\0\0\x02\0\x01\x48\xaf\xa4\x71\0\0\0\0IEND\xaeB\x60\x82";

impl Display for SimScreen {
    fn screenshot(&self) -> BoxFuture<'_, Result<Vec<u8>, Report>> {
        Box::pin(std::future::ready(Ok(PNG.to_vec())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
