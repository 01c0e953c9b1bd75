//! Reports from Swift: answers by operation id, events, and connections. `docs/ffi.md` defines the ownership.

use std::{
    collections::HashMap,
    os::fd::{FromRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::{mpsc, oneshot};

/// An error of the framework or of the shim, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `VZErrorDomain`, `NSPOSIXErrorDomain`, …, or [`OWN_DOMAIN`].
    pub domain: String,
    /// A number whose meaning depends on the domain.
    pub code: i64,
    /// The description, in the system's language.
    pub text: String,
}

/// Domain of the shim's and the bridge's own errors.
pub const OWN_DOMAIN: &str = "darwin-vz-nix";
/// Code in [`OWN_DOMAIN`]: the machine was dropped before it answered.
pub const DROPPED: i64 = 3;

impl Failure {
    pub(super) fn own(code: i64, text: &str) -> Failure {
        Failure { domain: OWN_DOMAIN.into(), code, text: text.into() }
    }

    pub(super) fn dropped() -> Failure {
        Failure::own(DROPPED, "the machine was dropped before it answered")
    }
}

/// A change of a machine that was not requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest powered off.
    Stopped,
    /// The machine ended with an error.
    Crashed(Failure),
    /// The network attachment was lost. The guest continues to run without it.
    NetworkLost(Failure),
}

/// A connection to or from the guest. It owns its descriptor, a stream socket; the shim keeps the framework's object
/// until this is dropped.
pub struct Connection {
    /// `None` only after `split` and in `drop`.
    descriptor: Option<OwnedFd>,
    id: u64,
    link: Arc<Link>,
}

impl Connection {
    /// Splits off the descriptor. The rest must live as long as the descriptor is used.
    pub fn split(mut self) -> Option<(OwnedFd, Connection)> {
        self.descriptor.take().map(|descriptor| (descriptor, self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.descriptor = None;
        if let Some(release) = self.link.release.get() {
            release(self.id);
        }
    }
}

pub(super) type Answer = Result<Option<Connection>, Failure>;

/// The state that requests and reports of one machine share.
#[derive(Default)]
pub(super) struct Link {
    waiting: Mutex<Waiting>,
    listeners: Mutex<HashMap<u32, mpsc::Sender<Connection>>>,
    /// Makes the shim release a connection, unless the machine is gone, which has released it already.
    pub(super) release: OnceLock<Box<dyn Fn(u64) + Send + Sync>>,
}

#[derive(Default)]
pub(super) struct Waiting {
    last: u64,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    /// The sink is gone: no more answers will come.
    over: bool,
}

impl Link {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn listeners(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Connection>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a new operation; `None` if no answer can come any more.
    pub(super) fn expect(&self) -> Option<(u64, oneshot::Receiver<Answer>)> {
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
            // If the receiver was dropped, a connection in the answer is closed here.
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::error!(op, "the shim answered an unknown operation, or answered twice"),
        }
    }
}

/// Receives the shim's reports. Swift owns it, and drops it after the last of the framework's objects.
pub struct EventSink {
    pub(super) link: Arc<Link>,
    pub(super) events: mpsc::UnboundedSender<Event>,
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
            let listener = self.link.listeners().get(&port).cloned();
            // Without a listener, or with a full queue, the connection is dropped and so closed, which the guest sees.
            if let Some(listener) = listener {
                let _ = listener.try_send(connection);
            }
        });
    }
    pub(super) fn stopped(&self) {
        self.send(Event::Stopped);
    }
    pub(super) fn crashed(&self, code: i64, domain: String, text: String) {
        self.send(Event::Crashed(Failure { domain, code, text }));
    }
    pub(super) fn network_lost(&self, code: i64, domain: String, text: String) {
        self.send(Event::NetworkLost(Failure { domain, code, text }));
    }

    fn take(&self, id: u64, descriptor: i32) -> Connection {
        // SAFETY: the shim made this descriptor for us and gives up its ownership with this call (docs/ffi.md).
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Connection { descriptor: Some(descriptor), id, link: Arc::clone(&self.link) }
    }

    fn send(&self, event: Event) {
        // The receiver is gone if the guest was dropped.
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
            self.link.listeners().clear();
        });
    }
}

/// Catches and logs a panic, which would end the process if it reached Swift.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a report of the virtual machine was lost to a panic");
    }
}
