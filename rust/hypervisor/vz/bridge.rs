//! The border with Swift (`swift/`), and the only place that knows it. `docs/ffi.md` states who owns what.
//!
//! ```text
//!   Machine ── verbs, each with an operation id ──▶ ShimMachine (Swift) ──▶ Virtualization
//!      │                                                  │
//!    Link ◀── answers by id, events, connections ──── EventSink
//! ```
//!
//! Nothing waits across the border, in either direction. Each request is answered once: the shim answers also what it gives
//! up, and when the last of the shim is gone, the [`EventSink`] goes and ends whatever is still open. So a future here is
//! never left hanging by Swift.

use super::ffi;
use std::{
    collections::HashMap,
    os::fd::{FromRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};
use tokio::sync::{mpsc, oneshot};

/// An error of the framework or of the shim, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `VZErrorDomain`, `NSPOSIXErrorDomain`, …, or [`OWN_DOMAIN`].
    pub domain: String,
    /// Its meaning depends on the domain.
    pub code: i64,
    /// For people, in the system's language.
    pub text: String,
}

/// Domain of the shim's and the bridge's own errors.
pub const OWN_DOMAIN: &str = "darwin-vz-nix";
/// Code in [`OWN_DOMAIN`]: the machine went before it answered.
pub const DROPPED: i64 = 3;

impl Failure {
    fn own(code: i64, text: &str) -> Failure {
        Failure { domain: OWN_DOMAIN.into(), code, text: text.into() }
    }

    fn dropped() -> Failure {
        Failure::own(DROPPED, "the machine was dropped before it answered")
    }
}

/// What a machine does of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest powered off.
    Stopped,
    /// The machine ended by an error.
    Crashed(Failure),
    /// The network attachment went; the guest goes on without.
    NetworkLost(Failure),
}

/// A virtual machine of the framework. Dropping it ends the guest.
pub struct Machine {
    shim: ffi::ShimMachine,
    link: Arc<Link>,
}

/// A machine's events. The stream ends when nothing of the machine is left.
pub type Events = mpsc::UnboundedReceiver<Event>;

impl Machine {
    /// Makes a machine of a spec in JSON. Descriptors named in it are lent for the call.
    pub fn new(spec: String) -> Result<(Arc<Machine>, Events), Failure> {
        let link = Arc::new(Link::default());
        let (events, receiver) = mpsc::unbounded_channel();
        let sink = EventSink { link: Arc::clone(&link), events };
        let shim = ffi::shim_machine(spec, sink).map_err(|ffi::ShimError::Failed(code, domain, text)| Failure {
            domain,
            code,
            text,
        })?;
        let machine = Arc::new(Machine { shim, link });
        // Never set before: this is the only place.
        let _ = machine.link.machine.set(Arc::downgrade(&machine));
        Ok((machine, receiver))
    }

    /// Boots it.
    pub fn start(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.start(op)))
    }
    /// Ends it, whatever the guest does.
    pub fn stop(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.stop(op)))
    }
    /// Presses the power button.
    pub fn request_stop(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.request_stop(op)))
    }
    /// Halts its processors.
    pub fn pause(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.pause(op)))
    }
    /// Goes on after a pause or a restore.
    pub fn resume(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.resume(op)))
    }
    /// The guest's connections to a port of the host go to `found` from now on.
    pub fn listen(&self, port: u32, found: mpsc::Sender<Connection>) -> impl Done + use<> {
        self.link.ears().insert(port, found);
        done(self.ask(move |shim, op| shim.listen(op, port)))
    }
    /// The guest is refused at this port from now on.
    pub fn unlisten(&self, port: u32) -> impl Done + use<> {
        self.link.ears().remove(&port);
        done(self.ask(move |shim, op| shim.unlisten(op, port)))
    }

    /// Connects to a port of the guest.
    pub fn connect(&self, port: u32) -> impl Future<Output = Result<Connection, Failure>> + Send + use<> {
        let answer = self.ask(move |shim, op| shim.connect(op, port));
        async { answer.await?.ok_or_else(|| Failure::own(0, "the shim answered without a connection")) }
    }

    /// Asks at once. The future waits for the answer and does not keep the machine.
    fn ask<F>(&self, call: F) -> impl Future<Output = Answer> + Send + use<F>
    where
        F: FnOnce(&ffi::ShimMachine, u64),
    {
        let answer = self.link.expect();
        if let Some((op, _)) = &answer {
            call(&self.shim, *op);
        }
        async {
            match answer {
                Some((_, answer)) => answer.await.unwrap_or_else(|_| Err(Failure::dropped())),
                None => Err(Failure::dropped()),
            }
        }
    }
}

