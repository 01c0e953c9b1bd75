//! The reconciler over the in-memory hypervisor, with a paused clock: what it builds, when it tries it, which clients
//! notice.

use super::*;
use dvn_config::BuilderConfig;
use dvn_guest::builder::BootSource;
use dvn_host::machine_dir::StateDir;
use dvn_hypervisor::{
    Guest,
    sim::{Script, Sim},
    sim_agent,
    spec::MachineSpec,
};
use dvn_lifecycle::{BootEvent, Gate, GuestProvider, Lease, Policy, Ready};
use dvn_protocol::messages::Answer;
use dvn_types::{
    Arch,
    wire::{GenerationList, Prospect, Verdict},
};
use futures_util::future::BoxFuture;
use std::{
    any::Any,
    collections::BTreeSet,
    sync::{
        Mutex, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

const DAY: Duration = Duration::from_secs(24 * 3600);
const RECIPE: &str = "/nix/store/r.drv";

/// Scripted outcomes. Numbers are generations.
#[derive(Default)]
struct Outcomes {
    /// Generations that fail at boot.
    broken: Mutex<BTreeSet<u32>>,
    /// Generations that boot and do not answer.
    mute: Mutex<BTreeSet<u32>>,
    /// Failures of the next builds; a build without one succeeds.
    builds: Mutex<Vec<Failure>>,
    /// Builds in the guest without a connection.
    running: AtomicU32,
    built: AtomicUsize,
    /// Generations booted so far, in order.
    booted: Mutex<Vec<u32>>,
}

struct Boots {
    outcomes: Arc<Outcomes>,
    generations: Arc<Generations>,
}

fn number(bundle: Option<PathBuf>) -> u32 {
    bundle.and_then(|bundle| bundle.file_name()?.to_str()?.parse().ok()).unwrap_or(0)
}

impl GuestProvider for Boots {
    fn prepare(&self, _: Sizes) -> BoxFuture<'_, Result<MachineSpec, Report>> {
        Box::pin(async move {
            self.outcomes.booted.lock().unwrap().push(number(self.generations.bundle()));
            Ok(MachineSpec::sample())
        })
    }

    fn await_ready(&self, _: Arc<dyn Guest>) -> BoxFuture<'_, Result<Ready, Report>> {
        Box::pin(async move {
            sleep(Duration::from_secs(5)).await;
            let number = *self.outcomes.booted.lock().unwrap().last().unwrap();
            if self.outcomes.broken.lock().unwrap().contains(&number) {
                return Err(Report::new(Kind::Boot, "no root"));
            }
            let outcomes = Arc::clone(&self.outcomes);
            let agent = sim_agent::that_says(move |_| Answer::Builds { running: outcomes.running.load(SeqCst) });
            Ok(Ready { phases: vec![], kernel: String::new(), data_disk: String::new(), agent: Some(agent) })
        })
    }

    fn explain(&self, cause: Report) -> BoxFuture<'_, Report> {
        Box::pin(std::future::ready(cause))
    }

    fn on_boot_event(&self, _: BootEvent) {}
}

struct FakeBuilder(Arc<Outcomes>);

impl SystemBuilder for FakeBuilder {
    fn build<'a>(
        &'a self,
        _: &'a Lease,
        _: &'a Path,
        _: &'a Path,
        place: &'a Path,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move {
            self.0.built.fetch_add(1, SeqCst);
            sleep(Duration::from_secs(60)).await;
            if let Some(failure) = self.0.builds.lock().unwrap().pop() {
                return Err(failure);
            }
            dvn_guest::bundle::fixture::x86_64(place);
            Ok("/nix/store/x".to_owned())
        })
    }

    fn examine<'a>(&'a self, _: &'a Lease, arch: Arch) -> BoxFuture<'a, Result<(), Report>> {
        assert_eq!(arch, Arch::X86_64, "as its manifest says");
        let booted = *self.0.booted.lock().unwrap().last().unwrap();
        let mute = self.0.mute.lock().unwrap().contains(&booted);
        let silence = Report::new(Kind::Guest, "nix-daemon is silent");
        Box::pin(std::future::ready(if mute { Err(silence) } else { Ok(()) }))
    }
}

struct Lab {
    _tmp: tempfile::TempDir,
    outcomes: Arc<Outcomes>,
    sim: Sim,
    handle: Handle,
    files: Arc<Files>,
    generations: Arc<Generations>,
    reconciler: AbortOnDropHandle<()>,
}

