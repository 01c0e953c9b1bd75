//! The thread that starts the guest's processes.
//!
//! The kernel's parent-death signal (`setpriv --pdeathsig`) is sent when the *thread* that started the child ends, not
//! its process. Threads of the runtime come and go; this one lives as long as the daemon, and so do the children.

use super::shield::Shield;
use std::{
    io,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
};

type Job = Box<dyn FnOnce() + Send>;

static PARENT: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

/// Starts a child. Must be called within a runtime, which then reaps it.
pub fn start(mut command: Command) -> io::Result<Child> {
    let (reply, answer) = mpsc::channel();
    let runtime = Handle::current();
    let job = Box::new(move || {
        let _runtime = runtime.enter();
        let _ = reply.send(command.spawn());
    });
    if let Err(unsent) = parent()?.send(job) {
        // A job panicked, and the thread ended with it.
        *PARENT.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let gone = |_| io::Error::other("the thread that starts processes is gone");
        parent()?.send(unsent.0).map_err(gone)?;
    }
    answer.recv().map_err(io::Error::other)?
}

fn parent() -> io::Result<mpsc::Sender<Job>> {
    let mut parent = PARENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*parent {
        return Ok(jobs.clone());
    }
    let (jobs, inbox) = mpsc::channel::<Job>();
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        // The children inherit the signal mask. The thread itself handles no signals.
        let _shield = Shield::raise();
        inbox.into_iter().for_each(|job| job());
    })?;
    *parent = Some(jobs.clone());
    Ok(jobs)
}