/// Saving. The program has no verb for it yet; the tests hold the shim to it.
#[allow(dead_code, reason = "a faster start from a saved state is to use it")]
impl Machine {
    /// Whether a machine like this can be saved; the error says why not.
    pub fn can_save(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.can_save(op)))
    }
    /// Writes the state of a paused machine to a file.
    pub fn save(&self, path: String) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.save(op, path)))
    }
    /// Reads the state of a machine, not yet started, from a file. It is paused then.
    pub fn restore(&self, path: String) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.restore(op, path)))
    }
}

/// The answer to a request that yields nothing.
pub trait Done: Future<Output = Result<(), Failure>> + Send {}
impl<T: Future<Output = Result<(), Failure>> + Send> Done for T {}

fn done(answer: impl Future<Output = Answer> + Send) -> impl Done {
    async { answer.await.map(drop) }
}

/// What this host can do, as JSON.
pub fn capabilities() -> String {
    ffi::shim_capabilities()
}

/// A new identity for a machine that may be saved.
#[allow(dead_code, reason = "as above")]
pub fn machine_identifier() -> String {
    ffi::shim_machine_identifier()
}

/// A connection to or from the guest. Its descriptor is a stream socket of ours; the shim keeps the framework's object until
/// this is dropped.
pub struct Connection {
    /// Never `None` before `drop`.
    descriptor: Option<OwnedFd>,
    id: u64,
    link: Arc<Link>,
}

impl Connection {
    /// The descriptor, and what must live as long as it is used.
    pub fn split(mut self) -> Option<(OwnedFd, Connection)> {
        self.descriptor.take().map(|descriptor| (descriptor, self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.descriptor = None;
        // A machine that is gone has taken its connections along.
        if let Some(machine) = self.link.machine.get().and_then(Weak::upgrade) {
            machine.shim.release(self.id);
        }
    }
}

type Answer = Result<Option<Connection>, Failure>;

/// What the two sides of one machine share.
#[derive(Default)]
struct Link {
    waiting: Mutex<Waiting>,
    ears: Mutex<HashMap<u32, mpsc::Sender<Connection>>>,
    machine: OnceLock<Weak<Machine>>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    /// The sink is gone: nobody will answer any more.
    over: bool,
}

impl Link {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ears(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Connection>>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new operation, unless nobody would answer it.
    fn expect(&self) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let mut waiting = self.waiting();
        if waiting.over {
            return None;
        }
        waiting.last += 1;
        let op = waiting.last;
        let (sender, receiver) = oneshot::channel();
        waiting.answers.insert(op, sender);
        Some((op, receiver))
    }

    fn answer(&self, op: u64, answer: Answer) {
        let waiting = self.waiting().answers.remove(&op);
        match waiting {
            // Nobody waits any more: a connection in the answer is closed here.
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::error!(op, "the shim answered what nobody asked, or twice"),
        }
    }
}

/// Where the shim reports. Swift owns it, and drops it after the last of the framework's objects.
pub struct EventSink {
    link: Arc<Link>,
    events: mpsc::UnboundedSender<Event>,
}

impl EventSink {
    pub(super) fn done(&self, op: u64) {
        guarded(|| self.link.answer(op, Ok(None)));
    }
    pub(super) fn connected(&self, op: u64, connection: u64, descriptor: i32) {
        guarded(|| self.link.answer(op, Ok(Some(self.take(connection, descriptor)))));
    }
    pub(super) fn failed(&self, op: u64, code: i64, domain: String, text: String) {
        guarded(|| self.link.answer(op, Err(Failure { domain, code, text })));
    }
    pub(super) fn accepted(&self, port: u32, connection: u64, descriptor: i32) {
        guarded(|| {
            let connection = self.take(connection, descriptor);
            let ear = self.link.ears().get(&port).cloned();
            // Nobody listens, or too many wait: dropping it closes it, which the guest sees.
            if let Some(ear) = ear {
                let _ = ear.try_send(connection);
            }
        });
    }
    pub(super) fn stopped(&self) {
        self.tell(Event::Stopped);
    }
    pub(super) fn crashed(&self, code: i64, domain: String, text: String) {
        self.tell(Event::Crashed(Failure { domain, code, text }));
    }
    pub(super) fn network_lost(&self, code: i64, domain: String, text: String) {
        self.tell(Event::NetworkLost(Failure { domain, code, text }));
    }

    fn take(&self, id: u64, descriptor: i32) -> Connection {
        // SAFETY: the shim made this descriptor for us and forgets it with this call (docs/ffi.md).
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Connection { descriptor: Some(descriptor), id, link: Arc::clone(&self.link) }
    }

    fn tell(&self, event: Event) {
        // Nobody listens when the guest has been given up.
        guarded(|| drop(self.events.send(event)));
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        guarded(|| {
            let mut waiting = self.link.waiting();
            waiting.over = true;
            let open = std::mem::take(&mut waiting.answers);
            drop(waiting);
            drop(open);
            self.link.ears().clear();
        });
    }
}

/// A panic must not cross into Swift, where it would end the process.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a report of the virtual machine was lost to a panic");
    }
}