/// A computer with room for one guest, which another program may take whenever it is free.
#[derive(Debug)]
struct OneRoom {
    free: Arc<Semaphore>,
    /// Held by the demands for this machine's guest.
    mine: Mutex<Weak<OwnedSemaphorePermit>>,
}

impl Gate for OneRoom {
    fn pass(&self, sizes: Sizes) -> BoxFuture<'_, Result<Box<dyn Any + Send>, Report>> {
        Box::pin(async move {
            loop {
                match self.pass_now(sizes) {
                    Ok(room) => return Ok(room),
                    Err(_) => sleep(Duration::from_secs(1)).await,
                }
            }
        })
    }
    fn pass_now(&self, _: Sizes) -> Result<Box<dyn Any + Send>, Report> {
        let mut mine = self.mine.lock().unwrap();
        let room = match mine.upgrade() {
            Some(room) => room,
            None => {
                let full = |_| Report::new(Kind::Busy, "another guest has it");
                Arc::new(Arc::clone(&self.free).try_acquire_owned().map_err(full)?)
            }
        };
        *mine = Arc::downgrade(&room);
        Ok(Box::new(room))
    }
    fn vacant(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    fn shut(&self, _: &Report) -> Box<dyn Any + Send> {
        Box::new(())
    }
    fn close(&self, _: &Report) {}
}

/// A machine with an unbuilt recipe, and a reconciler.
fn lab(outcomes: Outcomes) -> Lab {
    lab_with(outcomes, None)
}

fn lab_with(outcomes: Outcomes, gate: Option<Arc<dyn Gate>>) -> Lab {
    let tmp = tempfile::tempdir().unwrap();
    let name: MachineName = "builder".parse().unwrap();
    let dir = StateDir::open(&tmp.path().join("s")).unwrap().make_machine(&name).unwrap();
    let config = Arc::new(BuilderConfig { recipe: Some(RECIPE.into()), ..BuilderConfig::sample() });
    let outcomes = Arc::new(outcomes);
    let generations = Arc::new(Generations::open(&dir, config, &[Arch::X86_64]).unwrap());
    let sim = Sim::new(Script::default());
    let boots = Boots { outcomes: Arc::clone(&outcomes), generations: Arc::clone(&generations) };
    let policy = Policy::new(None, Duration::from_secs(60), Duration::from_secs(60));
    let handle = dvn_lifecycle::spawn_gated(gate, name.clone(), Arc::new(sim.clone()), Arc::new(boots), policy);
    let files = Arc::default();
    let reconciler = Reconciler {
        name,
        handle: handle.clone(),
        files: Arc::clone(&files),
        generations: Arc::clone(&generations),
        builder: Arc::new(FakeBuilder(Arc::clone(&outcomes))),
        console: dir.console_log(),
    };
    let reconciler = AbortOnDropHandle::new(tokio::spawn(reconciler.run()));
    Lab { _tmp: tmp, outcomes, sim, handle, files, generations, reconciler }
}

impl Lab {
    /// Acquires a lease as a door does.
    async fn connect(&self) -> Lease {
        let _files = self.files.read().await;
        self.handle.acquire().await.unwrap()
    }

    fn booted(&self) -> Vec<u32> {
        self.outcomes.booted.lock().unwrap().clone()
    }

    fn list(&self) -> GenerationList {
        self.generations.list()
    }

    fn current(&self) -> u32 {
        self.list().status.current
    }

    fn prospect(&self) -> Option<Prospect> {
        self.list().status.prospect
    }

