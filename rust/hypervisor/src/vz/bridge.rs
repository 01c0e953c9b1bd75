//! The border with Swift (`swift/`): requests to Swift. Reports from Swift are in [`super::sink`]; no other module
//! touches the border. `docs/ffi.md` defines the ownership.
//!
//! ```text
//!   Machine ── verbs, each with an operation id ──▶ ShimMachine (Swift) ──▶ Virtualization
//!      │                                                  │
//!    Link ◀── answers by id, events, connections ──── EventSink
//! ```
//!
//! Neither side blocks on the other. Each request is answered exactly once: the shim also answers requests that it
//! abandons, and when its last object is released, it drops the [`EventSink`], which ends all open requests. So Swift
//! cannot leave a future here pending for ever.

use super::{
    ffi,
    sink::{Answer, Connection, Event, EventSink, Failure, Link},
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A virtual machine of Virtualization. Dropping it ends the guest.
pub struct Machine {
    shim: ffi::ShimMachine,
    link: Arc<Link>,
}

/// A machine's events. The stream ends when the machine is released completely.
pub type Events = mpsc::UnboundedReceiver<Event>;

impl Machine {
    /// Creates a machine from a spec in JSON. Descriptors in it are borrowed for the call.
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
            // A released machine has released its connections, too.
            if let Some(machine) = weak.upgrade() {
                machine.shim.release(connection);
            }
        };
        // It is set only here.
        let _ = machine.link.release.set(Box::new(release));
        Ok((machine, receiver))
    }

    /// Starts the machine.
    pub fn start(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.start(op)))
    }
    /// Stops the machine, regardless of the guest.
    pub fn stop(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.stop(op)))
    }
    /// Presses the power button.
    pub fn request_stop(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.request_stop(op)))
    }
    /// Pauses its processors.
    pub fn pause(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.pause(op)))
    }
    /// Resumes it after a pause or a restore.
    pub fn resume(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.resume(op)))
    }
    /// Sends the guest's connections to a port of the host to `found` from now on.
    pub fn listen(&self, port: u32, found: mpsc::Sender<Connection>) -> impl Done + use<> {
        self.link.listeners().insert(port, found);
        done(self.ask(move |shim, op| shim.listen(op, port)))
    }
    /// Refuses the guest's connections to this port from now on.
    pub fn unlisten(&self, port: u32) -> impl Done + use<> {
        self.link.listeners().remove(&port);
        done(self.ask(move |shim, op| shim.unlisten(op, port)))
    }

    /// Connects to a port of the guest.
    pub fn connect(&self, port: u32) -> impl Future<Output = Result<Connection, Failure>> + Send + use<> {
        let answer = self.ask(move |shim, op| shim.connect(op, port));
        async { answer.await?.ok_or_else(|| Failure::own(0, "the shim answered without a connection")) }
    }

    /// Sends a request at once. The future waits for the answer and does not keep the machine alive.
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
    /// Checks whether the machine's configuration can be saved. The error says why not.
    pub fn can_save(&self) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.can_save(op)))
    }
    /// Writes the state of a paused machine to a file.
    pub fn save(&self, path: String) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.save(op, path)))
    }
    /// Restores the state of a machine that was not started yet from a file. It is paused afterwards.
    pub fn restore(&self, path: String) -> impl Done + use<> {
        done(self.ask(move |shim, op| shim.restore(op, path)))
    }
}

/// The answer to a request without a result.
pub trait Done: Future<Output = Result<(), Failure>> + Send {}
impl<T: Future<Output = Result<(), Failure>> + Send> Done for T {}

fn done(answer: impl Future<Output = Answer> + Send) -> impl Done {
    async { answer.await.map(drop) }
}

/// The host's capabilities as JSON.
pub fn capabilities() -> String {
    ffi::shim_capabilities()
}

/// A new identifier for a machine that may be saved.
pub fn machine_identifier() -> String {
    ffi::shim_machine_identifier()
}
