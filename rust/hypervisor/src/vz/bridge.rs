//! The border with Swift (`swift/`): what is asked of it. What it reports is in [`super::sink`]; nothing else knows of the border.
//! `docs/ffi.md` states who owns what.
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

use super::{
    ffi,
    sink::{Answer, Connection, Event, EventSink, Failure, Link},
};
use std::sync::Arc;
use tokio::sync::mpsc;

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
        let weak = Arc::downgrade(&machine);
        let release = move |connection| {
            // A machine that is gone has taken its connections along.
            if let Some(machine) = weak.upgrade() {
                machine.shim.release(connection);
            }
        };
        // Never set before: this is the only place.
        let _ = machine.link.release.set(Box::new(release));
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
        self.link.listeners().insert(port, found);
        done(self.ask(move |shim, op| shim.listen(op, port)))
    }
    /// The guest is refused at this port from now on.
    pub fn unlisten(&self, port: u32) -> impl Done + use<> {
        self.link.listeners().remove(&port);
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
pub fn machine_identifier() -> String {
    ffi::shim_machine_identifier()
}