    async fn until_some<T>(&self, what: &str, mut find: impl FnMut(&Lab) -> Option<T>) -> T {
        let mut found = None;
        self.until(what, |lab| {
            found = find(lab);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&Lab) -> bool) {
        let so = async {
            while !is_so(self) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(DAY, so).await.unwrap_or_else(|_| panic!("never: {what}; {:?}", self.list()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_recipe_is_built_in_the_guest_and_becomes_the_guest() {
    let lab = lab(Outcomes::default());
    lab.until("it is built", |lab| matches!(lab.prospect(), Some(Prospect::Building { number: 1, .. }))).await;
    lab.until("it is current", |lab| lab.current() == 1).await;
    assert_eq!((lab.booted(), lab.prospect()), (vec![0, 1], None));
    sleep(DAY).await;
    assert_eq!((lab.booted(), lab.outcomes.built.load(SeqCst)), (vec![0, 1], 1), "nothing more is done");
    drop(lab.connect().await);
    assert_eq!(lab.booted(), [0, 1], "the guest that was tried is the guest");
    assert_eq!(lab.sim.counters().max_alive.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn only_an_idle_guest_is_replaced() {
    let lab = lab(Outcomes::default());
    let lease = lab.connect().await;
    lab.until("it waits", |lab| lab.prospect() == Some(Prospect::Waiting { number: 1 })).await;
    sleep(DAY).await;
    assert_eq!(lab.booted(), [0], "a client uses the guest");
    lab.outcomes.running.store(1, SeqCst);
    drop(lease);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(lab.booted(), [0], "a build runs in the guest");
    lab.outcomes.running.store(0, SeqCst);
    lab.until("it is current", |lab| lab.current() == 1).await;
    assert_eq!(lab.booted(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_connects_during_a_failing_try_gets_the_last_good_guest() {
    for (broken, mute) in [(vec![1], vec![]), (vec![], vec![1])] {
        let outcomes = Outcomes { broken: Mutex::new(broken.into_iter().collect()), ..Outcomes::default() };
        outcomes.mute.lock().unwrap().extend(mute);
        let lab = lab(outcomes);
        lab.until("it is tried", |lab| matches!(lab.prospect(), Some(Prospect::Trying { number: 1, .. }))).await;
        let lease = lab.connect().await;
        assert_eq!(lab.booted(), [0, 1, 0]);
        drop(lease);
        let list = lab.list();
        assert_eq!(list.status.current, 0);
        let Verdict::Bad { why } = &list.generations[1].verdict else { panic!("{list:?}") };
        assert!(why.message.contains("no root") || why.message.contains("silent"), "{why}");
        sleep(DAY).await;
        assert_eq!((lab.booted(), lab.outcomes.built.load(SeqCst)), (vec![0, 1, 0], 1), "it is not tried again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_keeps_its_room_to_its_end_and_waits_for_none() {
    let free = Arc::new(Semaphore::new(1));
    let gate = OneRoom { free: Arc::clone(&free), mine: Mutex::default() };
    let lab = lab_with(Outcomes { broken: Mutex::new([1].into()), ..Outcomes::default() }, Some(Arc::new(gate)));
    lab.until("it is built", |lab| matches!(lab.prospect(), Some(Prospect::Building { .. }))).await;
    let other = lab.until_some("the other guest", |_| free.try_acquire().ok()).await;
    lab.until("it waits", |lab| lab.prospect() == Some(Prospect::Waiting { number: 1 })).await;
    sleep(DAY).await;
    assert_eq!((lab.prospect(), lab.booted()), (Some(Prospect::Waiting { number: 1 }), vec![0]));
    assert!(lab.files.try_write().is_some(), "clients need not wait for the try");
    drop(other);
    lab.until("it is tried", |lab| matches!(lab.prospect(), Some(Prospect::Trying { .. }))).await;
    lab.until("it is bad, and the last good one boots", |lab| {
        let bad = matches!(lab.prospect(), Some(Prospect::Bad { .. }));
        assert!(bad || free.try_acquire().is_err(), "another guest could take the room: {:?}", lab.booted());
        bad
    })
    .await;
    assert_eq!(lab.booted(), [0, 1, 0]);
}

/// A client that waits for memory holds the lock; when it leaves, the machine's state does not change.
#[tokio::test(start_paused = true)]
async fn a_try_begins_when_the_last_client_that_waits_has_left() {
    let lab = lab(Outcomes::default());
    lab.until("it is built", |lab| matches!(lab.prospect(), Some(Prospect::Building { .. }))).await;
    let waiting = lab.files.read().await;
    lab.until("it waits", |lab| lab.prospect() == Some(Prospect::Waiting { number: 1 })).await;
    lab.handle.stop(true).await.unwrap();
    sleep(DAY).await;
    assert_eq!(lab.booted(), [0]);
    drop(waiting);
    let begun = Instant::now();
    lab.until("it is current", |lab| lab.current() == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_try_without_a_verdict_is_repeated() {
    let lab = lab(Outcomes::default());
    let tried = |lab: &Lab| matches!(lab.prospect(), Some(Prospect::Trying { .. }));
    lab.until("it boots", |lab| lab.booted() == [0, 1]).await;
    lab.handle.stop(true).await.unwrap();
    lab.until("it is postponed", |lab| matches!(lab.prospect(), Some(Prospect::Postponed { .. }))).await;
    // Now no generation boots, including the last good one: so the host is at fault.
    lab.outcomes.broken.lock().unwrap().extend([0, 1]);
    lab.until("it is tried again", tried).await;
    lab.until("it is postponed again", |lab| matches!(lab.prospect(), Some(Prospect::Postponed { .. }))).await;
    assert_eq!(lab.list().generations[1].verdict, Verdict::Untried);
    lab.outcomes.broken.lock().unwrap().clear();
    lab.until("it is current", |lab| lab.current() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_try_leaves_no_client_with_an_untried_guest() {
    let mut lab = lab(Outcomes::default());
    lab.until("it boots", |lab| lab.booted() == [0, 1]).await;
    // As when the machine is destroyed, which may fail afterwards.
    lab.reconciler.abort();
    assert!((&mut lab.reconciler).await.unwrap_err().is_cancelled());
    lab.generations.work_aborted();
    assert_eq!(lab.prospect(), Some(Prospect::Waiting { number: 1 }));
    lab.handle.stop(true).await.unwrap();
    drop(lab.connect().await);
    assert_eq!(lab.booted(), [0, 1, 0]);
    assert_eq!(lab.list().generations[1].verdict, Verdict::Untried);
}

#[tokio::test(start_paused = true)]
async fn a_recipe_that_cannot_be_built_is_reported_once_and_built_again_when_asked() {
    let why = Report::new(Kind::Bundle, "it does not compile");
    let lab = lab(Outcomes { builds: Mutex::new(vec![Failure::Permanent(why)]), ..Outcomes::default() });
    sleep(DAY).await;
    assert_eq!((lab.outcomes.built.load(SeqCst), lab.booted()), (1, vec![0]));
    let Some(Prospect::GivenUp { why }) = lab.prospect() else { panic!("{:?}", lab.list()) };
    assert!(why.message.contains("compile") && why.hints[0].contains("generations build"), "{why:?}");
    drop(lab.connect().await);
    lab.generations.build_again().unwrap();
    lab.until("it is current", |lab| lab.current() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn temporary_failures_are_retried_for_a_limited_time() {
    let why = Failure::Temporary(Report::new(Kind::Guest, "out of reach"));
    let lab = lab(Outcomes { builds: Mutex::new(vec![why; 99]), ..Outcomes::default() });
    sleep(DAY).await;
    assert_eq!(lab.outcomes.built.load(SeqCst), MAX_SETBACKS as usize);
    assert!(matches!(lab.prospect(), Some(Prospect::GivenUp { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_while_it_builds_is_not_the_recipes_fault() {
    let why = Report::new(Kind::Bundle, "the connection broke");
    let lab = lab(Outcomes { builds: Mutex::new(vec![Failure::Permanent(why)]), ..Outcomes::default() });
    lab.until("it is built", |lab| lab.outcomes.built.load(SeqCst) == 1).await;
    lab.handle.stop(true).await.unwrap();
    lab.until("it is current", |lab| lab.current() == 1).await;
    assert_eq!(lab.outcomes.built.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn going_back_replaces_the_guest_when_it_is_idle() {
    let lab = lab(Outcomes::default());
    lab.until("it is current", |lab| lab.current() == 1).await;
    let lease = lab.connect().await;
    lab.generations.roll_back(None).unwrap();
    sleep(DAY).await;
    assert_eq!((lab.current(), lab.booted()), (0, vec![0, 1]), "a client uses the guest");
    drop(lease);
    lab.until("it is stopped", |lab| lab.handle.snapshot().phase.is_at_rest()).await;
    drop(lab.connect().await);
    assert_eq!(lab.booted(), [0, 1, 0]);
    sleep(DAY).await;
    assert_eq!(lab.booted(), [0, 1, 0], "and there it stays");
    assert!(lab.list().held);
    lab.generations.build_again().unwrap();
    lab.until("it is stopped", |lab| lab.handle.snapshot().phase.is_at_rest()).await;
    drop(lab.connect().await);
    assert_eq!((lab.booted(), lab.outcomes.built.load(SeqCst)), (vec![0, 1, 0, 1], 1), "what was good needs no build");
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_not_built_again_at_once() {
    let lab = lab(Outcomes { broken: Mutex::new([1].into()), ..Outcomes::default() });
    lab.until("it is bad", |lab| matches!(lab.prospect(), Some(Prospect::Bad { .. }))).await;
    lab.generations.delete(1).unwrap();
    sleep(DAY).await;
    assert_eq!((lab.list().generations.len(), lab.outcomes.built.load(SeqCst)), (1, 1));
    lab.outcomes.broken.lock().unwrap().clear();
    lab.generations.build_again().unwrap();
    lab.until("it is current", |lab| lab.current() == 2).await;
}
